"""LARS and LAMB from their papers, in plain torch, for FusedLARS and FusedLAMB to be held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def ratio_of(numerator: float, denominator: float, *norms: float) -> float:
    return numerator / denominator if all(norm != 0 for norm in norms) else 1.0


def norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


class _Layerwise(torch.optim.Optimizer):
    """Steps through the parameters one by one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, -param.grad if group["maximize"] else param.grad, group)
        return loss

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


class LARS(_Layerwise):
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
            of_p, of_g = norm(p), norm(g)
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


class LAMB(_Layerwise):
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
        of_p, of_r = norm(p), norm(r)
        local = ratio_of(of_p, of_r, of_p, of_r) if group["adapts"] else 1.0
        p.sub_(group["lr"] * local * r)
