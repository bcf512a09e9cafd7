"""RMSprop with momentum and the centered form, written from the sources in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import interpolate, widest_dtype


@torch.no_grad()
def rmsprop(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> None:
    """One step of RMSprop, as ``torch.optim.RMSprop``.

    ::

        g = grad + weight_decay * p               (of -grad with maximize)
        v = alpha * v + (1 - alpha) * g**2
        m = alpha * m + (1 - alpha) * g           with centered, else m = 0
        d = g / (sqrt(v - m**2) + eps)
        b = momentum * b + d                      with momentum, else b = d
        p = p - lr * b

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64), ``square_avg`` (v), with momentum ``momentum_buffer`` (b) and
            with centered ``grad_avg`` (m) of this parameter; made where absent, from 0. The buffer is
            left alone where momentum is 0.
        lr: rate, >= 0.
        alpha: decay of the averages, >= 0.
        eps: added to the denominator, >= 0.
        weight_decay: factor on the parameter that is added to the gradient, >= 0.
        momentum: factor on the buffer, >= 0.
        centered: divide by the gradient's deviation from its mean.
        maximize: climb instead of descending.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> for g in (4.0, 2.0):
        ...     rmsprop(p, torch.tensor([g]), state, lr=0.125, alpha=0.75, eps=0.0, momentum=0.5)
        >>> p, state["square_avg"], state["momentum_buffer"]
        (tensor([0.5000]), tensor([4.]), tensor([2.]))

    Sources: Tieleman & Hinton, "Lecture 6.5: RMSProp" (2012); Graves, "Generating sequences with
    recurrent neural networks" (2013), equations 38 to 41, for centered and momentum.
    """
    needed = ["square_avg"]
    if momentum != 0:
        needed.append("momentum_buffer")
    if centered:
        needed.append("grad_avg")
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
    for name in needed:
        if name not in state:
            state[name] = torch.zeros_like(param)
    dtype = widest_dtype(param, *(state[name] for name in needed))
    state["step"] += 1

    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + weight_decay * p
    v = alpha * state["square_avg"].to(dtype) + (1 - alpha) * g * g
    state["square_avg"].copy_(v)
    if centered:
        m = interpolate(state["grad_avg"].to(dtype), g, 1 - alpha)
        state["grad_avg"].copy_(m)
        v = v - m * m
    update = g / (v.sqrt() + eps)
    if momentum != 0:
        update = momentum * state["momentum_buffer"].to(dtype) + update
        state["momentum_buffer"].copy_(update)
    param.copy_(p - lr * update)
