"""Adagrad, written from the paper in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import widest_dtype


@torch.no_grad()
def adagrad(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
) -> None:
    """One step of Adagrad, as ``torch.optim.Adagrad``.

    With the step number k, from 1::

        g = grad + weight_decay * p               (of -grad with maximize)
        s = s + g**2
        p = p - lr / (1 + (k - 1) * lr_decay) * g / (sqrt(s) + eps)

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64) and ``sum`` (s) of this parameter; made where absent, which
            is its first step.
        lr: rate, >= 0.
        lr_decay: lowers the rate from step to step, >= 0.
        weight_decay: factor on the parameter that is added to the gradient, >= 0.
        initial_accumulator_value: the sum before the first step, >= 0.
        eps: added to the denominator, >= 0.
        maximize: climb instead of descending.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> for g in (3.0, 4.0):
        ...     adagrad(p, torch.tensor([g]), state, lr=0.5, lr_decay=1.0)
        >>> p, state["sum"]
        (tensor([0.3000]), tensor([25.]))

    Source: Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization" (2011), figure 1, with the diagonal matrix.
    """
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
        state["sum"] = torch.full_like(param, initial_accumulator_value)
    dtype = widest_dtype(param, state["sum"])
    rate = lr / (1 + state["step"].item() * lr_decay)
    state["step"] += 1

    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + weight_decay * p
    s = state["sum"].to(dtype) + g * g
    state["sum"].copy_(s)
    param.copy_(p - rate * (g / (s.sqrt() + eps)))
