"""What is a step per parameter worth, taken as soon as backward() has made the gradient, which is still in the cache?

The update is a large part of the training step that is timed: it has wide layers and a small batch. For a step per
parameter, each parameter has an optimizer, and its gradient is freed at once. Before the timing, all implementations
have to reach the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from implementations import ALGORITHMS, LR, RESTARTS
from racing import CLOCK, OURS, Steps, race
from results import Subject
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from workloads import Group, Workload

from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.benchmark(timer=CLOCK)

LAYERS, WIDTH, BATCH = 12, 1024, 8
SECONDS = 15.0
CHECKED_STEPS = 3

TORCH, NO_OPTIMIZER, IN_BACKWARD = "torch fused", "no optimizer", ", in backward"
IMPLEMENTATIONS = (OURS, OURS + IN_BACKWARD, TORCH, TORCH + IN_BACKWARD, NO_OPTIMIZER)


def wide_layers(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(m for _ in range(LAYERS) for m in (nn.Linear(width, width), nn.ReLU())))


def update_of(algorithm: str, implementation: str, params: Iterable[Tensor]) -> Callable[[], None]:
    """A step of these parameters and of its schedule."""
    torch_class, fused_class, options, _ = ALGORITHMS[algorithm]
    if implementation.startswith(OURS):
        opt = fused_class(params, lr=CosineWarmRestarts(LR, **RESTARTS), **options)
        return opt.step
    opt = torch_class(params, lr=LR, fused=True, **options)
    scheduler = CosineAnnealingWarmRestarts(opt, **RESTARTS)

    def update() -> None:
        opt.step()
        scheduler.step()

    return update


def step_of(algorithm: str, implementation: str, model: nn.Module, width: int) -> Callable[[], None]:
    inputs = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(0))
    update: Callable[[], Any] = lambda: None  # noqa: E731
    if implementation.endswith(IN_BACKWARD):
        updates = {param: update_of(algorithm, implementation, [param]) for param in model.parameters()}

        def arrived(param: Tensor) -> None:
            updates[param]()
            param.grad = None

        for param in updates:
            param.register_post_accumulate_grad_hook(arrived)
    elif implementation != NO_OPTIMIZER:
        update = update_of(algorithm, implementation, model.parameters())

    def step() -> None:
        model.zero_grad()
        model(inputs).square().mean().backward()
        update()

    return step


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_backward(result_of: Any, pace: Any, smoke: bool, algorithm: str, implementation: str) -> None:
    width = 32 if smoke else WIDTH
    workload = Workload([Group([tuple(param.shape) for param in wide_layers(width).parameters()])])

    def run() -> Any:
        models = {name: wide_layers(width) for name in IMPLEMENTATIONS}
        steps: Steps = {name: step_of(algorithm, name, model, width) for name, model in models.items()}
        for step in steps.values():
            for _ in range(CHECKED_STEPS):
                step()
        weights = {name: list(model.parameters()) for name, model in models.items()}
        torch.testing.assert_close(weights[OURS + IN_BACKWARD], weights[OURS], rtol=0, atol=0)
        for name in (TORCH, TORCH + IN_BACKWARD):
            torch.testing.assert_close(weights[name], weights[OURS], rtol=1e-4, atol=1e-5)
        return race(steps, lambda name, number: None, pace(SECONDS)), {}

    result_of(Subject("in backward", algorithm, "wide_layers", workload), implementation, run)
