"""What the tests of frameworks share: a small network, its data, optimizers of ours and of torch's, and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR
from warm_restarts import sgdr

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts
from sgdr_fused.training import InStepScheduler

SCHEDULE = CosineWarmRestarts(0.1, T_0=3, T_mult=2, eta_min=0.01)  # with restarts at steps 3 and 9
rate = sgdr(0.1, T_0=3, eta_min=0.01)
STEPS = 12
# Trainings that do the same operations in float64 differ by roundings of the rates and of the update alone.
CLOSE = {"rtol": 1e-12, "atol": 1e-14}
# What says that a number was written in place of a Schedule.
REPLACED = r"group\['lr'\] of group \d had a Schedule.*Constant\(.*InStepScheduler"

Maker = Callable[[nn.Module], tuple[Any, Any]]  # from a model to an optimizer and a scheduler, or None


# ---- a network and its data


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def inputs_and_targets(
    batches: int, dtype: torch.dtype = torch.float64, infinite: int | None = None
) -> tuple[Tensor, Tensor]:
    """Batches of four. An infinite input leaves the loss finite, and the gradients of its batch are NaN."""
    generator = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randn(4 * batches, n, generator=generator, dtype=torch.float64) for n in (4, 2))
    if infinite is not None:
        inputs[4 * infinite, 0] = torch.inf
    return inputs.to(dtype), targets.to(dtype)


def copy_gradients(model: nn.Module, other: nn.Module) -> None:
    """Gives the other network copies of the gradients of the first one."""
    for param, like in zip(model.parameters(), other.parameters(), strict=True):
        like.grad = param.grad.clone()


# ---- optimizers at the same rates


def ours(lr: Any = SCHEDULE, scheduled: bool = True, **options: Any) -> Maker:
    def make(model: nn.Module) -> tuple[Any, Any]:
        optimizer = FusedSGD(model.parameters(), lr=lr, momentum=0.9, **options)
        return optimizer, InStepScheduler(optimizer) if scheduled else None

    return make


def theirs(model: nn.Module) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return optimizer, CosineAnnealingWarmRestarts(optimizer, 3, 2, eta_min=0.01)


def our_adamw(model: nn.Module) -> tuple[Any, Any]:
    optimizer = FusedAdamW(model.parameters(), lr=SCHEDULE)
    return optimizer, InStepScheduler(optimizer)


def with_scheduler(cls: Any) -> Maker:
    """A class of ours or of torch's with a number for the rate, and a scheduler of torch's."""

    def make(model: nn.Module) -> tuple[Any, Any]:
        optimizer = cls(model.parameters(), lr=1.0)
        return optimizer, LambdaLR(optimizer, rate)

    return make


their_adamw = with_scheduler(torch.optim.AdamW)


# ---- comparisons


def assert_same_steps(actual: Any, expected: Any, steps: int = STEPS, **tolerance: float) -> None:
    """The parameters after each step, in ``params``, are alike, and they did move."""
    assert len(actual.params) == len(expected.params) == steps
    torch.testing.assert_close(actual.params, expected.params, **(tolerance or CLOSE))
    assert not torch.equal(actual.params[0][0], actual.params[-1][0])


def assert_close(model: nn.Module, other: nn.Module, rtol: float = 1e-11, atol: float = 1e-12) -> None:
    """In float64 they differ by the order of sums: 1e-16 a step, which Adam's quotients of gradients make larger."""
    for param, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(param, expected, rtol=rtol, atol=atol)


def replacements(caught: Any) -> int:
    """How many warnings say that a Schedule was replaced."""
    return sum("had a Schedule" in str(warning.message) for warning in caught)
