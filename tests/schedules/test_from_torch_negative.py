"""schedules.from_torch where a rate of torch's is below 0, number 23 of our list: by rounding, by rule, and really."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)
from torch_schedulers import named, torch_optimizer

from sgdr_fused.schedules import Schedule, from_torch

pytestmark = pytest.mark.once

NEGATIVE_BY_ROUNDING = named(
    linear=lambda o: LinearLR(o, 1 / 3, 0.0, 7),
    linear_long=lambda o: LinearLR(o, 0.1, 0.0, 123),
    polynomial=lambda o: PolynomialLR(o, 7, 0.9),
    polynomial_sequence=lambda o: SequentialLR(o, [PolynomialLR(o, 7), LinearLR(o, 1 / 3, 0.0, 7)], [7]),
    linear_first=lambda o: SequentialLR(o, [LinearLR(o, 1 / 3, 0.0, 7), ExponentialLR(o, 0.9)], [20]),
    chained=lambda o: ChainedScheduler([LinearLR(o, 1 / 3, 0.0, 7), ExponentialLR(o, 0.9), StepLR(o, 5, 3.0)]),
    chained_cosine=lambda o: ChainedScheduler([LinearLR(o, 1 / 3, 0.0, 7), CosineAnnealingLR(o, 20)]),
    cosine=lambda o: CosineAnnealingLR(o, 33),
    restarts=lambda o: CosineAnnealingWarmRestarts(o, 7, 2),
    cyclic=lambda o: CyclicLR(o, 0.0, 0.1, 7, 13),
    cyclic_scale=lambda o: CyclicLR(o, 0.0, 0.1, 3, scale_fn=lambda x: -1e-18, cycle_momentum=False),
    lambda_=lambda o: LambdaLR(o, lambda epoch: 1 - (epoch / 10) * (1 + 1e-15) if epoch <= 10 else -1e-17),
    multiplicative=lambda o: MultiplicativeLR(o, lambda epoch: -1e-18 if epoch == 9 else 1.0),
    one_cycle=lambda o: OneCycleLR(o, 0.5, total_steps=20, anneal_strategy="linear"),
    one_cycle_three=lambda o: OneCycleLR(o, 0.5, total_steps=20, anneal_strategy="linear", three_phase=True),
    one_cycle_to_0=lambda o: OneCycleLR(o, 0.5, 20, anneal_strategy="linear", final_div_factor=math.inf),
    one_cycle_later=lambda o: SequentialLR(
        o, [ConstantLR(o, 0.5, 5), OneCycleLR(o, 0.5, 20, anneal_strategy="linear")], [5]
    ),
    one_cycle_chained=lambda o: ChainedScheduler(
        [OneCycleLR(o, 0.5, 20, anneal_strategy="linear"), ConstantLR(o, 0.5, 5)]
    ),
)


@pytest.mark.parametrize("make", NEGATIVE_BY_ROUNDING)
def test_peer_23_rates_that_torch_rounds_below_0(make: Callable[[Any], Any]) -> None:
    """At every state, the end and the step past it among them: what torch has, where it is not below 0, else 0 or the
    last rate of one cycle."""
    scheduler = make(torch_optimizer(momentum=0.9))
    optimizer = scheduler.optimizer
    rates: list[list[float]] = [[] for _ in optimizer.param_groups]
    converted: list[list[Schedule]] = []
    for _ in range(45):
        for column, group in zip(rates, optimizer.param_groups, strict=True):
            column.append(float(group["lr"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tables
            converted.append(from_torch(scheduler, num_steps=100))
        try:
            optimizer.step()
            scheduler.step()
        except ValueError:  # OneCycleLR has no more steps
            break
    for i, column in enumerate(rates):
        expected = list(column)
        for t, rate in enumerate(column):
            if rate < -1e-9:  # only the step past the end of one cycle
                assert t == len(column) - 1
                expected[t] = expected[t - 1]
            elif rate < 0:
                expected[t] = 0.0
        for start, schedules in enumerate(converted):
            values = schedules[i].values(len(column) - start).tolist()
            assert min(values) >= 0
            assert values == pytest.approx(expected[start:], rel=1e-8, abs=1e-12)
            if min(column) < -1e-9:
                assert schedules[i](10**6) == pytest.approx(expected[-1], rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    "make",
    named(
        linear=lambda o: LinearLR(o, 1 / 3, 0.0, 7),
        one_cycle=lambda o: OneCycleLR(o, 0.5, total_steps=20, anneal_strategy="linear"),
    ),
)
def test_peer_23_such_rates_exist(make: Callable[[Any], Any]) -> None:
    scheduler = make(torch_optimizer(momentum=0.9))
    for _ in range(20):
        scheduler.optimizer.step()
        scheduler.step()
    assert scheduler.optimizer.param_groups[0]["lr"] < 0


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda o: LambdaLR(o, lambda epoch: 1.0 - epoch / 5), 0),
        (lambda o: LambdaLR(o, lambda epoch: 1.0 - epoch / 5), 9),
        (lambda o: StepLR(o, 5, -0.5), 0),
        (lambda o: StepLR(o, 5, -0.5), 7),
        (lambda o: ExponentialLR(o, -0.9), 1),
        (lambda o: CosineAnnealingLR(o, 10, eta_min=-0.1), 3),
        (lambda o: CosineAnnealingWarmRestarts(o, 10, eta_min=-0.1), 9),
        (lambda o: ChainedScheduler([MultiplicativeLR(o, lambda epoch: -1.0)]), 1),
        (lambda o: CyclicLR(o, 0.1, 0.2, 5, scale_fn=lambda x: -3.0), 0),
    ],
)
def test_peer_23_rates_that_are_really_negative(make: Callable[[Any], Any], steps: int) -> None:
    scheduler = make(torch_optimizer(momentum=0.9))
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match=r"scheduler cannot be converted: [A-Za-z]+ .*-0\.[0-9]+.*>= 0"):
        from_torch(scheduler, num_steps=20)


def test_peer_23_a_rate_set_below_0_by_hand() -> None:
    scheduler = StepLR(torch_optimizer(), 5)
    scheduler.optimizer.param_groups[1]["lr"] = -0.25
    with pytest.raises(ValueError, match=r"cannot be converted: StepLR .*-0\.25.*>= 0"):
        from_torch(scheduler)
