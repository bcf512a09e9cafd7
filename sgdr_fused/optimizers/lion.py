"""Lion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import reference
from .._engine.algorithm import Algorithm
from .._engine.hyperparameters import Hyper
from .._engine.options import Options
from ..schedules import Schedule
from ._base import FusedOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FusedLion"]


class LionAlgorithm(Algorithm):
    """What FusedLion declares: one moment, and an update that is the same at every step."""

    name = "lion"
    by_reference = staticmethod(reference.lion)
    hypers = (Hyper("lr"), Hyper("betas", 0), Hyper("weight_decay"), Hyper("betas", 1))
    constants = ("maximize",)
    counts_updates = False
    has_step = False

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def check_constant(self, key: str, value: Any) -> None:
        """There are only flags."""


class FusedLion(FusedOptimizer):
    r"""Lion, in one pass over the parameters: all elements move equally far, along the signs of a moment.

    At each update of a parameter ``p`` with gradient ``g``, ``(b1, b2) = betas``::

        g = -g                                               with maximize
        c = b1 * m + (1 - b1) * g
        p = p * (1 - lr * weight_decay) - lr * sign(c)
        m = b2 * m + (1 - b2) * g

    ``m`` starts from 0. The sign of 0 is 0, and that of NaN is NaN. An element moves by the whole rate at each step, so
    the authors advise rates 3 to 10 times smaller than AdamW's, and as much more weight decay.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        betas: how much of ``m`` is in the direction, and how much of it stays, in [0, 1): both numbers or both
            tensors, and the first may be a Schedule.
        weight_decay: >= 0; a number, tensor or Schedule. It is decoupled.
        maximize: ascend instead of descend.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedLion
        >>> weight = torch.nn.Parameter(torch.tensor([2.0, -1.0, 0.0]))
        >>> optimizer = FusedLion([weight], lr=0.25)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.tolist()
        [1.75, -0.75, 0.0]

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023), algorithm 2; the defaults are the
    authors'.
    """

    _algorithm = LionAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-4,
        betas: tuple[float | Tensor | Schedule, float | Tensor] = (0.9, 0.99),
        weight_decay: float | Tensor | Schedule = 0,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}, **options
        )
