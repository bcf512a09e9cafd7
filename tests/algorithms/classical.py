"""SGD in its classical form, with the rate inside the momentum buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sgdr_fused import FusedSGD, reference

from . import _operands
from ._declaration import Algorithm, Rule
from ._options import name_of, of_momentum


class ClassicalSGD(torch.optim.SGD):
    """torch.optim.SGD, groups, states and checkpoints included, but for the arithmetic of its step."""

    def __init__(self, params: Any, *, momentum_form: str = "classical", **options: Any) -> None:
        assert momentum_form == "classical"
        super().__init__(params, **options)
        for values in (self.defaults, *self.param_groups):
            values["momentum_form"] = momentum_form

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, self.state[param], group)
        return loss

    def _update(self, p: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        g = -p.grad if group["maximize"] else p.grad
        if group["weight_decay"] != 0:
            g = g + group["weight_decay"] * p
        v = group["lr"] * g
        if group["momentum"] != 0:
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = v.clone()
            else:
                state["momentum_buffer"].mul_(group["momentum"]).add_(v * (1 - group["dampening"]))
            m = state["momentum_buffer"]
            v = v + group["momentum"] * m if group["nesterov"] else m
        p.sub_(v)


ALGORITHM = Algorithm(
    name="classical",
    fused=FusedSGD,
    torch=ClassicalSGD,
    in_torch=False,
    reference=reference.sgd,
    defaults={},
    rule=Rule("Sgd", states=(0, 1)),
    largest_operand=_operands.of_sgd,
    has_step=False,
    takes_powers=False,
    denormal={},
    cases={
        "classical": {"momentum": 0.9, "dampening": 0.3, "momentum_form": "classical"},
        "classical_nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "momentum_form": "classical"},
    },
    fuzzed=(),  # which compares with torch's own classes
    bad_arguments=(),  # those of sgd.py
    schedulable=(("classical", "momentum"),),
    momentum_off_and_on=("classical",),
    group_options=({"nesterov": True, "dampening": 0}, {}, {"momentum_form": "torch"}, {"maximize": True}),
    choices={
        "momentum": (0, 0.9),
        "dampening": (0, 0.3),
        "nesterov": (False, True),
        "momentum_form": ("classical",),
    },
    reference_options={
        name_of(options): {**options, "momentum_form": "classical"}
        for options in of_momentum()
        if not options["maximize"]
    },
    traffic={},  # the kernels of sgd.py
)
