"""What the optimizers with SGD's momentum share."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from .. import _checks
from .._engine.hyperparameters import Hyper
from .._engine.tracked import Group
from .._engine.validation import ParamSpec
from .._messages import shown
from ._base import FusedOptimizer


class MomentumOptimizer(FusedOptimizer):
    """Base class of those whose update goes along a momentum buffer, in torch's form or in the classical one."""

    _hypers: ClassVar[tuple[Hyper, ...]] = (Hyper("lr"), Hyper("momentum"), Hyper("weight_decay"))
    _constants: ClassVar[tuple[str, ...]] = ("dampening", "nesterov", "maximize", "momentum_form")
    _has_step = False

    def _reference(self, *operands: Any, **options: Any) -> None:
        """The update by reference.py, of (param, grad, state)."""
        raise NotImplementedError

    def _state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        momentum = group["momentum"]
        unused = not isinstance(momentum, Tensor) and momentum == 0
        return () if unused else ("momentum_buffer",)

    def _check_constant(self, key: str, value: Any) -> None:
        if key == "dampening":
            _checks.rate(key, value)
        elif key == "momentum_form" and value not in ("torch", "classical"):
            raise ValueError(f'momentum_form must be "torch" or "classical", got {shown(value)}')

    def _kernel_constant(self, key: str, value: Any) -> float:
        return float(value == "classical" if key == "momentum_form" else value)

    def _checked_constant(self, group: Group, key: str, value: Any) -> Any:
        old = group.get(key, value)
        value = super()._checked_constant(group, key, value)
        if (
            key == "momentum_form"
            and value != old
            and any("momentum_buffer" in self._state.get(param, ()) for param in group["params"])
        ):
            raise ValueError(
                f"momentum_form cannot change from {old!r} to {value!r} while the group's parameters have a "
                "momentum_buffer, which means another thing in either; remove it from the state first"
            )
        return value

    def _check_group(self, group: dict[str, Any]) -> None:
        momentum, dampening = group["momentum"], group["dampening"]
        if group["nesterov"] and (not self._state_names(group) or dampening != 0):
            raise ValueError(
                "nesterov=True needs momentum > 0 and dampening == 0, "
                f"got momentum={shown(momentum)} and dampening={shown(dampening)}"
            )

    def _reference_update(self, spec: ParamSpec, grad: Tensor, hypers: list[float], group: dict[str, Any]) -> None:
        buffered = spec.steps is not None and float(spec.steps) > 0
        state = {"momentum_buffer": spec.states[0]} if buffered else {}
        lr, momentum, weight_decay = hypers
        self._reference(
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
