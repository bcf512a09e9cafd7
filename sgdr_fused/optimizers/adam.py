"""Adam, AMSGrad and AdamW."""

from __future__ import annotations

from types import MappingProxyType
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

__all__ = ["FusedAdam", "FusedAdamW"]


class AdamAlgorithm(Algorithm):
    """What FusedAdam declares: two moments, and with amsgrad the largest second one."""

    name = "adam"
    by_reference = staticmethod(reference.adam)
    hypers = (Hyper("lr"), Hyper("betas", 0), Hyper("weight_decay"), Hyper("betas", 1))
    constants = ("eps", "maximize", "decoupled_weight_decay")

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        names = ("exp_avg", "exp_avg_sq")
        return (*names, "max_exp_avg_sq") if group["amsgrad"] else names

    def check_constant(self, key: str, value: Any) -> None:
        if key == "eps":
            _checks.rate(key, value)

    def reference_arguments(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**super().reference_arguments(group), "amsgrad": group["amsgrad"]}


class AdamWAlgorithm(AdamAlgorithm):
    """What FusedAdamW declares: a checkpoint of Adam, as in torch, does not make another algorithm of it."""

    fixed = MappingProxyType({"decoupled_weight_decay": True})


class FusedAdam(FusedOptimizer):
    r"""Adam, in one pass over the parameters: a drop-in for ``torch.optim.Adam``.

    At the k-th update of a parameter ``p`` with gradient ``g``, ``(b1, b2) = betas``::

        g = -g                                               with maximize
        g = g + weight_decay * p                             or, decoupled: p = p * (1 - lr * weight_decay)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2                         with amsgrad, below: the largest v so far
        p = p - lr / (1 - b1**k) * m / (sqrt(v) / sqrt(1 - b2**k) + eps)

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        betas: decay of the two moments, in [0, 1): both numbers or both tensors, and the first may be
            a Schedule.
        eps: >= 0; stands outside the root.
        weight_decay: >= 0; a number, tensor or Schedule.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend instead of descend.
        foreach, capturable, fused: accepted as in torch; nothing depends on them.
        differentiable: must be False.
        decoupled_weight_decay: shrink the parameter itself instead of adding to the gradient.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedAdam
        >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> optimizer = FusedAdam([weight], lr=0.25, eps=0.0)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> [round(w, 6) for w in weight.tolist()]
        [0.75, 0.75]

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization" (2015), algorithm 1; Reddi et
    al., "On the Convergence of Adam and Beyond" (2018), for amsgrad; ``torch.optim.Adam``.
    """

    _algorithm = AdamAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-3,
        betas: tuple[float | Tensor | Schedule, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Tensor | Schedule = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
            **options,
        )


class FusedAdamW(FusedAdam):
    r"""Adam with decoupled weight decay: a drop-in for ``torch.optim.AdamW``.

    :class:`FusedAdam` with ``decoupled_weight_decay=True``, always, and a ``weight_decay`` of 1e-2 by
    default.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedAdamW
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> FusedAdamW([weight]).param_groups[0]["weight_decay"]
        0.01

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2;
    ``torch.optim.AdamW``.
    """

    _algorithm = AdamWAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-3,
        betas: tuple[float | Tensor | Schedule, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | Tensor | Schedule = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            **options,
        )
