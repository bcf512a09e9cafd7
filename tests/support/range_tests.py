"""What the tests of lr_find share: a small network, its batches, a plain loop, and a model whose losses are given."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from cases import DEVICE
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sgdr_fused import FusedSGD, lr_find

START, END, STEPS = 1e-3, 0.5, 20


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double().to(DEVICE)


def batches(count: int, seed: int = 1, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(size, 5, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(x[:, :3], x[:, 3:] + x[:, :2]) for x in made]


def exponential(t: int) -> float:
    return START * (END / START) ** (t / (STEPS - 1))


def linear(t: int) -> float:
    return START + (END - START) * t / (STEPS - 1)


def plain_loop(model: nn.Module, optimizer: Any, loader: Any, rate: Callable[[int], float], steps: int) -> list[float]:
    """The losses of a loop as anybody would write it."""
    losses = []
    for t, (inputs, targets) in zip(range(steps), loader, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate(t)
        optimizer.zero_grad()
        loss = mse_loss(model(inputs.to(DEVICE)), targets.to(DEVICE))
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return losses


def close(actual: Tensor, expected: list[float]) -> None:
    """1e-10: 20 steps in float64, whose rates are right to 1e-12; the network amplifies that a little."""
    assert actual.device.type == "cpu"
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)


class Losses(nn.Module):
    """A model whose losses are given; ``asked`` batches were asked for by the last ``find``."""

    def __init__(self, losses: Callable[[int], float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64, device=DEVICE))
        self.losses, self.asked = losses, 0

    def find(self, **options: Any) -> Any:
        asked = 0

        def loss(model: nn.Module, batch: Any) -> Tensor:
            nonlocal asked
            asked += 1
            return self.losses(asked - 1) + 0 * self.weight.sum()

        optimizer = FusedSGD(self.parameters(), lr=0.1)
        result = lr_find(self, optimizer, None, [0], batch_to_loss=loss, **{"num_steps": 100, **options})
        self.asked = asked
        return result


def find_restored(
    loader: Any,
    model: nn.Module | None = None,
    criterion: Any = mse_loss,
    optimizer: Any = None,
    steps: int = 6,
    **options: Any,
) -> Any:
    """Runs lr_find with warnings as errors: a test that expects a warning says so."""
    model = model or nn.Linear(2, 2).to(DEVICE)
    optimizer = optimizer or FusedSGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        if not options.pop("warns", False):
            warnings.simplefilter("error")
        return lr_find(model, optimizer, criterion, loader, 1e-5, 1e-4, steps, progress=False, **options)


def pairs(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(torch.ones(3, 2), torch.zeros(3, 2))] * count
