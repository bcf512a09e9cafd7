"""Cosine restarts, by C++ where there is an extension and by the reference, against the oracle of schedule_oracle.py.

For every T_0 in 1..100 and every T_mult in {1, 2, 3, 4, 5, 1.5, 1.01}: each step through five restarts, and both
sides of all restarts up to step 10**12, or of 1,000 of them where there are more.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import time

import pytest
import schedule_oracle as oracle
from cases import reference_of
from schedule_cases import FAR, LAST, assert_all_exact, assert_exact, restarts

from sgdr_fused import reference
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = [pytest.mark.once, pytest.mark.formulas, pytest.mark.host]

T_MULTS = (1, 2, 3, 4, 5, 1.5, 1.01)
# The ends of a cycle: a minimum of 0 shows every lost digit. T_0 picks one.
ENDS: tuple[dict[str, float], ...] = (
    {"max_lr": 0.1},
    {"max_lr": 0.3, "eta_min": 1e-4},
    {"max_lr": 1.0, "eta_min": 0.3, "max_decay": 0.7, "min_decay": 0.9},
    {"max_lr": 0.05, "eta_min": 0.05, "max_decay": 1.0, "min_decay": 0.5},
    {"max_lr": 2.0, "max_decay": 1 - 1e-10},
)


@pytest.mark.parametrize("T_0", range(1, 101))
@pytest.mark.parametrize("T_mult", T_MULTS)
def test_cosine_at_every_step_through_five_restarts(T_0: int, T_mult: float) -> None:
    ends = ENDS[T_0 % len(ENDS)]
    schedule = CosineWarmRestarts(T_0=T_0, T_mult=T_mult, **ends)
    exact = oracle.cosine_whole_cycles(5, T_0=T_0, T_mult=T_mult, **ends)
    exact.append(oracle.cosine(5, 0, 1, **ends))  # the fifth restart
    assert_all_exact(schedule, exact)


@pytest.mark.parametrize("T_0", range(1, 101))
@pytest.mark.parametrize("T_mult", T_MULTS)
def test_cosine_on_both_sides_of_restarts(T_0: int, T_mult: float) -> None:
    """The last step of a cycle, the restart, which is exactly the maximum, and a step within the next cycle."""
    ends = ENDS[T_0 % len(ENDS)]
    schedule = CosineWarmRestarts(T_0=T_0, T_mult=T_mult, **ends)
    plain = reference_of(schedule)
    both = (schedule, plain)
    chance = random.Random(T_0)
    for i, start, length_before, length in restarts(T_0, T_mult):
        assert_exact(both, start - 1, oracle.cosine(i - 1, length_before - 1, length_before, **ends))
        highest = ends["max_lr"] * ends.get("max_decay", 1.0) ** i
        assert schedule(start) == plain(start) == highest, f"{schedule!r}({start})"
        assert_exact(both, start, oracle.cosine(i, 0, length, **ends))
        if i % 10 == 1:
            within = chance.randrange(length)
            assert_exact(both, start + within, oracle.cosine(i, within, length, **ends))


@pytest.mark.parametrize("T_0", [10**3, 10**6, 10**9, 10**12, 2**53 + 1])
def test_cosine_keeps_its_digits_to_the_end_of_a_long_cycle(T_0: int) -> None:
    """The textbook form, in double precision, has 5.7e-6 of the value wrong at the end of 10**6 steps."""
    schedule = CosineWarmRestarts(0.1, T_0=T_0)
    for t in (1, 2, T_0 // 3, T_0 // 2, T_0 - 3, T_0 - 2, T_0 - 1):
        assert_exact((schedule, reference_of(schedule)), t, oracle.cosine(0, t, T_0, max_lr=0.1))
    assert schedule(T_0) == 0.1


def test_cosine_never_reaches_its_minimum() -> None:
    schedule = CosineWarmRestarts(0.1, T_0=7, T_mult=3, eta_min=0.01)
    assert all(value > 0.01 for value in schedule.values(7 + 21 + 63).tolist())


def test_decayed_maxima_and_minima_are_not_clamped() -> None:
    schedule = CosineWarmRestarts(0.1, T_0=2, eta_min=0.09, max_decay=0.5, min_decay=1.0)
    assert schedule.values(6).tolist() == pytest.approx([0.1, 0.095, 0.05, 0.07, 0.025, 0.0575])


@pytest.mark.parametrize(
    ("T_0", "T_mult"),
    [(5, 2), (1, 3), (3, 7), (3, 1.1), (1, 2.5), (4, 1.5), (6, 1.25), (2**40, 1.5), (1, math.pi), (9, 1e6 + 0.5)]
    + [(1, 1.0001), (1, 1 + 1e-9), (1000, 1 + 2**-52), (7, 1e17)],
)
def test_cycles_are_those_of_the_oracle(T_0: int, T_mult: float) -> None:
    """The first 3,000 of them, as far as steps are counted: at both ends of each, in both tables."""
    schedule = CosineWarmRestarts(0.1, T_0=T_0, T_mult=T_mult)
    for i, (start, length) in enumerate(itertools.islice(oracle.cycles(T_0, T_mult), 3000)):
        last = start + length - 1
        if last > LAST:
            break
        assert schedule.cycle(start) == (i, 0, length) == reference.cosine_cycle(start, T_0=T_0, T_mult=T_mult)
        assert schedule.cycle(last) == (i, length - 1, length) == reference.cosine_cycle(last, T_0=T_0, T_mult=T_mult)
        assert schedule.is_cycle_end(last)
        assert schedule.is_cycle_end(start) == (length == 1)
        assert schedule(start) == 0.1


@pytest.mark.parametrize("T_mult", [2, 3, 1.5, 1.01, 1e6, 1e17, 1e300])
@pytest.mark.parametrize("T_0", [1, 1000, 2**40])
def test_a_cycle_beyond_all_steps_does_not_shorten_the_schedule(T_0: int, T_mult: float) -> None:
    """The cycle in which counting ends has another length than it should; up to FAR that is not to be seen."""
    schedule = CosineWarmRestarts(0.1, T_0=T_0, T_mult=T_mult, eta_min=0.01)
    for t in (2500, 10**6, 10**9, FAR // 2, FAR):
        cycles = oracle.cycles_until(T_0, T_mult, t)
        start, length = cycles[-1]
        exact = oracle.cosine(len(cycles) - 1, t - start, length, max_lr=0.1, eta_min=0.01)
        assert_exact((schedule, reference_of(schedule)), t, exact)
    for t in (LAST // 2, LAST - 1, LAST):
        assert schedule.cycle(t) == reference.cosine_cycle(t, T_0=T_0, T_mult=T_mult)


@pytest.mark.parametrize("T_0", [1, 3, 7, 10**9 + 7])
def test_cycles_are_counted_in_integers(T_0: int) -> None:
    """At these steps a double no longer tells one step from the next."""
    schedule = CosineWarmRestarts(0.1, T_0=T_0)
    number = LAST // T_0
    for cycle in (schedule.cycle, functools.partial(reference.cosine_cycle, T_0=T_0)):
        assert cycle(number * T_0) == (number, 0, T_0)
        assert cycle(number * T_0 - 1) == (number - 1, T_0 - 1, T_0)
    assert schedule(number * T_0) == reference_of(schedule)(number * T_0) == 0.1
    assert_exact((schedule, reference_of(schedule)), number * T_0 - 1, oracle.cosine(0, T_0 - 1, T_0, max_lr=0.1))


@pytest.mark.parametrize("T_mult", [1.0001, 1 + 1e-9, 1 + 2**-52])
def test_growth_by_almost_nothing(T_mult: float) -> None:
    """65,536 cycles are told apart, in no time; their lengths never fall, and the last one repeats."""
    ends = {"max_lr": 0.1, "max_decay": 1 - 1e-5}
    begin = time.process_time()
    schedule = CosineWarmRestarts(T_0=10, T_mult=T_mult, **ends)
    schedule(10**6)
    assert schedule.cycle(0) == (0, 0, 10)
    assert time.process_time() - begin < 1
    start, before = 0, 0
    for i in range(65_536 + 100):
        index, position, length = schedule.cycle(start)
        assert (index, position) == (i, 0)
        assert length is not None
        assert length == before if i >= 65_536 else length >= before
        if i % 64 == 0 or i > 65_530:
            assert (index, position, length) == reference.cosine_cycle(start, T_0=10, T_mult=T_mult)
            for t in (start, start + length - 1):
                assert_exact((schedule, reference_of(schedule)), t, oracle.cosine(i, t - start, length, **ends))
        start, before = start + length, length


def test_T_mult_2_and_2_point_0_are_the_same() -> None:
    one, other = CosineWarmRestarts(0.1, 10, 2), CosineWarmRestarts(0.1, 10, 2.0)
    assert one == other
    assert hash(one) == hash(other)
    assert [one.cycle(t) for t in range(1000)] == [other.cycle(t) for t in range(1000)]
    assert reference.cycle_starts(10, 2) == reference.cycle_starts(10, 2.0)


@pytest.mark.parametrize("T_0", [1, 2, 3, 7, 10, 50, 99])
@pytest.mark.parametrize("T_mult", [2, 3, 4, 5])
def test_peer_05_the_value_at_an_exact_restart_is_the_maximum(T_0: int, T_mult: int) -> None:
    """torch finds the cycle of a step by a rounded logarithm: 200 of 3,959 restarts are wrong."""
    schedule = CosineWarmRestarts(0.1, T_0=T_0, T_mult=T_mult, eta_min=0.001)
    start, i = 0, 0
    while start <= 2**60:
        assert schedule(start) == reference_of(schedule)(start) == 0.1
        assert schedule.cycle(start)[:2] == (i, 0)
        start, i = start + T_0 * T_mult**i, i + 1


def test_peer_05_step_121() -> None:
    """1 + 3 + 9 + 27 + 81 steps: the fifth restart."""
    schedule = CosineWarmRestarts(1.0, T_0=1, T_mult=3)
    assert schedule(121) == reference_of(schedule)(121) == 1.0
    assert schedule.cycle(121) == (5, 0, 243)
    assert schedule.is_cycle_end(120)


def test_peer_06_a_resumed_schedule_is_where_it_was() -> None:
    """torch's scheduler made with last_epoch=50 gives .994 for the step after step 50."""
    resumed = CosineWarmRestarts(1.0, T_0=10, T_mult=2)
    assert resumed(51) == pytest.approx(0.461, abs=5e-4)
    assert_exact((resumed, reference_of(resumed)), 51, oracle.cosine(2, 21, 40, max_lr=1.0))
    fresh = CosineWarmRestarts(1.0, T_0=10, T_mult=2)
    assert [fresh(t) for t in range(100)][51:] == [resumed(t) for t in range(51, 100)]
