"""The rules that read a rate off the curve of a range test: a function of rates and smoothed losses for each."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SLIDE_POINTS, SLIDE_THRESHOLD = 15, 0.005  # fastai's


def steepest(lrs: Tensor, losses: Tensor) -> float:
    """Where the loss falls fastest over the logarithm of the rate."""
    (slopes,) = torch.gradient(losses, spacing=(lrs.log(),))
    return lrs[slopes.argmin()].item()


def valley(lrs: Tensor, losses: Tensor) -> float:
    """Two thirds of the way, counted in points, down the longest fall."""
    start, end = longest_fall(losses.tolist())
    return lrs[start + 2 * (end - start) // 3].item()


def minimum(lrs: Tensor, losses: Tensor) -> float:
    """A tenth of the rate of the smallest loss."""
    return lrs[losses.argmin()].item() / 10


def slide(lrs: Tensor, losses: Tensor) -> float:
    """The left end of an interval that slides down from the right while the slopes at its two ends differ."""
    slopes = torch.gradient(losses)[0].tolist()  # per point
    left = reached = len(lrs) - 1 - SLIDE_POINTS
    while left >= 0 and abs(slopes[left + SLIDE_POINTS] - slopes[left]) > SLIDE_THRESHOLD:
        reached, left = left, left - 1
    return lrs[reached].item()


class Rule(NamedTuple):
    suggest: Callable[[Tensor, Tensor], float]
    points: int  # it needs


RULES = {
    "steepest": Rule(steepest, 3),
    "valley": Rule(valley, 3),
    "minimum": Rule(minimum, 3),
    "slide": Rule(slide, SLIDE_POINTS + 1),
}


def longest_fall(values: Sequence[float]) -> tuple[int, int]:
    """First and last index of the longest strictly falling subsequence: a run that may have wiggles in it.

    The first to end, of several that are as long.
    """
    heights: list[float] = []  # negated: the least that a fall of k + 1 points has come down to
    ends: list[int] = []  # its last index
    starts: list[int] = []  # of the longest fall that ends at each index: its first index
    longest = 0, 0
    for i, value in enumerate(values):
        k = bisect.bisect_left(heights, -value)
        starts.append(starts[ends[k - 1]] if k else i)
        if k == len(heights):
            heights.append(-value)
            ends.append(i)
            longest = starts[i], i
        else:
            heights[k], ends[k] = -value, i
    return longest
