"""RAdam: Adam that waits with its second moment until that is of enough gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._shared import interpolate, widest_dtype


@torch.no_grad()
def radam(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> None:
    """One step of RAdam, as ``torch.optim.RAdam``.

    With ``(b1, b2) = betas`` and the step number k, from 1::

        g = grad + weight_decay * p               (of -grad with maximize), or
        p = p - lr * weight_decay * p             with decoupled_weight_decay
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        R = 2 / (1 - b2) - 1,   r = R - 2 * k * b2**k / (1 - b2**k)
        u = sqrt((r - 4) * (r - 2) * R / ((R - 4) * (R - 2) * r)) * sqrt(1 - b2**k) / (sqrt(v) + eps)
                                                  where r > 5, else u = 1
        p = p - lr / (1 - b1**k) * u * m

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64), ``exp_avg`` (m) and ``exp_avg_sq`` (v) of this parameter; made
            where absent, which is its first step.
        lr: rate, >= 0.
        betas: decay of the two moments, both in [0, 1).
        eps: added to the root of v, >= 0.
        weight_decay: factor on the parameter, >= 0.
        maximize: climb instead of descending.
        decoupled_weight_decay: shrink the parameter itself, not through the gradient.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> options = {"betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.0}
        >>> radam(p, torch.tensor([2.0]), state, lr=0.25, **options)
        >>> p, state["exp_avg"], state["exp_avg_sq"]  # the first step is along the gradient
        (tensor([0.5000]), tensor([1.]), tensor([1.]))

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond" (2020), algorithm 2; r > 5 and
    the place of eps are torch's.
    """
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
    dtype = widest_dtype(param, state["exp_avg"], state["exp_avg_sq"])
    state["step"] += 1
    step = state["step"].item()
    beta1, beta2 = betas

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
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * step * beta2**step / (1 - beta2**step)
    update = lr / (1 - beta1**step) * m
    if length > 5:
        variances = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        update = update * math.sqrt(variances * (1 - beta2**step)) / (v.sqrt() + eps)
    param.copy_(p - update)
