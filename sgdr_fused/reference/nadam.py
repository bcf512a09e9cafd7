"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._shared import interpolate, widest_dtype


@torch.no_grad()
def nadam(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    momentum_decay: float = 4e-3,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> None:
    """One step of NAdam, as ``torch.optim.NAdam``.

    With ``(b1, b2) = betas``, the step number k, from 1, and the momenta
    ``mu(k) = b1 * (1 - 0.5 * 0.96**(k * momentum_decay))``::

        g = grad + weight_decay * p               (of -grad with maximize), or
        p = p - lr * weight_decay * p             with decoupled_weight_decay
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        P = P * mu(k)
        n = (1 - mu(k)) / (1 - P) * g + mu(k + 1) / (1 - P * mu(k + 1)) * m
        p = p - lr * n / (sqrt(v) / sqrt(1 - b2**k) + eps)

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` and ``mu_product`` (P; both 0-dim float64), ``exp_avg`` (m) and ``exp_avg_sq``
            (v) of this parameter; made where absent, which is its first step, m and v from 0, P from 1.
        lr: rate, >= 0.
        betas: decay of the two moments, both in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor on the parameter, >= 0.
        momentum_decay: the larger, the sooner mu has risen to b1, >= 0.
        maximize: climb instead of descending.
        decoupled_weight_decay: shrink the parameter itself, not through the gradient.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> options = {"betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.0, "momentum_decay": 0.0}
        >>> nadam(p, torch.tensor([2.0]), state, lr=0.75, **options)
        >>> p, state["exp_avg"], state["mu_product"]  # n = 2 + 4 / 15
        (tensor([0.1500]), tensor([1.]), tensor(0.2500, dtype=torch.float64))

    Source: Dozat, "Incorporating Nesterov momentum into Adam" (2016), algorithm 2 with the momenta
    after Sutskever et al. (2013).
    """
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
        state["mu_product"] = torch.ones((), dtype=torch.float64, device=param.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
    dtype = widest_dtype(param, state["exp_avg"], state["exp_avg_sq"])
    state["step"] += 1
    step = state["step"].item()
    beta1, beta2 = betas
    mu, next_mu = (beta1 * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (step, step + 1))
    state["mu_product"] *= mu
    product = state["mu_product"].item()

    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        if decoupled_weight_decay:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
    m = interpolate(state["exp_avg"].to(dtype), g, 1 - beta1)
    v = beta2 * state["exp_avg_sq"].to(dtype) + (1 - beta2) * g * g
    state["exp_avg"].copy_(m)
    state["exp_avg_sq"].copy_(v)
    n = lr * (1 - mu) / (1 - product) * g + lr * next_mu / (1 - product * next_mu) * m
    param.copy_(p - n / (v.sqrt() / math.sqrt(1 - beta2**step) + eps))
