"""RMSprop, plain and centered."""

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

__all__ = ["FusedRMSprop"]


class RMSpropAlgorithm(Algorithm):
    """What FusedRMSprop declares: the second moment, with centered the first one, and the buffer of its momentum."""

    name = "rmsprop"
    by_reference = staticmethod(reference.rmsprop)
    hypers = (Hyper("lr"), Hyper("momentum"), Hyper("weight_decay"))
    constants = ("alpha", "eps", "centered", "maximize")

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        momentum = group["momentum"]
        unused = not isinstance(momentum, Tensor) and momentum == 0
        names = ("square_avg", "grad_avg") if group["centered"] else ("square_avg",)
        return names if unused else (*names, "momentum_buffer")

    def check_constant(self, key: str, value: Any) -> None:
        if key in ("alpha", "eps"):
            _checks.rate(key, value)


class FusedRMSprop(FusedOptimizer):
    r"""RMSprop, in one pass over the parameters: a drop-in for ``torch.optim.RMSprop``.

    At each step, for a parameter ``p`` with gradient ``g``::

        g = -g                                          with maximize
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        m = alpha * m + (1 - alpha) * g                 with centered; else m = 0
        g = g / (sqrt(v - m**2) + eps)
        b = momentum * b + g                            with momentum; else b = g
        p = p - lr * b

    ``v``, ``m`` and ``b`` start from 0.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        alpha: >= 0, below 1 in any sensible use; the decay of the averages.
        eps: >= 0; stands outside the root.
        weight_decay: >= 0; a number, tensor or Schedule.
        momentum: >= 0; a number, tensor or Schedule. Where one of the latter gives 0, the buffer waits, as it does
            where the number is 0.
        centered: divide by the deviation from the mean gradient. Where a gradient hardly changes, rounding may turn
            ``v - m**2`` negative and the parameter into a NaN, as in torch.
        foreach, capturable: accepted as in torch; nothing depends on them.
        maximize: ascend instead of descend.
        differentiable: must be False.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedRMSprop
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = FusedRMSprop([weight], lr=0.25, alpha=0.75, eps=0.0)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.tolist(), optimizer.state[weight]["square_avg"].tolist()
        ([0.5, 0.5], [1.0, 1.0])

    Source: Tieleman & Hinton, "Lecture 6.5: RMSProp" (2012); Graves, "Generating Sequences With
    Recurrent Neural Networks" (2013), equations 38 to 41, for centered; ``torch.optim.RMSprop``.
    """

    _algorithm = RMSpropAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float | Tensor | Schedule = 0,
        momentum: float | Tensor | Schedule = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
            **options,
        )
