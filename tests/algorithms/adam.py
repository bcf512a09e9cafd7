"""Adam."""

from __future__ import annotations

import torch

from sgdr_fused import FusedAdam, reference

from . import _operands
from ._bad_arguments import COMMON, OF_ADAM
from ._declaration import Algorithm, Rule
from ._options import CHOICES_OF_MOMENTS, of_adam

ALGORITHM = Algorithm(
    name="adam",
    fused=FusedAdam,
    torch=torch.optim.Adam,
    in_torch=True,
    reference=reference.adam,
    defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    rule=Rule("Adam", states=(2, 3)),
    largest_operand=_operands.of_adam,
    has_step=True,
    takes_powers=True,
    denormal={"eps": 1.0},
    # beta2 = 0.5 lets the second moment fall, without which amsgrad's maximum is never taken;
    # beta1 = 0.4 takes the other branch of torch's lerp.
    cases={
        "adam": {},
        "adam_low_betas": {"betas": (0.4, 0.9), "eps": 1e-3},
        "adam_weight_decay": {"weight_decay": 0.1},
        "adam_amsgrad": {"amsgrad": True, "betas": (0.9, 0.5), "weight_decay": 0.1},
        "adam_maximize": {"maximize": True, "weight_decay": 0.1},
        "adam_decoupled": {"decoupled_weight_decay": True, "weight_decay": 0.1},
    },
    fuzzed=("adam", "adam_weight_decay", "adam_amsgrad"),
    bad_arguments=(*COMMON, *OF_ADAM),
    schedulable=(("adam_amsgrad", "weight_decay"), ("adam_amsgrad", "betas")),
    momentum_off_and_on=(),
    group_options=({"amsgrad": True, "betas": (0.5, 0.5)}, {}, {"eps": 0.1}, {"weight_decay": 0.1}),
    choices={**CHOICES_OF_MOMENTS, "amsgrad": (False, True), "decoupled_weight_decay": (False, True)},
    reference_options=of_adam(),
    traffic={"adam": 2, "adam_amsgrad": 3},
    traffic_in_all_types=True,
)
