"""Tensors that display what a Schedule gives. Each knows its Schedule, and whether somebody else has written to it."""

from __future__ import annotations

import copy
import functools
import weakref
from typing import Any

import torch
from torch import Tensor

from .. import schedules
from ..schedules import Schedule


class Display:
    """The attribute ``_display`` of such a tensor.

    Attributes:
        schedule: what was given for the group's entry.
        scale: what it is multiplied by; 1, except for the rate of a group with ``lr_scale``.
        displayed: the product, whose values it displays, and by which a step goes.
        version: the tensor's autograd version as long as nobody else has written to it; None for a copy, which torch
            has made (deepcopy, pickle) and which has a version of its own.
        holder: a weak reference to the group that it stands in; None where it stands in none.
    """

    __slots__ = ("displayed", "holder", "scale", "schedule", "version")

    def __init__(self, schedule: Schedule, version: int | None = None, scale: float = 1.0) -> None:
        self.schedule = schedule
        self.scale = scale
        self.displayed = scaled(schedule, scale)
        self.version = version
        self.holder: weakref.ref[Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Display:
        return Display(self.schedule, None, self.scale)

    def __reduce__(self) -> tuple[Any, ...]:
        return Display, (self.schedule, None, self.scale)


def scaled(schedule: Schedule, scale: float) -> Schedule:
    """The Schedule times a factor; itself where that is 1."""
    return schedule if scale == 1.0 else scale * schedule


def new_display(schedule: Schedule, step: int, device: torch.device, scale: float = 1.0) -> Tensor:
    """A 0-dim float64 tensor with the value of the scaled schedule at `step`."""
    display = Display(schedule, None, scale)
    with torch.inference_mode(False):
        tensor = torch.tensor(display.displayed(step), dtype=torch.float64, device=device)
    display.version = tensor._version
    tensor._display = display  # type: ignore[attr-defined]
    return tensor


def display_of(value: Any) -> Display | None:
    """What a tensor displays; None for every other value."""
    return getattr(value, "_display", None) if isinstance(value, Tensor) else None


def was_written(tensor: Tensor) -> bool:
    """Whether somebody has written to a display in place. The kernels, which keep it up to date, do not count."""
    display = display_of(tensor)
    assert display is not None
    if tensor.is_inference():  # a copy that was made in inference mode: it has no version
        return False
    return tensor._version != (_version_of_a_copy() if display.version is None else display.version)


def stands_in(tensor: Tensor, group: Any) -> bool:
    """Whether a display may stand in the group: it stands there already, or nowhere."""
    display = display_of(tensor)
    assert display is not None
    holder = None if display.holder is None else display.holder()
    return display.version is not None and (holder is None or holder is group)


def show(tensor: Tensor, step: int) -> None:
    """Brings a display up to date, past autograd's version."""
    display = display_of(tensor)
    assert display is not None
    tensor.data.fill_(display.displayed(step))


def accept_writes(tensor: Tensor) -> None:
    """Forgets that the display was written in place: writes up to now are allowed."""
    display = display_of(tensor)
    assert display is not None
    display.version = tensor._version


@functools.cache
def _version_of_a_copy() -> int:
    """The version of a tensor that deepcopy or pickle has made: they make it empty and then give it its memory."""
    return copy.deepcopy(torch.zeros((), device="cpu"))._version


# What torch's wrappers save of live groups, as ZeroRedundancyOptimizer does, holds displays. These classes hold what
# they are given and nothing else, so torch.load(weights_only=True) may make them.
torch.serialization.add_safe_globals(
    [Display, *(getattr(schedules, name) for name in schedules.__all__ if name != "from_torch")]
)
