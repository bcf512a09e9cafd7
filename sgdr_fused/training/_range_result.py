"""What a range test has measured: the losses, what is read off them, and where they diverged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _plot
from .._messages import shown
from ._suggestions import RULES

LASTING, USUAL = 5, 20  # points: see divergence()


@dataclass(frozen=True, eq=False)
class LRFindResult:
    """What :func:`lr_find` measured.

    Attributes:
        lrs: the rates, of the group with the largest one; ascending; a float64 tensor of shape (n,) on the CPU.
        losses: the loss at each, likewise, as it was: not smoothed.
        ratios: each group's rate as a part of ``lrs``, in [0, 1]; a tuple with an entry per group.
        smoothing: of ``smoothed``, in [0, 1).
        diverged: whether the test ended because the loss did; else it came to its end.

    Example:
        >>> import torch
        >>> lrs = torch.logspace(-4, 0, 41, dtype=torch.float64)
        >>> losses = 1 / (1 + (lrs / 0.01) ** 2)  # falls fastest at 0.01
        >>> result = LRFindResult(lrs, losses, ratios=(1.0, 0.1), smoothing=0.0, diverged=False)
        >>> rate = result.suggestion("steepest")
        >>> round(rate, 6), [round(rate * ratio, 6) for ratio in result.ratios]
        (0.01, [0.01, 0.001])
    """

    lrs: Tensor
    losses: Tensor
    ratios: tuple[float, ...]
    smoothing: float
    diverged: bool

    def __post_init__(self) -> None:
        for name, values in (("lrs", self.lrs), ("losses", self.losses)):
            if not isinstance(values, Tensor) or values.dim() != 1 or len(values) != len(self.lrs):
                got = f"one of shape {tuple(values.shape)}" if isinstance(values, Tensor) else shown(values)
                raise TypeError(f"{name} must be a tensor of shape (n,), the same n for lrs and losses, got {got}")

    @property
    def smoothed(self) -> Tensor:
        """The losses, smoothed; a float64 tensor of shape (n,).

        ::

            mean[i] = smoothing * mean[i - 1] + (1 - smoothing) * losses[i],   mean[-1] = 0
            smoothed[i] = mean[i] / (1 - smoothing**(i + 1))
        """
        return torch.tensor(smoothed(self.losses.tolist(), self.smoothing), dtype=torch.float64, device="cpu")

    @property
    def group_lrs(self) -> Tensor:
        """The rates of every group; a float64 tensor of shape (n, groups)."""
        return self.lrs[:, None] * torch.tensor(self.ratios, dtype=torch.float64, device="cpu")

    def suggestion(self, method: str = "valley", skip_start: int = 10, skip_end: int = 5) -> float:
        """A rate to train with, for the group with the largest one; times ``ratios`` for the others.

        Read off ``smoothed`` over ``lrs``, without the first ``skip_start`` points, where the mean has
        little to go by, and the last ``skip_end``, where the loss goes off.

        Args:
            method:
                ``"steepest"``: the rate at which ``d smoothed / d log(lr)`` is smallest, by central differences.
                Where the loss falls fastest.

                ``"valley"``: two thirds of the way from the first point to the last, rounded down, of the longest
                strictly falling subsequence of ``smoothed``: the longest fall, whatever wiggles interrupt it.

                ``"minimum"``: a tenth of the rate of the smallest ``smoothed``.

                ``"slide"``: with ``s`` the central difference of ``smoothed`` from point to point, the interval from
                ``i`` to ``i + 15`` slides from the right end to the left as long as ``abs(s[i + 15] - s[i]) > 0.005``;
                the rate at the last ``i`` for which that holds, or at the first interval's. The threshold is in
                units of the loss, so this one depends on its scale and on the number of points.
            skip_start, skip_end: integers >= 0.

        Raises:
            ValueError: for another method; where fewer points are left than the method needs (3; 16 for ``"slide"``).

        Source: fastai's ``steep``, ``valley`` (after ESRI), ``minimum`` and ``slide`` (after Novetta) of
        ``callback.schedule``. Its valley lies half-way in the code, two thirds of the way in its text, which is what
        this one does; its differences are forward ones. skip_start and skip_end are torch-lr-finder's.
        """
        if not isinstance(method, str) or method not in RULES:
            raise ValueError(f"method must be one of {sorted(RULES)}, got {shown(method)}")
        skip_start = _checks.integer("skip_start", skip_start, 0)
        skip_end = _checks.integer("skip_end", skip_end, 0)
        kept = slice(skip_start, max(len(self.lrs) - skip_end, skip_start))
        lrs, losses = self.lrs[kept], self.smoothed[kept]
        if len(lrs) < RULES[method].points:
            raise ValueError(
                f"method {method!r} needs {RULES[method].points} points, got {len(lrs)}: {len(self.lrs)} without "
                f"skip_start={skip_start} and skip_end={skip_end}"
            )
        return RULES[method].suggest(lrs, losses)

    def plot(self, ax: Any = None) -> Any:
        """Draws the losses, smoothed and not, over the rate, and marks the suggestions that there is enough data for.

        Args:
            ax: matplotlib Axes to draw in; None makes a Figure of its own, which pyplot does not know.

        Returns:
            the Axes; ``plot().figure`` shows the picture in a notebook, its ``savefig(...)`` writes a file.

        Raises:
            ImportError: without matplotlib, saying what to install.
        """
        suggestions = {method: self._suggestion_if_any(method) for method in RULES}
        return _plot.range_test(self.lrs, self.losses, self.smoothed, suggestions, ax)

    def _suggestion_if_any(self, method: str) -> float | None:
        try:
            return self.suggestion(method)
        except ValueError:  # too few points
            return None


def smoothed(losses: list[float], smoothing: float) -> list[float]:
    mean, result = 0.0, []
    for i, loss in enumerate(losses):
        mean = smoothing * mean + (1 - smoothing) * loss
        result.append(mean / (1 - smoothing ** (i + 1)))
    return result


def divergence(losses: list[float], smoothing: float, factor: float) -> int | None:
    """How many losses there are up to the first that diverged: with it if it is finite; None if none did.

    The rule is in the docstring of range_test.py. It looks at 20 losses because the largest of a few is
    soon surpassed by chance: that five in a row are above 20 others happens once in 53,130 times.
    """
    means = smoothed(losses, smoothing)
    best, lowest = math.inf, None  # and the point at which it was
    run = 0  # so many losses in a row are above the usual ones
    first = None  # the point of the run from which on the smoothed loss is above the bound
    for i, (loss, mean) in enumerate(zip(losses, means, strict=True)):
        if not math.isfinite(mean):
            return i if first is None else first + 1
        if lowest is not None:
            seen = max(lowest + 1, min(USUAL, i - run))
            run = run + 1 if loss > max(losses[max(lowest + 1 - USUAL, 0) : seen]) else 0
        if run and mean > best + (factor - 1) * abs(best):
            first = i if first is None else first
            if run >= LASTING:
                return first + 1
        else:
            first = None
        if run == 0 and i + 1 >= LASTING and max(means[i + 1 - LASTING : i + 1]) <= best:
            best, lowest = max(means[i + 1 - LASTING : i + 1]), i
    return None
