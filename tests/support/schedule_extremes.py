"""Schedules at the ends of what 64 bits hold, and what C++ is given of one."""

from __future__ import annotations

from schedule_cases import LAST

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
    Schedule,
    Sequential,
    Step,
    Table,
    Triangular,
    TriangularMomentum,
    Warmup,
    WarmupStableDecay,
)

# Any 64-bit integer may stand where a step is expected.
EDGES = sorted(
    {
        step
        for power in (0, 1, 31, 32, 52, 53, 60, 61, 62, 63)
        for near in (-2, -1, 0, 1, 2)
        for step in (2**power + near, -(2**power) + near)
        if -(2**63) <= step < 2**63
    }
)

_later = Sequential([(Constant(0.3), LAST), CosineAnnealing(0.1, 3)])
EXTREMES: list[Schedule] = [
    LinearRamp(0.1, 0.2, LAST),
    ExponentialRamp(0.1, 0.2, LAST),
    HalfCosine(0.1, 0.2, LAST),
    Polynomial(0.3, 0.1, LAST, 2.0),
    Exponential(0.1, 1.5),
    Step(0.1, LAST),
    MultiStep(0.1, (0, 1, LAST - 1, LAST, LAST), 0.9),
    InverseTime(0.1, 1e300),
    Table([0.1, 0.2, 0.7]).shifted(LAST),
    CosineAnnealing(0.1, LAST, 0.05),
    CosineAnnealing(0.1, 1).shifted(LAST - 1),
    CosineWarmRestarts(0.1, LAST),
    CosineWarmRestarts(0.1, LAST, 1e300),
    CosineWarmRestarts(0.1, 1, max_decay=0.5).shifted(LAST),
    CosineWarmRestarts(0.1, 1, 1.01).shifted(LAST),
    CosineCycles(0.1, (LAST - 1, 1)).shifted(LAST),
    CosineCycles(0.1, (1,)).shifted(LAST),
    Triangular(0.1, 0.3, LAST, LAST),
    Triangular(0.1, 0.3, 1, LAST, mode="triangular2").shifted(LAST),
    TriangularMomentum(0.1, 0.3, LAST, 1, mode="exp_range", gamma=0.5).shifted(LAST),
    OneCycle(0.1, LAST),
    OneCycle(0.1, LAST, pct_start=1.0, three_phase=True).shifted(LAST),
    OneCycle(0.1, LAST, pct_start=0.0),
    OneCycleMomentum(0.1, 0.3, LAST, 0.5, "linear", three_phase=True),
    WarmupStableDecay(0.1, LAST - 2, 1, 1, "cosine", "linear", 0.3),
    WarmupStableDecay(0.1, 1, 1, LAST - 2).shifted(LAST),
    Warmup(CosineWarmRestarts(0.1, 10, 2), LAST),
    Warmup(Triangular(0.1, 0.3, LAST, LAST).shifted(LAST), LAST),
    Warmup(Warmup(Warmup(Step(0.1, 3), LAST), LAST), LAST),
    _later,
    Sequential([(Constant(0.1), LAST), Sequential([(_later, LAST), Sequential([(_later, LAST), _later])])]),
    _later * Warmup(Triangular(0.1, 0.3, 5), LAST - 1) * OneCycle(0.1, LAST).shifted(LAST),
]


def as_text(segments: list, steps: list[int]) -> str:
    """A schedule for schedule_sanitized.cpp."""
    lines = [str(len(segments))]
    for segment in segments:
        values = [*segment.values, 0.0, 0.0, 0.0, 0.0][:4]
        lengths = [*segment.lengths, 0, 0][:2]
        head = (segment.first_step, segment.shift, segment.scale)
        numbers = map(repr, (*head, *values, *lengths, len(segment.table), *segment.table))
        lines.append(" ".join([segment.kind, segment.mode, *numbers]))
    return "\n".join([*lines, str(len(steps)), *map(str, steps)])
