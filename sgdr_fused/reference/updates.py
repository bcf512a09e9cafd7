"""A part of reference.py: SGD with momentum, and the averages of the parameters.

Each update, here and in the other parts, works in place on `param` and on the tensors in `state`, which it
creates at a parameter's first step, and leaves `grad` alone. The arithmetic is done in float32, or in float64 where the
parameter or its state is; whatever is narrower is rounded once, when it is stored. A state tensor keeps its own dtype.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["average", "sgd"]


def widest_dtype(*tensors: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


def interpolate(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start + weight * (end - start)``, from the nearer end, so that weight 1 gives ``end``."""
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (end - start) * (1 - weight)


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
    momentum_form: str = "torch",
) -> None:
    """One step of stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    ::

        g = grad + weight_decay * p               (of -grad with maximize)
        m = g                                     at the first step of this parameter,
        m = momentum * m + (1 - dampening) * g    later
        p = p - lr * m                            or, with nesterov, p - lr * (g + momentum * m)

    There the rate stands outside the buffer. In the classical form, which is the paper's, it
    stands inside, and the two differ wherever the rate changes::

        m = lr * g                                     at the first step of this parameter,
        m = momentum * m + (1 - dampening) * lr * g    later
        p = p - m                                      or p - (lr * g + momentum * m)

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
        momentum_form: ``"torch"`` or ``"classical"``.

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
    dtype = widest_dtype(param, *buffers)
    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + weight_decay * p
    if momentum == 0:
        param.copy_(p - lr * g)
        return
    classical = momentum_form == "classical"
    if classical:
        g = lr * g
    if buffers:
        m = momentum * buffers[0].to(dtype) + (1 - dampening) * g
    else:
        m = g
        state["momentum_buffer"] = torch.zeros_like(param)
    state["momentum_buffer"].copy_(m)
    update = g + momentum * m if nesterov else m
    param.copy_(p - update if classical else p - lr * update)


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
    average.copy_(interpolate(average, param.to(average.dtype), weight))
