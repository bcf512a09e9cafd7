"""How long is a step of the usual recipe: unscale, clip, AdamW, schedule, average? Five calls of torch's, and one here.

Before the timing all have to come to the same weights and averages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from implementations import LR, RESTARTS
from limit import Limit
from racing import CLOCK, LIMIT, OURS, Steps, race
from results import Subject
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.optim.swa_utils import get_ema_multi_avg_fn
from workloads import WORKLOADS, Workload

from sgdr_fused import EMA, FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.benchmark(timer=CLOCK)

SCALE, MAX_NORM, DECAY = 1024.0, 1.0, 0.999
# Read the gradients for their norm; read and write them, unscaled, and parameters, two moments and averages.
BYTES = 4 + 8 * 5
SECONDS = 25.0
CHECKED_STEPS = 3

TORCH = {"torch for-loop": {"foreach": False}, "torch foreach": {"foreach": True}, "torch fused": {"fused": True}}
THROUGH_SCALER = "sgdr_fused, GradScaler.step"
IMPLEMENTATIONS = (OURS, THROUGH_SCALER, *TORCH, LIMIT)


class Recipe(NamedTuple):
    """One implementation, with parameters of its own."""

    params: list[torch.nn.Parameter]
    step: Callable[[], None]
    averages: Callable[[], list[Tensor]]
    opt: Any


def parameters(workload: Workload) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in workload.shapes]


def by_torch(workload: Workload, form: dict[str, bool]) -> Recipe:
    params = parameters(workload)
    opt = torch.optim.AdamW(params, lr=LR, **form)
    scheduler = CosineAnnealingWarmRestarts(opt, **RESTARTS)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.zeros(()))  # makes its tensors
    averages = [param.detach().clone() for param in params]
    average = get_ema_multi_avg_fn(DECAY)
    detached = [param.detach() for param in params]
    started = False

    def step() -> None:
        nonlocal started
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=form.get("foreach") is not False)
        scaler.step(opt)
        scaler.update()
        scheduler.step()
        if started:
            average(averages, detached, None)
        else:  # as AveragedModel: the first is a copy
            torch._foreach_copy_(averages, detached)
            started = True

    return Recipe(params, step, lambda: averages, opt)


def by_us(workload: Workload, through_scaler: bool) -> Recipe:
    params = parameters(workload)
    opt = FusedAdamW(
        params,
        lr=CosineWarmRestarts(LR, **RESTARTS),
        max_grad_norm=MAX_NORM,
        average=EMA(DECAY),
        skip_nonfinite=not through_scaler,
    )
    if through_scaler:
        scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
        scaler.scale(torch.zeros(()))

        def step() -> None:
            scaler.step(opt)  # reads and writes all gradients, to see whether they are finite
            scaler.update()
    else:
        opt.grad_scale = torch.tensor(SCALE)  # as GradScaler does; what is not finite is found by the step itself
        step = opt.step
    assert opt.backend == "cpu", opt.backend
    return Recipe(params, step, lambda: [opt.state[param]["average"] for param in params], opt)


class Gradients:
    """Elsewhere in each round, and as they were: the steps write to them."""

    def __init__(self, workload: Workload) -> None:
        generator = torch.Generator().manual_seed(1)
        self._values = [SCALE * torch.randn(shape, generator=generator) for shape in workload.shapes]
        self._sets = [[torch.empty_like(value) for value in self._values] for _ in range(2)]

    def of_round(self, number: int) -> list[Tensor]:
        gradients = self._sets[number % 2]
        torch._foreach_copy_(gradients, self._values)
        return gradients


def give(params: list[torch.nn.Parameter], gradients: list[Tensor]) -> None:
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = gradient


def check_alike(recipes: dict[str, Recipe], gradients: Gradients) -> None:
    """After a few steps: so they do the same work."""
    for recipe in recipes.values():
        for number in range(CHECKED_STEPS):
            give(recipe.params, gradients.of_round(number))
            recipe.step()
    expected = recipes["torch for-loop"]
    for recipe in recipes.values():
        torch.testing.assert_close(recipe.params, expected.params, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(recipe.averages(), expected.averages(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_recipe(result_of: Any, pace: Any, smoke: bool, implementation: str) -> None:
    workload = WORKLOADS["resnet50"].tiny() if smoke else WORKLOADS["resnet50"]

    def run() -> Any:
        gradients = Gradients(workload)
        recipes = {
            OURS: by_us(workload, through_scaler=False),
            THROUGH_SCALER: by_us(workload, through_scaler=True),
            **{name: by_torch(workload, form) for name, form in TORCH.items()},
        }
        check_alike(recipes, gradients)
        ours = recipes[OURS]
        states = [[ours.opt.state[param][key] for param in ours.params] for key in ("exp_avg", "exp_avg_sq", "average")]
        limit = Limit(ours.params, [ours.params, *states], scaled=True)

        def prepare(name: str, number: int) -> None:
            fresh = gradients.of_round(number)
            if name == LIMIT:
                limit.new_gradients(fresh)
            else:
                give(recipes[name].params, fresh)

        steps: Steps = {name: recipe.step for name, recipe in recipes.items()}
        return race({**steps, LIMIT: limit.step}, prepare, pace(SECONDS)), {}

    result_of(Subject("recipe", "adamw", "resnet50", workload, BYTES), implementation, run)
