"""How long does the usual recipe take, by five calls of torch or one of ours: unscale, clip, AdamW, schedule, average?

Before the timing, all implementations have to reach the same weights and averages.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from limit import Limit
from racing import CLOCK, LIMIT, OURS, Steps, race
from recipe import BYTES, FORMS, Recipe, by_torch, by_us
from results import Subject
from torch import Tensor
from workloads import WORKLOADS, Workload

pytestmark = pytest.mark.benchmark(timer=CLOCK)

SCALE = 1024.0
SECONDS = 25.0
CHECKED_STEPS = 3

THROUGH_SCALER = "sgdr_fused, GradScaler.step"
IMPLEMENTATIONS = (OURS, THROUGH_SCALER, *FORMS, LIMIT)


def parameters(workload: Workload) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in workload.shapes]


class Gradients:
    """Gradients at other addresses in each round, with the same values, although the steps write to them."""

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
    """Asserts that all reach the same weights and averages in a few steps, so that they do the same work."""
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
            OURS: by_us(parameters(workload), SCALE),
            THROUGH_SCALER: by_us(parameters(workload), SCALE, through_scaler=True),
            **{name: by_torch(parameters(workload), SCALE, form) for name, form in FORMS.items()},
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
