"""Schedules that lead from one value to another and stay there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .. import _checks
from ._base import Schedule, Segment


def last_step_of_fall(start: float, end: float, steps: int, inside: bool) -> int | None:
    """``last_step`` of what stays at `end`: a fall to next to nothing, unless it stands inside another schedule."""
    return steps if end < 0.01 * start and not inside else None


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Args:
        value: finite, >= 0.

    Example:
        >>> Constant(0.1)(1000)
        0.1
    """

    value: float

    def __post_init__(self) -> None:
        self._set(value=_checks.rate("value", self.value))

    def _curve(self) -> Segment:
        return Segment("constant", values=[self.value])

    @property
    def upper_bound(self) -> float:
        return self.value


@dataclass(frozen=True)
class _Ramp(Schedule):
    """From ``start`` to ``end`` in ``steps`` steps, and then ``end``."""

    start: float
    end: float
    steps: int

    _mode: ClassVar[str]  # of the ramp

    def __post_init__(self) -> None:
        self._set(
            start=_checks.rate("start", self.start),
            end=_checks.rate("end", self.end),
            steps=_checks.integer("steps", self.steps, 1),
        )

    @property
    def upper_bound(self) -> float:
        return max(self.start, self.end)

    def _last_step(self, inside: bool) -> int | None:
        return last_step_of_fall(self.start, self.end, self.steps, inside)

    def _curve(self) -> Segment:
        return Segment("ramp", self._mode, [self.start, self.end, 0.0, 0.0], [self.steps, self.steps])


@dataclass(frozen=True)
class LinearRamp(_Ramp):
    """In a straight line from ``start``, at step 0, to ``end``, at step ``steps``, and ``end`` from then on.

    ::

        value = start * (steps - t) / steps + end * t / steps

    Args:
        start, end: finite, >= 0; either may be the larger one.
        steps: an integer >= 1.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> LinearRamp(0.0, 1.0, steps=4).values(6).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Source: the ramp of Smith's range test (2015), section 3.3; ``torch.optim.lr_scheduler.LinearLR``.
    """

    _mode: ClassVar[str] = "linear"


@dataclass(frozen=True)
class ExponentialRamp(_Ramp):
    """By a constant factor per step from ``start``, at step 0, to ``end``, at step ``steps``, and ``end`` from then on.

    ::

        value = start**((steps - t) / steps) * end**(t / steps)

    Args:
        start, end: finite, > 0; either may be the larger one.
        steps: an integer >= 1.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> [round(ExponentialRamp(0.001, 10.0, steps=4)(t), 6) for t in range(6)]
        [0.001, 0.01, 0.1, 1.0, 10.0, 10.0]

    Source: the usual form of the range test; optax's ``exponential_decay``.
    """

    _mode: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "end"):
            _checks.between(name, getattr(self, name), 0.0, math.inf, low_open=True, high_open=True)


@dataclass(frozen=True)
class HalfCosine(_Ramp):
    """Along half a cosine from ``start``, at step 0, to ``end``, at step ``steps``, and ``end`` from then on.

    ::

        value = end + (start - end) * (1 + cos(pi * t / steps)) / 2

    evaluated so that nothing cancels. Unlike a cycle of :class:`CosineWarmRestarts` it reaches ``end``;
    unlike :class:`CosineAnnealing` it stays there.

    Args:
        start, end: finite, >= 0; either may be the larger one.
        steps: an integer >= 1.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> [round(HalfCosine(1.0, 0.0, steps=4)(t), 6) for t in range(6)]
        [1.0, 0.853553, 0.5, 0.146447, 0.0, 0.0]

    Source: Loshchilov & Hutter, "SGDR" (2017), eq. 5, without the restart.
    """

    _mode: ClassVar[str] = "half_cosine"


@dataclass(frozen=True)
class Polynomial(Schedule):
    """From ``start`` down to ``end`` in ``steps`` steps along a power of the steps that are left.

    ::

        value = end + (start - end) * (1 - t / steps)**power     until step ``steps``, and ``end`` from then on

    Args:
        start: value at step 0; finite, >= ``end``.
        end: finite, >= 0.
        steps: an integer >= 1.
        power: finite, >= 0.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> Polynomial(1.0, 0.0, steps=4, power=2.0).values(6).tolist()
        [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]

    Source: ``torch.optim.lr_scheduler.PolynomialLR``, which has no ``end``; optax's ``polynomial_schedule``.
    """

    start: float
    end: float
    steps: int
    power: float = 1.0

    def __post_init__(self) -> None:
        self._set(
            start=_checks.rate("start", self.start),
            end=_checks.rate("end", self.end),
            steps=_checks.integer("steps", self.steps, 1),
            power=_checks.rate("power", self.power),
        )
        if self.end > self.start:
            raise ValueError(f"end must be <= start, got {self.end!r} > {self.start!r}")

    @property
    def upper_bound(self) -> float:
        return self.start

    def _last_step(self, inside: bool) -> int | None:
        return last_step_of_fall(self.start, self.end, self.steps, inside)

    def _curve(self) -> Segment:
        return Segment("polynomial", values=[self.start, self.end, self.power], lengths=[self.steps])
