"""The options with which the reference's updates are held to torch's, and torch beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from cases import (
    EVERY_ALGORITHM,
    NUMBERS,
    Algorithm,
    ids,
    values,
)
from torch import Tensor

# Two falls, a step at rate 0, and a rise.
RATES = (0.1, 0.075, 0.025, 0.1, 0.0, 0.09, 0.05, 0.02, 0.001, 0.03, 0.06, 0.09)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Options:
    """One set of options for both: those of torch's constructor are the keywords of ours."""

    algorithm: Algorithm
    hyper: Mapping[str, Any]
    id: str = field(default="", compare=False)

    @property
    def has_step(self) -> bool:
        return self.algorithm.has_step

    def update(self, param: Tensor, grad: Tensor, state: State, lr: float) -> None:
        self.algorithm.reference(param, grad, state, lr=lr, **{**self.algorithm.defaults, **self.hyper})


OPTIONS = tuple(
    Options(algorithm, hyper, id=f"{name}-{options}")
    for name, algorithm in EVERY_ALGORITHM.items()
    for options, hyper in algorithm.reference_options.items()
)


def pick(*names: str) -> list[Any]:
    """Some of OPTIONS, by id, for tests that are not about all combinations."""
    return ids(next(options for options in OPTIONS if options.id == name) for name in names)


TYPICAL = pick(
    "sgd-plain",
    "sgd-momentum=0.9-dampening=0.3-weight_decay=0.1",
    "sgd-momentum=0.9-weight_decay=0.1-nesterov",
    "adam-beta1=0.9-weight_decay=0.1",
    "adamw-beta1=0.4-weight_decay=0.1-amsgrad-maximize",
    "classical-momentum=0.9-weight_decay=0.1-nesterov",
    "nadam-betas=(0.4, 0.5)-eps=0.001-momentum_decay=0.5-decoupled_weight_decay-weight_decay=0.1-maximize",
    "adamax-betas=(0.4, 0.5)-eps=0.001-weight_decay=0.1-maximize",
    "adagrad-lr_decay=0.1-initial_accumulator_value=0.5-weight_decay=0.1-maximize",
    "rmsprop-alpha=0.9-momentum=0.9-centered-weight_decay=0.1-maximize",
    "adadelta-eps=0.01",
)


class Torch:
    """torch.optim on one parameter of its own."""

    def __init__(self, options: Options, start: Tensor, **implementation: Any) -> None:
        self.param = torch.nn.Parameter(start.clone())
        known = {key: value for key, value in implementation.items() if options.algorithm.takes(key)}
        self.opt = options.algorithm.torch([self.param], lr=1.0, **options.hyper, **known)

    def step(self, grad: Tensor, lr: float) -> None:
        self.param.grad = grad.to(self.param.dtype, copy=True)
        self.opt.param_groups[0]["lr"] = lr
        self.opt.step()

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the parameter and of its states, in float64, without the step counter."""
        return doubles(self.param, self.opt.state[self.param])


def doubles(param: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float64, without the step counter; SGD without momentum has None for a buffer."""
    tensors = {"param": param, **{k: v for k, v in state.items() if k not in NUMBERS and v is not None}}
    return {name: tensor.detach().double().clone() for name, tensor in tensors.items()}


def start_and_gradients(dtype: torch.dtype, shape: tuple[int, ...] = (7, 149)) -> tuple[Tensor, list[Tensor]]:
    gradients = [values(shape, 100 + t, dtype) for t in range(len(RATES))]
    return values(shape, 1, dtype), gradients
