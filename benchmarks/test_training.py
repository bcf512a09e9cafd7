"""How long does a whole training step of a small convolutional network take: forward, backward, step?

Before the timing, all implementations have to reach the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from implementations import ALGORITHMS, LR, RESTARTS
from racing import CLOCK, OURS, Steps, race
from results import Subject
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from workloads import Group, Workload

from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.benchmark(timer=CLOCK)

BATCH, SIZE = 8, 16  # images, pixels a side
SECONDS = 15.0
CHECKED_STEPS = 3

TORCH = {"torch for-loop": {"foreach": False}, "torch foreach": {"foreach": True}, "torch fused": {"fused": True}}
NO_OPTIMIZER = "no optimizer"
IMPLEMENTATIONS = (OURS, *TORCH, NO_OPTIMIZER)


class Trainer(NamedTuple):
    model: nn.Module
    step: Callable[[], None]


def small_cnn() -> nn.Module:
    """11 tensors, 26,266 parameters."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (SIZE // 8) ** 2, 10))


def trainer(algorithm: str, implementation: str) -> Trainer:
    model = small_cnn()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    torch_class, fused_class, options, _ = ALGORITHMS[algorithm]
    update: Callable[[], Any] = lambda: None  # noqa: E731
    move_on = update
    if implementation == OURS:
        opt = fused_class(model.parameters(), lr=CosineWarmRestarts(LR, **RESTARTS), **options)
        update = opt.step
    elif implementation in TORCH:
        opt = torch_class(model.parameters(), lr=LR, **TORCH[implementation], **options)
        update, move_on = opt.step, CosineAnnealingWarmRestarts(opt, **RESTARTS).step

    def step() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        update()
        move_on()

    return Trainer(model, step)


def check_alike(trainers: dict[str, Trainer]) -> None:
    for one in trainers.values():
        for _ in range(CHECKED_STEPS):
            one.step()
    expected = list(trainers["torch for-loop"].model.parameters())
    for name, one in trainers.items():
        if name != NO_OPTIMIZER:
            torch.testing.assert_close(list(one.model.parameters()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training(result_of: Any, pace: Any, algorithm: str, implementation: str) -> None:
    workload = Workload([Group([tuple(param.shape) for param in small_cnn().parameters()])])

    def run() -> Any:
        trainers = {name: trainer(algorithm, name) for name in IMPLEMENTATIONS}
        check_alike(trainers)
        steps: Steps = {name: one.step for name, one in trainers.items()}
        return race(steps, lambda name, number: None, pace(SECONDS)), {}

    result_of(Subject("training", algorithm, "small_cnn", workload), implementation, run)
