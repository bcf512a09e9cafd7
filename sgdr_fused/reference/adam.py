"""Adam, AMSGrad and AdamW, written from the papers in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._shared import interpolate, widest_dtype


@torch.no_grad()
def adam(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> None:
    """One step of Adam, AMSGrad or AdamW, as ``torch.optim.Adam`` and ``torch.optim.AdamW``.

    With ``(b1, b2) = betas`` and the step number k, from 1::

        g = grad + weight_decay * p               (of -grad with maximize), or
        p = p - lr * weight_decay * p             with decoupled_weight_decay
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = max(w, v)                             with amsgrad, else w = v
        p = p - lr / (1 - b1**k) * m / (sqrt(w) / sqrt(1 - b2**k) + eps)

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64), ``exp_avg`` (m), ``exp_avg_sq`` (v) and, with amsgrad,
            ``max_exp_avg_sq`` (w) of this parameter; made where absent, which is its first step.
        lr: rate, >= 0.
        betas: decay of the two moments, both in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor on the parameter, >= 0.
        amsgrad: divide by the largest second moment so far, not by the current one.
        maximize: climb instead of descending.
        decoupled_weight_decay: shrink the parameter itself, not through the gradient (AdamW).

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> options = {"betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.0}
        >>> adam(p, torch.tensor([2.0]), state, lr=0.5, **options)
        >>> p, state["exp_avg"], state["exp_avg_sq"]  # the first step is as long as the rate
        (tensor([0.5000]), tensor([1.]), tensor([1.]))

    Sources: Kingma & Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1; Reddi,
    Kale & Kumar, "On the convergence of Adam and beyond" (2018), algorithm 2, whose maximum is
    taken of the uncorrected v; Loshchilov & Hutter, "Decoupled weight decay regularization"
    (2019), algorithm 2.
    """
    names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if amsgrad else [])
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
    for name in names:
        if name not in state:
            state[name] = torch.zeros_like(param)
    dtype = widest_dtype(param, *(state[name] for name in names))
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
    if amsgrad:
        v = torch.maximum(state["max_exp_avg_sq"].to(dtype), v)
        state["max_exp_avg_sq"].copy_(v)
    denominator = v.sqrt() / math.sqrt(1 - beta2**step) + eps
    param.copy_(p - lr / (1 - beta1**step) * (m / denominator))
