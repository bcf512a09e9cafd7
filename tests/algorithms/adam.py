"""Adam."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch_features import DECOUPLED_ADAM

from sgdr_fused import FusedAdam, reference

from . import _operands
from ._bad_arguments import COMMON, OF_ADAM
from ._declaration import Algorithm, Rule
from ._options import CHOICES_OF_MOMENTS, of_adam


class AdamOrAdamW(torch.optim.Adam):
    """For torch before 2.7, whose Adam has no ``decoupled_weight_decay``: AdamW is Adam with that."""

    __signature__ = inspect.signature(torch.optim.Adam)

    def __new__(cls, *args: Any, decoupled_weight_decay: bool = False, weight_decay: float = 0, **kwargs: Any) -> Any:
        made = torch.optim.AdamW if decoupled_weight_decay else torch.optim.Adam
        return made(*args, weight_decay=weight_decay, **kwargs)


AdamOrAdamW.__name__ = "Adam"  # as the tests of declarations want it

ALGORITHM = Algorithm(
    name="adam",
    fused=FusedAdam,
    torch=torch.optim.Adam if DECOUPLED_ADAM else AdamOrAdamW,
    in_torch=True,
    beyond_torch={} if DECOUPLED_ADAM else {"decoupled_weight_decay": False},
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
