"""A part of reference.py: the updates with a rate of each parameter's own: LARS and LAMB.

What reference_updates.py says of state and arithmetic holds here too; norms are Euclidean, taken in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .updates import interpolate, widest_dtype

__all__ = ["lamb", "lars"]


def norm(tensor: Tensor) -> float:
    return math.sqrt(tensor.double().square().sum().item())


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
