"""Schedules of schedules: what they are made of, step by step, and their cycles."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
import torch
from cases import reference_of
from schedule_cases import FAR, ROWS, SCHEDULES, Row, every_row, every_schedule, short

from sgdr_fused._native import backends
from sgdr_fused.schedules import (
    Constant,
    CosineAnnealing,
    CosineCycles,
    CosineWarmRestarts,
    Exponential,
    LinearRamp,
    OneCycle,
    Product,
    Schedule,
    Sequential,
    Shifted,
    Step,
    Table,
    Triangular,
    Warmup,
)

pytestmark = [pytest.mark.formulas, pytest.mark.host]

STEPS = (*range(60), 10**6, FAR)
OTHERS = [SCHEDULES[-1], *SCHEDULES[:-1]]  # beside SCHEDULES, each has its neighbour


def close(a: float, b: float) -> bool:
    """Apart by the rounding of a few products and sums."""
    return a == pytest.approx(b, rel=1e-14, abs=0.0)


# ------------------------------------------------------------------------------------ the algebra


@every_schedule
def test_times_a_number(schedule: Schedule) -> None:
    for number in (2, 0.1, 0, np.float64(3.0)):
        product = number * schedule
        assert product == schedule * number == Product((Constant(float(number)), schedule))
        assert all(close(product(t), float(number) * schedule(t)) for t in STEPS)
        assert product.upper_bound == pytest.approx(float(number) * schedule.upper_bound, nan_ok=True) or number == 0


@pytest.mark.parametrize("number", [-1, float("nan"), float("inf"), -0.5], ids=repr)
def test_numbers_that_are_no_factors(number: float) -> None:
    with pytest.raises(ValueError, match=rf"factor.*{number!r}"):
        number * Constant(0.1)


@pytest.mark.parametrize("other", ["2", None, True, [2], (2,), 1j, torch.tensor(2.0)], ids=repr)
def test_what_is_no_factor(other: Any) -> None:
    for a, b in ((other, Constant(0.1)), (Constant(0.1), other)):
        with pytest.raises(TypeError):
            operator.mul(a, b)


@pytest.mark.parametrize(("one", "other"), [*zip(SCHEDULES, OTHERS, strict=True)], ids=lambda s: short(s)[:40])
def test_times_a_schedule(one: Schedule, other: Schedule) -> None:
    product = one * other
    assert product == Product((one, other))
    assert all(close(product(t), one(t) * other(t)) for t in STEPS)


@every_schedule
def test_shifted(schedule: Schedule) -> None:
    for by in (0, 1, 2, 3, 7, 10, 29, 30, 31, 99, 100, 10**6):
        shifted = schedule.shifted(by)
        assert shifted == Shifted(schedule, by)
        assert all(shifted(t) == schedule(t + by) for t in STEPS)
        assert all(shifted.cycle(t) == schedule.cycle(t + by) for t in STEPS)
        assert all(shifted.shifted(5)(t) == schedule(t + by + 5) for t in STEPS)


@every_schedule
def test_warmed_up(schedule: Schedule) -> None:
    for steps, factor in ((1, 0.0), (7, 0.25), (40, 1.0)):
        warmed_up = Warmup(schedule, steps, factor)
        for t in range(steps):
            assert close(warmed_up(t), schedule(0) * (factor + (1 - factor) * t / steps))
        assert all(warmed_up(steps + t) == schedule(t) for t in STEPS)
        assert warmed_up.upper_bound >= schedule.upper_bound


@pytest.mark.parametrize(("one", "other"), [*zip(SCHEDULES, OTHERS, strict=True)], ids=lambda s: short(s)[:40])
def test_one_after_the_other(one: Schedule, other: Schedule) -> None:
    for first, second in ((1, 1), (5, 30), (30, 101)):
        schedule = Sequential([(one, first), (other, second), one])
        assert [schedule(t) for t in range(first)] == one.values(first).tolist()
        assert [schedule(first + t) for t in range(second)] == other.values(second).tolist()
        assert all(schedule(first + second + t) == one(t) for t in STEPS)


def test_lists_and_tuples_make_the_same() -> None:
    listed: list[Any] = [[Constant(0.1), 3], (Constant(0.2), 4), Constant(0.3)]
    schedule = Sequential(((Constant(0.1), 3), (Constant(0.2), 4), Constant(0.3)))
    assert Sequential(listed) == schedule
    assert hash(Sequential(listed)) == hash(schedule)
    assert Product([Constant(0.1)]) == Product((Constant(0.1),))
    assert CosineCycles(0.1, [3, 4]) == CosineCycles(0.1, (3, 4))


def test_shifts_that_no_64_bits_hold() -> None:
    schedule = Constant(0.1)
    with pytest.raises(ValueError, match=r"steps.*2\*\*61"):
        schedule.shifted(2**61 + 1)
    with pytest.raises(ValueError, match=r"steps.*2\*\*61"):
        schedule.shifted(2**61).shifted(1)
    assert Triangular(0.1, 0.3, 2).shifted(2**61)(2**61) == 0.1


def test_thousands_of_parts() -> None:
    """The parts are in one schedule, or one inside the other."""
    parts = [(LinearRamp(1 / (1 + k), 0.0, 3), 3) for k in range(5000)]
    schedule = Sequential([*parts, Constant(0.5)])
    for k in (0, 1, 4998, 4999):
        assert schedule(3 * k) == 1 / (1 + k)
        assert schedule.cycle(3 * k + 2) == (k, 2, 3)
    assert schedule(15_000) == 0.5
    nested: Schedule = Constant(0.25)
    for _ in range(50):
        nested = Warmup(nested, 2)
    assert nested.values(102).tolist() == [*map(reference_of(nested), range(102))]
    assert [nested(t) for t in (97, 98, 99, 100, 10**6)] == [0.0, 0.0, 0.125, 0.25, 0.25]


# --------------------------------------------------------------------------------------- the cycles


def on_device(schedule: Schedule, t: int) -> bool:
    """Whether step t ends a cycle, as the averages of weights are told, where there is an extension."""
    if backends.load() is None:
        return schedule.is_cycle_end(t)
    value = schedule._compiled_cycle_ends(t)
    assert value in (0.0, 1.0)
    return bool(value)


@every_row
def test_cycles_follow_each_other(row: Row) -> None:
    """Step by step, and across every turn: a cycle ends after its length, and the next one starts at 0."""
    schedule = row.schedule
    steps = {*range(250), *(turn + d for turn in row.turns for d in range(-3, 4) if turn + d >= 0), FAR}
    assert schedule.cycle(0)[0] == 0 or isinstance(schedule, Shifted)
    for t in steps:
        index, position, length = schedule.cycle(t)
        assert length is None or 0 <= position < length
        ends = length is not None and position == length - 1
        assert schedule.is_cycle_end(t) == ends
        assert on_device(schedule, t) == ends
        next_index, next_position, next_length = schedule.cycle(t + 1)
        if ends:
            assert next_index == index + 1
            # A part that is shifted begins within a cycle.
            assert next_position == 0 or "Shifted" in repr(schedule)
        else:
            assert (next_index, next_position, next_length) == (index, position + 1, length)


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        (CosineWarmRestarts(0.1, 3, 2), [2, 8, 20, 44]),
        (CosineCycles(0.1, (3, 1, 10)), [2, 3, 13, 23, 33, 43]),
        (CosineAnnealing(0.1, 10), [19, 39]),
        (Triangular(0.1, 0.2, 4, 9), [12, 25, 38]),
        (OneCycle(0.1, 20), [19]),
        (Step(0.1, 5), []),
        (LinearRamp(0.1, 0.2, 5), []),
        (Table((0.1, 0.2)), []),
        (Warmup(CosineWarmRestarts(0.1, 3, 2), 4), [6, 12, 24, 48]),
        (Warmup(Exponential(0.1, 0.9), 4), []),
        (Warmup(OneCycle(0.1, 20), 4), [23]),
        (CosineWarmRestarts(0.1, 3, 2).shifted(1), [1, 7, 19, 43]),
        (0.5 * CosineWarmRestarts(0.1, 3, 2), [2, 8, 20, 44]),
        (Exponential(1.0, 0.9) * Triangular(0.1, 0.2, 4), [7, 15, 23, 31, 39, 47]),
        (Sequential([(Constant(0.1), 5), (CosineWarmRestarts(0.1, 3, 2), 12), OneCycle(0.1, 20)]), [4, 7, 13, 16, 36]),
        (Sequential([(CosineWarmRestarts(0.1, 3).shifted(1), 4), Constant(0.1)]), [1, 3]),
    ],
    ids=repr,
)
def test_where_cycles_end(schedule: Schedule, ends: list[int]) -> None:
    assert [t for t in range(50) if schedule.is_cycle_end(t)] == ends
    assert [t for t in range(50) if on_device(schedule, t)] == ends
    assert [schedule.cycle(t)[0] - schedule.cycle(0)[0] for t in ends] == list(range(len(ends)))


def test_every_composition_is_in_the_table() -> None:
    assert {Shifted, Product, Warmup, Sequential} <= {type(row.schedule) for row in ROWS}
