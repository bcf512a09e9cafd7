"""How large the sums of an algorithm are, which the error bounds are made of.

An algorithm's `largest_operand` takes (hyper, lr, old, grad, new, step): its options, the rate, the parameter ("param")
and its states before and after step number `step`, and the gradient; all in float64. It returns, for the parameter and
each state, the largest number that enters each element's sums, as if none of them cancelled. Here is what they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Hyper = Mapping[str, Any]


def gradient(hyper: Hyper, old: Tensors, grad: Tensor) -> Tensor:
    coupled = 0.0 if hyper.get("decoupled_weight_decay") else hyper.get("weight_decay", 0.0)
    return grad.double().abs() + coupled * old["param"].abs()


def state(old: Tensors, name: str) -> Tensor:
    return old.get(name, torch.zeros_like(old["param"])).abs()


def average(hyper_decay: float, old: Tensor, g: Tensor) -> Tensor:
    return old + (1 - hyper_decay if 1 - hyper_decay < 0.5 else 1.0) * g


def param(old: Tensors, new: Tensors, update: Tensor) -> Tensor:
    return torch.maximum(old["param"].abs() + update, new["param"].abs())


def of_sgd(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    inside, outside = (lr, 1.0) if hyper.get("momentum_form") == "classical" else (1.0, lr)
    g = inside * gradient(hyper, old, grad)
    m = g + state(old, "momentum_buffer")
    return {"momentum_buffer": m, "param": param(old, new, outside * (g + m))}


def of_adam(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = gradient(hyper, old, grad)
    beta1, beta2 = hyper["betas"]
    m = average(beta1, state(old, "exp_avg"), g)
    v = state(old, "exp_avg_sq") + (1 - beta2) * g * g
    w = torch.maximum(v, old.get("max_exp_avg_sq", v))
    root = new.get("max_exp_avg_sq", new["exp_avg_sq"]).sqrt() / (1 - beta2**step) ** 0.5
    update = lr / (1 - beta1**step) * m / (root + hyper["eps"])
    return {"exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": w, "param": param(old, new, update)}
