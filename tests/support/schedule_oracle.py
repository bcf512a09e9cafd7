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
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import count, islice, takewhile
from typing import Any

import mpmath

BITS = 256
ONE = 1 << BITS

mp = mpmath.mp.clone()
mp.prec = BITS


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


# ------------------------------------------------------------------------------ cosine restarts


@functools.lru_cache
def _powers(T_mult: float) -> list[tuple[int, int]]:
    """The powers of T_mult known so far, as (n, k) with the value n / 2**k."""
    return [(1, 0)]


def cycle_lengths(T_0: int, T_mult: float) -> Iterator[int]:
    """T_0 * T_mult**i for i = 0, 1, ..., each rounded once, ties to even."""
    numerator, denominator = T_mult.as_integer_ratio()
    powers = _powers(T_mult)
    for i in count():
        if i == len(powers):
            n, k = powers[-1]
            powers.append((n * numerator, k + denominator.bit_length() - 1))
        n, k = powers[i]
        n *= T_0
        steps = n >> k
        twice_rest = (n - (steps << k)) << 1
        tie = 1 << k
        yield steps + (twice_rest > tie or (twice_rest == tie and steps % 2 == 1))


def cycles(T_0: int, T_mult: float) -> Iterator[tuple[int, int]]:
    """(start, length) of cycle after cycle."""
    start = 0
    for length in cycle_lengths(T_0, T_mult):
        yield start, length
        start += length


def cycles_until(T_0: int, T_mult: float, last: int) -> list[tuple[int, int]]:
    """(start, length) of all cycles that start at step `last` or before."""
    return list(takewhile(lambda cycle: cycle[0] <= last, cycles(T_0, T_mult)))


@functools.lru_cache(maxsize=4)
def _ends(i: int, max_lr: float, eta_min: float, max_decay: float, min_decay: float):
    """The rates that cycle i falls from and towards."""
    return mp.mpf(max_lr) * mp.mpf(max_decay) ** i, mp.mpf(eta_min) * mp.mpf(min_decay) ** i


@functools.lru_cache(maxsize=100_000)
def _cos(T_cur: int, T_i: int):
    return mp.cos(mp.pi * T_cur / T_i)


def cosine(
    i: int,
    T_cur: int,
    T_i: int,
    *,
    max_lr: float,
    eta_min: float = 0.0,
    max_decay: float = 1.0,
    min_decay: float = 1.0,
) -> float:
    """The rate T_cur steps after the start of cycle i, which has T_i steps.

    bottom + (top - bottom) / 2 * (1 + cos), in the order in which no end is lost beside the other:
    one may have decayed to any part of it.
    """
    top, bottom = _ends(i, max_lr, eta_min, max_decay, min_decay)
    c = _cos(T_cur, T_i)
    return float((top * (1 + c) + bottom * (1 - c)) / 2)


def cosine_whole_cycles(
    number: int,
    *,
    max_lr: float,
    T_0: int,
    T_mult: float = 1,
    eta_min: float = 0.0,
    max_decay: float = 1.0,
    min_decay: float = 1.0,
) -> list[float]:
    """The rate at every step of the first `number` cycles."""
    values = []
    for i, T_i in enumerate(islice(cycle_lengths(T_0, T_mult), number)):
        top, bottom = _ends(i, max_lr, eta_min, max_decay, min_decay)
        low = _fixed_point(bottom)
        half_span = _fixed_point((top - bottom) / 2)
        values += [(low + (half_span * (ONE + c) >> BITS)) / ONE for c in _half_turn(T_i)]
    return values


def cosine_warm_restarts(t: int, *, T_0: int, T_mult: float, **ends: float) -> float:
    if T_mult == 1:
        return cosine(t // T_0, t % T_0, T_0, **ends)
    cycles = cycles_until(T_0, T_mult, t)
    start, length = cycles[-1]
    return cosine(len(cycles) - 1, t - start, length, **ends)


def cosine_cycles(t: int, *, lengths: Sequence[int], **ends: float) -> float:
    whole = sum(lengths)
    if t >= whole:
        i, T_cur = divmod(t - whole, lengths[-1])
        return cosine(len(lengths) + i, T_cur, lengths[-1], **ends)
    i = 0
    while t >= lengths[i]:
        t, i = t - lengths[i], i + 1
    return cosine(i, t, lengths[i], **ends)


def cosine_annealing(t: int, *, max_lr: float, T_max: int, eta_min: float) -> float:
    return _along("cos", max_lr, eta_min, Fraction(t, T_max))


def _fixed_point(x) -> int:
    return int(mp.nint(x * ONE))


@functools.lru_cache(maxsize=8)
def _half_turn(T_i: int) -> list[int]:
    """cos(pi * k / T_i) for k = 0, ..., T_i - 1, in units of 2**-256.

    cos((k + 1) x) = 2 cos(x) cos(k x) - cos((k - 1) x): a hundred times faster than as many
    cosines, and the error grows with k**2 only, to about 2**-220 here.
    """
    twice = _fixed_point(2 * mp.cos(mp.pi / T_i))
    cosines = [ONE, twice >> 1]
    for _ in range(T_i - 1):
        cosines.append((twice * cosines[-1] >> BITS) - cosines[-2])
    assert abs(cosines[T_i] + ONE) < ONE >> 200, "cos(pi) is not -1"
    return cosines[:T_i]


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


def _along(strategy: str, start: float, end: float, part: Fraction) -> float:
    """`part` of the way from start to end."""
    first, last, x = mp.mpf(start), mp.mpf(end), mp.mpf(part.numerator) / part.denominator
    if strategy == "cos":
        return float(last + (first - last) / 2 * (1 + mp.cos(mp.pi * x)))
    return float(first + (last - first) * x)


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
