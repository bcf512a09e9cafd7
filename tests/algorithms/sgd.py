"""SGD, in torch's form."""

from __future__ import annotations

import torch

from sgdr_fused import FusedSGD, reference

from . import _operands
from ._bad_arguments import COMMON, OF_SGD
from ._declaration import Algorithm, Rule
from ._options import named, of_momentum

ALGORITHM = Algorithm(
    name="sgd",
    fused=FusedSGD,
    torch=torch.optim.SGD,
    in_torch=True,
    reference=reference.sgd,
    defaults={},
    rule=Rule("Sgd", states=(0, 1)),
    largest_operand=_operands.of_sgd,
    has_step=False,
    takes_powers=False,
    denormal={},
    beyond_torch={"momentum_form": "torch"},
    cases={
        "sgd": {},
        "sgd_weight_decay": {"weight_decay": 0.1},
        "sgd_momentum": {"momentum": 0.9},
        "sgd_dampening": {"momentum": 0.9, "dampening": 0.3},
        "sgd_nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        "sgd_maximize": {"momentum": 0.8, "dampening": 0.1, "weight_decay": 0.1, "maximize": True},
    },
    fuzzed=("sgd", "sgd_weight_decay", "sgd_momentum", "sgd_dampening", "sgd_nesterov", "sgd_maximize"),
    bad_arguments=(
        *COMMON,
        *OF_SGD,
        ("nesterov_without_momentum", {"nesterov": True}, "nesterov", "momentum"),
    ),
    schedulable=(("sgd", "momentum"), ("sgd", "weight_decay")),
    momentum_off_and_on=("sgd_momentum",),
    group_options=(
        {"momentum": 0.9, "nesterov": True},
        {},
        {"momentum": 0.5, "dampening": 0.2},
        {"maximize": True},
    ),
    choices={"momentum": (0, 0.9), "dampening": (0, 0.3), "nesterov": (False, True)},
    reference_options=named(of_momentum()),
    traffic={"sgd": 0, "sgd_momentum": 1},
    traffic_in_all_types=True,
)
