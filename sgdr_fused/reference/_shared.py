"""What the updates of several algorithms share.

Each update works in place on ``param`` and on the tensors in ``state``, and leaves ``grad`` alone. It creates the
state tensors at the first step of a parameter. The arithmetic is done in float32, or in float64 where the parameter or
its state is float64. A narrower tensor is rounded once, when the result is stored in it. A state tensor keeps its own
dtype.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def widest_dtype(*tensors: Tensor) -> torch.dtype:
    """The type of the arithmetic: float64 where one of the tensors is float64, else float32."""
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


def interpolate(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start + weight * (end - start)``, from the nearer end, so that weight 1 gives ``end``."""
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (end - start) * (1 - weight)


def norm(tensor: Tensor) -> float:
    """The Euclidean norm, added up in float64."""
    return math.sqrt(tensor.double().square().sum().item())
