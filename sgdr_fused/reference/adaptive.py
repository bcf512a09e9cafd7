"""A part of reference.py: the updates along the gradient itself, scaled by the size of past ones.

Adagrad, RMSprop and Adadelta. What reference_updates.py says of state and arithmetic holds here too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .updates import interpolate, widest_dtype

__all__ = ["adadelta", "adagrad", "rmsprop"]


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
