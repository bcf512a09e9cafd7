"""AdamW."""

from __future__ import annotations

import torch
from torch_features import DECOUPLED_ADAM

from sgdr_fused import FusedAdamW, reference

from . import _operands
from ._bad_arguments import COMMON, OF_ADAM
from ._declaration import Algorithm, Rule
from ._options import CHOICES_OF_MOMENTS, of_adam

ALGORITHM = Algorithm(
    name="adamw",
    fused=FusedAdamW,
    torch=torch.optim.AdamW,
    in_torch=True,
    beyond_torch={} if DECOUPLED_ADAM else {"decoupled_weight_decay": True},  # an entry of its groups
    reference=reference.adam,
    defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "decoupled_weight_decay": True},
    rule=Rule("Adam", states=(2, 3)),
    largest_operand=_operands.of_adam,
    has_step=True,
    takes_powers=True,
    denormal={"eps": 1.0},
    cases={
        "adamw": {},
        "adamw_amsgrad": {"amsgrad": True, "betas": (0.9, 0.5), "maximize": True, "weight_decay": 0.1},
    },
    fuzzed=("adamw", "adamw_amsgrad"),
    bad_arguments=(*COMMON, *OF_ADAM),
    schedulable=(("adamw", "weight_decay"), ("adamw", "betas")),
    momentum_off_and_on=(),
    group_options=({"amsgrad": True}, {"betas": (0.0, 0.9)}, {"maximize": True}, {"weight_decay": 0.5}),
    choices={**CHOICES_OF_MOMENTS, "amsgrad": (False, True)},
    reference_options=of_adam(),
    traffic={},  # the kernels of adam.py
)
