"""Adadelta, written from the paper in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import widest_dtype


@torch.no_grad()
def adadelta(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    maximize: bool = False,
) -> None:
    """One step of Adadelta, as ``torch.optim.Adadelta``.

    ::

        g = grad + weight_decay * p               (of -grad with maximize)
        v = rho * v + (1 - rho) * g**2
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d**2
        p = p - lr * d

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64), ``square_avg`` (v) and ``acc_delta`` (u) of this parameter;
            made where absent, which is its first step.
        lr: rate, >= 0; 1 in the paper.
        rho: decay of the averages, in [0, 1].
        eps: added inside the roots, >= 0.
        weight_decay: factor on the parameter that is added to the gradient, >= 0.
        maximize: climb instead of descending.

    Example:
        >>> p, state = torch.tensor([2.0]), {}
        >>> adadelta(p, torch.tensor([4.0]), state, rho=0.5, eps=1.0)
        >>> p, state["square_avg"], state["acc_delta"]
        (tensor([0.6667]), tensor([8.]), tensor([0.8889]))

    Source: Zeiler, "ADADELTA: an adaptive learning rate method" (2012), algorithm 1.
    """
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
        state["square_avg"], state["acc_delta"] = torch.zeros_like(param), torch.zeros_like(param)
    dtype = widest_dtype(param, state["square_avg"], state["acc_delta"])
    state["step"] += 1

    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + weight_decay * p
    v = rho * state["square_avg"].to(dtype) + (1 - rho) * g * g
    u = state["acc_delta"].to(dtype)
    d = (u + eps).sqrt() / (v + eps).sqrt() * g
    state["square_avg"].copy_(v)
    state["acc_delta"].copy_(rho * u + (1 - rho) * d * d)
    param.copy_(p - lr * d)
