"""Lion."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sgdr_fused import FusedLion, reference

from . import _operands
from ._bad_arguments import OF_ADAM, WITHOUT_DIFFERENTIABLE
from ._declaration import Algorithm, Options, Rule, Tensors
from ._one_by_one import OneByOne
from ._options import MOMENTS, with_and_without_decay

BETAS = tuple({"betas": moments["betas"]} for moments in MOMENTS)


class Lion(OneByOne):
    """Chen et al. (2023), algorithm 2."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {key: value for key, value in locals().items() if key not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["exp_avg"] = torch.zeros_like(p)
        m = state["exp_avg"]
        c = torch.lerp(m, g, 1 - beta1)
        sign = torch.sign(c).masked_fill(c.isnan(), math.nan)  # torch.sign makes 0 of NaN, which hides it
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * sign)
        m.lerp_(g, 1 - beta2)


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = -grad.double() if hyper.get("maximize") else grad.double()
    beta1, beta2 = hyper["betas"]
    m = old.get("exp_avg", torch.zeros_like(old["param"]))
    direction, terms = beta1 * m + (1 - beta1) * g, beta1 * m.abs() + (1 - beta1) * g.abs()
    # Where rounding in float32 may decide on the sign, the parameter may go the other way, so 4 ulp are 2 lr.
    undecided = direction.abs() <= 1e-6 * terms
    update = torch.where(undecided & (terms > 0), lr * 2.0**23, lr)
    return {"exp_avg": _operands.average(beta2, m.abs(), g.abs()), "param": _operands.param(old, new, update)}


ALGORITHM = Algorithm(
    name="lion",
    fused=FusedLion,
    torch=Lion,
    in_torch=False,
    reference=reference.lion,
    defaults={"betas": (0.9, 0.99), "weight_decay": 0.0},
    rule=Rule("Lion", states=(1, 1)),
    largest_operand=largest_operand,
    has_step=False,
    takes_powers=False,
    denormal={},
    cases={
        "lion": {},
        "lion_low_betas": {"betas": (0.4, 0.3), "weight_decay": 0.1, "maximize": True},
    },
    fuzzed=(),  # which compares with torch's own classes
    bad_arguments=(*WITHOUT_DIFFERENTIABLE, *(bad for bad in OF_ADAM if "eps" not in bad[1])),
    schedulable=(("lion", "betas"), ("lion", "weight_decay")),
    momentum_off_and_on=(),
    group_options=({"betas": (0.5, 0.5)}, {}, {"weight_decay": 0.1}, {"maximize": True}),
    choices={"betas": ((0.9, 0.999), (0.4, 0.5))},
    reference_options=with_and_without_decay(BETAS),
    traffic={"lion": 1},
)
