"""LARS: momentum with a rate of each parameter's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from .. import _checks, reference
from .._engine.options import Options
from ..schedules import Schedule
from ._base import FusedOptimizer
from ._momentum import MomentumAlgorithm

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FusedLARS"]


class LARSAlgorithm(MomentumAlgorithm):
    """What FusedLARS declares: SGD's momentum, and the norm of each parameter."""

    name = "lars"
    by_reference = staticmethod(reference.lars)
    measures_params = True
    constants = (*MomentumAlgorithm.constants, "trust_coefficient", "eps", "adapts")

    def check_constant(self, key: str, value: Any) -> None:
        super().check_constant(key, value)
        if key in ("trust_coefficient", "eps"):
            _checks.rate(key, value)
        elif key == "adapts":
            _checks.flag(key, value)


class FusedLARS(FusedOptimizer):
    r"""Layer-wise adaptive rate scaling: SGD for large batches, in two passes over the parameters.

    At each step, for a parameter ``p`` with gradient ``g`` and their Euclidean norms::

        g = -g                                                       with maximize
        ratio = trust_coefficient * norm(p) / (norm(g) + weight_decay * norm(p) + eps)
        d = lr * ratio * (g + weight_decay * p)
        m = momentum * m + (1 - dampening) * d                       with momentum; m = d the first time
        d = d + momentum * m   with nesterov,   d = m   without      with momentum
        p = p - d

    The ratio is 1 where either norm is 0, and in groups with ``adapts=False``, which is plain SGD: usual for biases and
    the parameters of normalisation layers, without weight decay. The rate stands inside the buffer, as in the paper;
    with ``momentum_form="torch"`` it stands outside, and the ratio inside: see docs/momentum.md.

    The norms are those of a parameter as it is updated (with its remainder, under ``master_weights``) and of its
    gradient as the update sees it: unscaled and clipped. They are added up in float64, to the same bits on every
    device and for every number of threads.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        momentum: >= 0; a number, tensor or Schedule.
        dampening: >= 0.
        weight_decay: >= 0; a number, tensor or Schedule.
        nesterov: needs momentum and no dampening.
        trust_coefficient: >= 0; how much of a parameter's norm a step at rate 1 may change.
        eps: >= 0; added to the denominator.
        adapts: whether the group's parameters have rates of their own.
        maximize: ascend instead of descend.
        momentum_form: ``"classical"`` or ``"torch"``. It cannot change once there is a buffer, whose meaning it is.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedLARS
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = FusedLARS([weight], lr=0.5, trust_coefficient=0.1, eps=0.0)
        >>> weight.grad = torch.tensor([8.0, 6.0])
        >>> optimizer.step()  # norms 5 and 10: a rate of 0.5 * 0.1 * 5 / 10
        >>> weight.detach()
        tensor([2.8000, 3.8500])

    Source: You, Gitman & Ginsburg, "Large Batch Training of Convolutional Networks" (2017), algorithm 1,
    whose trust coefficient of 0.001 and momentum of 0.9 are the defaults; eps as in NVIDIA apex's LARC.
    """

    _algorithm = LARSAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-3,
        momentum: float | Tensor | Schedule = 0.9,
        dampening: float = 0,
        weight_decay: float | Tensor | Schedule = 0,
        nesterov: bool = False,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        adapts: bool = True,
        maximize: bool = False,
        momentum_form: Literal["classical", "torch"] = "classical",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "trust_coefficient": trust_coefficient,
                "eps": eps,
                "adapts": adapts,
                "maximize": maximize,
                "momentum_form": momentum_form,
            },
            **options,
        )
