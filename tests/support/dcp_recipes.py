"""Trainings whose gradients depend on the number of the step alone, so that the number of processes changes none.

A process without a process group trains plain tensors: it is the oracle. With a process group, the network is one of
FSDP2's, some of whose layers may also be shared out by tensor parallelism.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sharding
import torch
import torch.distributed as dist
from cases import values
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from sgdr_fused import EMA, FusedAdamW, FusedLAMB, FusedRMSprop, FusedSGD
from sgdr_fused.schedules import Constant, CosineWarmRestarts, LinearRamp, Triangular, TriangularMomentum

RATE = CosineWarmRestarts(0.1, T_0=3, T_mult=2, eta_min=0.01)  # it restarts at steps 3 and 9
DECAY = LinearRamp(0.1, 0.01, 8)
SEED = 12345  # of stochastic rounding
MOMENTUM = TriangularMomentum(0.8, 0.9, step_size_up=2)


@dataclass(frozen=True)
class Recipe:
    """An optimizer, and the gradients that it gets.

    Attributes:
        make: the optimizer's class.
        hyper: its arguments.
        dtype: the parameters'.
        of_vectors: what the second group has, where the biases and the norm's weight are; it has another rate.
        bad_step: a step with a gradient that is not finite, in one element of one parameter.
        rtol: how far the numbers may be from those of one process.
    """

    make: Any
    hyper: dict[str, Any]
    dtype: torch.dtype = torch.float32
    of_vectors: dict[str, Any] = field(default_factory=lambda: {"lr": Triangular(0.01, 0.05, step_size_up=3)})
    bad_step: int | None = None
    rtol: float = 0.0


# Where no norm is taken, each element goes its way alone, and nothing depends on the number of processes. Sums over
# processes are made in another order: in float64 each of a few hundred additions rounds by half of 2**-52, and LAMB
# multiplies the ratio of two such norms into each of the steps.
NORM_RTOL = 1e-13
RECIPES: dict[str, Recipe] = {
    "numbers": Recipe(FusedSGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, of_vectors={"lr": 0.02}),
    "sgd": Recipe(FusedSGD, {"lr": RATE}),
    "sgd_nesterov": Recipe(
        FusedSGD, {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY, "nesterov": True}, torch.float64
    ),
    "adamw_amsgrad": Recipe(
        FusedAdamW,
        {"lr": RATE, "betas": (MOMENTUM, 0.99), "weight_decay": DECAY, "amsgrad": True, "average": EMA(0.9)},
        torch.float64,
    ),
    "cycle_average": Recipe(FusedAdamW, {"lr": RATE, "average": "cycle", "skip_nonfinite": True}, bad_step=4),
    "master_weights": Recipe(FusedSGD, {"lr": RATE, "momentum": 0.9, "master_weights": True}, torch.bfloat16),
    "wide_states": Recipe(FusedAdamW, {"lr": RATE, "state_dtype": torch.float32}, torch.bfloat16),
    "rmsprop_centered": Recipe(FusedRMSprop, {"lr": 0.1 * RATE, "centered": True, "momentum": 0.5}),
    "adamw_numbers": Recipe(
        FusedAdamW, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}, torch.float64, of_vectors={"lr": 0.02}
    ),
    "sgd_numbers": Recipe(
        FusedSGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}, torch.float64, of_vectors={"lr": 0.02}
    ),
    "clipped": Recipe(FusedSGD, {"lr": RATE, "momentum": 0.9, "max_grad_norm": 0.5}, torch.float64, rtol=NORM_RTOL),
    "lamb": Recipe(FusedLAMB, {"lr": RATE, "weight_decay": 0.01}, torch.float64, rtol=10 * NORM_RTOL),
    "lamb_clipped": Recipe(
        FusedLAMB, {"lr": RATE, "max_grad_norm": 0.5, "average": EMA(0.9)}, torch.float64, rtol=10 * NORM_RTOL
    ),
    "stochastic": Recipe(
        FusedAdamW, {"lr": RATE, "stochastic_rounding": True}, torch.bfloat16, of_vectors={"lr": Constant(0.02)}
    ),
}


# ---- the network, and its steps


@functools.cache  # each makes process groups
def _mesh(layout: str) -> Any:
    size = dist.get_world_size()
    if layout == "hsdp":
        return init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("replicate", "shard"))
    if layout == "tensor_parallel":
        return init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("shard", "tensor"))
    return init_device_mesh("cpu", (size,), mesh_dim_names=("shard",))


def network(layout: str, dtype: torch.dtype) -> nn.Module:
    """Some of its parameters have parts of several sizes on four processes, and some have none on two of them."""
    layers = nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 7), nn.LayerNorm(7), nn.Linear(7, 2)
    model = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for index, param in enumerate(model.parameters()):
            param.copy_(values(param.shape, index))
    if dist.is_initialized():
        mesh = _mesh(layout)
        if layout == "tensor_parallel":  # the other layers have their parameters on a part of the mesh alone
            parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
            mesh = mesh["shard"]
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def grouped(model: nn.Module, of_vectors: dict[str, Any]) -> list[dict[str, Any]]:
    """The matrices, and then the vectors: not in the order in which the network has them."""
    params = list(model.parameters())
    return [
        {"params": [param for param in params if param.dim() > 1]},
        {"params": [param for param in params if param.dim() <= 1], **of_vectors},
    ]


class Training:
    """A network with its optimizer.

    Attributes:
        ended: the cycles whose end the optimizer has announced.
    """

    def __init__(self, recipe: str, layout: str = "fsdp", make: Any = None, seed: int = SEED) -> None:
        self.recipe = RECIPES[recipe]
        self.model = network(layout, self.recipe.dtype)
        groups = grouped(self.model, self.recipe.of_vectors)
        self.opt: Any = (make or self.recipe.make)(groups, **self.recipe.hyper)
        if self.recipe.hyper.get("stochastic_rounding"):
            self.opt.param_groups[0]["rounding_seed"] = seed
        self.ended: list[int] = []
        if isinstance(self.recipe.hyper["lr"], CosineWarmRestarts) and make is None:
            self.opt.register_cycle_end_hook(lambda _, index: self.ended.append(index))

    def train(self, steps: Iterable[int]) -> None:
        for step in steps:
            self.set_gradients(step)
            self.opt.step()
        self.opt.zero_grad()

    def set_gradients(self, step: int) -> None:
        for index, param in enumerate(self.model.parameters()):
            grad = values(param.shape, 104729 * (step + 1) + index, param.dtype)
            if step == self.recipe.bad_step and index == 0:
                grad[-1, -1] = float("inf")  # on one process alone
            param.grad = placed_as(param, grad)

    def result(self) -> dict[str, Any]:
        """All that the training is, whole."""
        names = {param: name for name, param in self.model.named_parameters()}
        groups = self.opt.param_groups
        state = self.opt.state_dict()["state"]
        params = [param for group in groups for param in group["params"]]
        counts = ("clock", "n_averaged", "rounding_seed", "skipped_steps")
        return {
            "params": {name: sharding.whole(param) for param, name in names.items()},
            "states": {
                names[param]: {key: sharding.whole(self.opt.state[param][key]) for key in sorted(state.get(i, {}))}
                for i, param in enumerate(params)
            },
            "counts": [{key: int(group[key]) for key in counts if key in group} for group in groups],
            "schedules": [
                {key: repr(value) for key, value in group.items() if key.endswith("_schedule")} for group in groups
            ],
            "rates": [float(group["lr"]) for group in groups],
            "ended": [*self.ended],
        }


def placed_as(param: Tensor, value: Tensor) -> Tensor:
    if not isinstance(param, DTensor):
        return value
    return sharding.distributed(value, (param.device_mesh, param.placements))
