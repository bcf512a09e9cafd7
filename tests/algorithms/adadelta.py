"""Adadelta."""

from __future__ import annotations

import torch
from torch import Tensor

from sgdr_fused import FusedAdadelta, reference

from . import _operands
from ._bad_arguments import COMMON, EPS, NAN
from ._declaration import Algorithm, Options, Rule, Tensors
from ._options import with_and_without_decay


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = _operands.gradient(hyper, old, grad)
    rho, eps = hyper["rho"], hyper["eps"]
    v = _operands.state(old, "square_avg") + (1 - rho) * g * g
    delta = (_operands.state(old, "acc_delta") + eps).sqrt() / (new["square_avg"] + eps).sqrt() * g
    u = _operands.state(old, "acc_delta") + 2 * (1 - rho) * delta**2  # squaring doubles the relative error
    return {"square_avg": v, "acc_delta": u, "param": _operands.param(old, new, lr * delta)}


ALGORITHM = Algorithm(
    name="adadelta",
    fused=FusedAdadelta,
    torch=torch.optim.Adadelta,
    in_torch=True,
    reference=reference.adadelta,
    defaults={"rho": 0.9, "eps": 1e-6},
    rule=Rule("Adadelta", states=(2, 2)),
    largest_operand=largest_operand,
    has_step=True,
    takes_powers=False,
    denormal={"eps": 1.0},
    # With the default eps, the updates are lost in 16 bits.
    cases={
        "adadelta": {"eps": 1e-2},
        "adadelta_maximize": {"rho": 0.5, "eps": 1e-2, "weight_decay": 0.1, "maximize": True},
    },
    fuzzed=("adadelta",),
    bad_arguments=(
        *COMMON,
        *EPS,
        ("rho_negative", {"rho": -0.25}, "rho", -0.25),
        ("rho_above_one", {"rho": 1.25}, "rho", 1.25),
        ("rho_nan", {"rho": NAN}, "rho", "nan"),
    ),
    schedulable=(("adadelta", "weight_decay"),),
    momentum_off_and_on=(),
    group_options=({"rho": 0.5}, {}, {"eps": 0.1}, {"weight_decay": 0.1}),
    choices={"rho": (0.9, 0.5), "eps": (1e-6, 1e-2)},
    reference_options=with_and_without_decay(({"eps": 0.01}, {"rho": 0.5, "eps": 0.1})),
    traffic={"adadelta": 2},
)
