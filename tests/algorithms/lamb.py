"""LAMB."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgdr_fused import FusedLAMB, reference

from . import _operands
from ._bad_arguments import OF_ADAM, WITHOUT_DIFFERENTIABLE
from ._declaration import Algorithm, Options, Rule, Tensors
from ._one_by_one import OneByOne, norm_of, ratio_of
from ._options import CHOICES_OF_MOMENTS, MOMENTS, with_and_without_decay


class LAMB(OneByOne):
    """You et al. (2020), algorithm 2."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        adapts: bool = True,
        maximize: bool = False,
    ) -> None:
        defaults = {key: value for key, value in locals().items() if key not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        step = state["step"].item()
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).add_((1 - beta2) * g * g)
        r = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + group["eps"])
        if group["weight_decay"] != 0:
            r = r + group["weight_decay"] * p
        of_p, of_r = norm_of(p), norm_of(r)
        local = ratio_of(of_p, of_r, of_p, of_r) if group["adapts"] else 1.0
        p.sub_(group["lr"] * local * r)


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    g = grad.double().abs()
    beta1, beta2 = hyper["betas"]
    m = _operands.average(beta1, _operands.state(old, "exp_avg"), g)
    v = _operands.state(old, "exp_avg_sq") + (1 - beta2) * g * g
    root = (new["exp_avg_sq"] / (1 - beta2**step)).sqrt() + hyper["eps"]
    decay = hyper["weight_decay"] * old["param"]
    of_param, of_update = old["param"].norm(), (new["exp_avg"] / (1 - beta1**step) / root + decay).norm()
    ratio = float(of_param / of_update) if of_param != 0 and of_update != 0 else 1.0
    update = lr * ratio * (m / (1 - beta1**step) / root + decay.abs())
    return {"exp_avg": m, "exp_avg_sq": v, "param": _operands.param(old, new, update)}


ALGORITHM = Algorithm(
    name="lamb",
    fused=FusedLAMB,
    torch=LAMB,
    in_torch=False,
    reference=reference.lamb,
    defaults={"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01},
    rule=Rule("Lamb", states=(2, 2), measured_states=2),
    largest_operand=largest_operand,
    per_tensor=True,
    has_step=True,
    takes_powers=True,
    denormal={"eps": 1.0},
    cases={
        "lamb": {},
        "lamb_low_betas": {"betas": (0.4, 0.5), "eps": 1e-3, "weight_decay": 0.0, "maximize": True},
    },
    fuzzed=(),  # which compares with torch's own classes
    bad_arguments=(*WITHOUT_DIFFERENTIABLE, *OF_ADAM, ("adapts_none", {"adapts": None}, "adapts", None)),
    schedulable=(("lamb", "betas"), ("lamb", "weight_decay")),
    momentum_off_and_on=(),
    group_options=({"adapts": False}, {}, {"betas": (0.5, 0.5)}, {"eps": 0.1, "weight_decay": 0.1}),
    choices={**CHOICES_OF_MOMENTS, "adapts": (True, False)},
    reference_options=with_and_without_decay(
        {**moments, "adapts": adapts} for moments in MOMENTS for adapts in (False, True)
    ),
    traffic={"lamb": 2},
    traffic_in_all_types=True,
)
