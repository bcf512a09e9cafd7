"""`plot`: what the expressions mean, what is refused and where, and the pictures."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from schedule_cases import ROWS

from sgdr_fused import schedules
from sgdr_fused._cli import expression, main, text_plot
from sgdr_fused._cli.errors import CommandError
from sgdr_fused.schedules import (
    CosineWarmRestarts,
    Exponential,
    LinearRamp,
    OneCycle,
    Product,
    Schedule,
    Sequential,
    Step,
    Triangular,
    Warmup,
)

pytestmark = pytest.mark.once

EVERY = {name for name in schedules.__all__ if isinstance(getattr(schedules, name), type)} - {"Schedule"}


# ---- expressions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CosineWarmRestarts(0.1, T_0=1000, T_mult=2)", CosineWarmRestarts(0.1, T_0=1000, T_mult=2)),
        ("Warmup(CosineWarmRestarts(0.1, T_0=10), 5)", Warmup(CosineWarmRestarts(0.1, T_0=10), 5)),
        ("2 * Triangular(0.1, 1, 3)", 2 * Triangular(0.1, 1, 3)),
        ("Triangular(0.1, 1, 3, mode='triangular2') * .5", 0.5 * Triangular(0.1, 1, 3, mode="triangular2")),
        (
            "Sequential([(Step(1.0, 2), 100), LinearRamp(0, 1, 4)])",
            Sequential([(Step(1.0, 2), 100), LinearRamp(0, 1, 4)]),
        ),
        ("Sequential(((Step(1.0, 2), 3), Step(1.0, 2)))", Sequential([(Step(1.0, 2), 3), Step(1.0, 2)])),
        ("Step(0.1, step_size=10 * 390)", Step(0.1, step_size=3900)),
        ("Step(+1e-1, 3).shifted(2)", Step(0.1, 3).shifted(2)),
        ("Step(0.1, 3).shifted(steps=2) * Exponential(1, .5)", Step(0.1, 3).shifted(2) * Exponential(1, 0.5)),
        ("OneCycle(1.0, epochs=3, steps_per_epoch=5, three_phase=True)", OneCycle(1.0, 15, three_phase=True)),
        ("Triangular(0, 1, 3, None)", Triangular(0, 1, 3)),
        (" (\n Step(0.1,\n 3))  ", Step(0.1, 3)),
        ("Product([Step(0.1, 3), Step(0.2, 3)])", Product([Step(0.1, 3), Step(0.2, 3)])),
    ],
)
def test_an_expression_is_what_python_makes_of_it(text: str, expected: Schedule) -> None:
    assert expression.read(text) == expected
    assert eval(text.strip(), dict(vars(schedules))) == expected


def test_every_schedule_is_read_back() -> None:
    """From what `repr` writes, for the table of schedules of the tests."""
    seen = set()
    for row in ROWS:
        schedule = row.schedule
        if len(repr(schedule)) < 5000:
            assert expression.read(repr(schedule)) == schedule
            seen.add(type(schedule).__name__)
    assert EVERY - {"Shifted", "OneCycle"} <= seen | {"Product", "Sequential", "Warmup"}
    assert set(expression.CLASSES) == EVERY


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("CosineWarmRestart(0.1, 5)", 1, "there is no schedule 'CosineWarmRestart'; did you mean CosineWarmRestarts?"),
        ("2 * cosinewarmrestarts(0.1, 5)", 5, "did you mean CosineWarmRestarts?"),
        ("Foo(0.1, 5)", 1, "there is no schedule 'Foo'. The schedules are Constant, CosineAnnealing, "),
        ("from_torch(1)", 1, "there is no schedule 'from_torch'"),
        ("Schedule()", 1, "there is no schedule 'Schedule'"),
        ("Step(0.1, step_siz=3)", 11, "Step has no argument 'step_siz'; did you mean step_size?"),
        ("Step(0.1, qqq=3)", 11, "Step has no argument 'qqq'; its arguments are lr, step_size, gamma"),
        ("Step(0.1)", 1, "Step() missing 1 required positional argument: 'step_size'"),
        ("Warmup(Step(-0.1, 3), 5)", 8, "lr must be finite and >= 0, got -0.1"),
        ("Warmup(Step, 5)", 8, "Step needs its arguments: Step(lr, step_size, gamma)"),
        ("Step(0.1, 3", 5, "this is no expression: "),
        ("", 1, "this is no expression: "),
        ("Step(0.1; 3)", 9, "this is no expression: "),
        ("0.1", 1, "SCHEDULE must be a schedule, got 0.1. The schedules are Constant, "),
        ("Step(1/3, 3)", 6, "only numbers, texts, lists, tuples, schedules with their arguments, *, and .shifted"),
        ("Step(2**3, 3)", 6, "may stand here, got '2**3'"),
        ("Step(0.1, 3).upper_bound", 1, "may stand here, got 'Step(0.1, 3).upper_bound'"),
        ("Step(0.1, 3).to_dict()", 1, "only schedules and .shifted(steps) can be called, got 'Step(0.1, 3).to_dict()'"),
        ("__import__('os').system('true')", 1, "can be called, got \"__import__('os').system('true')\""),
        ("Step(*[0.1, 3])", 6, "may stand here, got '*[0.1, 3]'"),
        ("Step(**{'lr': 0.1})", 8, "an argument must have one name"),
        ("Table([0.1] * 3)", 7, "a factor must be a number or a schedule, got [0.1]"),
        ("Table(lambda t: 0.1, 3)", 7, "may stand here, got 'lambda t: 0.1'"),
        ("Table([x for x in (1, 2)])", 7, "may stand here"),
        ("Step(0.1, 3 if True else 4)", 11, "may stand here"),
        ("-Step(0.1, 3)", 1, "a sign must stand before a number"),
        ("2 * 'a'", 5, "a factor must be a number or a schedule, got 'a'"),
        ("(3).shifted(2)", 1, "only a schedule can be shifted, got 3"),
        ("Step(0.1, 3).shifted(-1)", 1, "steps must be an integer in [0, 2**61], got -1"),
        ("-1 * Step(0.1, 3)", 1, "factor must be finite and >= 0, got -1"),
        ("Step(0.1, b'3')", 11, "may stand here, got \"b'3'\""),
        ("Triangular(0.1, 1, 3, mode='ä', gamma=x)", 39, "there is no schedule 'x'"),
        ("Table(['" + "a" * 300 + "', x])", 312, "there is no schedule 'x'"),
    ],
)
def test_what_is_refused_and_where(text: str, column: int, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        expression.read(text)
    first, line, mark = str(caught.value).split("\n")
    assert first.startswith(f"column {column}: ")
    assert message in first
    place = mark.index("^")
    assert len(line) < 130
    if text:
        assert line[place:].startswith(text[column - 1 : column + 5])


def test_place_in_several_lines() -> None:
    with pytest.raises(
        CommandError, match=r"^line 2, column 3: there is no schedule 'Sep'; did you mean Step\?\n"
    ) as e:
        expression.read("2 * (\n  Sep(0.1, 3))")
    assert str(e.value).splitlines()[1:] == ["    Sep(0.1, 3))", "    ^"]


@pytest.mark.parametrize("text", ["-" * 3000 + "1", "2*" * 3000 + "2", "[" * 3000 + "]" * 3000, "1\0", "1" * 5000])
def test_what_no_parser_reads(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        expression.read(text)
    assert len(str(caught.value)) < 500


def test_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the text was run")

    monkeypatch.setattr(builtins, "eval", forbidden)
    monkeypatch.setattr(builtins, "exec", forbidden)
    assert expression.read("2 * Step(0.1, step_size=3)")(0) == 0.2


# ---- pictures of characters


def picture(values: list[float], width: int) -> tuple[list[str], list[list[int]]]:
    """The lines, and of each column of the curve the rows with a mark, the highest row being 0."""
    lines = text_plot.draw(torch.tensor(values, dtype=torch.float64), width).split("\n")
    start = lines[-2].index("+") + 1
    rows = [line.ljust(width)[start:width] for line in lines[:-2]]
    return lines, [[i for i, row in enumerate(rows) if row[c] == "*"] for c in range(width - start)]


@pytest.mark.parametrize("n", [1, 2, 3, 50, 71, 72, 73, 74, 500, 10_007])
@pytest.mark.parametrize("width", [30, 80])
def test_every_value_is_in_its_row(n: int, width: int) -> None:
    """Each column holds exactly the rows from the highest to the lowest of its steps' values."""
    values = [((7919 * t) % 1009) / 1009 * 5 + 1 for t in range(n)]
    lines, marks = picture(values, width)
    low, high = min(values), max(values)
    assert max(map(len, lines)) <= width
    columns = len(marks)
    for c, rows in enumerate(marks):
        first = c * n // columns
        part = values[first : max(first + 1, (c + 1) * n // columns)]
        expected = [13 * (high - v) / (high - low) if n > 1 else 7 for v in (max(part), min(part))]
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert abs(rows[0] - expected[0]) <= 0.5001 and abs(rows[-1] - expected[1]) <= 0.5001
    shown = {
        t for c in range(columns) for t in range(c * n // columns, max(c * n // columns + 1, (c + 1) * n // columns))
    }
    assert shown == set(range(n))


def test_labels() -> None:
    lines, _ = picture([0.001, 2.5, 0.5], 40)
    assert lines[0].startswith("  2.5 |") and lines[13].startswith("0.001 |")
    assert lines[-1].split() == ["step", "0", "2"] and len(lines[-1]) == 40
    lines, marks = picture([0.25], 40)  # one step, one value
    assert lines[7].startswith("0.25 |") and lines[-1].split() == ["step", "0"]
    assert all(rows == [7] for rows in marks)
    lines, marks = picture([0.0, sys.float_info.max], 40)
    assert marks[0] == [13] and marks[-1] == [0]


def test_in_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # it is not needed
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plot", "CosineWarmRestarts(0.1, T_0=10)", "--steps", "30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("CosineWarmRestarts(max_lr=0.1, T_0=10,")
    assert max(map(len, lines[2:])) == 60
    assert lines[2] == "value" and lines[-1].split() == ["step", "0", "29"]
    top = lines[3].partition("|")[2]
    assert [c for c in range(len(top)) if top[c] == "*" and top[c - 1 : c] != "*"] == [0, 17, 34]  # of 51: the restarts


def test_one_cycle_shows_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "OneCycle(0.5, total_steps=20)", "--steps", "20"]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[1:]] == ["lr", "momentum"]
    assert "0.5 |" in blocks[1] and "0.95 |" in blocks[2] and "0.85 |" in blocks[2]


# ---- pictures in files


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_into_a_file(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"x.{ending}"
    assert main(["plot", "OneCycle(0.5, total_steps=20)", "--steps", "20", "-o", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert str(file) in capsys.readouterr().out


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plot", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    return error.removeprefix("sgdr-fused plot: error: ")


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step = "Step(0.1, 3)"
    for steps in ("0", "-3", "10000001"):
        assert failed(capsys, step, "--steps", steps) == f"--steps must be in [1, 10,000,000], got {steps}\n"
    with pytest.raises(SystemExit, match="2"):
        main(["plot", step, "--steps", "many"])
    assert "invalid int value: 'many'" in capsys.readouterr().err
    growing = "Exponential(1.0, gamma=10)"
    wanted = "--steps must be at most 309, because the schedule is infinite at step 309\n"
    assert failed(capsys, growing, "--steps", "400") == wanted
    assert main(["plot", growing, "--steps", "309"]) == 0
    capsys.readouterr()

    for file in (tmp_path / "x.docx", tmp_path / "missing" / "x.png"):
        assert failed(capsys, step, "--steps", "5", "-o", str(file)).startswith(f"-o {file} cannot be written: ")
        assert not file.exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    error = failed(capsys, step, "--steps", "5", "-o", "x.png")
    assert error.startswith("-o x.png needs matplotlib: pip install 'sgdr_fused[plot]'")
