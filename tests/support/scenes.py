"""A training in the middle of which lr_find runs, and all that it may not change."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bits import bits, snapshot
from cases import DEVICE, PRETEND, Case, Dropout
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from sgdr_fused import lr_find
from sgdr_fused._engine.update_counts import count_of
from sgdr_fused.schedules import CosineWarmRestarts, LinearRamp


class RunningNorm(nn.Module):
    """Stands for batch norm, which the emulator does not have."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.register_buffer("running_mean", torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.running_mean.mul_(0.9).add_(0.1 * x.detach().mean(dim=0))
        return (x - self.running_mean) * self.weight


class Tangled(nn.Module):
    """What a model may have: tied weights, batch norm, a frozen part in evaluation mode, dropout, a parameter that no
    optimizer has, buffers that are expanded, not saved, or replaced by the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        norm = RunningNorm if PRETEND else nn.BatchNorm1d
        self.norm, self.frozen = norm(4), norm(4)
        self.frozen.requires_grad_(False)
        self.dropout = Dropout()
        self.alone = nn.Parameter(torch.ones(4))
        self.last = nn.Linear(4, 1)
        self.register_buffer("mask", torch.ones(1).expand(4))
        self.register_buffer("count", torch.tensor(3), persistent=False)
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("later", None)
        self.calls = 0
        self.at_call: Callable[[int], None] = lambda call: None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.at_call(self.calls)
        self.mask.data[:1] += 1
        self.count += 1
        self.replaced = self.replaced + 1
        self.later = torch.ones(1)
        random.random()
        np.random.rand()
        self.tied.bias.requires_grad_(self.calls % 2 == 0)
        x = self.frozen(self.norm(self.tied(self.first(x)) * self.mask))
        return self.last(self.dropout(x) * self.alone)


@dataclasses.dataclass
class Scene:
    model: Tangled
    optimizer: Any
    loader: DataLoader[Any]
    scaler: torch.amp.GradScaler

    def train(self, steps: int) -> None:
        for _, (x, y) in zip(range(steps), self.loader, strict=False):
            self.optimizer.zero_grad()
            self.scaler.scale(mse_loss(self.model(x.to(DEVICE)), y.to(DEVICE))).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def find(self, **options: Any) -> Any:
        arguments = {"criterion": mse_loss, "num_steps": 12, "scaler": self.scaler, "val_loader": self.loader}
        return lr_find(self.model, self.optimizer, loader=self.loader, **{**arguments, **options})


RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: 0.05,
    "tensor": lambda: torch.tensor(0.05, device=DEVICE),
    "schedule": lambda: CosineWarmRestarts(0.05, T_0=3),
}


def scene(case: Case, rate: str = "schedule", steps_before: int = 3) -> Scene:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(24, 4), torch.randn(24, 1))
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(data, batch_size=8, sampler=sampler, generator=torch.Generator().manual_seed(2))
    model = Tangled().to(DEVICE)
    model.mask = model.mask[:1].detach().expand(4)
    model.frozen.eval()
    named = dict(model.named_parameters())
    del named["alone"]
    last = [named.pop(name) for name in ("last.weight", "last.bias")]
    decay = LinearRamp(0.0, 0.1, steps=9)
    groups = [{"params": list(named.values()), "weight_decay": decay}, {"params": last, "lr": 0.01}]
    optimizer = case.fused(groups, lr=RATES[rate]())
    made = Scene(model, optimizer, loader, torch.amp.GradScaler(DEVICE.type, init_scale=64.0, growth_interval=2))
    made.train(steps_before)
    return made


def counts(optimizer: Any) -> list[Any]:
    """The counts of updates that no state holds."""
    return [count_of(value) for state in optimizer.state.values() for value in state.values()]


def values(made: Scene) -> dict[str, Any]:
    """Everything that lr_find promises to restore, comparable with ==."""
    model, optimizer = made.model, made.optimizer
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {
        "tensors": {name: bits(tensor) for name, tensor in tensors.items()},
        "grads": {name: None if p.grad is None else bits(p.grad) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "optimizer": snapshot(optimizer),
        "steps": [None if n is None else bits(n) for n in counts(optimizer)],
        "keys": [[*optimizer.state], [list(group) for group in optimizer.param_groups]],
        "schedules": [group["lr_schedule"] for group in optimizer.param_groups],
        "scaling": [hasattr(optimizer, "grad_scale"), hasattr(optimizer, "found_inf")],
        "scaler": made.scaler.state_dict(),
        "generators": [bits(g.get_state()) for g in (made.loader.generator, made.loader.sampler.generator)],
        "torch": bits(torch.get_rng_state()),
        "cuda": bits(torch.cuda.get_rng_state()) if DEVICE.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    }


def identities(made: Scene) -> list[Any]:
    """The objects that others may hold: graphs, averages of the weights, the user."""
    model, optimizer = made.model, made.optimizer
    objects: list[Any] = [*model.parameters(), *(p.grad for p in model.parameters()), optimizer.clock]
    for module in model.modules():
        objects += [*module._parameters.values(), *module._buffers.values()]
    objects += [optimizer.state, optimizer.param_groups, *optimizer.param_groups]
    for state in optimizer.state.values():
        objects += [state, *state.values()]
    objects += counts(optimizer)
    for group in optimizer.param_groups:
        objects += [group["params"], *(value for value in group.values() if isinstance(value, Tensor))]
    return objects
