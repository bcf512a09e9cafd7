"""What ``print(optimizer)`` shows."""

from __future__ import annotations

from typing import Any

from .._messages import shown
from .hyperparameters import SCHEDULE_KEYS, with_first
from .options import OPTIONS
from .param_groups import COUNTS, take_over
from .session import Session


def representation(session: Session) -> str:
    """What torch shows, with Schedules in place of what displays them, the options that are in use, and the clock."""
    take_over(session)
    lines = [f"{session.class_name} ("]
    for i, group in enumerate(session.groups):
        lines.append(f"Parameter Group {i}")
        entries = with_schedules(group)
        lines += [f"    {key}: {_shown(entries[key])}" for key in sorted(entries, key=str) if key != "params"]
    options = {key: value for key, value in session.options.items() if value != OPTIONS[key]}
    if options:
        lines.append("Options")
        lines += [f"    {key}: {shown(value)}" for key, value in sorted(options.items())]
    return "\n".join([*lines, f"clock: {session.steps_taken()}", ")"])


def with_schedules(group: dict[str, Any]) -> dict[str, Any]:
    """A plain copy of the group, with Schedules where they were given, not what displays them, and without counts."""
    plain = {key: value for key, value in group.items() if key not in SCHEDULE_KEYS.values() and key not in COUNTS}
    for key, schedule_key in SCHEDULE_KEYS.items():
        schedule = group.get(schedule_key)
        if schedule is not None and key in plain:
            plain[key] = with_first(plain[key], schedule)
    return plain


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)
