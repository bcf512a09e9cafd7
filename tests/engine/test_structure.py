"""How the code is put together: modules without import circles, short files and functions, and who knows whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from installs import ROOT

pytestmark = pytest.mark.once

LONGEST_FILE, LONGEST_FUNCTION = 350, 80  # lines
PACKAGE = sorted((ROOT / "sgdr_fused").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
# Whoever else works on an optimizer gets its session and its algorithm.
MAY_IMPORT_THE_CLASS = ("optimizers/", "training/", "__init__.py", "_former_modules.py")

Graph = dict[str, set[str]]


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    """(module, name) for each import, also inside functions and for type checking alone; no name: the module itself."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def graph(paths: list[Path], root: Path) -> Graph:
    """Which of these modules imports which.

    A package's own module, __init__, counts where a name is imported from it that is no module.
    """
    names = {module_name(path, root): path for path in paths}
    arrows: Graph = {name: set() for name in names}
    for name, path in names.items():
        for module, imported_name in imported(path, root):
            full = f"{module}.{imported_name}" if module else imported_name
            target = full if full in names else module
            if target in names and target != name:
                arrows[name].add(target)
    return arrows


def circle(arrows: Graph) -> list[str]:
    """A shortest way from some module back to itself; empty where there is none."""
    found: list[str] = []
    for start in arrows:
        came_from, waiting = {start: start}, [start]
        for module in waiting:
            for target in sorted(arrows[module]):
                if target == start:
                    way = [start, module]
                    while way[-1] != start:
                        way.append(came_from[way[-1]])
                    if not found or len(way) < len(found):
                        found = way[::-1]
                if target not in came_from:
                    came_from[target] = module
                    waiting.append(target)
    return found


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]


def test_imports_are_found() -> None:
    arrows = graph(PACKAGE, ROOT)
    assert len(arrows) > 60
    assert "sgdr_fused._engine.session" in arrows["sgdr_fused.optimizers._base"]
    assert "sgdr_fused.schedules" in arrows["sgdr_fused._engine.displays"]
    assert "sgdr_fused.schedules._base" in arrows["sgdr_fused.schedules"]


@pytest.mark.parametrize("paths", [PACKAGE, BENCHMARKS], ids=["sgdr_fused", "benchmarks"])
def test_no_import_circle(paths: list[Path]) -> None:
    found = circle(graph(paths, ROOT if paths is PACKAGE else ROOT / "benchmarks"))
    assert not found, f"modules import each other in a circle: {' -> '.join(found)}"


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in PACKAGE}
    long = {name: length for name, length in lengths.items() if length > LONGEST_FILE}
    assert not long, f"files of more than {LONGEST_FILE} lines: {long}"


def test_functions_are_short() -> None:
    long = {}
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1 - docstring_lines(node)
                if length > LONGEST_FUNCTION:
                    long[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = length
    assert not long, f"functions of more than {LONGEST_FUNCTION} lines, docstrings not counted: {long}"


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


def test_who_imports_the_optimizers_class() -> None:
    importing = [
        str(path.relative_to(ROOT / "sgdr_fused"))
        for path in PACKAGE
        for module, name in imported(path, ROOT)
        if module.startswith("sgdr_fused.optimizers") or (name == "optimizers" and module == "sgdr_fused")
    ]
    others = sorted({name for name in importing if not name.startswith(MAY_IMPORT_THE_CLASS)})
    assert importing and not others, f"the optimizer's class is imported by {others}; pass the session instead"
