"""RMSprop."""

from __future__ import annotations

import torch
from torch import Tensor

from sgdr_fused import FusedRMSprop, reference

from . import _operands
from ._bad_arguments import COMMON, EPS, MOMENTUM, NAN
from ._declaration import Algorithm, Options, Rule, Tensors
from ._options import combinations, with_and_without_decay


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = _operands.gradient(hyper, old, grad)
    m = _operands.average(hyper["alpha"], _operands.state(old, "grad_avg"), g)
    v = _operands.state(old, "square_avg") + (1 - hyper["alpha"]) * g * g
    variance = new["square_avg"] - _operands.state(new, "grad_avg") ** 2
    # By as much as the difference of the squares is smaller than they are, its relative error is larger.
    update = g / (variance.sqrt() + hyper["eps"]) * v / variance
    b = hyper["momentum"] * _operands.state(old, "momentum_buffer") + update
    return {"square_avg": v, "grad_avg": m, "momentum_buffer": b, "param": _operands.param(old, new, lr * b)}


ALGORITHM = Algorithm(
    name="rmsprop",
    fused=FusedRMSprop,
    torch=torch.optim.RMSprop,
    in_torch=True,
    reference=reference.rmsprop,
    defaults={"alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
    rule=Rule("RMSprop", states=(1, 3)),
    largest_operand=largest_operand,
    has_step=True,
    takes_powers=False,
    denormal={"eps": 1.0},
    # With the default alpha, the buffer is many times the gradients.
    cases={
        "rmsprop": {"weight_decay": 0.1, "maximize": True},
        "rmsprop_momentum": {"alpha": 0.9, "momentum": 0.9},
        "rmsprop_centered": {"alpha": 0.9, "centered": True},
        "rmsprop_centered_momentum": {"alpha": 0.9, "centered": True, "momentum": 0.8, "weight_decay": 0.1},
    },
    fuzzed=("rmsprop_centered_momentum",),
    bad_arguments=(
        *COMMON,
        *MOMENTUM,
        *EPS,
        ("alpha_negative", {"alpha": -0.25}, "alpha", -0.25),
        ("alpha_nan", {"alpha": NAN}, "alpha", "nan"),
    ),
    schedulable=(("rmsprop", "weight_decay"), ("rmsprop", "momentum"), ("rmsprop_centered", "momentum")),
    momentum_off_and_on=("rmsprop_momentum", "rmsprop_centered_momentum"),
    group_options=({"centered": True}, {"momentum": 0.5}, {"centered": True, "momentum": 0.9}, {"alpha": 0.5}),
    choices={"momentum": (0, 0.9), "centered": (False, True), "alpha": (0.99, 0.9), "eps": (1e-8, 1e-2)},
    reference_options=with_and_without_decay(combinations(alpha=(0.9,), momentum=(0, 0.9), centered=(False, True))),
    traffic={"rmsprop_centered_momentum": 3},
)
