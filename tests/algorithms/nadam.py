"""NAdam."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sgdr_fused import FusedNAdam, reference

from . import _operands
from ._bad_arguments import COMMON, NAN, OF_ADAM
from ._declaration import Algorithm, Options, Rule, Tensors
from ._options import CHOICES_OF_MOMENTS, MOMENTS, with_and_without_decay


class NAdam(torch.optim.NAdam):
    """torch's, with its product of momenta in float64: in float32, its rounding would hide ours."""

    def _init_group(self, *arguments: Any) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return super()._init_group(*arguments)
        finally:
            torch.set_default_dtype(before)


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = _operands.gradient(hyper, old, grad)
    beta1, beta2 = hyper["betas"]
    *past, next_mu = (beta1 * (1 - 0.5 * 0.96 ** (k * hyper["momentum_decay"])) for k in range(1, step + 2))
    product = math.prod(past)
    m = _operands.average(beta1, _operands.state(old, "exp_avg"), g)
    v = _operands.state(old, "exp_avg_sq") + (1 - beta2) * g * g
    along = (1 - past[-1]) / (1 - product) * g + next_mu / (1 - product * next_mu) * m
    update = lr * along / (new["exp_avg_sq"].sqrt() / (1 - beta2**step) ** 0.5 + hyper["eps"])
    return {"exp_avg": m, "exp_avg_sq": v, "param": _operands.param(old, new, update)}


ALGORITHM = Algorithm(
    name="nadam",
    fused=FusedNAdam,
    torch=NAdam,
    in_torch=True,
    reference=reference.nadam,
    defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "momentum_decay": 4e-3},
    rule=Rule("NAdam", states=(2, 2)),
    largest_operand=largest_operand,
    has_step=True,
    takes_powers=True,
    denormal={"eps": 1.0},
    cases={
        "nadam": {},
        "nadam_low_betas": {
            "betas": (0.4, 0.5),
            "eps": 1e-3,
            "momentum_decay": 0.5,
            "weight_decay": 0.1,
            "maximize": True,
        },
        "nadam_decoupled": {"momentum_decay": 0.0, "decoupled_weight_decay": True, "weight_decay": 0.1},
    },
    fuzzed=("nadam",),
    bad_arguments=(
        *COMMON,
        *OF_ADAM,
        ("momentum_decay_negative", {"momentum_decay": -0.25}, "momentum_decay", -0.25),
        ("momentum_decay_nan", {"momentum_decay": NAN}, "momentum_decay", "nan"),
    ),
    schedulable=(("nadam", "betas"), ("nadam_decoupled", "weight_decay")),
    momentum_off_and_on=(),
    group_options=(
        {"momentum_decay": 0.5},
        {},
        {"betas": (0.5, 0.5)},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    choices={**CHOICES_OF_MOMENTS, "momentum_decay": (4e-3, 0.5), "decoupled_weight_decay": (False, True)},
    reference_options=with_and_without_decay(
        {**moments, "momentum_decay": decay, "decoupled_weight_decay": decay == 0.5}
        for moments in MOMENTS
        for decay in (4e-3, 0.5)
    ),
    traffic={"nadam": 2},
)
