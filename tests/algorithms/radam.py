"""RAdam."""

from __future__ import annotations

import torch
from torch import Tensor

from sgdr_fused import FusedRAdam, reference

from . import _operands
from ._bad_arguments import COMMON, OF_ADAM
from ._declaration import Algorithm, Options, Rule, Tensors
from ._options import CHOICES_OF_MOMENTS, MOMENTS, with_and_without_decay

# The second moment is divided by from the sixth step on; with those of MOMENTS below it never is.
EARLY = {"betas": (0.4, 0.9), "eps": 1e-3}


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = _operands.gradient(hyper, old, grad)
    beta1, beta2 = hyper["betas"]
    m = _operands.average(beta1, _operands.state(old, "exp_avg"), g)
    v = _operands.state(old, "exp_avg_sq") + (1 - beta2) * g * g
    update = lr / (1 - beta1**step) * m
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * step * beta2**step / (1 - beta2**step)
    if length > 5:
        variances = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        update = update * (variances * (1 - beta2**step)) ** 0.5 / (new["exp_avg_sq"].sqrt() + hyper["eps"])
    return {"exp_avg": m, "exp_avg_sq": v, "param": _operands.param(old, new, update)}


ALGORITHM = Algorithm(
    name="radam",
    fused=FusedRAdam,
    torch=torch.optim.RAdam,
    in_torch=True,
    reference=reference.radam,
    defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    rule=Rule("RAdam", states=(2, 2)),
    largest_operand=largest_operand,
    has_step=True,
    takes_powers=True,
    denormal={"eps": 1.0},
    cases={
        "radam": {},
        "radam_low_betas": {**EARLY, "weight_decay": 0.1, "maximize": True},
        "radam_decoupled": {"betas": (0.9, 0.5), "decoupled_weight_decay": True, "weight_decay": 0.1},
    },
    fuzzed=("radam",),
    bad_arguments=(*COMMON, *OF_ADAM),
    schedulable=(("radam", "betas"), ("radam_decoupled", "weight_decay")),
    momentum_off_and_on=(),
    group_options=(
        EARLY,
        {},
        {"betas": (0.5, 0.5)},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    choices={**CHOICES_OF_MOMENTS, "decoupled_weight_decay": (False, True)},
    reference_options=with_and_without_decay(
        {**moments, "decoupled_weight_decay": decoupled} for moments in (*MOMENTS, EARLY) for decoupled in (False, True)
    ),
    traffic={"radam": 2},
)
