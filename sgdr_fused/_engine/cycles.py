"""The cycles of an optimizer: those of the first Schedule that stands for a group's learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._messages import shown
from ..schedules import Schedule
from .options import Options


def schedule_of(groups: Sequence[dict[str, Any]]) -> Schedule | None:
    """The first Schedule that stands for a group's lr."""
    schedules = (group.get("lr_schedule") for group in groups)
    return next((schedule for schedule in schedules if schedule is not None), None)


def require_cycles(groups: Sequence[dict[str, Any]], what: str) -> None:
    """Raises where no cycle of the learning rate ever ends."""
    schedule = schedule_of(groups)
    if schedule is None:
        rates = [group.get("lr") for group in groups]
        got = shown(rates[0]) if len(rates) == 1 else shown(rates)
        raise ValueError(f"{what} needs a Schedule for lr, got {got}")
    if not schedule.has_cycles:
        raise ValueError(
            f"{what} needs a Schedule with cycles for lr, such as CosineWarmRestarts, got {shown(schedule)}, "
            "no cycle of which ever ends"
        )


def check_average(options: Options, groups: Sequence[dict[str, Any]]) -> None:
    """Raises where the weights are to be averaged at the ends of cycles and no cycle ever ends."""
    if options["average"] == "cycle":
        require_cycles(groups, 'average="cycle"')
