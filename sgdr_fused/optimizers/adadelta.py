"""Adadelta."""

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

__all__ = ["FusedAdadelta"]


class AdadeltaAlgorithm(Algorithm):
    """What FusedAdadelta declares: averages of the squared gradients and of the squared steps."""

    name = "adadelta"
    by_reference = staticmethod(reference.adadelta)
    hypers = (Hyper("lr"), Hyper("weight_decay"))
    constants = ("rho", "eps", "maximize")

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def check_constant(self, key: str, value: Any) -> None:
        if key == "rho":
            _checks.between(key, value, 0.0, 1.0)
        elif key == "eps":
            _checks.rate(key, value)


class FusedAdadelta(FusedOptimizer):
    r"""Adadelta, in one pass over the parameters: a drop-in for ``torch.optim.Adadelta``.

    At each step, for a parameter ``p`` with gradient ``g``::

        g = -g                                          with maximize
        g = g + weight_decay * p
        v = rho * v + (1 - rho) * g**2
        d = sqrt(u + eps) / sqrt(v + eps) * g
        u = rho * u + (1 - rho) * d**2
        p = p - lr * d

    ``v`` and ``u`` start from 0.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there. The paper has none: 1.
        rho: the decay of the averages, in [0, 1].
        eps: >= 0; stands inside the roots. The first updates are about its root in size.
        weight_decay: >= 0; a number, tensor or Schedule.
        foreach, capturable: accepted as in torch; nothing depends on them.
        maximize: ascend instead of descend.
        differentiable: must be False.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedAdadelta
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = FusedAdadelta([weight], rho=0.0, eps=1 / 3)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> [round(w, 4) for w in weight.tolist()]
        [0.5, 0.5]

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method" (2012), algorithm 1;
    ``torch.optim.Adadelta``.
    """

    _algorithm = AdadeltaAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float | Tensor | Schedule = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "capturable": capturable,
                "foreach": foreach,
                "differentiable": differentiable,
            },
            **options,
        )
