"""RAdam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import _checks, reference
from .._engine.algorithm import Algorithm
from .._engine.hyperparameters import Hyper
from .._engine.options import Options
from ..schedules import Schedule
from ._base import FusedOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FusedRAdam"]


class RAdamAlgorithm(Algorithm):
    """What FusedRAdam declares: two moments."""

    name = "radam"
    by_reference = staticmethod(reference.radam)
    hypers = (Hyper("lr"), Hyper("betas", 0), Hyper("weight_decay"), Hyper("betas", 1))
    constants = ("eps", "maximize", "decoupled_weight_decay")

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def check_constant(self, key: str, value: Any) -> None:
        if key == "eps":
            _checks.rate(key, value)


class FusedRAdam(FusedOptimizer):
    r"""Rectified Adam, in one pass over the parameters: a drop-in for ``torch.optim.RAdam``.

    At the k-th update of a parameter ``p`` with gradient ``g``, ``(b1, b2) = betas``::

        g = -g                                               with maximize
        g = g + weight_decay * p                             or, decoupled: p = p * (1 - lr * weight_decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        p = p - lr / (1 - b1**k) * m * u
        u = c * sqrt(1 - b2**k) / (sqrt(v) + eps)            where r > 5, else u = 1

    ``r = R - 2 * k * b2**k / (1 - b2**k)`` with ``R = 2 / (1 - b2) - 1`` is how many gradients the second moment is of,
    in effect, and ``c = sqrt((r - 4) * (r - 2) * R / ((R - 4) * (R - 2) * r))`` makes up for the variance that it has
    because they are few. ``m`` and ``v`` start from 0.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        betas: decay of the two moments, in [0, 1): both numbers or both tensors, and the first may be
            a Schedule.
        eps: >= 0; added to the root of ``v``.
        weight_decay: >= 0; a number, tensor or Schedule.
        decoupled_weight_decay: shrink the parameter itself instead of adding to the gradient.
        foreach, capturable: accepted as in torch; nothing depends on them.
        maximize: ascend instead of descend.
        differentiable: must be False.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedRAdam
        >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> optimizer = FusedRAdam([weight], lr=0.25)
        >>> weight.square().sum().backward()
        >>> optimizer.step()  # the first steps are along the gradients
        >>> [round(w, 6) for w in weight.tolist()]
        [0.5, 0.5]

    Source: Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond" (2020), algorithm 2;
    ``torch.optim.RAdam``.
    """

    _algorithm = RAdamAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-3,
        betas: tuple[float | Tensor | Schedule, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Tensor | Schedule = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
            **options,
        )
