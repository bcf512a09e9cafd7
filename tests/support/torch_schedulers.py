"""torch's schedulers in many configurations, and Schedules compared with them, for the tests of from_torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
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
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from sgdr_fused.schedules import Schedule

LRS = (0.1, 0.03)  # of the two groups
STARTS = (0, 1, 2, 4, 5, 6, 9, 10, 11, 19, 20, 21, 29, 30, 31, 47, 90, 121, 122, 200)
STEPS = 300  # after the start

Make = Callable[[torch.optim.Optimizer], Any]


def named(**makes: Make) -> list[Any]:
    return [pytest.param(make, id=name) for name, make in makes.items()]


CLOSED = named(
    step=lambda o: StepLR(o, 10, 0.5),
    step_1=lambda o: StepLR(o, 1, 0.99),
    step_7=lambda o: StepLR(o, 7),
    step_growing=lambda o: StepLR(o, 30, 1.5),
    step_to_0=lambda o: StepLR(o, 20, 0.0),
    multi_step=lambda o: MultiStepLR(o, [5, 20, 30], 0.5),
    multi_step_twice=lambda o: MultiStepLR(o, [10, 10, 31, 121], 0.3),
    multi_step_at_0=lambda o: MultiStepLR(o, [0, 10, 20], 0.5),
    multi_step_none=lambda o: MultiStepLR(o, [], 0.5),
    constant=lambda o: ConstantLR(o, 0.25, total_iters=10),
    constant_default=lambda o: ConstantLR(o),
    constant_0_steps=lambda o: ConstantLR(o, 0.5, total_iters=0),
    linear=lambda o: LinearLR(o, 0.1, total_iters=20),
    linear_down=lambda o: LinearLR(o, 1.0, 0.2, total_iters=30),
    linear_to_0=lambda o: LinearLR(o, 0.7, 0.0, total_iters=10),
    linear_1=lambda o: LinearLR(o, 0.3, 0.9, total_iters=1),
    exponential=lambda o: ExponentialLR(o, 0.97),
    exponential_growing=lambda o: ExponentialLR(o, 1.02),
    polynomial=lambda o: PolynomialLR(o, total_iters=30, power=2.0),
    polynomial_half=lambda o: PolynomialLR(o, total_iters=121, power=0.5),
    polynomial_linear=lambda o: PolynomialLR(o),
    cosine=lambda o: CosineAnnealingLR(o, T_max=20),
    cosine_min=lambda o: CosineAnnealingLR(o, T_max=10, eta_min=0.01),
    cosine_long=lambda o: CosineAnnealingLR(o, T_max=250, eta_min=0.001),
    cosine_1=lambda o: CosineAnnealingLR(o, T_max=1, eta_min=0.01),
    warm_restarts=lambda o: CosineAnnealingWarmRestarts(o, 10, 2, 0.001),
    warm_restarts_equal=lambda o: CosineAnnealingWarmRestarts(o, 10),
    warm_restarts_1_3=lambda o: CosineAnnealingWarmRestarts(o, 1, 3, 0.01),
    cyclic=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=5),
    cyclic_down=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=3, step_size_down=17),
    cyclic_per_group=lambda o: CyclicLR(o, [0.001, 0.0], [0.1, 0.2], 10, cycle_momentum=False),
    cyclic_2=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=10, mode="triangular2"),
    cyclic_exp=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=4, step_size_down=6, mode="exp_range", gamma=0.99),
    one_cycle=lambda o: OneCycleLR(o, 0.5, total_steps=600),
    one_cycle_per_group=lambda o: OneCycleLR(o, [0.5, 0.2], total_steps=555, div_factor=10, final_div_factor=100),
    one_cycle_linear=lambda o: OneCycleLR(
        o, 0.5, epochs=60, steps_per_epoch=10, pct_start=0.2, anneal_strategy="linear"
    ),
    one_cycle_three=lambda o: OneCycleLR(o, 0.5, total_steps=601, pct_start=0.37, three_phase=True),
    one_cycle_three_late=lambda o: OneCycleLR(o, 0.5, total_steps=523, pct_start=0.7, three_phase=True),
    one_cycle_three_linear=lambda o: OneCycleLR(
        o, 0.5, total_steps=523, pct_start=0.1, anneal_strategy="linear", three_phase=True
    ),
    one_cycle_falling=lambda o: OneCycleLR(o, 0.5, total_steps=523, pct_start=0.0),
    one_cycle_rising=lambda o: OneCycleLR(o, 0.5, total_steps=523, pct_start=1.0),
    warmed_up_cosine=lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=10), CosineAnnealingLR(o, 90)], [10]),
    warmed_up_restarts=lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=5), CosineAnnealingWarmRestarts(o, 10, 2, 0.001)], [5]
    ),
    three_in_a_row=lambda o: SequentialLR(
        o, [ConstantLR(o, 0.5, total_iters=100), ExponentialLR(o, 0.9), StepLR(o, 7, 0.8)], [20, 30]
    ),
    four_in_a_row=lambda o: SequentialLR(
        o,
        [PolynomialLR(o, 5), MultiStepLR(o, [2, 4], 0.5), CyclicLR(o, 0.01, 0.1, 4), LinearLR(o, 0.5, total_iters=50)],
        [10, 20, 90],
    ),
    skipped_part=lambda o: SequentialLR(
        o, [ConstantLR(o, 0.5, 3), ExponentialLR(o, 0.5), StepLR(o, 10, 0.5)], [20, 20]
    ),
    chained=lambda o: ChainedScheduler([ConstantLR(o, 0.1, total_iters=20), ExponentialLR(o, 0.97)]),
    chained_three=lambda o: ChainedScheduler(
        [LinearLR(o, 0.2, total_iters=30), StepLR(o, 10, 0.8), MultiStepLR(o, [29, 30, 31], 0.5)]
    ),
    chained_polynomial=lambda o: ChainedScheduler([PolynomialLR(o, 121, 2.0), ExponentialLR(o, 0.99)]),
    chained_alone=lambda o: ChainedScheduler([CosineAnnealingLR(o, 20, 0.01)]),
)
TABULATED = named(
    lambda_=lambda o: LambdaLR(o, lambda epoch: 0.95**epoch),
    lambda_per_group=lambda o: LambdaLR(o, [lambda epoch: 1 / (1 + epoch), lambda epoch: 1 + math.sin(epoch)]),
    multiplicative=lambda o: MultiplicativeLR(o, lambda epoch: 0.9 if epoch % 5 == 0 else 1.0),
    cyclic_scale=lambda o: CyclicLR(o, 0.001, 0.1, 5, scale_fn=lambda cycle: 1 / cycle, scale_mode="cycle"),
    cyclic_between_steps=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=2.5, step_size_down=4.25),
    cosine_rising=lambda o: CosineAnnealingLR(o, 20, eta_min=0.5),
    sequential_lambda=lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=20), LambdaLR(o, lambda epoch: 0.9**epoch)], [20]
    ),
    chained_cosine=lambda o: ChainedScheduler([LinearLR(o, 0.2, total_iters=30), CosineAnnealingLR(o, 150, 0.01)]),
    one_cycle_short_rise=lambda o: OneCycleLR(o, 0.5, total_steps=700, div_factor=math.inf),
)


CYCLIC = named(
    cyclic=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=5),
    cyclic_down=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=3, step_size_down=17, base_momentum=0.5),
    cyclic_2=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=10, mode="triangular2", max_momentum=0.99),
    cyclic_exp=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=4, mode="exp_range", gamma=0.99),
    cyclic_per_group=lambda o: CyclicLR(o, 0.001, 0.1, 10, base_momentum=[0.5, 0.6], max_momentum=[0.7, 0.95]),
    one_cycle=lambda o: OneCycleLR(o, 0.5, total_steps=600),
    one_cycle_per_group=lambda o: OneCycleLR(o, 0.5, 555, base_momentum=[0.5, 0.6], max_momentum=[0.7, 0.95]),
    one_cycle_linear=lambda o: OneCycleLR(o, 0.5, total_steps=600, pct_start=0.2, anneal_strategy="linear"),
    one_cycle_three=lambda o: OneCycleLR(o, 0.5, total_steps=601, pct_start=0.37, three_phase=True),
)


def torch_optimizer(kind: Any = torch.optim.SGD, lrs: Any = LRS, **options: Any) -> torch.optim.Optimizer:
    return kind([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], **options)


def run(scheduler: Any, steps: int) -> list[list[float]]:
    """The rates of the groups in the next `steps` steps, which are taken; as long as the scheduler goes."""
    rates = []
    for _ in range(steps):
        rates.append([float(group["lr"]) for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def momenta(scheduler: Any, steps: int) -> list[list[float]]:
    result = []
    for _ in range(steps):
        groups = scheduler.optimizer.param_groups
        result.append([group["betas"][0] if "betas" in group else group["momentum"] for group in groups])
        scheduler.optimizer.step()
        scheduler.step()
    return result


def assert_same(converted: list[Schedule], expected: list[list[float]], what: str) -> None:
    """Step by step.

    Tolerance: 1e-9 of the rate, and 1e-12 of the highest one. torch makes most rates from the one before, so its
    rounding adds up over the steps; and where a rate passes through 0 (the bottom of a cosine, the end of a polynomial)
    what is left of torch's digits is an absolute error, which its next factors multiply. Every step is compared, so a
    change that came a step early or late would show: neighbouring rates differ by far more than that.
    """
    assert len(converted) == len(expected[0])
    for i, schedule in enumerate(converted):
        theirs = torch.tensor([row[i] for row in expected], dtype=torch.float64)
        ours = schedule.values(len(expected))
        tolerance = 1e-9 * theirs.abs() + 1e-12 * theirs.max()
        wrong = ((ours - theirs).abs() > tolerance).nonzero().flatten()
        assert wrong.numel() == 0, (
            f"{what}, group {i}: {wrong.numel()} steps off, e.g. {wrong[0]}: {ours[wrong[0]]} for {theirs[wrong[0]]}"
        )
        assert schedule(0) == pytest.approx(expected[0][i], rel=1e-12, abs=1e-14)
