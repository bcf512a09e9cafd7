"""Clipping of gradients, and the guard against those that are not finite: what the step does with a pass of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import _checks, reference

if TYPE_CHECKING:
    from ._optimizer import FusedOptimizer


@dataclass(frozen=True)
class Clipping:
    """The options of this name of an optimizer: see :class:`~sgdr_fused.Options`."""

    max_grad_norm: float | None = None
    max_grad_value: float | None = None
    error_if_nonfinite: bool = False
    skip_nonfinite: bool = False

    def __post_init__(self) -> None:
        for name, high_open in (("max_grad_norm", False), ("max_grad_value", True)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _checks.between(name, value, 0.0, math.inf, high_open=high_open))
        for name in ("error_if_nonfinite", "skip_nonfinite"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.error_if_nonfinite and self.skip_nonfinite:
            raise ValueError("error_if_nonfinite and skip_nonfinite must not both be True")

    @property
    def measures(self) -> bool:
        """Whether a step needs the norm of the gradients."""
        return self.max_grad_norm is not None or self.error_if_nonfinite or self.skip_nonfinite

    def check_devices(self, params: Iterable[Tensor]) -> None:
        """Raises where no device sees all gradients: the norm of a part would be another one."""
        devices = sorted({str(param.device) for param in params})
        if self.measures and len(devices) > 1:
            raise ValueError(f"{self} needs all parameters on one device, got them on {', '.join(devices)}")


class Measured:
    """What a step writes down: the norm of the gradients, and how many steps were skipped."""

    def __init__(self, skipped: int = 0) -> None:
        self._norm = torch.zeros((), dtype=torch.float64)
        self._skipped = torch.tensor(skipped, dtype=torch.int64)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(norm, skipped): the same tensors as long as the device is the same."""
        if self._norm.device != device:
            with torch.inference_mode(False), torch.no_grad():
                self._norm, self._skipped = self._norm.to(device), self._skipped.to(device)
        return self._norm, self._skipped


def for_plan(
    clipping: Clipping, measured: Measured, device: torch.device
) -> tuple[float, float, bool, Tensor | None, Tensor | None]:
    """(max_value, max_norm, raises, norm, skipped): ClippingSpec in csrc/plan.h."""
    norm, skipped = measured.on(device) if clipping.measures else (None, None)
    return (
        math.inf if clipping.max_grad_value is None else clipping.max_grad_value,
        -1.0 if clipping.max_grad_norm is None else clipping.max_grad_norm,
        clipping.error_if_nonfinite,
        norm,
        skipped if clipping.skip_nonfinite else None,
    )


def norm_of(optimizer: FusedOptimizer) -> Tensor:
    """See FusedOptimizer.grad_norm."""
    if not optimizer._clipping.measures:
        raise AttributeError("grad_norm is not measured: it needs max_grad_norm, which may be math.inf")
    return optimizer._measured.on(optimizer._first_device())[0]


def skipped_of(optimizer: FusedOptimizer) -> Tensor:
    """See FusedOptimizer.skipped_steps."""
    if not optimizer._clipping.skip_nonfinite:
        raise AttributeError("skipped_steps is not counted: it needs skip_nonfinite=True")
    return optimizer._measured.on(optimizer._first_device())[1]


def by_reference(
    optimizer: FusedOptimizer, grads: list[Tensor], device: torch.device, found_inf: Tensor | None
) -> list[Tensor] | None:
    """A step's gradients, already unscaled, as the update is to see them; None: the step is to be skipped."""
    clipping = optimizer._clipping
    skipped = found_inf is not None and float(found_inf) != 0
    clipped, measured = reference.clip(grads, max_norm=clipping.max_grad_norm, max_value=clipping.max_grad_value)
    if clipping.measures:
        norm, count = optimizer._measured.on(device)
        norm.fill_(measured)
        if clipping.error_if_nonfinite and not skipped and not math.isfinite(measured):
            raise RuntimeError(f"error_if_nonfinite: the norm of the gradients is {measured}; the step was not taken")
        if clipping.skip_nonfinite:
            skipped = skipped or not all(bool(grad.isfinite().all()) for grad in grads)
            count += int(skipped)
    return None if skipped else clipped
