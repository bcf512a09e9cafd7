"""What a schedule says of its cycles and of its end."""

from __future__ import annotations

import pytest
from schedule_cases import SCHEDULES, every_schedule

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

pytestmark = pytest.mark.once

CYCLE = CosineWarmRestarts(0.1, 3, 2)
ONE = OneCycle(0.1, 20)
CALM = Sequential([(LinearRamp(0.0, 0.1, 5), 5), (Constant(0.1), 4), Step(0.1, 3)])


@pytest.mark.parametrize(
    ("schedule", "has_cycles"),
    [
        *((s, True) for s in (CYCLE, ONE, ONE.momentum, CosineCycles(0.1, (3, 1)), CosineAnnealing(0.1, 3))),
        *((s, True) for s in (Triangular(0.1, 0.2, 3), TriangularMomentum(0.1, 0.2, 3), OneCycleMomentum(0.1, 0.2, 9))),
        *((s, False) for s in (Constant(0.1), LinearRamp(0.1, 0.2, 3), ExponentialRamp(0.1, 0.2, 3), Step(0.1, 3))),
        *((s, False) for s in (HalfCosine(0.1, 0.2, 3), Polynomial(0.2, 0.1, 3), MultiStep(0.1, (3, 4)))),
        (WarmupStableDecay(0.1, 3, 4, 5), False),
        *((s, False) for s in (Exponential(0.1, 0.9), InverseTime(0.1, 0.1), Table((0.1, 0.2)), CALM)),
        (ONE.shifted(19), True),
        (ONE.shifted(20), False),
        (CYCLE.shifted(10**6), True),
        (Warmup(CYCLE, 5), True),
        (Warmup(Step(0.1, 3), 5), False),
        (Warmup(ONE, 5).shifted(24), True),
        (Warmup(ONE, 5).shifted(25), False),
        (Warmup(ONE.shifted(20), 5), False),
        (2 * CYCLE, True),
        (Exponential(0.1, 0.9) * LinearRamp(0.1, 0.2, 3), False),
        (CALM * CYCLE, True),
        (CALM * Step(0.1, 3), False),
        (ONE.shifted(30) * Triangular(0.1, 0.2, 3), True),
        (Sequential([(Constant(0.1), 5), CYCLE]), True),
        (Sequential([(CYCLE, 6), Constant(0.1)]), True),
        (Sequential([(CYCLE, 6), Constant(0.1)]).shifted(5), True),
        (Sequential([(CYCLE, 6), Constant(0.1)]).shifted(6), False),
        (Sequential([(ONE, 30), (Constant(0.1), 5), Constant(0.1)]).shifted(20), False),
        (Sequential([(ONE.shifted(20), 30), Constant(0.1)]), False),
        (Sequential([(CALM, 30), (CALM, 30), CALM]), False),
        (Sequential([(CALM, 30), Sequential([(CALM, 3), 2 * ONE])]), True),
    ],
    ids=repr,
)
def test_whether_a_schedule_has_cycles(schedule: Schedule, has_cycles: bool) -> None:
    assert schedule.has_cycles is has_cycles


@every_schedule
def test_a_schedule_with_cycles_has_an_end_of_one(schedule: Schedule) -> None:
    """Found by looking at steps; the ends of a Sequential's parts may be there without."""
    ends = any(map(schedule.is_cycle_end, range(150))) or schedule.cycle(0)[2] is not None
    if schedule.has_cycles:
        assert ends
    elif ends:
        assert "Sequential" in repr(schedule)
        assert not any(f"{kind}(" in repr(schedule) for kind in ("Cosine", "Triangular", "OneCycle", "CosineCycles"))


def test_the_cycles_of_a_product_are_those_of_the_first_factor_that_has_any() -> None:
    for factors in ((CALM, CYCLE, ONE), (ONE.shifted(20), Step(0.1, 3), CYCLE)):
        assert [Product(factors).cycle(t) for t in range(30)] == [CYCLE.cycle(t) for t in range(30)]
    assert [(2 * CALM).cycle(t) for t in range(30)] == [CALM.cycle(t) for t in range(30)]


FALL = LinearRamp(0.1, 0.0, 50)


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (ONE, 19),
        (ONE.momentum, None),
        (OneCycle(0.1, epochs=3, steps_per_epoch=10), 29),
        (FALL, 50),
        (LinearRamp(0.1, 0.0011, 50), None),
        (LinearRamp(0.1, 0.0009, 50), 50),
        (LinearRamp(0.0, 0.1, 50), None),
        (LinearRamp(0.0, 0.0, 50), None),
        (ExponentialRamp(1.0, 1e-5, 70), 70),
        (HalfCosine(0.1, 0.0, 70), 70),
        (HalfCosine(0.1, 0.05, 70), None),
        (Polynomial(0.1, 0.0, 70), 70),
        (Polynomial(0.1, 0.05, 70), None),
        (WarmupStableDecay(0.1, 3, 4, 5), 12),
        (WarmupStableDecay(0.1, 3, 4, 5, min_lr_ratio=0.05), None),
        (Sequential([(CYCLE, 5), WarmupStableDecay(0.1, 3, 4, 5)]), 17),
        (Table([0.1, 0.5, 0.0]), 2),
        (Table([0.1, 0.5, 0.1]), None),
        (Table([0.0]), None),
        *((s, None) for s in (Constant(0.1), Step(0.1, 3), MultiStep(0.1, (3,)), Exponential(0.1, 0.9), CYCLE)),
        *((s, None) for s in (CosineAnnealing(0.1, 5), Triangular(0.1, 0.2, 3), InverseTime(0.1, 0.1))),
        (2 * ONE, 19),
        (ONE * FALL, 19),
        (FALL * CYCLE, 50),
        (ONE.shifted(5), 14),
        (ONE.shifted(50), 0),
        (FALL.shifted(5), 45),
        (Warmup(ONE, 5), 24),
        (Warmup(FALL, 5), None),
        (Warmup(FALL.shifted(3), 5), None),
        (Warmup(2 * FALL, 5), None),
        (Sequential([(ONE, 5), CYCLE]), None),
        (Sequential([(CYCLE, 5), ONE]), 24),
        (Sequential([(CYCLE, 5), FALL]), None),
        (Sequential([(CYCLE, 5), Table([0.1, 0.0])]), None),
        (Sequential([(CYCLE, 5), (CYCLE, 6), Warmup(ONE, 5)]).shifted(2), 33),
        (0.5 * Sequential([(CYCLE, 5), Polynomial(0.1, 0.0, 9)]), None),
    ],
    ids=repr,
)
def test_the_last_step(schedule: Schedule, last: int | None) -> None:
    assert schedule.last_step == last


def test_after_the_last_step_nothing_changes() -> None:
    """This holds for schedules that are not multiplied with others, because the others may go on."""
    found = [schedule for schedule in SCHEDULES if schedule.last_step is not None]
    for schedule in found:
        if not isinstance(schedule, Product):
            last = schedule.last_step
            assert {schedule(last + k) for k in range(1, 20)} == {schedule(last)}
    assert {type(schedule) for schedule in found} >= {OneCycle, LinearRamp, HalfCosine, Polynomial, Shifted}
