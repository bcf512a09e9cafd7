"""LAMB: Adam whose rate is adapted to each parameter by a ratio of norms."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import interpolate, norm, widest_dtype


@torch.no_grad()
def lamb(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    maximize: bool = False,
    adapts: bool = True,
) -> None:
    """One step of LAMB.

    With ``(b1, b2) = betas`` and the step number k, from 1::

        m = b1 * m + (1 - b1) * g                 (of -grad with maximize)
        v = b2 * v + (1 - b2) * g * g
        r = m / (1 - b1**k) / (sqrt(v / (1 - b2**k)) + eps) + weight_decay * p
        p = p - lr * norm(p) / norm(r) * r

    The ratio of the norms is 1 where either is 0.

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64), ``exp_avg`` (m) and ``exp_avg_sq`` (v) of this parameter;
            made where absent, which is its first step.
        lr: rate, >= 0.
        betas: decay of the two moments, both in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor on the parameter, >= 0.
        maximize: climb instead of descending.
        adapts: False: the ratio is 1.

    Example:
        >>> p, state = torch.tensor([3.0, 4.0]), {}
        >>> options = {"betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 1.0}
        >>> lamb(p, torch.tensor([8.0, -6.0]), state, lr=0.5, **options)
        >>> p, state["exp_avg"]  # r = [1, -1] + [3, 4], of norm 5, as p's
        (tensor([1.0000, 2.5000]), tensor([ 4., -3.]))

    Source: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes" (2020), algorithm 2
    with the identity for phi.
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
    m = interpolate(state["exp_avg"].to(dtype), g, 1 - beta1)
    v = beta2 * state["exp_avg_sq"].to(dtype) + (1 - beta2) * g * g
    state["exp_avg"].copy_(m)
    state["exp_avg_sq"].copy_(v)
    r = m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + eps)
    if weight_decay != 0:
        r = r + weight_decay * p
    of_param, of_update = norm(p), norm(r)
    ratio = of_param / of_update if adapts and of_param != 0 and of_update != 0 else 1.0
    param.copy_(p - lr * ratio * r)
