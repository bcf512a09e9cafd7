"""Reads a schedule from text, such as ``2 * Warmup(Step(0.1, step_size=9), 5)``. Nothing in the text is run."""

from __future__ import annotations

import ast
import difflib
import inspect
import warnings
from typing import Any, NoReturn

from .. import schedules
from .._messages import shown
from ..schedules import Schedule
from .errors import CommandError

CLASSES: dict[str, Any] = {
    name: each
    for name in schedules.__all__
    if isinstance(each := getattr(schedules, name), type) and issubclass(each, Schedule) and each is not Schedule
}
ALLOWED = "numbers, texts, lists, tuples, schedules with their arguments, *, and .shifted(steps)"


def read(text: str) -> Schedule:
    """The schedule that the text describes.

    Raises:
        CommandError: for everything else, with the place in the text.

    Example:
        >>> read("2 * Step(0.1, step_size=9).shifted(3)")
        Product(factors=(Constant(value=2.0), Shifted(schedule=Step(lr=0.1, step_size=9, gamma=0.1), steps=3)))
    """
    text = text.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes in a text
            tree = ast.parse(text, mode="eval")
        value = _Reader(text).value(tree.body)
    except SyntaxError as error:
        raise _error(text, error.lineno or 1, (error.offset or 1) - 1, f"this is no expression: {error.msg}") from None
    except ValueError as error:  # a null byte, or an integer of more digits than Python reads
        raise CommandError(f"SCHEDULE is no expression: {error}, got {shown(text)}") from None
    except (RecursionError, MemoryError):
        raise CommandError(f"SCHEDULE is nested too deeply, got {shown(text)}") from None
    if not isinstance(value, Schedule):
        raise _error(text, 1, 0, f"SCHEDULE must be a schedule, got {shown(value)}{_names()}")
    return value


def _error(text: str, line: int, column: int, message: str) -> CommandError:
    """An error with the line of the text, and a mark below the column, which is counted from 0."""
    lines = text.splitlines() or [""]
    shown_line = lines[min(line, len(lines)) - 1]
    first = max(0, column - 60)  # of a long line, what surrounds the place
    place = f"line {line}, column {column + 1}" if len(lines) > 1 else f"column {column + 1}"
    return CommandError(f"{place}: {message}\n  {shown_line[first : column + 60]}\n  {' ' * (column - first)}^")


def _names() -> str:
    return f". The schedules are {', '.join(CLASSES)}"


def _hint(name: str, known: list[str]) -> str:
    """The known name that was probably meant."""
    lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]}?" if close else ""


class _Reader:
    """Makes values of the nodes of a text's tree."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, node: ast.AST) -> Any:
        """A number, a text, None, a list, a tuple or a Schedule."""
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (int, float, str))):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple)):
            items = [self.value(item) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
            return self._signed(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            return self._product(node)
        if isinstance(node, ast.Call):
            return self._called(node)
        if isinstance(node, ast.Name):
            self._class(node)
            self._fail(node, f"{node.id} needs its arguments: {node.id}{_signature(CLASSES[node.id])}")
        self._fail(node, f"only {ALLOWED} may stand here, got {shown(self._source(node))}")

    def _source(self, node: ast.AST) -> str:
        return ast.get_source_segment(self._text, node) or ""

    def _fail(self, node: ast.AST, message: str) -> NoReturn:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        before = self._text.splitlines()[line - 1].encode()[:column]  # the column counts bytes of UTF-8
        raise _error(self._text, line, len(before.decode(errors="replace")), message)

    def _signed(self, node: ast.UnaryOp) -> Any:
        number = self.value(node.operand)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            self._fail(node, f"a sign must stand before a number, got {shown(self._source(node))}")
        return -number if isinstance(node.op, ast.USub) else number

    def _product(self, node: ast.BinOp) -> Any:
        factors = self.value(node.left), self.value(node.right)
        for factor, part in zip(factors, (node.left, node.right), strict=True):
            if isinstance(factor, bool) or not isinstance(factor, (int, float, Schedule)):
                self._fail(part, f"a factor must be a number or a schedule, got {shown(factor)}")
        try:
            return factors[0] * factors[1]
        except (TypeError, ValueError, OverflowError) as error:
            self._fail(node, str(error))

    def _class(self, node: ast.Name) -> Any:
        if node.id not in CLASSES:
            self._fail(node, f"there is no schedule {shown(node.id)}{_hint(node.id, [*CLASSES]) or _names()}")
        return CLASSES[node.id]

    def _called(self, node: ast.Call) -> Any:
        make: Any
        if isinstance(node.func, ast.Name):
            make = self._class(node.func)
            known = [*inspect.signature(make.__init__).parameters][1:]
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "shifted":
            schedule = self.value(node.func.value)
            if not isinstance(schedule, Schedule):
                self._fail(node, f"only a schedule can be shifted, got {shown(schedule)}")
            make, known = schedule.shifted, ["steps"]
        else:
            self._fail(node, f"only schedules and .shifted(steps) can be called, got {shown(self._source(node))}")
        positional = [self.value(argument) for argument in node.args]
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg in named:
                self._fail(keyword.value, f"an argument must have one name, got {shown(self._source(keyword))}")
            if keyword.arg not in known:
                hint = _hint(keyword.arg, known) or f"; its arguments are {', '.join(known)}"
                self._fail(keyword, f"{self._source(node.func)} has no argument {shown(keyword.arg)}{hint}")
            named[keyword.arg] = self.value(keyword.value)
        try:
            return make(*positional, **named)
        except (TypeError, ValueError, OverflowError) as error:
            self._fail(node, str(error).replace(".__init__()", "()"))


def _signature(cls: Any) -> str:
    """The arguments without self and without types."""
    parameters = [*inspect.signature(cls.__init__).parameters.values()][1:]
    return f"({', '.join(each.name for each in parameters)})"
