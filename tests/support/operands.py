"""How large the sums of each algorithm are, which the error bounds are made of.

Each function takes (hyper, lr, old, grad, new, step): the algorithm's options, the rate, the parameter ("param") and
its states before and after step number `step`, and the gradient; all in float64. It returns, for the parameter and each
state, the largest number that enters each element's sums, as if none of them cancelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Hyper = Mapping[str, Any]


def _gradient(hyper: Hyper, old: Tensors, grad: Tensor) -> Tensor:
    coupled = 0.0 if hyper.get("decoupled_weight_decay") else hyper.get("weight_decay", 0.0)
    return grad.double().abs() + coupled * old["param"].abs()


def _state(old: Tensors, name: str) -> Tensor:
    return old.get(name, torch.zeros_like(old["param"])).abs()


def _average(hyper_decay: float, old: Tensor, g: Tensor) -> Tensor:
    return old + (1 - hyper_decay if 1 - hyper_decay < 0.5 else 1.0) * g


def _param(old: Tensors, new: Tensors, update: Tensor) -> Tensor:
    return torch.maximum(old["param"].abs() + update, new["param"].abs())


def sgd(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    inside, outside = (lr, 1.0) if hyper.get("momentum_form") == "classical" else (1.0, lr)
    g = inside * _gradient(hyper, old, grad)
    m = g + _state(old, "momentum_buffer")
    return {"momentum_buffer": m, "param": _param(old, new, outside * (g + m))}


def lars(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    of_param, of_grad = old["param"].norm(), grad.double().norm()
    ratio = 1.0
    if of_param != 0 and of_grad != 0:
        denominator = of_grad + hyper.get("weight_decay", 0.0) * of_param + hyper["eps"]
        ratio = float(hyper["trust_coefficient"] * of_param / denominator)
    inside, outside = (lr * ratio, 1.0) if hyper["momentum_form"] == "classical" else (ratio, lr)
    g = inside * _gradient(hyper, old, grad)
    m = g + _state(old, "momentum_buffer")
    return {"momentum_buffer": m, "param": _param(old, new, outside * (g + m))}


def lamb(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = grad.double().abs()
    beta1, beta2 = hyper["betas"]
    m = _average(beta1, _state(old, "exp_avg"), g)
    v = _state(old, "exp_avg_sq") + (1 - beta2) * g * g
    root = (new["exp_avg_sq"] / (1 - beta2**step)).sqrt() + hyper["eps"]
    decay = hyper["weight_decay"] * old["param"]
    of_param, of_update = old["param"].norm(), (new["exp_avg"] / (1 - beta1**step) / root + decay).norm()
    ratio = float(of_param / of_update) if of_param != 0 and of_update != 0 else 1.0
    update = lr * ratio * (m / (1 - beta1**step) / root + decay.abs())
    return {"exp_avg": m, "exp_avg_sq": v, "param": _param(old, new, update)}


def adam(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = _gradient(hyper, old, grad)
    beta1, beta2 = hyper["betas"]
    m = _average(beta1, _state(old, "exp_avg"), g)
    v = _state(old, "exp_avg_sq") + (1 - beta2) * g * g
    w = torch.maximum(v, old.get("max_exp_avg_sq", v))
    root = new.get("max_exp_avg_sq", new["exp_avg_sq"]).sqrt() / (1 - beta2**step) ** 0.5
    update = lr / (1 - beta1**step) * m / (root + hyper["eps"])
    return {"exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": w, "param": _param(old, new, update)}


def nadam(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = _gradient(hyper, old, grad)
    beta1, beta2 = hyper["betas"]
    *past, next_mu = (beta1 * (1 - 0.5 * 0.96 ** (k * hyper["momentum_decay"])) for k in range(1, step + 2))
    product = math.prod(past)
    m = _average(beta1, _state(old, "exp_avg"), g)
    v = _state(old, "exp_avg_sq") + (1 - beta2) * g * g
    along = (1 - past[-1]) / (1 - product) * g + next_mu / (1 - product * next_mu) * m
    update = lr * along / (new["exp_avg_sq"].sqrt() / (1 - beta2**step) ** 0.5 + hyper["eps"])
    return {"exp_avg": m, "exp_avg_sq": v, "param": _param(old, new, update)}


def adamax(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = _gradient(hyper, old, grad)
    beta1, _ = hyper["betas"]
    m = _average(beta1, _state(old, "exp_avg"), g)
    u = torch.maximum(_state(old, "exp_inf"), g + hyper["eps"])
    return {"exp_avg": m, "exp_inf": u, "param": _param(old, new, lr / (1 - beta1**step) * m / new["exp_inf"])}


def adagrad(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = _gradient(hyper, old, grad)
    update = lr / (1 + (step - 1) * hyper["lr_decay"]) * g / (new["sum"].sqrt() + hyper["eps"])
    return {"sum": torch.maximum(_state(old, "sum") + g * g, new["sum"]), "param": _param(old, new, update)}


def rmsprop(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = _gradient(hyper, old, grad)
    m = _average(hyper["alpha"], _state(old, "grad_avg"), g)
    v = _state(old, "square_avg") + (1 - hyper["alpha"]) * g * g
    variance = new["square_avg"] - _state(new, "grad_avg") ** 2
    # By as much as the difference of the squares is smaller than they are, its relative error is larger.
    update = g / (variance.sqrt() + hyper["eps"]) * v / variance
    b = hyper["momentum"] * _state(old, "momentum_buffer") + update
    return {"square_avg": v, "grad_avg": m, "momentum_buffer": b, "param": _param(old, new, lr * b)}


def adadelta(hyper: Hyper, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> dict[str, Tensor]:
    g = _gradient(hyper, old, grad)
    rho, eps = hyper["rho"], hyper["eps"]
    v = _state(old, "square_avg") + (1 - rho) * g * g
    delta = (_state(old, "acc_delta") + eps).sqrt() / (new["square_avg"] + eps).sqrt() * g
    u = _state(old, "acc_delta") + 2 * (1 - rho) * delta**2  # squaring doubles the relative error
    return {"square_avg": v, "acc_delta": u, "param": _param(old, new, lr * delta)}
