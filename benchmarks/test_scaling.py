"""What does a step cost per tensor, per group and per element? Only one of these is varied at a time."""

from __future__ import annotations

from typing import Any

import pytest
from implementations import ALGORITHMS, field
from racing import CLOCK, LIMIT, OURS, race
from results import Subject
from workloads import Group, Workload

pytestmark = pytest.mark.benchmark(timer=CLOCK)

IMPLEMENTATIONS = (OURS, "torch foreach", "torch fused", LIMIT)
SECONDS = 2.0

# The key is what is varied, under the name that it has in the results.
LINES: dict[str, dict[int, Workload]] = {
    "tensors": {n: Workload([Group([(64,)] * n)]) for n in (1, 10, 100, 300, 1000)},
    "groups": {n: Workload([Group([(64,)] * (256 // n), rate=1 + 1 / n)] * n) for n in (1, 16, 64, 128, 256)},
    "elements": {n: Workload([Group([(n,)])]) for n in (2**10, 2**13, 2**16, 2**19, 2**22, 2**24)},
}
POINTS = [(question, size) for question, line in LINES.items() for size in line]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("question", "size"), POINTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scaling(
    result_of: Any, pace: Any, smoke: bool, algorithm: str, question: str, size: int, implementation: str
) -> None:
    model = LINES[question][size].tiny() if smoke else LINES[question][size]
    subject = Subject(question, algorithm, str(size), model, ALGORITHMS[algorithm].bytes_per_parameter)

    def run() -> Any:
        racers = field(algorithm, "cosine", model, IMPLEMENTATIONS, {})
        return race(racers.steps, racers.prepare, pace(SECONDS)), racers.missing

    result_of(subject, implementation, run)
