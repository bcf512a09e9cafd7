"""What the schedules are held to: the textbook formulas, cycle by cycle, in exact integers and 256 bits.

Written without sight of the package: Loshchilov & Hutter (2017), eq. 5, Smith (2015), section 3.1, and the
rest as printed, where rounding is so small that their cancellation does not matter. Every number
is the exact value of the double that the schedule was given; every result is rounded once, to the
nearest double, and once more for each schedule around it.

`exact(schedule, t)` is the value of any schedule: by the function here that is named like its class and takes
its fields; schedules among them arrive as functions of the step.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from schedule_oracle_cosine import (  # noqa: F401  (looked up by name, or used as this module's)
    _along,
    cosine,
    cosine_annealing,
    cosine_cycles,
    cosine_warm_restarts,
    cosine_whole_cycles,
    cycle_lengths,
    cycles,
    cycles_until,
    mp,
)


def relative_error(value: float, exact: float) -> float:
    """Below the smallest normal double a double has fewer digits: there, of that number."""
    return abs(value - exact) / max(abs(exact), 2.0**-1022)


def exact(schedule: Any, t: int) -> float:
    return _function(schedule)(t)


def _function(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_function, value))
    if not dataclasses.is_dataclass(value):
        return value
    name = re.sub("([a-z])([A-Z])", r"\1_\2", type(value).__name__).lower()
    fields = {field.name: _function(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return functools.partial(globals()[name], **fields)


# ---------------------------------------------------------------------------------- triangular


def smith_height(t: int, s: int) -> Fraction:
    """max(0, 1 - x) as Smith (2015) has it, for a rise and a fall of s steps each."""
    c = (2 * s + t) // (2 * s)  # floor(1 + t / (2 s))
    x = abs(Fraction(t, s) - 2 * c + 1)
    return max(Fraction(0), 1 - x)


def unequal_height(t: int, up: int, down: int) -> Fraction:
    """The same with a fall of another length: a point that goes up and down between 0 and 1."""
    position = Fraction(t, up + down) % 1  # of the cycle
    peak = Fraction(up, up + down)
    return position / peak if position <= peak else (1 - position) / (1 - peak)


def triangular(
    t: int,
    *,
    base_lr: float,
    max_lr: float,
    step_size_up: int,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> float:
    """The rate at step t."""
    base, top = mp.mpf(base_lr), mp.mpf(max_lr)
    return float(base + (top - base) * _risen(t, step_size_up, step_size_down, mode, gamma))


def triangular_momentum(
    t: int,
    *,
    base_momentum: float,
    max_momentum: float,
    step_size_up: int,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> float:
    top = mp.mpf(max_momentum)
    return float(top - (top - mp.mpf(base_momentum)) * _risen(t, step_size_up, step_size_down, mode, gamma))


def _risen(t: int, up: int, down: int | None, mode: str, gamma: float):
    """Height times amplitude."""
    if down is None or down == up:
        down = up
        height = smith_height(t, up)
    else:
        height = unequal_height(t, up, down)
    amplitude = {
        "triangular": lambda: mp.mpf(1),
        "triangular2": lambda: mp.ldexp(1, -(t // (up + down))),
        "exp_range": lambda: mp.mpf(gamma) ** t,
    }[mode]()
    return amplitude * height.numerator / height.denominator


# --------------------------------------------------------------------------- ramps, decays, tables


def constant(t: int, *, value: float) -> float:
    return value


def linear_ramp(t: int, *, start: float, end: float, steps: int) -> float:
    return _along("linear", start, end, Fraction(min(t, steps), steps))


def half_cosine(t: int, *, start: float, end: float, steps: int) -> float:
    return _along("cos", start, end, Fraction(min(t, steps), steps))


def exponential_ramp(t: int, *, start: float, end: float, steps: int) -> float:
    return float(mp.mpf(start) * (mp.mpf(end) / mp.mpf(start)) ** (mp.mpf(min(t, steps)) / steps))


def polynomial(t: int, *, start: float, end: float, steps: int, power: float) -> float:
    return float((mp.mpf(start) - mp.mpf(end)) * (1 - mp.mpf(min(t, steps)) / steps) ** mp.mpf(power) + mp.mpf(end))


def exponential(t: int, *, lr: float, gamma: float) -> float:
    return float(mp.mpf(lr) * mp.mpf(gamma) ** t)


def step(t: int, *, lr: float, step_size: int, gamma: float) -> float:
    return float(mp.mpf(lr) * mp.mpf(gamma) ** (t // step_size))


def multi_step(t: int, *, lr: float, milestones: Sequence[int], gamma: float) -> float:
    return float(mp.mpf(lr) * mp.mpf(gamma) ** len([m for m in milestones if m <= t]))


def inverse_time(t: int, *, lr: float, k: float) -> float:
    return float(mp.mpf(lr) / (1 + mp.mpf(k) * t))


def table(t: int, *, entries: Sequence[float]) -> float:
    return entries[t] if t < len(entries) else entries[-1]


# ------------------------------------------------------------------------------------- one cycle


def _phases(t: int, corners: Sequence[float], total_steps: int, pct_start: float, anneal_strategy: str) -> float:
    """torch's phases, whose ends are rounded to doubles; from there on exact. Those without a length are left out."""
    ends = [float(pct_start * total_steps) - 1.0, float(2.0 * (pct_start * total_steps)) - 2.0][: len(corners) - 2]
    begin, t = 0.0, min(t, total_steps - 1)
    for end, start_value, end_value in zip([*ends, total_steps - 1.0], corners, corners[1:], strict=True):
        if t <= end and begin != end:
            part = (t - Fraction(begin)) / (Fraction(end) - Fraction(begin))
            return _along(anneal_strategy, start_value, end_value, part)
        begin = end
    raise AssertionError("no phase is left")


def one_cycle(
    t: int,
    *,
    max_lr: float,
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    base_momentum: float,
    max_momentum: float,
    div_factor: float,
    final_div_factor: float,
    three_phase: bool,
) -> float:
    initial = max_lr / div_factor
    lowest = initial / final_div_factor
    corners = [initial, max_lr, initial, lowest] if three_phase else [initial, max_lr, lowest]
    return _phases(t, corners, total_steps, pct_start, anneal_strategy)


def one_cycle_momentum(
    t: int,
    *,
    base_momentum: float,
    max_momentum: float,
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    three_phase: bool,
) -> float:
    high, low = max_momentum, base_momentum
    corners = [high, low, high, high] if three_phase else [high, low, high]
    return _phases(t, corners, total_steps, pct_start, anneal_strategy)


# --------------------------------------------------------------------------- warm-up, stable, decay


def warmup_stable_decay(
    t: int,
    *,
    max_lr: float,
    num_warmup_steps: int,
    num_stable_steps: int,
    num_decay_steps: int,
    warmup_type: str,
    decay_type: str,
    min_lr_ratio: float,
) -> float:
    """A factor between 0 and 1, then between min_lr_ratio and 1, then times the rate."""
    decay_begin = num_warmup_steps + num_stable_steps
    if num_warmup_steps <= t < decay_begin:
        factor = mp.mpf(1)
    elif t >= decay_begin + num_decay_steps:
        factor = mp.mpf(0)
    elif t < num_warmup_steps:
        u = mp.mpf(t) / num_warmup_steps
        factor = u if warmup_type == "linear" else (1 - mp.cos(mp.pi * u)) / 2
    else:
        u = mp.mpf(t - decay_begin) / num_decay_steps
        factor = 1 - u if decay_type == "linear" else (1 + mp.cos(mp.pi * u)) / 2
    lowest = mp.mpf(min_lr_ratio)
    return float(mp.mpf(max_lr) * (lowest + (1 - lowest) * factor))


# ------------------------------------------------------------------------- schedules of schedules

Curve = Callable[[int], float]


def shifted(t: int, *, schedule: Curve, steps: int) -> float:
    return schedule(t + steps)


def product(t: int, *, factors: Sequence[Curve]) -> float:
    result = mp.mpf(1)
    for factor in factors:
        result *= mp.mpf(factor(t))
    return float(result)


def warmup(t: int, *, schedule: Curve, steps: int, start_factor: float) -> float:
    if t >= steps:
        return schedule(t - steps)
    f = mp.mpf(start_factor)
    return float(mp.mpf(schedule(0)) * (f + (1 - f) * t / steps))


def sequential(t: int, *, schedules: Sequence[Any]) -> float:
    begin = 0
    for schedule, steps in schedules[:-1]:
        if begin <= t < begin + steps:
            return schedule(t - begin)
        begin += steps
    return schedules[-1](t - begin)
