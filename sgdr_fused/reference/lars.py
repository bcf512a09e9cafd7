"""LARS: SGD with momentum whose rate is adapted to each parameter by a ratio of norms."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import norm, widest_dtype


@torch.no_grad()
def lars(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    momentum_form: str = "classical",
    trust_coefficient: float = 1e-3,
    eps: float = 1e-8,
    adapts: bool = True,
) -> None:
    """One step of LARS.

    ::

        g = grad                                            (-grad with maximize)
        ratio = trust_coefficient * norm(p) / (norm(g) + weight_decay * norm(p) + eps)
        d = lr * ratio * (g + weight_decay * p)
        m = d                                               at the first step of this parameter,
        m = momentum * m + (1 - dampening) * d              later
        p = p - m                                           or, with nesterov, p - (d + momentum * m)

    The ratio is 1 where either norm is 0. In torch's form of momentum, ``lr`` is left out of ``d``, and the last line
    is ``p = p - lr * m``.

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``momentum_buffer`` of this parameter; without the key, this is its first step. Left
            alone where momentum is 0.
        lr: rate, >= 0; the paper's global rate gamma.
        momentum: factor on the buffer, in [0, 1).
        dampening: share of the gradient that stays out of the buffer, in [0, 1].
        weight_decay: factor on the parameter that is added to the gradient, >= 0.
        nesterov: step from the look-ahead point; needs momentum > 0 and dampening = 0.
        maximize: climb instead of descending.
        momentum_form: ``"classical"``, the paper's, or ``"torch"``.
        trust_coefficient: the paper's eta, >= 0.
        eps: added to the denominator, >= 0.
        adapts: False: the ratio is 1.

    Example:
        >>> p, state = torch.tensor([3.0, 4.0]), {}
        >>> lars(p, torch.tensor([6.0, 8.0]), state, lr=0.5, trust_coefficient=0.25, eps=0.0)
        >>> p, state  # norms 5 and 10: a rate of 0.5 * 0.25 * 5 / 10
        (tensor([2.6250, 3.5000]), {'momentum_buffer': tensor([0.3750, 0.5000])})

    Source: You, Gitman & Ginsburg, "Large batch training of convolutional networks" (2017), algorithm 1.
    """
    dtype = widest_dtype(param, *state.values())
    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    of_param, of_grad = norm(p), norm(g)
    ratio = 1.0
    if adapts and of_param != 0 and of_grad != 0:
        ratio = trust_coefficient * of_param / (of_grad + weight_decay * of_param + eps)
    if weight_decay != 0:
        g = g + weight_decay * p
    classical = momentum_form == "classical"
    d = (lr * ratio if classical else ratio) * g
    outside = 1.0 if classical else lr
    if momentum != 0:
        m = d
        if "momentum_buffer" in state:
            m = momentum * state["momentum_buffer"].to(dtype) + (1 - dampening) * d
        else:
            state["momentum_buffer"] = torch.zeros_like(param)
        state["momentum_buffer"].copy_(m)
        d = d + momentum * m if nesterov else m
    param.copy_(p - outside * d)
