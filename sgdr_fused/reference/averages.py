"""Running averages of a parameter: the mean over cycles and the exponential average."""

from __future__ import annotations

import torch
from torch import Tensor

from ._shared import interpolate


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
