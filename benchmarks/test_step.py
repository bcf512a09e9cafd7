"""How long does one step of an optimizer and its scheduler take, by torch in each form, by others and by us?"""

from __future__ import annotations

from typing import Any

import pytest
from implementations import ALGORITHMS, IMPLEMENTATIONS, SCHEDULES, field
from racing import CLOCK, race
from results import Subject
from workloads import WORKLOADS

pytestmark = pytest.mark.benchmark(timer=CLOCK)

SECONDS = {"gpt2": 25.0, "resnet50": 15.0}  # how long a race goes on; 10 for other models
COMPILED = ("mlp",)
# The largest model is limited by memory whatever its scheduler is, so one of them is enough.
JOBS = [(s, w) for s in SCHEDULES for w in WORKLOADS if (s, w) != ("one-cycle", "gpt2")]


def left_out(schedule: str, workload: str, compiled: bool) -> dict[str, str]:
    """The implementations that would take too long or too much memory, and why."""
    reasons = {}
    if workload not in COMPILED and schedule == "cosine" and not compiled:
        reasons["torch compiled"] = "compiling a step of hundreds of tensors takes minutes: BENCH_ARGS=--compiled"
    if workload == "gpt2":
        reasons["reference"] = "not for models of this size"
    return reasons


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("schedule", "workload"), JOBS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_step(
    result_of: Any,
    pace: Any,
    smoke: bool,
    pytestconfig: pytest.Config,
    algorithm: str,
    schedule: str,
    workload: str,
    implementation: str,
) -> None:
    model = WORKLOADS[workload].tiny() if smoke else WORKLOADS[workload]
    moved = ALGORITHMS[algorithm].bytes_per_parameter
    subject = Subject("step", f"{algorithm}, {schedule}", workload, model, moved)

    def run() -> Any:
        reasons = left_out(schedule, workload, pytestconfig.getoption("compiled"))
        racers = field(algorithm, schedule, model, IMPLEMENTATIONS, reasons)
        return race(racers.steps, racers.prepare, pace(SECONDS.get(workload, 10.0))), racers.missing

    result_of(subject, implementation, run)
