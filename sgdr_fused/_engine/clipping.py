"""Clipping of gradients, and the guard against those that are not finite: see their options in options.py."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import reference
from .options import Options


def measures(options: Options) -> bool:
    """Whether a step needs the norm of the gradients."""
    return options["max_grad_norm"] is not None or options["error_if_nonfinite"] or options["skip_nonfinite"]


def needs_norm(options: Options, of_params: bool) -> str | None:
    """What needs a norm, in words for an error: an option, or the algorithm, which takes that `of_params`."""
    for key in ("max_grad_norm", "error_if_nonfinite", "skip_nonfinite"):
        if options[key] is not None and options[key] is not False:
            return f"{key}={options[key]!r}"
    return "the algorithm, which measures each parameter," if of_params else None


def check_devices(options: Options, params: Iterable[Tensor]) -> None:
    """Raises where no device sees all gradients: the norm of a part would be another one."""
    devices = sorted({str(param.device) for param in params})
    if measures(options) and len(devices) > 1:
        given = needs_norm(options, of_params=False)
        raise ValueError(f"{given} needs all parameters on one device, got them on {', '.join(devices)}")


class Measured:
    """What a step writes down: the norm of the gradients, and how many steps were skipped."""

    def __init__(self, skipped: int = 0) -> None:
        self._norm = torch.zeros((), dtype=torch.float64, device="cpu")
        self._skipped = torch.tensor(skipped, dtype=torch.int64, device="cpu")

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(norm, skipped): the same tensors as long as the device is the same."""
        if self._norm.device != device:
            with torch.inference_mode(False), torch.no_grad():
                self._norm, self._skipped = self._norm.to(device), self._skipped.to(device)
        return self._norm, self._skipped


class ClippingSpec(NamedTuple):
    """What a plan knows of clipping: ``ClippingSpec`` in csrc/plan/specs.h."""

    max_value: float
    max_norm: float  # < 0: gradients are not scaled
    raises: bool
    norm: Tensor | None
    skipped: Tensor | None
    num_sums: int


def for_plan(options: Options, measured: Measured, device: torch.device, num_sums: int) -> ClippingSpec:
    max_value, max_norm = options["max_grad_value"], options["max_grad_norm"]
    norm, skipped = measured.on(device) if measures(options) else (None, None)
    return ClippingSpec(
        math.inf if max_value is None else max_value,
        -1.0 if max_norm is None or math.isinf(max_norm) else max_norm,  # an infinite one only measures
        options["error_if_nonfinite"],
        norm,
        skipped if options["skip_nonfinite"] else None,
        num_sums,
    )


def norm_of(options: Options, measured: Measured, device: torch.device) -> Tensor:
    """The norm of the gradients at the last step; an AttributeError where no option needs it."""
    if not measures(options):
        raise AttributeError("grad_norm is not measured: it needs max_grad_norm, which may be math.inf")
    return measured.on(device)[0]


def skipped_of(options: Options, measured: Measured, device: torch.device) -> Tensor:
    """How many steps were skipped; an AttributeError where none are."""
    if not options["skip_nonfinite"]:
        raise AttributeError("skipped_steps is not counted: it needs skip_nonfinite=True")
    return measured.on(device)[1]


def by_reference(
    options: Options, measured: Measured, grads: list[Tensor], device: torch.device, found_inf: Tensor | None
) -> list[Tensor] | None:
    """A step's gradients, already unscaled, as the update is to see them; None: the step is to be skipped."""
    skipped = found_inf is not None and float(found_inf) != 0
    clipped, norm = reference.clip(grads, max_norm=options["max_grad_norm"], max_value=options["max_grad_value"])
    if measures(options):
        written, count = measured.on(device)
        written.fill_(norm)
        if options["error_if_nonfinite"] and not skipped and not math.isfinite(norm):
            raise RuntimeError(f"error_if_nonfinite: the norm of the gradients is {norm}; the step was not taken")
        if options["skip_nonfinite"]:
            skipped = skipped or not all(bool(grad.isfinite().all()) for grad in grads)
            count += int(skipped)
    return None if skipped else clipped
