"""NAdam."""

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

__all__ = ["FusedNAdam"]


class NAdamAlgorithm(Algorithm):
    """What FusedNAdam declares: two moments, and the product of the momenta so far."""

    name = "nadam"
    by_reference = staticmethod(reference.nadam)
    hypers = (Hyper("lr"), Hyper("betas", 0), Hyper("weight_decay"), Hyper("betas", 1))
    constants = ("momentum_decay", "eps", "maximize", "decoupled_weight_decay")
    product = "mu_product"

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def check_constant(self, key: str, value: Any) -> None:
        if key in ("eps", "momentum_decay"):
            _checks.rate(key, value)


class FusedNAdam(FusedOptimizer):
    r"""NAdam, in one pass over the parameters: a drop-in for ``torch.optim.NAdam``.

    At the k-th update of a parameter ``p`` with gradient ``g``, ``(b1, b2) = betas``, the momentum is
    ``mu(k) = b1 * (1 - 0.5 * 0.96**(k * momentum_decay))``, and ``P(k) = mu(1) * ... * mu(k)``::

        g = -g                                               with maximize
        g = g + weight_decay * p                             or, decoupled: p = p * (1 - lr * weight_decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        n = (1 - mu(k)) / (1 - P(k)) * g + mu(k + 1) / (1 - P(k) * mu(k + 1)) * m
        p = p - lr * n / (sqrt(v) / sqrt(1 - b2**k) + eps)

    ``m`` and ``v`` start from 0. The state has ``P`` as ``mu_product``, a 0-dim float64 tensor: torch's is float32,
    and the two differ from its 7th digit on.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        betas: decay of the two moments, in [0, 1): both numbers or both tensors, and the first may be
            a Schedule.
        eps: >= 0; stands outside the root.
        weight_decay: >= 0; a number, tensor or Schedule.
        momentum_decay: >= 0; the larger, the sooner the momentum has risen to ``b1``.
        decoupled_weight_decay: shrink the parameter itself instead of adding to the gradient.
        foreach, capturable: accepted as in torch; nothing depends on them.
        maximize: ascend instead of descend.
        differentiable: must be False.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedNAdam
        >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> optimizer = FusedNAdam([weight], lr=0.25, betas=(0.5, 0.999), eps=0.0, momentum_decay=0.0)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> [round(w, 6) for w in weight.tolist()]
        [0.716667, 0.716667]

    Source: Dozat, "Incorporating Nesterov Momentum into Adam" (2016), algorithm 2; ``torch.optim.NAdam``.
    """

    _algorithm = NAdamAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 2e-3,
        betas: tuple[float | Tensor | Schedule, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Tensor | Schedule = 0,
        momentum_decay: float = 4e-3,
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
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
            },
            **options,
        )
