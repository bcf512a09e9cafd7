"""The displays in parameter groups: the tensors that show what the groups' Schedules give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._messages import FOR_A_SCHEDULER, shown
from . import displays
from .hyperparameters import SCHEDULE_KEYS, first


def show_from_host(groups: Sequence[dict[str, Any]], step: int) -> None:
    """Brings all displays up to date, without a plan."""
    for group in groups:
        for key, schedule_key in SCHEDULE_KEYS.items():
            tensor = first(group.get(key))
            if group.get(schedule_key) is not None and displays.display_of(tensor) is not None:
                displays.show(tensor, step)


def check_displays(groups: Sequence[dict[str, Any]]) -> None:
    """Raises for a display that was written in place and is not assigned."""
    for i, group in enumerate(groups):
        for key, schedule_key in SCHEDULE_KEYS.items():
            if group.get(schedule_key) is None:
                continue
            tensor = first(group[key])
            if displays.display_of(tensor) is not None and displays.was_written(tensor):
                raise RuntimeError(
                    f"group {i}: the tensor in group[{key!r}] only displays what {shown(group[schedule_key])} gives, "
                    f"and was written in place, to {tensor.item()!r} (a torch scheduler does that); to replace the "
                    f"Schedule, assign to group[{key!r}]{FOR_A_SCHEDULER if key == 'lr' else ''}"
                )
