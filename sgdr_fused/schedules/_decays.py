"""Schedules that fall, or grow, without an end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .. import _checks
from .._messages import shown
from ._base import Schedule, Segment


def _grown(lr: float, gamma: float, times: float = math.inf) -> float:
    """The largest of ``lr * gamma**n`` for n up to ``times``."""
    if gamma <= 1 or lr == 0:
        return lr
    try:
        return lr * gamma**times
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Exponential(Schedule):
    """A factor of ``gamma`` at every step.

    ::

        value = lr * gamma**t

    ``Exponential(lr, math.exp(-k))`` is ``lr * exp(-k * t)``. With ``gamma`` > 1 the value grows without
    bound, in the end to infinity; :class:`ExponentialRamp` stops.

    Args:
        lr: value at step 0; finite, >= 0.
        gamma: finite, >= 0.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> Exponential(1.0, gamma=0.5).values(4).tolist()
        [1.0, 0.5, 0.25, 0.125]

    Source: ``torch.optim.lr_scheduler.ExponentialLR``.
    """

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        self._set(lr=_checks.rate("lr", self.lr), gamma=_checks.rate("gamma", self.gamma))

    @property
    def upper_bound(self) -> float:
        return _grown(self.lr, self.gamma)

    def _curve(self) -> Segment:
        return Segment("step", values=[self.lr, self.gamma], lengths=[1])


@dataclass(frozen=True)
class Step(Schedule):
    """A factor of ``gamma`` every ``step_size`` steps.

    ::

        value = lr * gamma**floor(t / step_size)

    Args:
        lr: value at step 0; finite, >= 0.
        step_size: an integer >= 1.
        gamma: finite, >= 0. Above 1 the value grows without bound.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> Step(1.0, step_size=2, gamma=0.5).values(6).tolist()
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    Source: ``torch.optim.lr_scheduler.StepLR``.
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._set(
            lr=_checks.rate("lr", self.lr),
            step_size=_checks.integer("step_size", self.step_size, 1),
            gamma=_checks.rate("gamma", self.gamma),
        )

    @property
    def upper_bound(self) -> float:
        return _grown(self.lr, self.gamma)

    def _curve(self) -> Segment:
        return Segment("step", values=[self.lr, self.gamma], lengths=[self.step_size])


@dataclass(frozen=True)
class MultiStep(Schedule):
    """A factor of ``gamma`` from each milestone on.

    ::

        value = lr * gamma**(number of milestones <= t)

    Args:
        lr: value before the first milestone; finite, >= 0.
        milestones: steps, integers >= 0 in ascending order; one that stands there twice counts twice.
        gamma: finite, >= 0.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> MultiStep(1.0, milestones=(2, 5), gamma=0.5).values(7).tolist()
        [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]

    Source: ``torch.optim.lr_scheduler.MultiStepLR``.
    """

    lr: float
    milestones: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        milestones = _checks.integers("milestones", self.milestones, 0)
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must be in ascending order, got {shown(self.milestones)}")
        self._set(
            lr=_checks.rate("lr", self.lr),
            milestones=milestones,
            gamma=_checks.rate("gamma", self.gamma),
        )

    @property
    def upper_bound(self) -> float:
        return _grown(self.lr, self.gamma, len(self.milestones))

    def _curve(self) -> Segment:
        return Segment("step", values=[self.lr, self.gamma], lengths=[1], table=[0, *self.milestones])


@dataclass(frozen=True)
class InverseTime(Schedule):
    """Time-based decay.

    ::

        value = lr / (1 + k * t)

    Args:
        lr: value at step 0; finite, >= 0.
        k: per step; finite, >= 0.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> InverseTime(1.0, k=0.5).values(5)[[0, 2, 4]].tolist()
        [1.0, 0.5, 0.3333333333333333]

    Source: Robbins & Monro, "A stochastic approximation method" (1951), whose conditions it meets; as
    ``lr_decay`` in ``torch.optim.Adagrad``.
    """

    lr: float
    k: float

    def __post_init__(self) -> None:
        self._set(lr=_checks.rate("lr", self.lr), k=_checks.rate("k", self.k))

    @property
    def upper_bound(self) -> float:
        return self.lr

    def _curve(self) -> Segment:
        return Segment("inverse_time", values=[self.lr, self.k])
