"""Pictures: what the lines are made of, whose figure they are in, and what is said without matplotlib."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import rate
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from sgdr_fused import LRFindResult
from sgdr_fused.schedules import Constant, CosineWarmRestarts, Schedule, Triangular

pytestmark = [pytest.mark.once, pytest.mark.formulas]

COSINE = CosineWarmRestarts(0.1, T_0=3, T_mult=2, eta_min=0.01)
TRIANGULAR = Triangular(0.01, 0.1, step_size_up=4)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "paths.py"


@pytest.fixture(autouse=True)
def pyplot_is_left_alone() -> Iterator[None]:
    settings = dict(plt.rcParams)
    assert plt.get_fignums() == []
    yield
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == settings


def points(ax: Axes) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines]


def labels(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def expected(schedule: Schedule, steps: int) -> tuple[list[int], Any]:
    return list(range(steps)), pytest.approx([rate(schedule, t) for t in range(steps)], rel=1e-12)


def test_one_schedule() -> None:
    ax = COSINE.plot(12)
    assert isinstance(ax, Axes)
    assert points(ax) == [expected(COSINE, 12)]
    assert labels(ax) == [repr(COSINE)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value")
    assert points(COSINE.plot(1)) == [expected(COSINE, 1)]


def test_several_schedules() -> None:
    ax = Schedule.plot_many([COSINE, TRIANGULAR, COSINE], 10)
    assert points(ax) == [expected(schedule, 10) for schedule in (COSINE, TRIANGULAR, COSINE)]
    assert labels(ax) == list(map(repr, (COSINE, TRIANGULAR, COSINE)))
    ax = Schedule.plot_many({"fast": COSINE, "slow": TRIANGULAR}, 10)
    assert points(ax) == [expected(COSINE, 10), expected(TRIANGULAR, 10)]
    assert labels(ax) == ["fast", "slow"]


def test_axes_of_the_user() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert COSINE.plot(5, right) is right
    assert Schedule.plot_many([TRIANGULAR], 5, ax=right) is right
    assert points(right) == [expected(COSINE, 5), expected(TRIANGULAR, 5)]
    assert not left.lines
    assert figure.axes == [left, right]
    assert COSINE.plot(5).figure is not COSINE.plot(5).figure


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_it_can_be_saved(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"schedule.{suffix}"
    COSINE.plot(30).figure.savefig(file)
    assert file.stat().st_size > 1000


@pytest.mark.parametrize(
    ("steps", "error", "named"), [(0, ValueError, "num_steps.*0"), (1.5, TypeError, r"num_steps.*1\.5")]
)
def test_bad_number_of_steps(steps: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        COSINE.plot(steps)
    with pytest.raises(TypeError, match=r"schedules must be Schedules, got 0\.1"):
        Schedule.plot_many([0.1], 10)  # type: ignore[list-item]


def result_of(number: int) -> LRFindResult:
    generator = torch.Generator().manual_seed(0)
    lrs = torch.logspace(-6, 1, number, dtype=torch.float64)
    losses = 3 - lrs.log10() / 4 + 0.1 * torch.rand(number, generator=generator, dtype=torch.float64)
    return LRFindResult(lrs, losses, ratios=(1.0,), smoothing=0.9, diverged=False)


def test_range_test() -> None:
    result = result_of(60)
    ax = result.plot()
    assert points(ax)[0] == (result.lrs.tolist(), result.losses.tolist())
    assert points(ax)[1] == (result.lrs.tolist(), result.smoothed.tolist())
    methods = ("steepest", "valley", "minimum", "slide")
    marks = [line.get_xdata() for line in ax.lines[2:]]
    assert marks == [[result.suggestion(method)] * 2 for method in methods]
    shown = [f"{method}: {result.suggestion(method):.2g}" for method in methods]
    assert labels(ax) == ["loss", "smoothed", *shown]
    assert ax.get_xscale() == "log"
    given = Figure().subplots()
    assert result.plot(given) is given
    assert result.plot(ax=given) is given


@pytest.mark.parametrize(("number", "marked"), [(0, 0), (1, 0), (17, 0), (18, 3), (30, 3), (31, 4)])
def test_range_test_marks_what_there_is_data_for(number: int, marked: int) -> None:
    ax = result_of(number).plot()
    assert len(ax.lines) == 2 + marked
    ax.figure.canvas.draw()  # a logarithmic axis without points is no trouble either


def test_range_test_shows_the_fall_and_not_what_diverges() -> None:
    lrs = torch.logspace(-6, 1, 40, dtype=torch.float64)
    losses = torch.cat([torch.linspace(3, 1, 30), torch.logspace(0, 9, 10)]).double()
    result = LRFindResult(lrs, losses, ratios=(1.0,), smoothing=0.0, diverged=True)
    assert result.plot().get_ylim() == pytest.approx((0.5, 3.5))
    from_far_up = LRFindResult(lrs, losses.flip(0), ratios=(1.0,), smoothing=0.0, diverged=True)
    low, high = from_far_up.plot().get_ylim()
    assert low < 1 < 1e9 < high


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    for draw in (lambda: COSINE.plot(5), lambda: Schedule.plot_many([COSINE], 5), lambda: result_of(30).plot()):
        with pytest.raises(ImportError, match=r"pip install 'sgdr_fused\[plot\]'"):
            draw()


def test_importing_and_searching_need_torch_alone(with_reference: Callable[[str], str]) -> None:
    """Neither package is there; the search goes without its bar."""
    code = """
import sys
sys.modules.update({"matplotlib": None, "tqdm": None})
import torch, sgdr_fused
model, loader = torch.nn.Linear(2, 1), [(torch.ones(3, 2), torch.ones(3, 1))]
result = sgdr_fused.lr_find(
    model, sgdr_fused.FusedSGD(model.parameters()), torch.nn.functional.mse_loss, loader, end_lr=0.1
)
print(len(result.lrs))
"""
    assert with_reference(code).split() == ["100"]


def test_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    example["main"](["--steps", "40", "--frames", "3", "--out", str(tmp_path / "out")])
    with Image.open(tmp_path / "out" / "paths.gif") as animation:
        assert animation.n_frames == 3
    with Image.open(tmp_path / "out" / "paths.png") as still:
        assert min(still.size) > 500
    rows = capsys.readouterr().out.splitlines()
    assert [row[:22].strip() for row in rows[1:7]] == list(example["OPTIMIZERS"])


def test_paths_are_those_of_the_optimizers() -> None:
    """Gradient descent by the gradient worked out by hand; and each path ends in a minimum."""
    example = runpy.run_path(str(EXAMPLE))
    saddle, wells = example["SURFACES"]
    x, y = saddle.start
    walked = [(x, y)]
    for _ in range(50):
        x, y = x - 0.05 * x, y - 0.05 * (y**3 / 2 - y)
        walked.append((x, y))
    got = example["path"](saddle, example["OPTIMIZERS"]["SGD"], 50)
    torch.testing.assert_close(got, torch.tensor(walked, dtype=torch.float64), rtol=1e-12, atol=0)
    for make in example["OPTIMIZERS"].values():
        for surface in (saddle, wells):
            end = example["path"](surface, make, 400)[-1].requires_grad_()
            surface.height(*end).backward()
            assert end.grad.abs().max() < 0.01


def test_constant_in_a_picture_of_several() -> None:
    assert points(Schedule.plot_many([Constant(0.5)], 3)) == [([0, 1, 2], [0.5, 0.5, 0.5])]


def test_momentum_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lengths along the slope are sums worked out by hand, and the table is of what is drawn."""
    example = runpy.run_path(str(EXAMPLE.with_name("momentum_forms.py")))
    rates = [rate(example["RATE"], t) for t in range(100)]
    ages = [[0.9 ** (t - k) for k in range(t + 1)] for t in range(100)]
    outside = [r * sum(age) for r, age in zip(rates, ages, strict=True)]
    inside = [sum(r * a for r, a in zip(rates, age, strict=False)) for age in ages]
    for form, lengths in (("torch", outside), ("classical", inside)):
        assert example["lengths_on_a_slope"](form, 100).tolist() == pytest.approx(lengths, rel=1e-9)
    example["main"](["--cycles", "2", "--runs", "10", "--out", str(tmp_path / "out")])
    with Image.open(tmp_path / "out" / "momentum.png") as picture:
        assert min(picture.size) > 400
    row = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("5 "))
    assert [float(number) for number in row.split()[1:3]] == pytest.approx([outside[64], inside[64]], abs=6e-5)
