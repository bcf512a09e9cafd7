"""Every schedule against the oracle of schedule_oracle.py and against torch's schedulers.

Both the schedule (C++ where there is an extension) and the function in the reference are held to the exact values,
to 1e-12: at each of the first 200 steps, on both sides of every turn, and far out. Cosine restarts and the triangular
rate, which have many turns, also have files of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import schedule_oracle as oracle
import torch
from cases import reference_of
from schedule_cases import FAR, FIELDS, LAST, ROWS, Row, assert_all_exact, assert_exact, every_row
from torch.optim import lr_scheduler

from sgdr_fused import schedules
from sgdr_fused.schedules import (
    Constant,
    CosineAnnealing,
    CosineCycles,
    CosineWarmRestarts,
    Exponential,
    HalfCosine,
    LinearRamp,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Sequential,
    Step,
    Triangular,
    Warmup,
    WarmupStableDecay,
)


@every_row
def test_the_first_steps(row: Row) -> None:
    assert_all_exact(row.schedule, [oracle.exact(row.schedule, t) for t in range(200)])


@every_row
def test_both_sides_of_every_turn_and_far_out(row: Row) -> None:
    steps = {10**k + d for k in range(3, 13) for d in (-1, 0, 1, 12345)} | {FAR // 3, FAR // 2}
    steps |= {turn + d for turn in row.turns for d in (-2, -1, 0, 1, 2) if turn + d >= 0}
    for t in sorted(steps):
        assert_exact((row.schedule, reference_of(row.schedule)), t, oracle.exact(row.schedule, t))


@every_row
def test_the_last_step(row: Row) -> None:
    """No 64-bit integer overflows."""
    expected = reference_of(row.schedule)(LAST)
    assert row.schedule(LAST) == pytest.approx(expected, rel=1e-12, abs=0.0)  # also where both are infinite


@every_row
def test_no_value_is_larger_than_the_upper_bound(row: Row) -> None:
    """The bound holds except for rounding. It is infinite only for a rate that grows without end."""
    bound = row.schedule.upper_bound
    values = [*row.schedule.values(300).tolist(), *map(row.schedule, row.turns)]
    assert 0 <= min(values) <= max(values) <= bound * (1 + 4 * 2.0**-53)
    assert math.isinf(bound) == (getattr(row.schedule, "gamma", 0) > 1)


def test_every_kind_has_its_rows() -> None:
    kinds = {kind for kind in vars(schedules).values() if isinstance(kind, type) and issubclass(kind, Schedule)}
    assert {type(row.schedule) for row in ROWS} == kinds - {Schedule}
    assert set(FIELDS) == kinds - {Schedule}


def test_the_ends_are_exact() -> None:
    for ramp in (LinearRamp, HalfCosine, schedules.ExponentialRamp):
        for schedule in (ramp(0.3, 0.1, 7), ramp(1e-5, 0.7, 49), ramp(0.7, 1e-300, 10**9)):
            assert (schedule(0), schedule(schedule.steps), schedule(FAR)) == (
                schedule.start,
                schedule.end,
                schedule.end,
            )
    assert Polynomial(0.3, 0.1, 49, 2.0)(49) == 0.1
    assert [CosineAnnealing(0.3, 49, 0.1)(t) for t in (0, 49, 98, 49 * 10**9)] == [0.3, 0.1, 0.3, 0.3]
    assert [OneCycle(0.3, 100)(t) for t in (29, 99, 100, FAR)] == [0.3, *[0.3 / 25 / 1e4] * 3]
    assert [OneCycle(0.3, 100).momentum(t) for t in (0, 29, 99, 100)] == [0.95, 0.85, 0.95, 0.95]


def test_peer_07_one_cycle_with_a_rise_that_ends_at_step_0_and_after_its_end() -> None:
    """torch's OneCycleLR divides by zero when pct_start * total_steps is 1, and jumps up one step past the end."""
    schedule = OneCycle(1.0, total_steps=10, pct_start=0.1)
    assert schedule(0) == 1.0
    assert schedule.values(10).diff().max() < 0
    assert schedule(10) == schedule(9) == schedule(FAR) == 1.0 / 25 / 1e4
    three = OneCycle(1.0, total_steps=10, pct_start=0.1, three_phase=True)
    assert three(0) == 1.0 / 25  # neither the rise nor the fall has a step
    assert three(10) == three(9) == 1.0 / 25 / 1e4


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


WITH_TORCH: list[tuple[Schedule, Callable[[Any], Any]]] = [
    (Constant(0.1), lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1.0)),
    (LinearRamp(0.01, 0.1, 30), lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, total_iters=30)),
    (LinearRamp(0.1, 0.02, 50), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, total_iters=50)),
    (Polynomial(0.1, 0.0, 120, 2.0), lambda o: lr_scheduler.PolynomialLR(o, total_iters=120, power=2.0)),
    (Exponential(0.1, 0.97), lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
    (Step(0.1, 30, 0.5), lambda o: lr_scheduler.StepLR(o, 30, 0.5)),
    (MultiStep(0.1, (10, 10, 150), 0.3), lambda o: lr_scheduler.MultiStepLR(o, [10, 10, 150], 0.3)),
    (Sequential([(Constant(0.05), 20), Constant(0.1)]), lambda o: lr_scheduler.ConstantLR(o, 0.5, total_iters=20)),
    (CosineAnnealing(0.1, 40, 0.01), lambda o: lr_scheduler.CosineAnnealingLR(o, 40, 0.01)),
    (OneCycle(0.1, 300), lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=300)),
    (
        OneCycle(0.1, 300, 0.21, "linear"),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, 300, pct_start=0.21, anneal_strategy="linear"),
    ),
    (
        OneCycle(0.1, 300, 0.41, three_phase=True),
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, 300, pct_start=0.41, three_phase=True),
    ),
    (
        OneCycle(0.1, 300, 0.41, "linear", div_factor=5, final_div_factor=7, three_phase=True),
        lambda o: lr_scheduler.OneCycleLR(
            o, 0.1, 300, pct_start=0.41, anneal_strategy="linear", div_factor=5, final_div_factor=7, three_phase=True
        ),
    ),
    (
        WarmupStableDecay(0.1, 20, 100, 150, "linear", "linear", 0.25),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, 0.25, 1.0, total_iters=20),
                lr_scheduler.ConstantLR(o, 1.0),
                lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=150),
            ],
            milestones=[20, 120],
        ),
    ),
    (
        Warmup(CosineWarmRestarts(0.1, 20, 2), steps=10, start_factor=0.25),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [lr_scheduler.LinearLR(o, 0.25, total_iters=10), lr_scheduler.CosineAnnealingWarmRestarts(o, 20, 2)],
            milestones=[10],
        ),
    ),
    (
        LinearRamp(0.2, 1.0, 40) * Exponential(0.1, 0.98),
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.LinearLR(o, 0.2, total_iters=40), lr_scheduler.ExponentialLR(o, 0.98)]
        ),
    ),
]


@pytest.mark.parametrize(("schedule", "make"), WITH_TORCH, ids=lambda x: repr(x) if isinstance(x, Schedule) else "")
def test_as_torch_steps_it(schedule: Schedule, make: Callable[[Any], Any]) -> None:
    """At every step of a full run, to 1e-12; and to 1e-14 of its height where the rate nears 0: torch has 1 + cos."""
    expected = stepped(make, 0.1, 300)
    assert schedule.values(300).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("T_0", "T_mult"), [(1, 1), (10, 1), (1, 2), (7, 2), (3, 3), (5, 4)])
def test_cosine_as_torch_steps_it(T_0: int, T_mult: int) -> None:
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts
    expected = stepped(lambda opt: scheduler(opt, T_0=T_0, T_mult=T_mult, eta_min=0.001), 0.1, 500)
    schedule = CosineWarmRestarts(0.1, T_0=T_0, T_mult=T_mult, eta_min=0.001)
    assert schedule.values(500).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("down", [None, 3, 20])
@pytest.mark.parametrize("up", [1, 2, 10])
@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_triangular_as_torch_steps_it(mode: str, up: int, down: int | None) -> None:
    """They agree to 1e-9: torch takes the position in a cycle from a difference of rounded numbers of cycles."""
    options: dict[str, Any] = {"step_size_up": up, "step_size_down": down, "mode": mode, "gamma": 0.98}
    scheduler = lr_scheduler.CyclicLR
    expected = stepped(lambda opt: scheduler(opt, 0.001, 0.1, cycle_momentum=False, **options), 0.1, 300)
    assert Triangular(0.001, 0.1, **options).values(300).tolist() == pytest.approx(expected, rel=1e-9)


# Decaying restarts by other libraries' formulas, with numbers that doubles hold, worked out in 60 digits.
# timm's CosineLRScheduler(t_initial=4, cycle_mul=2, cycle_decay=0.5, lr_min=0.0625), base rate 1.
TIMM = [1.0, 0.8627063036811942, 0.53125, 0.19979369631880584]
TIMM += [0.5, 0.483348647736844, 0.43592960838455724, 0.3649620008298634]
TIMM += [0.28125, 0.19753799917013662, 0.12657039161544273, 0.07915135226315602, 0.25, 0.24819862003780285]
# optax's sgdr_schedule: peaks 1, 0.75 and 0.5625, end_value 0.125, no warm-up, decay_steps 3, 6 and 12.
OPTAX = [1.0, 0.78125, 0.34375, 0.75, 0.708132938682637, 0.59375, 0.4375, 0.28125, 0.16686706131736292]
OPTAX += [0.5625, 0.5550462745007337, 0.5331930570778459, 0.49842960838455724, 0.453125]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        pytest.param(CosineWarmRestarts(1.0, 4, 2, eta_min=0.0625, max_decay=0.5), TIMM, id="timm"),
        pytest.param(CosineWarmRestarts(1.0, 3, 2, eta_min=0.125, max_decay=0.75), OPTAX, id="optax"),
        pytest.param(CosineCycles(1.0, (3, 6, 12), eta_min=0.125, max_decay=0.75), OPTAX, id="optax_listed"),
    ],
)
def test_decaying_restarts_as_other_libraries_have_them(schedule: Schedule, expected: list[float]) -> None:
    assert schedule.values(len(expected)).tolist() == pytest.approx(expected, rel=1e-12)


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
