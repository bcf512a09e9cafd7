"""Parameters with names, in groups, that are trained by their names whatever their order is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bits import bits
from torch import nn

SHAPES: dict[str, tuple[int, ...]] = {"a": (3,), "b": (3,), "c.weight": (2, 2), "c.bias": (2,), "d": ()}
Groups = Sequence[Sequence[str]]


def parameters(names: Sequence[str] = tuple(SHAPES), prefix: str = "") -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    return {prefix + name: nn.Parameter(values[name]) for name in names}


def grouped(params: dict[str, nn.Parameter], groups: Groups, decays: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"params": [(name, params[name]) for name in names], "weight_decay": decay}
        for names, decay in zip(groups, decays, strict=True)
    ]


def train(opt: Any, params: dict[str, nn.Parameter], steps: range) -> None:
    """Steps with gradients that depend on the parameter's name and the step, not on its place."""
    for t in steps:
        for name, param in params.items():
            seed = 1000 * t + sum(map(ord, name.rpartition("module.")[2]))
            param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        opt.step()


def states(opt: Any, params: dict[str, nn.Parameter]) -> dict[str, dict[str, Any]]:
    return {name: {key: bits(value) for key, value in opt.state[param].items()} for name, param in params.items()}
