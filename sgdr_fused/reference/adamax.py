"""Adamax: Adam with the infinity norm in place of the second moment."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import interpolate, widest_dtype


@torch.no_grad()
def adamax(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool = False,
) -> None:
    """One step of Adamax, as ``torch.optim.Adamax``.

    With ``(b1, b2) = betas`` and the step number k, from 1::

        g = grad + weight_decay * p               (of -grad with maximize)
        m = b1 * m + (1 - b1) * g
        u = max(b2 * u, abs(g) + eps)
        p = p - lr / (1 - b1**k) * m / u

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64), ``exp_avg`` (m) and ``exp_inf`` (u) of this parameter; made
            where absent, which is its first step.
        lr: rate, >= 0.
        betas: decay of the two, both in [0, 1).
        eps: added to the gradient's magnitude, >= 0.
        weight_decay: factor on the parameter that is added to the gradient, >= 0.
        maximize: climb instead of descending.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> options = {"betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.0}
        >>> for g in (2.0, 1.0):
        ...     adamax(p, torch.tensor([g]), state, lr=0.375, **options)
        >>> p, state["exp_avg"], state["exp_inf"]
        (tensor([0.2917]), tensor([1.]), tensor([1.5000]))

    Source: Kingma & Ba, "Adam: a method for stochastic optimization" (2015), algorithm 2.
    """
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
        state["exp_avg"], state["exp_inf"] = torch.zeros_like(param), torch.zeros_like(param)
    dtype = widest_dtype(param, state["exp_avg"], state["exp_inf"])
    state["step"] += 1
    beta1, beta2 = betas

    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + weight_decay * p
    m = interpolate(state["exp_avg"].to(dtype), g, 1 - beta1)
    u = torch.maximum(beta2 * state["exp_inf"].to(dtype), g.abs() + eps)
    state["exp_avg"].copy_(m)
    state["exp_inf"].copy_(u)
    param.copy_(p - lr / (1 - beta1 ** state["step"].item()) * (m / u))
