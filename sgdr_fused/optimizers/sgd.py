"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from .. import reference
from .._engine.options import Options
from ..schedules import Schedule
from ._base import FusedOptimizer
from ._momentum import MomentumAlgorithm

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FusedSGD"]


class SGDAlgorithm(MomentumAlgorithm):
    """What FusedSGD declares."""

    name = "sgd"
    by_reference = staticmethod(reference.sgd)
    beyond_torch = MappingProxyType({"momentum_form": "torch"})


class FusedSGD(FusedOptimizer):
    r"""Stochastic gradient descent, in one pass over the parameters: a drop-in for ``torch.optim.SGD``.

    At each step, for a parameter ``p`` with gradient ``g``::

        g = -g                                                       with maximize
        g = g + weight_decay * p
        m = momentum * m + (1 - dampening) * g                       with momentum; m = g the first time
        g = g + momentum * m   with nesterov,   g = m   without      with momentum
        p = p - lr * g

    That is torch's form of momentum, with the rate outside the buffer. In the classical form it is inside: ``lr * g``
    takes the place of ``g`` in the lines about the buffer, and the last line is ``p = p - g``. The two give the same
    while the rate is constant, and differ where it changes, most of all at a restart: see docs/momentum.md.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        momentum: >= 0; a number, tensor or Schedule.
        dampening: >= 0.
        weight_decay: >= 0; a number, tensor or Schedule.
        nesterov: needs momentum and no dampening.
        maximize: ascend instead of descend.
        foreach, fused: accepted as in torch; nothing depends on them.
        differentiable: must be False.
        momentum_form: ``"torch"`` or ``"classical"``. It cannot change once there is a buffer, whose meaning it is. A
            checkpoint of ``torch.optim.SGD`` is in torch's form, and the group that it is loaded into goes on in it.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedSGD
        >>> from sgdr_fused.schedules import CosineWarmRestarts
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = FusedSGD([weight], lr=CosineWarmRestarts(0.5, T_0=2), momentum=0.9)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     weight.square().sum().backward()
        ...     optimizer.step()
        >>> weight.detach()
        tensor([-0.4500, -0.4500])
        >>> optimizer.param_groups[0]["lr"].item(), optimizer.clock.item()
        (0.5, 2)

    Source: ``torch.optim.SGD``; the classical form and Nesterov's after Sutskever et al., "On the
    importance of initialization and momentum in deep learning" (2013), equations 1 to 4.
    """

    _algorithm = SGDAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-3,
        momentum: float | Tensor | Schedule = 0,
        dampening: float = 0,
        weight_decay: float | Tensor | Schedule = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        momentum_form: Literal["torch", "classical"] = "torch",
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
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
                "momentum_form": momentum_form,
            },
            **options,
        )
