"""The readable truth: each update from the papers in plain torch, each schedule in plain Python.

Tests hold the fast path to it, and it is what runs where no extension can be built. It shares no
code with the fast path and imports nothing of the package but its own other half, the schedules.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .reference_schedules import *  # noqa: F403

# ------------------------------------------------------------------------------------- updates
#
# Each works in place on `param` and on the tensors in `state`, which it creates at a parameter's
# first step, and leaves `grad` alone. The arithmetic is done in float32, or in float64 where the
# parameter or its state is; whatever is narrower is rounded once, when it is stored. A state tensor
# keeps its own dtype.


def _widest_dtype(*tensors: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


@torch.no_grad()
def sgd(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> None:
    """One step of stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    ::

        g = grad + weight_decay * p               (of -grad with maximize)
        m = g                                     at the first step of this parameter,
        m = momentum * m + (1 - dampening) * g    later
        p = p - lr * m                            or, with nesterov, p - lr * (g + momentum * m)

    The rate stands outside the buffer; in the paper it stands inside, and the two differ wherever
    the rate changes.

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``momentum_buffer`` of this parameter; without the key, this is its first step. Left
            alone where momentum is 0.
        lr: rate, >= 0.
        momentum: factor on the buffer, in [0, 1).
        dampening: share of the gradient that stays out of the buffer, in [0, 1].
        weight_decay: factor on the parameter that is added to the gradient, >= 0.
        nesterov: step from the look-ahead point; needs momentum > 0 and dampening = 0.
        maximize: climb instead of descending.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> for _ in range(2):
        ...     sgd(p, torch.tensor([1.0]), state, lr=0.25, momentum=0.5)
        >>> p, state
        (tensor([0.3750]), {'momentum_buffer': tensor([1.5000])})

    Source: Sutskever, Martens, Dahl & Hinton, "On the importance of initialization and momentum in
    deep learning" (2013), equations 1 to 4.
    """
    buffers = [state["momentum_buffer"]] if momentum != 0 and "momentum_buffer" in state else []
    dtype = _widest_dtype(param, *buffers)
    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + weight_decay * p
    if momentum != 0:
        if buffers:
            m = momentum * buffers[0].to(dtype) + (1 - dampening) * g
        else:
            m = g
            state["momentum_buffer"] = torch.zeros_like(param)
        state["momentum_buffer"].copy_(m)
        g = g + momentum * m if nesterov else m
    param.copy_(p - lr * g)


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
    dtype = _widest_dtype(param, *(state[name] for name in names))
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
    m = _interpolate(state["exp_avg"].to(dtype), g, 1 - beta1)
    v = beta2 * state["exp_avg_sq"].to(dtype) + (1 - beta2) * g * g
    state["exp_avg"].copy_(m)
    state["exp_avg_sq"].copy_(v)
    if amsgrad:
        v = torch.maximum(state["max_exp_avg_sq"].to(dtype), v)
        state["max_exp_avg_sq"].copy_(v)
    denominator = v.sqrt() / math.sqrt(1 - beta2**step) + eps
    param.copy_(p - lr / (1 - beta1**step) * (m / denominator))


@torch.no_grad()
def average(average: Tensor, param: Tensor, weight: float) -> None:
    """One step of a running average of a parameter.

    ::

        average = (1 - weight) * average + weight * p

    Args:
        average: same shape as the parameter; written.
        param: the parameter, after its update.
        weight: ``1 / (n + 1)`` for the mean of ``n + 1`` values, ``1 - decay`` for an exponential average; 1 replaces
            what was there.

    Example:
        >>> mean = torch.tensor([1.0])
        >>> average(mean, torch.tensor([4.0]), weight=1 / 3)
        >>> mean
        tensor([2.])

    Sources: Izmailov et al., "Averaging weights leads to wider optima and better generalization" (2018), algorithm 1;
    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging" (1992).
    """
    average.copy_(_interpolate(average, param.to(average.dtype), weight))


def _interpolate(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start + weight * (end - start)``, from the nearer end, so that weight 1 gives ``end``."""
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (end - start) * (1 - weight)
