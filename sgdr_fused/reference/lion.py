"""Lion: along the sign of a moment of the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import interpolate, widest_dtype


@torch.no_grad()
def lion(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    maximize: bool = False,
) -> None:
    """One step of Lion.

    With ``(b1, b2) = betas``::

        g = grad                                  (-grad with maximize)
        c = b1 * m + (1 - b1) * g
        p = p - lr * (sign(c) + weight_decay * p)
        m = b2 * m + (1 - b2) * g

    The sign of 0 is 0, and the sign of NaN is NaN (``torch.sign`` makes it 0).

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``exp_avg`` (m) of this parameter; made where absent, which is its first step.
        lr: rate, >= 0.
        betas: how much of m is in the direction, and how much stays in m; both in [0, 1).
        weight_decay: by what the parameter shrinks, as a part of the rate, >= 0.
        maximize: climb instead of descending.

    Example:
        >>> p, state = torch.tensor([1.0, 1.0]), {}
        >>> for g in ([4.0, 0.0], [-2.0, 0.0]):
        ...     lion(p, torch.tensor(g), state, lr=0.25, betas=(0.75, 0.5), weight_decay=0.0)
        >>> p, state["exp_avg"]  # the second direction is 0.75 * 2 - 0.25 * 2
        (tensor([0.5000, 1.0000]), tensor([0., 0.]))

    Source: Chen et al., "Symbolic discovery of optimization algorithms" (2023), algorithm 2.
    """
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(param)
    dtype = widest_dtype(param, state["exp_avg"])
    beta1, beta2 = betas

    p, g, m = param.to(dtype), grad.to(dtype), state["exp_avg"].to(dtype)
    if maximize:
        g = -g
    direction = interpolate(m, g, 1 - beta1)
    sign = torch.where(direction.isnan(), direction, direction.sign())
    param.copy_(p * (1 - lr * weight_decay) - lr * sign)
    state["exp_avg"].copy_(interpolate(m, g, 1 - beta2))
