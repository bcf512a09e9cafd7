"""The cosine schedules in high precision, for schedule_oracle.py."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count, islice, takewhile

import mpmath

BITS = 256
ONE = 1 << BITS

mp = mpmath.mp.clone()
mp.prec = BITS


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


def _along(strategy: str, start: float, end: float, part: Fraction) -> float:
    """`part` of the way from start to end."""
    first, last, x = mp.mpf(start), mp.mpf(end), mp.mpf(part.numerator) / part.denominator
    if strategy == "cos":
        return float(last + (first - last) / 2 * (1 + mp.cos(mp.pi * x)))
    return float(first + (last - first) * x)
