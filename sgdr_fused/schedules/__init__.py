"""Schedules: a hyperparameter as a function of the optimizer's clock.

A schedule is a frozen dataclass: pass one where an optimizer takes a number, and the device evaluates
it inside the step. ``schedule(t)`` is its value at step ``t``, counted in optimizer steps
(mini-batches) from 0, by the same C++ closed form as the device's.

To think in epochs, multiply by the steps in one, fractions included::

    steps_per_epoch = len(loader)
    CosineWarmRestarts(0.1, T_0=round(2.5 * steps_per_epoch), T_mult=2)   # a first cycle of 2.5 epochs

Schedules are put together with ``2 * s``, ``s1 * s2``, ``s.shifted(n)``, ``Warmup`` and ``Sequential``.
"""

from ._base import Schedule
from ._compose import Sequential, Shifted, Warmup
from ._cosine import CosineAnnealing, CosineCycles, CosineWarmRestarts
from ._decays import Exponential, InverseTime, MultiStep, Step
from ._from_torch import from_torch
from ._one_cycle import OneCycle, OneCycleMomentum
from ._product import Product
from ._ramps import Constant, ExponentialRamp, HalfCosine, LinearRamp, Polynomial
from ._table import Table
from ._triangular import Triangular, TriangularMomentum
from ._warmup_stable_decay import WarmupStableDecay

__all__ = [
    "Constant",
    "CosineAnnealing",
    "CosineCycles",
    "CosineWarmRestarts",
    "Exponential",
    "ExponentialRamp",
    "HalfCosine",
    "InverseTime",
    "LinearRamp",
    "MultiStep",
    "OneCycle",
    "OneCycleMomentum",
    "Polynomial",
    "Product",
    "Schedule",
    "Sequential",
    "Shifted",
    "Step",
    "Table",
    "Triangular",
    "TriangularMomentum",
    "Warmup",
    "WarmupStableDecay",
    "from_torch",
]
