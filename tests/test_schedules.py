"""Schedules against the oracle of schedule_oracle.py, against torch's schedulers, and as objects.

Both the schedule (C++ where there is an extension) and the function in reference.py are held to the exact values:

- cosine restarts, for every T_0 in 1..100 and every T_mult in {1, 2, 3, 4, 5, 1.5, 1.01}: each step through five
  restarts, and both sides of all restarts up to step 10**12, or of 1,000 of them where there are more;
- the triangular rate, for every rise of 1..100 steps, with an equal and another fall, in each mode: each step of
  five cycles, and both sides of 100 peaks and boundaries up to step 10**12.
"""

from __future__ import annotations

import copy
import dataclasses
import doctest
import functools
import itertools
import json
import math
import pickle
import random
import re
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import pytest
import schedule_oracle as oracle
import torch

from sgdr_fused import reference, schedules
from sgdr_fused.schedules import Constant, CosineWarmRestarts, Schedule, Triangular

FAR = 10**12
LAST = 2**61  # the last step at which a schedule can be evaluated
T_MULTS = (1, 2, 3, 4, 5, 1.5, 1.01)
# The ends of a cycle: a minimum of 0 shows every lost digit. T_0 picks one.
ENDS: tuple[dict[str, float], ...] = (
    {"max_lr": 0.1},
    {"max_lr": 0.3, "eta_min": 1e-4},
    {"max_lr": 1.0, "eta_min": 0.3, "max_decay": 0.7, "min_decay": 0.9},
    {"max_lr": 0.05, "eta_min": 0.05, "max_decay": 1.0, "min_decay": 0.5},
    {"max_lr": 2.0, "max_decay": 1 - 1e-10},
)
MODES = ("triangular", "triangular2", "exp_range")


def reference_of(schedule: Schedule) -> Callable[[int], float]:
    """The same curve by reference.py."""
    functions: dict[type[Schedule], Callable[..., float]] = {
        Constant: reference.constant,
        CosineWarmRestarts: reference.cosine_warm_restarts,
        Triangular: reference.triangular,
    }
    fields = {field.name: getattr(schedule, field.name) for field in dataclasses.fields(schedule)}
    return functools.partial(functions[type(schedule)], **fields)


def assert_exact(curves: Iterable[Callable[[int], float]], t: int, exact: float) -> None:
    for curve in curves:
        value = curve(t)
        assert oracle.relative_error(value, exact) <= 1e-12, f"{curve!r}({t}) is {value!r}, not {exact!r}"


def assert_all_exact(schedule: Schedule, exact: list[float]) -> None:
    """Every step from 0 on: values() and the reference, against `exact` and each other.

    schedule(t) gives the same numbers as values(), at each step or at 5,000 of them.
    """
    expected = torch.tensor(exact, dtype=torch.float64)
    tolerance = 1e-12 * expected.clamp(min=2.0**-1022)
    fast = schedule.values(len(exact))
    plain = torch.tensor([*map(reference_of(schedule), range(len(exact)))], dtype=torch.float64)
    assert all(schedule(t) == fast[t] for t in range(0, len(exact), 1 + len(exact) // 5000))
    for name, a, b in (("schedule", fast, expected), ("reference", plain, expected), ("both", fast, plain)):
        wrong = ((a - b).abs() > tolerance).nonzero()
        assert wrong.numel() == 0, f"{name} of {schedule!r}: {wrong.numel()} steps off, e.g. {wrong[0].item()}"


def restarts(T_0: int, T_mult: float, number: int = 1000) -> list[tuple[int, int, int, int]]:
    """(i, start of cycle i, length of cycle i - 1, length of cycle i) for restarts up to step FAR: all, or a sample."""
    chance = random.Random(f"{T_0} {T_mult}")
    if T_mult == 1:
        last = FAR // T_0
        spread = (math.floor(last ** chance.random()) for _ in range(number))
        return [(i, i * T_0, T_0, T_0) for i in (1, 2, 3, last, *spread)]
    cycles = oracle.cycles_until(T_0, T_mult, FAR)
    indices: Iterable[int] = range(1, len(cycles))
    if len(cycles) > number:
        indices = {1, len(cycles) - 1, *chance.sample(range(1, len(cycles)), number)}
    return [(i, cycles[i][0], cycles[i - 1][1], cycles[i][1]) for i in indices]


# ---------------------------------------------------------------------------- cosine restarts


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
    """Where a double no longer tells one step from the next."""
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


# --------------------------------------------------------------------------------- triangular


def triangular_options(up: int, mode: str, equal: bool, gamma: float) -> dict[str, Any]:
    down = up if equal else 1 + 7 * up % 23 + up // 3
    ends = ({"base_lr": 0.0, "max_lr": 0.1}, {"base_lr": 1e-4, "max_lr": 0.3}, {"base_lr": 0.2, "max_lr": 0.2})[up % 3]
    return {**ends, "step_size_up": up, "step_size_down": down, "mode": mode, "gamma": gamma}


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "unequal"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ups", [range(1 + k, 11 + k) for k in range(0, 100, 10)], ids=lambda r: f"{r[0]}_to_{r[-1]}")
def test_triangular_at_every_step_of_five_cycles(ups: range, mode: str, equal: bool) -> None:
    for up in ups:
        options = triangular_options(up, mode, equal, gamma=0.99)
        steps = 5 * (up + options["step_size_down"]) + 1
        assert_all_exact(Triangular(**options), [oracle.triangular(t, **options) for t in range(steps)])


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "unequal"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ups", [range(1 + k, 11 + k) for k in range(0, 100, 10)], ids=lambda r: f"{r[0]}_to_{r[-1]}")
def test_triangular_around_peaks_and_boundaries(ups: range, mode: str, equal: bool) -> None:
    """The peak, the step after it, the last step of a cycle and the first of the next, up to step FAR."""
    for up in ups:
        options = triangular_options(up, mode, equal, gamma=1 - 1e-10)
        schedule, length = Triangular(**options), up + options["step_size_down"]
        both = (schedule, reference_of(schedule))
        for i, start, _, _ in restarts(length, 1, number=100):
            assert schedule.cycle(start - 1) == (i - 1, length - 1, length)
            assert schedule.cycle(start + up) == (i, up, length)
            assert schedule.is_cycle_end(start - 1)
            assert not schedule.is_cycle_end(start)
            assert {curve(start) for curve in both} == {options["base_lr"]}
            if mode == "triangular":
                assert {curve(start + up) for curve in both} == {options["max_lr"]}
            for t in (start - 1, start, start + up, start + up + 1):
                assert_exact(both, t, oracle.triangular(t, **options))


@pytest.mark.parametrize("mode", MODES)
def test_triangular_falls_as_it_rises_by_default(mode: str) -> None:
    one = Triangular(0.01, 0.1, 7, mode=mode, gamma=0.9)
    other = Triangular(0.01, 0.1, 7, 7, mode=mode, gamma=0.9)
    assert one == other
    assert torch.equal(one.values(100), other.values(100))
    fields: dict[str, Any] = {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 7, "mode": mode, "gamma": 0.9}
    assert [reference.triangular(t, **fields) for t in range(100)] == [*map(reference_of(other), range(100))]


def test_amplitudes_that_underflow_end_at_the_base() -> None:
    assert Triangular(0.01, 0.1, 1, mode="triangular2")(FAR + 1) == 0.01
    assert Triangular(0.01, 0.1, 1, mode="exp_range", gamma=0.5)(FAR + 1) == 0.01
    assert CosineWarmRestarts(0.1, 1, max_decay=0.5)(FAR) == 0.0


# ------------------------------------------------------------------------------ torch's own


def stepped(make: Callable[[torch.optim.Optimizer], Any], lr: float, steps: int) -> list[float]:
    """The rate of each step under one of torch's schedulers."""
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = make(opt), []
    for _ in range(steps):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("T_0", "T_mult"), [(1, 1), (10, 1), (1, 2), (7, 2), (3, 3), (5, 4)])
def test_cosine_as_torch_steps_it(T_0: int, T_mult: int) -> None:
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    expected = stepped(lambda opt: scheduler(opt, T_0=T_0, T_mult=T_mult, eta_min=0.001), 0.1, 500)
    schedule = CosineWarmRestarts(0.1, T_0=T_0, T_mult=T_mult, eta_min=0.001)
    assert schedule.values(500).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("down", [None, 3, 20])
@pytest.mark.parametrize("up", [1, 2, 10])
@pytest.mark.parametrize("mode", MODES)
def test_triangular_as_torch_steps_it(mode: str, up: int, down: int | None) -> None:
    """To 1e-9: torch takes the position in a cycle from a difference of rounded numbers of cycles."""
    options: dict[str, Any] = {"step_size_up": up, "step_size_down": down, "mode": mode, "gamma": 0.98}
    scheduler = torch.optim.lr_scheduler.CyclicLR
    expected = stepped(lambda opt: scheduler(opt, 0.001, 0.1, cycle_momentum=False, **options), 0.1, 300)
    assert Triangular(0.001, 0.1, **options).values(300).tolist() == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------------------------- as objects

SCHEDULES = [
    Constant(0.1),
    Constant(0),
    CosineWarmRestarts(0.1, T_0=10),
    CosineWarmRestarts(0.1, T_0=10, T_mult=2, eta_min=1e-3, max_decay=0.5, min_decay=0.25),
    CosineWarmRestarts(1 / 3, T_0=7, T_mult=1.01),
    Triangular(0.01, 0.1, step_size_up=4),
    Triangular(0.01, 0.1, step_size_up=4, step_size_down=9, mode="triangular2"),
    Triangular(0.0, 0.1, step_size_up=4, mode="exp_range", gamma=0.999),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def test_constant() -> None:
    schedule = Constant(0.3)
    assert [schedule(t) for t in (0, 1, FAR)] == [0.3] * 3
    assert reference.constant(FAR, value=0.3) == 0.3
    assert schedule.values(4).tolist() == [0.3] * 4
    assert schedule.cycle(FAR) == (0, FAR, None)
    assert not schedule.is_cycle_end(FAR)


@every_schedule
def test_values(schedule: Schedule) -> None:
    values = schedule.values(100)
    assert values.dtype == torch.float64
    assert values.device.type == "cpu"
    assert values.tolist() == [schedule(t) for t in range(100)]
    assert schedule.values(0).shape == (0,)


@every_schedule
def test_the_kinds_of_integer_that_a_step_may_be(schedule: Schedule) -> None:
    value = schedule(13)
    assert type(value) is float
    others: tuple[Any, ...] = (torch.tensor(13), torch.arange(20).numpy()[13])  # the clock, NumPy's
    for t in others:
        assert schedule(t) == value
        assert schedule.cycle(t) == schedule.cycle(13)


@every_schedule
def test_repr_evaluates_to_an_equal_schedule(schedule: Schedule) -> None:
    names = {kind.__name__: kind for kind in (Constant, CosineWarmRestarts, Triangular)}
    assert eval(repr(schedule), names) == schedule


@every_schedule
def test_copies_are_equal(schedule: Schedule) -> None:
    values = schedule.values(50)  # also of one that has been evaluated
    pickled = [pickle.loads(pickle.dumps(schedule, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for other in (*pickled, copy.copy(schedule), copy.deepcopy(schedule), dataclasses.replace(schedule)):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert torch.equal(other.values(50), values)


def test_equality_and_hash() -> None:
    assert len(set(SCHEDULES)) == len(SCHEDULES)
    assert CosineWarmRestarts(0.1, 10) == CosineWarmRestarts(max_lr=0.1, T_0=10, T_mult=1.0)
    assert CosineWarmRestarts(0.1, 10) != CosineWarmRestarts(0.1, 11)
    assert Constant(0.1) != 0.1


@every_schedule
def test_schedules_are_frozen(schedule: Schedule) -> None:
    name = dataclasses.fields(schedule)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, name, 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(schedule, name)


@every_schedule
def test_dictionaries_of_primitives(schedule: Schedule) -> None:
    data = schedule.to_dict()
    assert all(type(key) is str and type(value) in (str, int, float) for key, value in data.items())
    assert Schedule.from_dict(data) == schedule
    assert Schedule.from_dict(json.loads(json.dumps(data))) == schedule
    assert data == schedule.to_dict(), "from_dict has changed it"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"kind": "Polynomial", "value": 0.1}, "Polynomial"),
        ({"kind": "Schedule"}, "Schedule"),
        ({"value": 0.1}, "kind"),
        ({"kind": ["Constant"]}, "Constant"),
        ({}, "kind"),
        (None, "None"),
        ("Constant", "Constant"),
        ({"kind": "Constant", "value": 0.1, "power": 2}, "power"),
        ({"kind": "CosineWarmRestarts", "max_lr": 0.1}, "T_0"),
        ({"kind": "Constant", "value": -1.0}, "value"),
        ({"kind": "Constant", "value": "high"}, "high"),
        ({"kind": "CosineWarmRestarts", "max_lr": 0.1, "T_0": 1.5}, "T_0"),
    ],
    ids=str,
)
def test_dictionaries_that_hold_no_schedule(data: Any, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Schedule.from_dict(data)


@every_schedule
def test_without_an_extension_the_reference_is_used(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules._backend, "load", lambda: None)
    fallback = copy.deepcopy(schedule)
    expected = [reference_of(schedule)(t) for t in range(100)]
    assert [fallback(t) for t in range(100)] == fallback.values(100).tolist() == expected


def test_examples() -> None:
    result = doctest.testmod(schedules)
    assert result.attempted > 0
    assert result.failed == 0


# ------------------------------------------------------------------------------------ bad input

GOOD: dict[type[Schedule], dict[str, Any]] = {
    Constant: {"value": 0.1},
    CosineWarmRestarts: {"max_lr": 0.1, "T_0": 10, "T_mult": 2, "eta_min": 0.01},
    Triangular: {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "step_size_down": 5},
}
NAN, INF = math.nan, math.inf
NO_RATES = (-0.1, NAN, INF, -INF, "0.1", None, True, 1j, [0.1], 10**400)
NO_LENGTHS = (0, -1, 1.5, 2.0, NAN, INF, True, "3", [3], 2**63)
NO_FACTORS = (-0.1, 1.5, NAN, INF, "1", None, True)
BAD = [
    (Constant, "value", NO_RATES),
    (CosineWarmRestarts, "max_lr", NO_RATES),
    (CosineWarmRestarts, "T_0", (*NO_LENGTHS, None)),
    (CosineWarmRestarts, "T_mult", (0.999, 0, -2, NAN, INF, "2", None, True, 10**400)),
    (CosineWarmRestarts, "eta_min", (*NO_RATES, 0.2)),
    (CosineWarmRestarts, "max_decay", NO_FACTORS),
    (CosineWarmRestarts, "min_decay", NO_FACTORS),
    (Triangular, "base_lr", (*NO_RATES, 0.2)),
    (Triangular, "max_lr", NO_RATES),
    (Triangular, "step_size_up", (*NO_LENGTHS, None)),
    (Triangular, "step_size_down", NO_LENGTHS),
    (Triangular, "mode", ("cosine", "", None, 1, ["triangular"])),
    (Triangular, "gamma", (*NO_FACTORS, 0, 0.0)),
]


def short(value: Any) -> str:
    return repr(value) if len(repr(value)) < 50 else "huge"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        pytest.param(kind, name, value, id=f"{kind.__name__}-{name}={short(value)}")
        for kind, name, values in BAD
        for value in values
    ],
)
def test_bad_arguments_are_named_with_their_value(kind: type[Schedule], name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        kind(**{**GOOD[kind], name: value})
    message = str(caught.value)
    assert re.search(rf"\b{name}\b", message), message
    assert repr(value) in message or len(repr(value)) > 300, message


@pytest.mark.parametrize("t", [-1, -(10**12), 2**63, 1.0, 1.5, NAN, "3", None, True, torch.tensor(1.0)], ids=repr)
@pytest.mark.parametrize("method", ["__call__", "cycle", "is_cycle_end"])
@pytest.mark.parametrize("schedule", [SCHEDULES[0], SCHEDULES[2], SCHEDULES[3], SCHEDULES[5]], ids=repr)
def test_bad_steps(schedule: Schedule, method: str, t: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(schedule, method)(t)
    assert re.search(rf"\bt\b.*{re.escape(repr(t))}", str(caught.value)), str(caught.value)


@pytest.mark.parametrize("n", [-1, 1.5, "3", None], ids=repr)
@every_schedule
def test_bad_numbers_of_values(schedule: Schedule, n: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"\bn\b.*{re.escape(repr(n))}"):
        schedule.values(n)


def test_numbers_of_other_kinds() -> None:
    quarter: Any = Fraction(1, 4)
    assert Constant(quarter) == Constant(0.25)
    assert type(Constant(1).value) is float
    assert CosineWarmRestarts(0.1, torch.arange(5).numpy()[3]) == CosineWarmRestarts(0.1, 3)


# ---------------------------------------------------------------------------------- the oracle


def test_the_oracle_itself() -> None:
    """On values worked out by hand: 4 * 1.5**3 = 13.5 and 2.5 go to the even side."""
    assert [length for _, length in oracle.cycles_until(4, 1.5, 34)] == [4, 6, 9, 14, 20]
    assert oracle.cycles_until(1, 2.5, 3) == [(0, 1), (1, 2), (3, 6)]
    assert oracle.cosine(1, 3, 6, max_lr=0.5, eta_min=0.25, max_decay=0.5) == 0.25
    assert oracle.cosine(0, 1, 3, max_lr=1.0, eta_min=0.0) == 0.75
    assert oracle.cosine_whole_cycles(2, max_lr=1.0, T_0=2, T_mult=2)[:4] == pytest.approx([1, 0.5, 1, 0.853553])
    assert [oracle.smith_height(t, 2) for t in range(6)] == [0, 0.5, 1, 0.5, 0, 0.5]
    assert [oracle.unequal_height(t, 1, 4) for t in range(6)] == [0, 1, 0.75, 0.5, 0.25, 0]
    assert all(oracle.smith_height(t, 7) == oracle.unequal_height(t, 7, 7) for t in range(100))
