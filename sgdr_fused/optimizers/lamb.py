"""LAMB: Adam with a rate of each parameter's own."""

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

__all__ = ["FusedLAMB"]


class LAMBAlgorithm(Algorithm):
    """What FusedLAMB declares: Adam's moments, and the norms of each parameter and of its direction."""

    name = "lamb"
    by_reference = staticmethod(reference.lamb)
    measures_params = True
    hypers = (Hyper("lr"), Hyper("betas", 0), Hyper("weight_decay"), Hyper("betas", 1))
    constants = ("eps", "maximize", "adapts")
    family = "adam"  # the moments are those of Adam

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def check_constant(self, key: str, value: Any) -> None:
        if key == "eps":
            _checks.rate(key, value)
        elif key == "adapts":
            _checks.flag(key, value)


class FusedLAMB(FusedOptimizer):
    r"""Layer-wise adaptive moments: AdamW for large batches, in two passes over the parameters.

    At the k-th update of a parameter ``p`` with gradient ``g``, ``(b1, b2) = betas``::

        g = -g                                               with maximize
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        r = m / (1 - b1**k) / (sqrt(v) / sqrt(1 - b2**k) + eps) + weight_decay * p
        p = p - lr * norm(p) / norm(r) * r

    ``m`` and ``v`` start from 0. The norms are Euclidean, and their ratio is taken as 1 where either is 0, and in
    groups with ``adapts=False``: usual for biases and the parameters of normalisation layers, without weight decay.

    The norms are of what is updated: of a parameter with its remainder, under ``master_weights``. They are added up in
    float64, to the same bits on every device and for every number of threads.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        betas: decay of the two moments, in [0, 1): both numbers or both tensors, and the first may be
            a Schedule.
        eps: >= 0; stands outside the root.
        weight_decay: >= 0; a number, tensor or Schedule.
        adapts: whether the group's parameters have rates of their own.
        maximize: ascend instead of descend.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`. NVIDIA apex's class clips by default:
            ``max_grad_norm=1.0``.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedLAMB
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
        >>> optimizer = FusedLAMB([weight], lr=0.5, eps=0.0, weight_decay=0.0)
        >>> weight.grad = torch.tensor([8.0, -6.0], dtype=torch.float64)
        >>> optimizer.step()  # r = [1, -1], so along it by 0.5 * 5 / sqrt(2)
        >>> [round(w, 4) for w in weight.tolist()]
        [1.2322, 5.7678]

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (2020), algorithm 2
    with the identity for phi; the defaults are those of NVIDIA apex's FusedLAMB.
    """

    _algorithm = LAMBAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-3,
        betas: tuple[float | Tensor | Schedule, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float | Tensor | Schedule = 0.01,
        *,
        adapts: bool = True,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "adapts": adapts,
                "maximize": maximize,
            },
            **options,
        )
