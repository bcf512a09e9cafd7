"""SGD with momentum, written from the paper in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import widest_dtype


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
