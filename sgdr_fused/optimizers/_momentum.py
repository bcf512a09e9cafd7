"""What the algorithms with SGD's momentum share."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from .. import _checks
from .._engine.algorithm import Algorithm
from .._engine.hyperparameters import Hyper
from .._messages import shown


class MomentumAlgorithm(Algorithm):
    """Base class of those whose update goes along a momentum buffer, in torch's form or in the classical one."""

    hypers: ClassVar[tuple[Hyper, ...]] = (Hyper("lr"), Hyper("momentum"), Hyper("weight_decay"))
    constants: ClassVar[tuple[str, ...]] = ("dampening", "nesterov", "maximize", "momentum_form")
    has_step = False
    meanings = MappingProxyType({"momentum_form": "momentum_buffer"})

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        momentum = group["momentum"]
        unused = not isinstance(momentum, Tensor) and momentum == 0
        return () if unused else ("momentum_buffer",)

    def check_constant(self, key: str, value: Any) -> None:
        if key == "dampening":
            _checks.rate(key, value)
        elif key == "momentum_form" and value not in ("torch", "classical"):
            raise ValueError(f'momentum_form must be "torch" or "classical", got {shown(value)}')

    def kernel_constant(self, key: str, value: Any) -> float:
        return float(value == "classical" if key == "momentum_form" else value)

    def check_group(self, group: dict[str, Any]) -> None:
        momentum, dampening = group["momentum"], group["dampening"]
        if group["nesterov"] and (not self.state_names(group) or dampening != 0):
            raise ValueError(
                "nesterov=True needs momentum > 0 and dampening == 0, "
                f"got momentum={shown(momentum)} and dampening={shown(dampening)}"
            )

    def reference_update(
        self, param: Tensor, grad: Tensor, state: dict[str, Tensor], hypers: Sequence[float], group: dict[str, Any]
    ) -> None:
        """The reference's state has no buffer before the first update, and no count of updates."""
        steps, buffer = state.get("step"), state.get("momentum_buffer")
        of_reference: dict[str, Tensor] = {}
        if steps is not None and buffer is not None and float(steps) > 0:
            of_reference["momentum_buffer"] = buffer
        super().reference_update(param, grad, of_reference, hypers, group)
        if steps is not None and buffer is not None and "momentum_buffer" in of_reference:
            steps.add_(1)
            buffer.copy_(of_reference["momentum_buffer"])
