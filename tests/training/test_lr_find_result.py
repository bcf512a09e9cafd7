"""What is read off the curve of a range test, on curves whose answers are known."""

from __future__ import annotations

import itertools
import math
import random
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from sgdr_fused import LRFindResult
from sgdr_fused.training._suggestions import RULES, longest_fall

pytestmark = pytest.mark.once

LOG_LRS = torch.linspace(-5, 1, 121, dtype=torch.float64)  # 20 points per decade
LRS = 10**LOG_LRS


def result_of(losses: Any, lrs: Any = None, smoothing: float = 0.0) -> LRFindResult:
    losses = torch.as_tensor(losses, dtype=torch.float64)
    return LRFindResult(
        LRS[: len(losses)] if lrs is None else lrs, losses, ratios=(1.0,), smoothing=smoothing, diverged=False
    )


def suggestion(result: LRFindResult, method: str) -> float:
    return result.suggestion(method, skip_start=0, skip_end=0)


@pytest.mark.parametrize("center", [-4, -2.5, 0])
def test_steepest_is_the_middle_of_a_sigmoid(center: float) -> None:
    losses = 1 / (1 + torch.exp(3 * (LOG_LRS - center)))
    assert suggestion(result_of(losses), "steepest") == pytest.approx(10**center, rel=1e-12)


def test_steepest_counts_the_logarithm_of_unevenly_spaced_rates() -> None:
    lrs = torch.linspace(0.1, 10, 200, dtype=torch.float64)
    losses = 1 / (1 + torch.exp(3 * lrs.log()))  # its middle is at 1; over lrs themselves it falls fastest before
    assert suggestion(result_of(losses, lrs), "steepest") == pytest.approx(1.0, abs=(10 - 0.1) / 199)
    per_rate = torch.gradient(losses, spacing=(lrs,))[0]
    assert lrs[per_rate.argmin()] < 0.8


@pytest.mark.parametrize(("low", "high"), [(0, 120), (30, 90), (30, 91), (30, 92), (50, 53)])
def test_valley_is_two_thirds_down_the_fall(low: int, high: int) -> None:
    """A fall from point `low` to point `high`; flat before, rising after."""
    i = torch.arange(121, dtype=torch.float64)
    losses = torch.where(i < low, 10.0, torch.where(i <= high, 10 - 0.01 * (i - low), 20.0))
    expected = low + int((high - low) * 2 / 3 + 1e-9)
    assert suggestion(result_of(losses), "valley") == LRS[expected].item()


def test_valley_overlooks_wiggles() -> None:
    """Every third point is 0.03 up: no run is longer than three points, and the fall is still seen as one."""
    i = torch.arange(121, dtype=torch.float64)
    losses = torch.where(i < 60, 10 - 0.01 * i + 0.03 * (i % 3 == 1), 50 + i)
    assert suggestion(result_of(losses), "valley") == pytest.approx(LRS[39].item(), rel=0.25)  # two points


def test_longest_fall_against_all_subsequences() -> None:
    generator = random.Random(0)
    for _ in range(300):
        values = [generator.randrange(6) for _ in range(generator.randrange(1, 9))]
        falls = [
            chosen
            for size in range(1, len(values) + 1)
            for chosen in itertools.combinations(range(len(values)), size)
            if all(values[a] > values[b] for a, b in itertools.pairwise(chosen))
        ]
        longest = max(map(len, falls))
        start, end = longest_fall(values)
        assert (start, end) in {(fall[0], fall[-1]) for fall in falls if len(fall) == longest}
        assert end == min(fall[-1] for fall in falls if len(fall) == longest)


@pytest.mark.parametrize("center", [-3.0, -1.0, 0.5])
def test_minimum_is_a_tenth_of_the_lowest_points_rate(center: float) -> None:
    losses = (LOG_LRS - center) ** 2
    assert suggestion(result_of(losses), "minimum") == pytest.approx(10**center / 10, rel=1e-12)


@pytest.mark.parametrize("corner", [40, 70, 100])
def test_slide_stops_where_the_slopes_are_alike(corner: int) -> None:
    """Level up to a corner, then up by 1 a point: the slope is 0 before it, 1/2 at it and 1 after it.

    An interval on one side of it has the same slope at both ends, so it stops at once. With the corner within 15 points
    of the right end it slides, until its own right end has passed the corner.
    """
    i = torch.arange(121, dtype=torch.float64)
    losses = (i - corner).clamp(min=0)
    assert suggestion(result_of(losses), "slide") == LRS[120 - 15].item()  # at once
    short = result_of(losses[: corner + 6])
    # The right end goes from corner + 5 down to corner, whose slope 1/2 still differs from 0.
    assert suggestion(short, "slide") == LRS[corner - 15].item()


def test_slide_ends_at_the_left() -> None:
    """A parabola's slopes always differ."""
    i = torch.arange(40, dtype=torch.float64)
    assert suggestion(result_of(i**2), "slide") == LRS[0].item()
    assert suggestion(result_of(i[:16] ** 2), "slide") == LRS[0].item()


def test_slides_threshold() -> None:
    """A parabola's slopes differ by 30 a over 15 points, by 29 a at either end, where they are one-sided."""
    i = torch.arange(40, dtype=torch.float64)
    assert suggestion(result_of(0.0049 / 29 * i**2), "slide") == LRS[24].item()
    assert suggestion(result_of(0.0051 / 29 * i**2), "slide") == LRS[0].item()


def test_suggestions_use_smoothed_losses() -> None:
    """One low outlier draws the minimum of the losses, not of their mean."""
    losses = (LOG_LRS + 1) ** 2 + 5
    losses[30] = 0.0
    assert suggestion(result_of(losses), "minimum") == LRS[30].item() / 10
    rate = suggestion(result_of(losses, smoothing=0.9), "minimum")
    assert 10**-1.5 < 10 * rate < 10**0.5


@pytest.mark.parametrize("method", RULES)
def test_skipped_points_do_not_matter(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(60, generator=generator, dtype=torch.float64).cumsum(0).flip(0)
    middle = result_of(losses[10:-5], LRS[10:55]).suggestion(method, skip_start=0, skip_end=0)
    spoiled = losses.clone()
    spoiled[:10], spoiled[-5:] = -100, 100
    result = LRFindResult(LRS[:60], spoiled, (1.0,), 0.0, False)
    assert result.suggestion(method) == middle
    assert result.suggestion(method, skip_start=10, skip_end=5) == middle


@pytest.mark.parametrize(("method", "needed"), [("steepest", 3), ("valley", 3), ("minimum", 3), ("slide", 16)])
def test_too_little_data(method: str, needed: int) -> None:
    def result(points: int) -> LRFindResult:
        return result_of([1.0 / (i + 1) for i in range(points)])

    assert math.isfinite(result(needed + 15).suggestion(method))
    message = f"method '{method}' needs {needed} points, got {needed - 1}: {needed + 14} without skip_start=10"
    with pytest.raises(ValueError, match=re.escape(message)):
        result(needed + 14).suggestion(method)
    with pytest.raises(ValueError, match="got 0: 4 without"):
        result(4).suggestion(method)


def test_bad_arguments() -> None:
    result = result_of(torch.ones(40))
    with pytest.raises(ValueError, match=r"method must be one of .*'valley'.* got 'flat'"):
        result.suggestion("flat")
    with pytest.raises(ValueError, match=r"skip_start.*-1"):
        result.suggestion(skip_start=-1)
    with pytest.raises(TypeError, match=r"skip_end.*1\.5"):
        result.suggestion(skip_end=1.5)


def test_rates_of_the_groups() -> None:
    lrs: Tensor = LRS[:3]
    result = LRFindResult(lrs, torch.zeros(3, dtype=torch.float64), (1.0, 0.5, 0.0), 0.0, False)
    expected = torch.stack([lrs, lrs / 2, 0 * lrs], dim=1)
    torch.testing.assert_close(result.group_lrs, expected, rtol=1e-15, atol=0)
