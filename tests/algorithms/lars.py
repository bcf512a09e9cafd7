"""LARS, with the options of SGD."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sgdr_fused import FusedLARS, reference

from . import _operands
from ._bad_arguments import EPS, NAN, OF_SGD, WITHOUT_DIFFERENTIABLE
from ._declaration import Algorithm, Options, Rule, Tensors
from ._one_by_one import OneByOne, norm_of, ratio_of
from ._options import combinations, with_and_without_decay


class LARS(OneByOne):
    """You, Gitman & Ginsburg (2017), algorithm 1, with the options of torch.optim.SGD."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        adapts: bool = True,
        maximize: bool = False,
        momentum_form: str = "classical",
    ) -> None:
        defaults = {key: value for key, value in locals().items() if key not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        decay, classical = group["weight_decay"], group["momentum_form"] == "classical"
        local = 1.0
        if group["adapts"]:
            of_p, of_g = norm_of(p), norm_of(g)
            local = ratio_of(group["trust_coefficient"] * of_p, of_g + decay * of_p + group["eps"], of_p, of_g)
        if decay != 0:
            g = g + decay * p
        v = local * g * group["lr"] if classical else local * g
        if group["momentum"] != 0:
            state = self.state[p]
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(group["momentum"]).add_(v * (1 - group["dampening"]))
            else:
                state["momentum_buffer"] = v.clone()
            m = state["momentum_buffer"]
            v = v + group["momentum"] * m if group["nesterov"] else m
        p.sub_(v if classical else group["lr"] * v)


def largest_operand(
    hyper: Options, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int
) -> dict[str, Tensor]:
    of_param, of_grad = old["param"].norm(), grad.double().norm()
    ratio = 1.0
    if of_param != 0 and of_grad != 0:
        denominator = of_grad + hyper.get("weight_decay", 0.0) * of_param + hyper["eps"]
        ratio = float(hyper["trust_coefficient"] * of_param / denominator)
    inside, outside = (lr * ratio, 1.0) if hyper["momentum_form"] == "classical" else (ratio, lr)
    g = inside * _operands.gradient(hyper, old, grad)
    m = g + _operands.state(old, "momentum_buffer")
    return {"momentum_buffer": m, "param": _operands.param(old, new, outside * (g + m))}


ALGORITHM = Algorithm(
    name="lars",
    fused=FusedLARS,
    torch=LARS,
    in_torch=False,
    reference=reference.lars,
    defaults={"trust_coefficient": 1e-3, "eps": 1e-8, "momentum": 0.9, "momentum_form": "classical"},
    rule=Rule("Lars", states=(0, 1), measured_states=0),
    largest_operand=largest_operand,
    per_tensor=True,
    has_step=False,
    takes_powers=False,
    denormal={"eps": 0.0},  # beside it stand norms as small
    # The default trust coefficient is for large batches.
    cases={
        "lars": {"trust_coefficient": 0.5, "nesterov": True, "weight_decay": 0.1},
        "lars_torch": {
            "trust_coefficient": 0.5,
            "eps": 1.0,
            "dampening": 0.3,
            "momentum_form": "torch",
            "maximize": True,
        },
        "lars_plain": {"trust_coefficient": 0.5, "momentum": 0.0, "weight_decay": 0.1},
    },
    fuzzed=(),  # which compares with torch's own classes
    bad_arguments=(
        *WITHOUT_DIFFERENTIABLE,
        *OF_SGD,
        *EPS,
        ("nesterov_without_momentum", {"nesterov": True, "momentum": 0}, "nesterov", "momentum"),
        ("trust_coefficient_negative", {"trust_coefficient": -0.25}, "trust_coefficient", -0.25),
        ("trust_coefficient_nan", {"trust_coefficient": NAN}, "trust_coefficient", "nan"),
        ("adapts_a_number", {"adapts": 1}, "adapts", 1),
    ),
    schedulable=(("lars", "momentum"), ("lars", "weight_decay")),
    momentum_off_and_on=("lars_torch",),
    group_options=({"adapts": False}, {}, {"trust_coefficient": 0.1, "eps": 0.1}, {"momentum_form": "torch"}),
    choices={
        "momentum": (0, 0.9),
        "dampening": (0, 0.3),
        "nesterov": (False, True),
        "momentum_form": ("classical", "torch"),
        "adapts": (True, False),
        "trust_coefficient": (0.01,),
    },
    reference_options=with_and_without_decay(
        {"trust_coefficient": 0.5, "eps": 1.0, **options}
        for options in combinations(momentum=(0, 0.9), momentum_form=("classical", "torch"), adapts=(False, True))
    ),
    traffic={"lars": 1},
    traffic_in_all_types=True,
)
