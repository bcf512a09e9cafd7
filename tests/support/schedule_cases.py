"""The one table of schedules that the tests share: a new schedule is a row or two in ROWS and one in FIELDS."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import schedule_oracle as oracle
import torch
from cases import reference_of

from sgdr_fused import schedules
from sgdr_fused.schedules import (
    Constant,
    CosineAnnealing,
    CosineCycles,
    CosineWarmRestarts,
    Exponential,
    ExponentialRamp,
    HalfCosine,
    InverseTime,
    LinearRamp,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    Polynomial,
    Product,
    Schedule,
    Sequential,
    Shifted,
    Step,
    Table,
    Triangular,
    TriangularMomentum,
    Warmup,
    WarmupStableDecay,
)

FAR = 10**12
LAST = 2**61  # the last step at which a schedule can be evaluated


@dataclasses.dataclass(frozen=True)
class Row:
    """A schedule, and the steps at which something about it changes."""

    schedule: Schedule
    turns: tuple[int, ...] = ()


_LONG = 10**6
ROWS = (
    Row(Constant(0.1)),
    Row(Constant(0)),
    Row(LinearRamp(0.0, 1.0, steps=1), (1,)),
    Row(LinearRamp(1e-5, 0.3, steps=37), (37,)),
    Row(LinearRamp(0.3, 0.0, steps=_LONG), (_LONG,)),
    Row(LinearRamp(0.3, 0.1, steps=FAR + 3), (FAR + 3,)),
    Row(ExponentialRamp(1e-7, 10.0, steps=100), (100,)),
    Row(ExponentialRamp(2.0, 1e-3, steps=_LONG), (_LONG,)),
    Row(ExponentialRamp(1e-300, 1e300, steps=7), (7,)),
    Row(HalfCosine(1.0, 0.0, steps=10), (10,)),
    Row(HalfCosine(0.0, 0.7, steps=_LONG), (_LONG,)),
    Row(HalfCosine(0.3, 1e-4, steps=2**53 + 1), (2**53 + 1,)),
    Row(Polynomial(0.1, 0.0, steps=30), (30,)),
    Row(Polynomial(0.3, 0.01, steps=_LONG, power=2.5), (_LONG,)),
    Row(Polynomial(0.3, 0.29, steps=9, power=0.0), (9,)),
    Row(Exponential(0.1, gamma=0.97)),
    Row(Exponential(0.3, gamma=1 - 1e-11)),
    Row(Exponential(0.3, gamma=0.0)),
    Row(Exponential(1e-5, gamma=1 + 1e-11)),
    Row(Step(0.1, step_size=30), (30, 60, 90)),
    Row(Step(0.3, step_size=7, gamma=0.9), (7, 7 * 10**9)),
    Row(Step(0.3, step_size=10**9 + 7, gamma=1 - 1e-3), (10**9 + 7, 900 * (10**9 + 7))),
    Row(MultiStep(0.1, milestones=(30, 80), gamma=0.5), (30, 80)),
    Row(MultiStep(0.3, milestones=(0, 2, 2, 5, FAR), gamma=0.9), (2, 5, FAR)),
    Row(MultiStep(0.3, milestones=()), ()),
    Row(MultiStep(0.3, milestones=tuple(range(3, 1500, 7)), gamma=0.99), (3, 703, 1494)),
    Row(InverseTime(0.1, k=0.01)),
    Row(InverseTime(0.3, k=1e-9)),
    Row(CosineAnnealing(0.1, T_max=10), (10, 20, 10 * 10**10)),
    Row(CosineAnnealing(0.3, T_max=_LONG, eta_min=1e-3), (_LONG, 2 * _LONG)),
    Row(CosineWarmRestarts(0.1, T_0=10), (10, 20)),
    Row(CosineWarmRestarts(0.1, T_0=10, T_mult=2, eta_min=1e-3, max_decay=0.5, min_decay=0.25), (10, 30, 70)),
    Row(CosineWarmRestarts(1 / 3, T_0=7, T_mult=1.01), (7, 14, 21)),
    Row(CosineCycles(0.1, lengths=(5,)), (5, 10)),
    Row(CosineCycles(0.3, (10, 1, 1, 40, 3), eta_min=1e-3, max_decay=0.9, min_decay=0.5), (10, 11, 12, 52, 55, 58)),
    Row(CosineCycles(0.3, lengths=(_LONG, 2, FAR)), (_LONG, _LONG + 2, _LONG + 2 + FAR)),
    Row(Triangular(0.01, 0.1, step_size_up=4), (4, 8)),
    Row(Triangular(0.01, 0.1, step_size_up=4, step_size_down=9, mode="triangular2"), (4, 13, 17)),
    Row(Triangular(0.0, 0.1, step_size_up=4, mode="exp_range", gamma=0.999), (4, 8)),
    Row(TriangularMomentum(0.8, 0.9, step_size_up=5), (5, 10)),
    Row(TriangularMomentum(0.0, 0.9, step_size_up=4, step_size_down=9, mode="triangular2"), (4, 13, 17)),
    Row(TriangularMomentum(0.5, 0.9, step_size_up=4, mode="exp_range", gamma=0.999), (4, 8)),
    Row(OneCycle(0.1, total_steps=100), (29, 30, 99)),
    Row(OneCycle(0.3, total_steps=2), (1,)),
    Row(OneCycle(0.3, total_steps=10, pct_start=0.1), (1, 9)),  # the rise ends at step 0
    Row(OneCycle(0.3, total_steps=77, pct_start=0.0, final_div_factor=10.0), (76,)),
    Row(OneCycle(0.3, total_steps=77, pct_start=1.0), (76,)),
    Row(OneCycle(0.3, total_steps=120, pct_start=0.37, anneal_strategy="linear", div_factor=10), (43, 44, 119)),
    Row(OneCycle(0.3, total_steps=101, pct_start=0.33, three_phase=True), (32, 33, 64, 65, 100)),
    Row(OneCycle(0.3, total_steps=10, pct_start=0.1, three_phase=True), (9,)),
    Row(OneCycle(0.3, total_steps=101, pct_start=0.8, three_phase=True), (79, 80, 100)),
    Row(OneCycle(0.3, total_steps=53, pct_start=0.5, anneal_strategy="linear", three_phase=True), (25, 26, 51, 52)),
    Row(OneCycle(0.3, total_steps=10**9 + 7), (299999999, 300000001, 300000002, 10**9 + 6)),
    Row(OneCycleMomentum(0.85, 0.95, total_steps=100), (29, 30, 99)),
    Row(OneCycleMomentum(0.0, 0.9, 101, pct_start=0.33, three_phase=True), (32, 33, 64, 65, 100)),
    Row(OneCycleMomentum(0.5, 0.9, total_steps=77, anneal_strategy="linear"), (22, 23, 76)),
    Row(Table((0.1,)), (1,)),
    Row(Table((0.1, 0.5, 0.0, 0.2)), (3, 4)),
    Row(Table(lambda t: 1 / (1 + t) ** 0.5, num_steps=150), (149, 150)),
    Row(Shifted(LinearRamp(0.0, 1.0, steps=50), 20), (30,)),
    Row(Shifted(Shifted(CosineWarmRestarts(0.1, T_0=10, T_mult=2), 7), 10**6), (3,)),
    Row(Shifted(OneCycle(0.1, total_steps=100, three_phase=True), 30), (28, 58, 70)),
    Row(Product((Constant(2.0), Triangular(0.01, 0.1, step_size_up=4))), (4, 8)),
    Row(Product((Constant(2.0), Constant(0.25)))),
    Row(Product((LinearRamp(0.1, 1.0, steps=20), Exponential(0.3, gamma=0.97))), (20,)),
    Row(
        Product((MultiStep(1.0, (5, 50)), OneCycle(0.3, 60), Sequential(((Constant(0.5), 5), Constant(3.0))))),
        (5, 17, 18, 50, 60),
    ),
    Row(Warmup(Constant(0.1), steps=5), (5,)),
    Row(Warmup(CosineWarmRestarts(0.1, T_0=10, T_mult=2), steps=7, start_factor=0.1), (7, 17, 37)),
    Row(Warmup(Shifted(Step(0.3, step_size=10), 8), steps=_LONG), (_LONG, _LONG + 2)),
    Row(Warmup(Warmup(InverseTime(0.3, k=0.1), steps=4, start_factor=0.5), steps=3), (3, 7)),
    Row(Sequential((Constant(0.3),))),
    Row(
        Sequential(
            ((Table((0.1, 0.2)), 3), (CosineCycles(0.1, (2, 3)), 7), (Table((0.5, 0.6)), 2), MultiStep(1, (2, 4)))
        ),
        (1, 3, 5, 8, 10, 12, 14, 16),
    ),
    Row(
        Sequential(((LinearRamp(0.0, 0.3, 10), 15), (Step(0.3, 3), 10), CosineAnnealing(0.1, 20))),
        (10, 15, 18, 25, 45, 65),
    ),
    Row(
        Sequential(
            (
                (Warmup(Exponential(0.1, 0.9), 5), 20),
                (Sequential(((Constant(0.1), 3), (Table((0.2, 0.3)), 4), Constant(0.4))), 5),
                Product((Constant(0.5), Shifted(CosineCycles(0.1, (3, 4)), 2))),
            )
        ),
        (5, 20, 23, 24, 25, 26, 30),
    ),
    Row(Sequential((*((Constant(1 / (1 + k)), 1 + k % 3) for k in range(100)), Constant(0.0))), (1, 3, 6, 198, 199)),
    Row(WarmupStableDecay(0.1, 20, 50, 30), (20, 70, 100)),
    Row(WarmupStableDecay(0.3, 0, 0, 1, decay_type="linear"), (1,)),
    Row(WarmupStableDecay(0.3, 7, 0, 40, "cosine", "linear", 0.1), (7, 47)),
    Row(WarmupStableDecay(1 / 3, 0, 9, _LONG, min_lr_ratio=1e-3), (9, 9 + _LONG)),
    Row(WarmupStableDecay(0.3, _LONG, FAR, 2**53 + 1, "cosine"), (_LONG, _LONG + FAR, _LONG + FAR + 2**53 + 1)),
)
SCHEDULES = [row.schedule for row in ROWS]


def short(value: Any) -> str:
    return repr(value) if len(repr(value)) < 100 else repr(value)[:80] + "..."


every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: short(row.schedule))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=short)

NAMES = {name: getattr(schedules, name) for name in schedules.__all__}  # for eval

# Per kind good fields, and for each the values that are refused.
NAN, INF = math.nan, math.inf
NO_NUMBERS = (NAN, INF, "0.1", None, True, 1j, [0.1])
NO_RATES = (-0.1, -INF, 10**400, *NO_NUMBERS)
NO_POSITIVES = (0, 0.0, *NO_RATES)
NO_LENGTHS = (0, -1, 1.5, 2.0, NAN, INF, True, "3", [3], 2**63)
NO_STEPS = (-1, 1.5, NAN, True, "3", None, 2**63)
NO_FACTORS = (-0.1, 1.5, NAN, INF, "1", None, True)
NO_TYPES = ("cos", "1-sqrt", "", None, 1, ["linear"])
NO_SCHEDULES = (0.1, None, "Constant(0.1)", Constant)
_ONE_CYCLE = {
    "total_steps": (*NO_LENGTHS, None, 1),
    "pct_start": NO_FACTORS,
    "anneal_strategy": ("cosine", "", None, 1, ["cos"]),
    "three_phase": (1, None, "yes"),
    "base_momentum": (*NO_RATES, 0.99),
    "max_momentum": NO_RATES,
}
_TRIANGLE = {
    "step_size_up": (*NO_LENGTHS, None),
    "step_size_down": NO_LENGTHS,
    "mode": ("cosine", "", None, 1, ["triangular"]),
    "gamma": (*NO_FACTORS, 0, 0.0),
}
_RAMP = {"start": NO_RATES, "end": NO_RATES, "steps": (*NO_LENGTHS, None)}
FIELDS: dict[type[Schedule], tuple[dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    Constant: ({"value": 0.1}, {"value": NO_RATES}),
    LinearRamp: ({"start": 0.1, "end": 0.2, "steps": 3}, _RAMP),
    ExponentialRamp: (
        {"start": 0.1, "end": 0.2, "steps": 3},
        {**_RAMP, "start": NO_POSITIVES, "end": NO_POSITIVES},
    ),
    HalfCosine: ({"start": 0.1, "end": 0.2, "steps": 3}, _RAMP),
    Polynomial: (
        {"start": 0.2, "end": 0.1, "steps": 3, "power": 2.0},
        {**_RAMP, "end": (*NO_RATES, 0.3), "power": NO_RATES},
    ),
    Exponential: ({"lr": 0.1, "gamma": 0.9}, {"lr": NO_RATES, "gamma": NO_RATES}),
    Step: (
        {"lr": 0.1, "step_size": 3, "gamma": 0.9},
        {"lr": NO_RATES, "step_size": (*NO_LENGTHS, None), "gamma": NO_RATES},
    ),
    MultiStep: (
        {"lr": 0.1, "milestones": (2, 5), "gamma": 0.9},
        {"lr": NO_RATES, "milestones": (5, None, "25", [5, 2], [-1], [2.5], [True], {2, 5}), "gamma": NO_RATES},
    ),
    InverseTime: ({"lr": 0.1, "k": 0.1}, {"lr": NO_RATES, "k": NO_RATES}),
    CosineAnnealing: (
        {"max_lr": 0.1, "T_max": 3, "eta_min": 0.05},
        {"max_lr": NO_RATES, "T_max": (*NO_LENGTHS, None), "eta_min": (*NO_RATES, 0.2)},
    ),
    CosineWarmRestarts: (
        {"max_lr": 0.1, "T_0": 10, "T_mult": 2, "eta_min": 0.01},
        {
            "max_lr": NO_RATES,
            "T_0": (*NO_LENGTHS, None),
            "T_mult": (0.999, 0, -2, NAN, INF, "2", None, True, 10**400),
            "eta_min": (*NO_RATES, 0.2),
            "max_decay": NO_FACTORS,
            "min_decay": NO_FACTORS,
        },
    ),
    CosineCycles: (
        {"max_lr": 0.1, "lengths": (3, 4), "eta_min": 0.01},
        {
            "max_lr": NO_RATES,
            "lengths": (5, None, "34", [], [0], [3, -1], [2.5], [True], {3, 4}, [2**61, 1], [1] * 65_537),
            "eta_min": (*NO_RATES, 0.2),
            "max_decay": NO_FACTORS,
            "min_decay": NO_FACTORS,
        },
    ),
    Triangular: (
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "step_size_down": 5},
        {"base_lr": (*NO_RATES, 0.2), "max_lr": NO_RATES, **_TRIANGLE},
    ),
    TriangularMomentum: (
        {"base_momentum": 0.8, "max_momentum": 0.9, "step_size_up": 4, "step_size_down": 5},
        {"base_momentum": (*NO_RATES, 0.95), "max_momentum": NO_RATES, **_TRIANGLE},
    ),
    OneCycle: (
        {"max_lr": 0.1, "total_steps": 10},
        {"max_lr": NO_RATES, "div_factor": (*NO_POSITIVES, 1e-320), "final_div_factor": NO_POSITIVES, **_ONE_CYCLE},
    ),
    OneCycleMomentum: ({"base_momentum": 0.8, "max_momentum": 0.9, "total_steps": 10}, _ONE_CYCLE),
    WarmupStableDecay: (
        {"max_lr": 0.1, "num_warmup_steps": 3, "num_stable_steps": 4, "num_decay_steps": 5},
        {
            "max_lr": NO_RATES,
            "num_warmup_steps": (*NO_STEPS, 2**61),
            "num_stable_steps": (*NO_STEPS, 2**61),
            "num_decay_steps": (*NO_LENGTHS, None, 2**61),
            "warmup_type": NO_TYPES,
            "decay_type": NO_TYPES,
            "min_lr_ratio": NO_FACTORS,
            "num_training_steps": (12, 7, 0, "12"),  # beside num_stable_steps
        },
    ),
    Table: (
        {"entries": (0.1, 0.2)},
        {"entries": (0.1, None, "12", [], [-0.1], [0.1, NAN], [INF], ["0.1"], [[0.1]], {0.1}), "num_steps": (3, 0)},
    ),
    Shifted: ({"schedule": Constant(0.1), "steps": 3}, {"schedule": NO_SCHEDULES, "steps": NO_STEPS}),
    Product: (
        {"factors": (Constant(0.1),)},
        {"factors": (0.1, None, [], [0.1], [Constant(0.1), 2.0], Constant(0.1), [Constant(1e200), Constant(1e200)])},
    ),
    Warmup: (
        {"schedule": Constant(0.1), "steps": 3},
        {"schedule": NO_SCHEDULES, "steps": (*NO_LENGTHS, None), "start_factor": NO_FACTORS},
    ),
    Sequential: (
        {"schedules": (Constant(0.1),)},
        {
            "schedules": (
                None,
                Constant(0.1),
                [],
                [0.1],
                [Constant(0.1), Constant(0.1)],
                [(Constant(0.1), 3)],
                [(Constant(0.1), 0), Constant(0.1)],
                [(Constant(0.1), 1.5), Constant(0.1)],
                [(0.1, 3), Constant(0.1)],
                [(Constant(0.1), 2**60), (Constant(0.1), 2**60 + 1), Constant(0.1)],
            )
        },
    ),
}


# ------------------------------------------------------------------------------------ comparing


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
