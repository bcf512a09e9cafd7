"""Adamax."""

from __future__ import annotations

import torch
from torch import Tensor

from sgdr_fused import FusedAdamax, reference

from . import _operands
from ._bad_arguments import COMMON, OF_ADAM
from ._declaration import Algorithm, Options, Rule, Tensors
from ._options import CHOICES_OF_MOMENTS, MOMENTS, with_and_without_decay


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = _operands.gradient(hyper, old, grad)
    beta1, _ = hyper["betas"]
    m = _operands.average(beta1, _operands.state(old, "exp_avg"), g)
    u = torch.maximum(_operands.state(old, "exp_inf"), g + hyper["eps"])
    return {"exp_avg": m, "exp_inf": u, "param": _operands.param(old, new, lr / (1 - beta1**step) * m / new["exp_inf"])}


ALGORITHM = Algorithm(
    name="adamax",
    fused=FusedAdamax,
    torch=torch.optim.Adamax,
    in_torch=True,
    reference=reference.adamax,
    defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    rule=Rule("Adamax", states=(2, 2)),
    largest_operand=largest_operand,
    has_step=True,
    takes_powers=True,
    denormal={"eps": 1.0},
    cases={
        "adamax": {},
        "adamax_low_betas": {"betas": (0.4, 0.5), "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
    },
    fuzzed=("adamax",),
    bad_arguments=(*COMMON, *OF_ADAM),
    schedulable=(("adamax", "betas"), ("adamax", "weight_decay")),
    momentum_off_and_on=(),
    group_options=({"betas": (0.5, 0.5)}, {}, {"eps": 0.1}, {"weight_decay": 0.1}),
    choices=CHOICES_OF_MOMENTS,
    reference_options=with_and_without_decay(MOMENTS),
    traffic={"adamax": 2},
)
