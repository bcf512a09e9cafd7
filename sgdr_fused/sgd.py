"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import _checks, reference
from ._hypers import Hyper
from ._optimizer import FusedOptimizer, Options
from ._param_checks import ParamSpec
from .schedules import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FusedSGD"]


class FusedSGD(FusedOptimizer):
    r"""Stochastic gradient descent, in one pass over the parameters: a drop-in for ``torch.optim.SGD``.

    At each step, for a parameter ``p`` with gradient ``g``::

        g = -g                                                       with maximize
        g = g + weight_decay * p
        m = momentum * m + (1 - dampening) * g                       with momentum; m = g the first time
        g = g + momentum * m   with nesterov,   g = m   without      with momentum
        p = p - lr * g

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

    Source: ``torch.optim.SGD``; Nesterov's form after Sutskever et al., "On the importance of
    initialization and momentum in deep learning" (2013).
    """

    _algorithm = "sgd"
    _hypers = (Hyper("lr"), Hyper("momentum"), Hyper("weight_decay"))
    _constants = ("dampening", "nesterov", "maximize")
    _has_step = False

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
            },
            **options,
        )

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        momentum = group["momentum"]
        unused = not isinstance(momentum, Tensor) and momentum == 0
        return () if unused else ("momentum_buffer",)

    def _check_constant(self, key: str, value: Any) -> None:
        if key == "dampening":
            _checks.rate(key, value)

    def _check_group(self, group: dict[str, Any]) -> None:
        momentum, dampening = group["momentum"], group["dampening"]
        if group["nesterov"] and (not self._state_names(group) or dampening != 0):
            raise ValueError(
                "nesterov=True needs momentum > 0 and dampening == 0, "
                f"got momentum={momentum!r} and dampening={dampening!r}"
            )

    def _reference_update(self, spec: ParamSpec, grad: Tensor, hypers: list[float], group: dict[str, Any]) -> None:
        buffered = spec.steps is not None and float(spec.steps) > 0
        state = {"momentum_buffer": spec.states[0]} if buffered else {}
        lr, momentum, weight_decay = hypers
        reference.sgd(
            spec.param,
            grad,
            state,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            **{key: group[key] for key in self._constants},
        )
        if spec.steps is not None and "momentum_buffer" in state:
            spec.steps.add_(1)
            spec.states[0].copy_(state["momentum_buffer"])
