"""Schedules along cosines that come back to where they started: by a jump, or along the same curve."""

from __future__ import annotations

import bisect
import decimal
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .. import _checks
from .._messages import shown
from ._base import Schedule, Segment

# Cycles of growing length that are told apart, and where the last of them ends at the latest: 64-bit
# integers hold no more. After that, its length repeats.
MAX_CYCLES = 65_536
LAST_START = 2**62


def _cosine_cycle(t: int, starts: Sequence[int]) -> tuple[int, int, int]:
    """The cycle that has step ``t``, among cycles with these starts and this end; the last length repeats."""
    index = bisect.bisect_right(starts, t) - 1
    if index < len(starts) - 1:
        return index, t - starts[index], starts[index + 1] - starts[index]
    length = starts[-1] - starts[-2]
    return index + (t - starts[-1]) // length, (t - starts[-1]) % length, length


@dataclass(frozen=True)
class CosineWarmRestarts(Schedule):
    r"""Cosine annealing with warm restarts (SGDR).

    In cycle ``i``, ``pos`` steps after its start, with its length ``T_i``::

        max_i = max_lr * max_decay**i        min_i = eta_min * min_decay**i
        value = min_i + (max_i - min_i) * (1 + cos(pi * pos / T_i)) / 2
        T_i   = T_0 * T_mult**i, rounded to whole steps, halves to even

    evaluated so that nothing cancels: exactly ``max_i`` at every restart, and as precise at the end
    of a long cycle as at its start. ``T_mult`` may be a float; the product is rounded, not the
    length before, so errors do not add up. 65,536 cycles are told apart, and the last one's length
    repeats; none ends after step 2**62. ``eta_min`` itself is not reached: the step that would take
    it is the restart.

    Args:
        max_lr: value at each restart; finite, >= 0.
        T_0: steps in the first cycle; an integer >= 1.
        T_mult: growth of the cycles; a finite number >= 1.
        eta_min: what a cycle anneals to; 0 <= ``eta_min`` <= ``max_lr``.
        max_decay: factor on the maximum after each cycle; in [0, 1].
        min_decay: factor on the minimum after each cycle; in [0, 1]. Decayed maxima and minima are
            not held against each other.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> schedule = CosineWarmRestarts(0.1, T_0=10, T_mult=2)
        >>> schedule(0), round(schedule(5), 6), schedule(10), schedule.cycle(12)
        (0.1, 0.05, 0.1, (1, 2, 20))
        >>> schedule.is_cycle_end(9), schedule.is_cycle_end(10)
        (True, False)

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), eq. 5.
    """

    max_lr: float
    T_0: int
    T_mult: float = 1
    eta_min: float = 0.0
    max_decay: float = 1.0
    min_decay: float = 1.0

    def __post_init__(self) -> None:
        growth = _checks.between("T_mult", self.T_mult, 1.0, math.inf, high_open=True)
        self._set(
            max_lr=_checks.rate("max_lr", self.max_lr),
            T_0=_checks.integer("T_0", self.T_0, 1),
            T_mult=int(growth) if growth.is_integer() else growth,
            eta_min=_checks.rate("eta_min", self.eta_min),
            max_decay=_checks.between("max_decay", self.max_decay, 0.0, 1.0),
            min_decay=_checks.between("min_decay", self.min_decay, 0.0, 1.0),
        )
        if self.eta_min > self.max_lr:
            raise ValueError(f"eta_min must be <= max_lr, got {self.eta_min!r} > {self.max_lr!r}")

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        if not self._cycle_starts:
            return t // self.T_0, t % self.T_0, self.T_0
        return _cosine_cycle(t, self._cycle_starts)

    def _has_cycles_from(self, step: int) -> bool:
        return True

    @property
    def upper_bound(self) -> float:
        return self.max_lr

    @functools.cached_property
    def _cycle_starts(self) -> list[int]:
        """Where cycles 0, 1, ... start and the last one ends; empty where all are equally long."""
        if self.T_mult == 1:
            return []
        starts = [0]
        # 60 digits: the whole steps below 2**62 take 19, so what is rounded is good to 1e-40.
        with decimal.localcontext(decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)):
            length, growth = decimal.Decimal(self.T_0), decimal.Decimal(self.T_mult)
            while len(starts) <= MAX_CYCLES and starts[-1] < LAST_START:
                starts.append(min(starts[-1] + int(length.to_integral_value()), LAST_START))
                length *= growth
        return starts

    def _curve(self) -> Segment:
        values = [self.max_lr, self.eta_min, self.max_decay, self.min_decay]
        return Segment("cosine_warm_restarts", values=values, lengths=[self.T_0], table=self._cycle_starts)

    def _cycle_ends(self) -> list[Segment]:
        return [Segment("cycle_end", lengths=[self.T_0], table=self._cycle_starts)]


@dataclass(frozen=True)
class CosineCycles(Schedule):
    """Cosine annealing with warm restarts, with the lengths of the cycles as listed.

    The formula is that of :class:`CosineWarmRestarts`; after the last cycle in the list its length repeats.

    Args:
        max_lr: value at each restart; finite, >= 0.
        lengths: steps in each cycle; integers >= 1, at least one and at most 65,536 of them.
        eta_min: what a cycle anneals to; 0 <= ``eta_min`` <= ``max_lr``.
        max_decay: factor on the maximum after each cycle; in [0, 1].
        min_decay: factor on the minimum after each cycle; in [0, 1].

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> schedule = CosineCycles(0.1, lengths=(10, 5, 20))
        >>> [schedule.cycle(t) for t in (9, 10, 15, 35)]
        [(0, 9, 10), (1, 0, 5), (2, 0, 20), (3, 0, 20)]

    Source: Loshchilov & Hutter, "SGDR" (2017), eq. 5, whose T_i may be any.
    """

    max_lr: float
    lengths: Sequence[int]
    eta_min: float = 0.0
    max_decay: float = 1.0
    min_decay: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.lengths, (list, tuple)) and len(self.lengths) > MAX_CYCLES:
            raise ValueError(
                f"lengths must be 1 to {MAX_CYCLES} integers, got {len(self.lengths)}: {shown(self.lengths)}"
            )
        lengths = _checks.integers("lengths", self.lengths, 1)
        if not 1 <= len(lengths) <= MAX_CYCLES or sum(lengths) > _checks.MAX_STEP:
            raise ValueError(
                f"lengths must be 1 to {MAX_CYCLES} integers with a sum of at most 2**61, got {shown(self.lengths)}"
            )
        self._set(
            max_lr=_checks.rate("max_lr", self.max_lr),
            lengths=lengths,
            eta_min=_checks.rate("eta_min", self.eta_min),
            max_decay=_checks.between("max_decay", self.max_decay, 0.0, 1.0),
            min_decay=_checks.between("min_decay", self.min_decay, 0.0, 1.0),
        )
        if self.eta_min > self.max_lr:
            raise ValueError(f"eta_min must be <= max_lr, got {self.eta_min!r} > {self.max_lr!r}")

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        return _cosine_cycle(t, self._cycle_starts)

    def _has_cycles_from(self, step: int) -> bool:
        return True

    @property
    def upper_bound(self) -> float:
        return self.max_lr

    @functools.cached_property
    def _cycle_starts(self) -> list[int]:
        return [0, *itertools.accumulate(self.lengths)]

    def _curve(self) -> Segment:
        values = [self.max_lr, self.eta_min, self.max_decay, self.min_decay]
        return Segment("cosine_warm_restarts", values=values, lengths=[1], table=self._cycle_starts)

    def _cycle_ends(self) -> list[Segment]:
        return [Segment("cycle_end", lengths=[1], table=self._cycle_starts)]


@dataclass(frozen=True)
class CosineAnnealing(Schedule):
    """Half a cosine down and the same up again, over and over.

    ::

        value = eta_min + (max_lr - eta_min) * (1 + cos(pi * t / T_max)) / 2

    A fall and the rise after it are a cycle. :class:`HalfCosine` falls once and stays, and
    :class:`CosineWarmRestarts` jumps up.

    Args:
        max_lr: value at step 0; finite, >= 0.
        T_max: steps of the fall, and of the rise; an integer >= 1.
        eta_min: value at step ``T_max``; 0 <= ``eta_min`` <= ``max_lr``.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> [round(CosineAnnealing(1.0, T_max=2)(t), 6) for t in range(6)]
        [1.0, 0.5, 0.0, 0.5, 1.0, 0.5]

    Source: ``torch.optim.lr_scheduler.CosineAnnealingLR``.
    """

    max_lr: float
    T_max: int
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        self._set(
            max_lr=_checks.rate("max_lr", self.max_lr),
            T_max=_checks.integer("T_max", self.T_max, 1),
            eta_min=_checks.rate("eta_min", self.eta_min),
        )
        if self.eta_min > self.max_lr:
            raise ValueError(f"eta_min must be <= max_lr, got {self.eta_min!r} > {self.max_lr!r}")

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        return t // (2 * self.T_max), t % (2 * self.T_max), 2 * self.T_max

    def _has_cycles_from(self, step: int) -> bool:
        return True

    @property
    def upper_bound(self) -> float:
        return self.max_lr

    def _curve(self) -> Segment:
        values = [self.eta_min, self.max_lr, 1.0]
        # From the peak on.
        return Segment("triangular", "cosine", values, [self.T_max, self.T_max], shift=self.T_max)

    def _cycle_ends(self) -> list[Segment]:
        return [Segment("cycle_end", lengths=[2 * self.T_max])]
