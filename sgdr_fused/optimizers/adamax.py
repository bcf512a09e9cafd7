"""Adamax."""

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

__all__ = ["FusedAdamax"]


class AdamaxAlgorithm(Algorithm):
    """What FusedAdamax declares: the first moment, and the largest gradient."""

    name = "adamax"
    by_reference = staticmethod(reference.adamax)
    hypers = (Hyper("lr"), Hyper("betas", 0), Hyper("weight_decay"), Hyper("betas", 1))
    constants = ("eps", "maximize")

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def check_constant(self, key: str, value: Any) -> None:
        if key == "eps":
            _checks.rate(key, value)


class FusedAdamax(FusedOptimizer):
    r"""Adamax, in one pass over the parameters: a drop-in for ``torch.optim.Adamax``.

    At the k-th update of a parameter ``p`` with gradient ``g``, ``(b1, b2) = betas``::

        g = -g                                          with maximize
        g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        u = max(b2 * u, abs(g) + eps)
        p = p - lr / (1 - b1**k) * m / u

    ``m`` and ``u`` start from 0.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        betas: decay of the first moment and of the largest gradient, in [0, 1): both numbers or both tensors, and
            the first may be a Schedule.
        eps: >= 0; added to the gradient's magnitude.
        weight_decay: >= 0; a number, tensor or Schedule.
        foreach, capturable: accepted as in torch; nothing depends on them.
        maximize: ascend instead of descend.
        differentiable: must be False.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedAdamax
        >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> optimizer = FusedAdamax([weight], lr=0.25, eps=0.0)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> [round(w, 6) for w in weight.tolist()]
        [0.75, 0.75]

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 2;
    ``torch.optim.Adamax``.
    """

    _algorithm = AdamaxAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 2e-3,
        betas: tuple[float | Tensor | Schedule, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Tensor | Schedule = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
            **options,
        )
