"""Adagrad."""

from __future__ import annotations

import torch
from torch import Tensor

from sgdr_fused import FusedAdagrad, reference

from . import _operands
from ._bad_arguments import COMMON, EPS, INF, NAN
from ._declaration import Algorithm, Options, Rule, Tensors
from ._options import combinations, with_and_without_decay


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = _operands.gradient(hyper, old, grad)
    update = lr / (1 + (step - 1) * hyper["lr_decay"]) * g / (new["sum"].sqrt() + hyper["eps"])
    return {
        "sum": torch.maximum(_operands.state(old, "sum") + g * g, new["sum"]),
        "param": _operands.param(old, new, update),
    }


ALGORITHM = Algorithm(
    name="adagrad",
    fused=FusedAdagrad,
    torch=torch.optim.Adagrad,
    in_torch=True,
    reference=reference.adagrad,
    defaults={"lr_decay": 0.0, "eps": 1e-10},
    rule=Rule("Adagrad", states=(1, 1)),
    largest_operand=largest_operand,
    has_step=True,
    takes_powers=False,
    denormal={"eps": 1.0},
    cases={
        "adagrad": {},
        "adagrad_decay": {
            "lr_decay": 0.1,
            "initial_accumulator_value": 0.5,
            "weight_decay": 0.1,
            "maximize": True,
        },
    },
    fuzzed=(),  # which expects states to be made by a first step
    bad_arguments=(
        *COMMON,
        *EPS,
        ("lr_decay_negative", {"lr_decay": -0.25}, "lr_decay", -0.25),
        ("lr_decay_nan", {"lr_decay": NAN}, "lr_decay", "nan"),
        ("initial_value_negative", {"initial_accumulator_value": -0.25}, "initial_accumulator_value", -0.25),
        ("initial_value_infinite", {"initial_accumulator_value": INF}, "initial_accumulator_value", "inf"),
        ("initial_value_text", {"initial_accumulator_value": "x"}, "initial_accumulator_value", "x"),
    ),
    schedulable=(("adagrad", "weight_decay"),),
    momentum_off_and_on=(),
    group_options=({"lr_decay": 0.5}, {}, {"eps": 0.1}, {"initial_accumulator_value": 0.5}),
    choices={"lr_decay": (0, 0.1), "initial_accumulator_value": (0, 0.5), "eps": (1e-10, 1e-2)},
    reference_options=with_and_without_decay(combinations(lr_decay=(0, 0.1), initial_accumulator_value=(0, 0.5))),
    traffic={"adagrad": 1},
)
