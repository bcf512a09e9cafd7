"""Clipping: what is done to the gradients before the updates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._shared import widest_dtype


@torch.no_grad()
def clip(
    grads: list[Tensor], *, max_norm: float | None = None, max_value: float | None = None
) -> tuple[list[Tensor], float]:
    """Clips all gradients of a step by value, then by their norm, and returns that norm too.

    ::

        g = min(max(g, -max_value), max_value)
        norm = sqrt(sum of all g**2)
        g = g * min(1, max_norm / (norm + 1e-6))

    Args:
        grads: of all parameters; left alone.
        max_norm: bound on the Euclidean norm of all of them together; None or infinite: no bound.
        max_value: bound on each element; None: no bound.

    Returns:
        the clipped gradients, and their norm after the first clipping and before the second.

    Example:
        >>> clip([torch.tensor([9.0]), torch.tensor([-4.0])], max_norm=1.0, max_value=3.0)[1]
        4.242640687119285

    Sources: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks" (2013), algorithm 1;
    ``torch.nn.utils.clip_grad_value_`` and ``torch.nn.utils.clip_grad_norm_``, whose 1e-6 this is.
    """
    if max_value is not None:
        grads = [grad.to(widest_dtype(grad)).clamp(-max_value, max_value) for grad in grads]
    norm = math.sqrt(sum(grad.double().square().sum().item() for grad in grads))
    if max_norm is not None and not math.isinf(max_norm):
        coefficient = max_norm / (norm + 1e-6)
        coefficient = 1.0 if coefficient > 1.0 else coefficient  # a NaN stays one
        grads = [grad.to(widest_dtype(grad)) * coefficient for grad in grads]
    return grads, norm
