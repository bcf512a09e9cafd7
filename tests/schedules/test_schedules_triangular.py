"""The triangular rate, by C++ where there is an extension and by the reference, against schedule_oracle.py.

For every rise of 1..100 steps, with an equal and another fall, in each mode: each step of five cycles, and both
sides of 100 peaks and boundaries up to step 10**12.
"""

from __future__ import annotations

from typing import Any

import pytest
import schedule_oracle as oracle
import torch
from cases import reference_of
from schedule_cases import FAR, assert_all_exact, assert_exact, restarts

from sgdr_fused import reference
from sgdr_fused.schedules import CosineWarmRestarts, Triangular

pytestmark = [pytest.mark.once, pytest.mark.formulas, pytest.mark.host]

MODES = ("triangular", "triangular2", "exp_range")


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
