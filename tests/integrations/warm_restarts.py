"""The rates of SGDR by the formula of its paper, in plain Python: what the tests of frameworks compare with."""

from __future__ import annotations

import math
from collections.abc import Callable


def sgdr(max_lr: float, T_0: int, eta_min: float = 0.0) -> Callable[[int], float]:
    """The rate of each step. The first cycle has `T_0` steps, and each other one twice as many as the one before."""

    def rate(step: int) -> float:
        length = T_0
        while step >= length:
            step -= length
            length *= 2
        return eta_min + (max_lr - eta_min) * (1 + math.cos(math.pi * step / length)) / 2

    return rate
