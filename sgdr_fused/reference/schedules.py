"""The schedules without cycles, and those that are made of other schedules, in plain Python.

Each function has the name of its class in sgdr_fused.schedules. It takes the step t = 0, 1, 2, ... (mini-batches),
which may be of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .cycles import half_cosine_between

Curve = Callable[[int], float]  # a schedule inside another


def constant(t: int, *, value: float) -> float:
    """The rate at every step ``t``: ``value``, >= 0."""
    return value


def linear_ramp(t: int, *, start: float, end: float, steps: int) -> float:
    """``start + (end - start) * t / steps`` until step ``steps``, and ``end`` from then on."""
    t = min(t, steps)
    return start * ((steps - t) / steps) + end * (t / steps)


def exponential_ramp(t: int, *, start: float, end: float, steps: int) -> float:
    """``start * (end / start)**(t / steps)`` until step ``steps``, and ``end`` from then on; both > 0."""
    t = min(t, steps)
    return start ** ((steps - t) / steps) * end ** (t / steps)


def half_cosine(t: int, *, start: float, end: float, steps: int) -> float:
    """``end + (start - end) / 2 * (1 + cos(pi * t / steps))`` until step ``steps``, and ``end`` from then on."""
    t = min(t, steps)
    return half_cosine_between(start, end, t, steps - t)


def polynomial(t: int, *, start: float, end: float, steps: int, power: float = 1.0) -> float:
    """``end + (start - end) * (1 - t / steps)**power`` until step ``steps``, and ``end`` from then on."""
    return end + (start - end) * ((steps - min(t, steps)) / steps) ** power


def exponential(t: int, *, lr: float, gamma: float) -> float:
    """``lr * gamma**t``."""
    return lr * _power(gamma, t)


def step(t: int, *, lr: float, step_size: int, gamma: float = 0.1) -> float:
    """``lr * gamma**floor(t / step_size)``."""
    return lr * _power(gamma, t // step_size)


def multi_step(t: int, *, lr: float, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """``lr * gamma**(number of milestones <= t)``."""
    return lr * _power(gamma, sum(milestone <= t for milestone in milestones))


def _power(gamma: float, n: int) -> float:
    """``gamma**n``; infinite where it is too large for a double, as in C."""
    try:
        return gamma**n
    except OverflowError:
        return math.inf


def inverse_time(t: int, *, lr: float, k: float) -> float:
    """``lr / (1 + k * t)``."""
    return lr / (1 + k * t)


def warmup_stable_decay(
    t: int,
    *,
    max_lr: float,
    num_warmup_steps: int,
    num_stable_steps: int,
    num_decay_steps: int,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
) -> float:
    """A rise from ``min_lr_ratio * max_lr`` to ``max_lr``, that rate for a while, and a decay to where the rise began.

    Example:
        >>> phases = {"num_warmup_steps": 2, "num_stable_steps": 1, "num_decay_steps": 2}
        >>> [round(warmup_stable_decay(t, max_lr=1.0, decay_type="linear", **phases), 3) for t in range(7)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]

    Sources: Hu et al., "MiniCPM" (2024), section 4; the forms are those of Hugging Face's get_wsd_schedule.
    """
    min_lr = min_lr_ratio * max_lr
    between = {"linear": linear_ramp, "cosine": half_cosine}
    if t < num_warmup_steps:
        return between[warmup_type](t, start=min_lr, end=max_lr, steps=num_warmup_steps)
    past = t - num_warmup_steps - num_stable_steps
    return max_lr if past <= 0 else between[decay_type](past, start=max_lr, end=min_lr, steps=num_decay_steps)


def table(t: int, *, entries: Sequence[float]) -> float:
    """The entry of step ``t``, and the last one from there on."""
    return entries[min(t, len(entries) - 1)]


# ---- schedules of schedules


def shifted(t: int, *, schedule: Curve, steps: int) -> float:
    """``schedule(t + steps)``."""
    return schedule(t + steps)


def product(t: int, *, factors: Sequence[Curve]) -> float:
    """``factors[0](t) * factors[1](t) * ...``."""
    return math.prod(factor(t) for factor in factors)


def warmup(t: int, *, schedule: Curve, steps: int, start_factor: float = 0.0) -> float:
    """From ``schedule(0) * start_factor`` to ``schedule(0)`` in a straight line, and then the schedule.

    Example:
        >>> [warmup(t, schedule=lambda t: 0.5**t, steps=2) for t in range(5)]
        [0.0, 0.5, 1.0, 0.5, 0.25]

    Source: Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2.
    """
    if t >= steps:
        return schedule(t - steps)
    return schedule(0) * (start_factor * ((steps - t) / steps) + t / steps)


def sequential(t: int, *, schedules: Sequence[Any]) -> float:
    """Each of ``(schedule, steps)`` for its steps, and then the schedule at the end; each from its own 0.

    Example:
        >>> [sequential(t, schedules=((lambda t: t, 2), (lambda t: 10 - t, 1), lambda t: 20 + t)) for t in range(5)]
        [0, 1, 10, 20, 21]
    """
    for schedule, steps in schedules[:-1]:
        if t < steps:
            return schedule(t)
        t -= steps
    return schedules[-1](t)
