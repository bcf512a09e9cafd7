"""``Schedule.from_dict``: schedules from what a file holds, which may be anything.

Each count is bounded before it is followed, and what an error shows is short: a dictionary of a few lines may stand in
itself so often that nobody can print it.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

from .. import _messages
from ._sizes import MAX_ENTRIES, MAX_NESTING, MAX_SCHEDULES

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict, _SHORT.maxstring = 3, 4, 4, 8, 60


def _shortened(text: str, longest: int = _messages.LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _shown(data: Any) -> str:
    """`data` as it is in an error: a look at its outermost levels alone."""
    return _shortened(_SHORT.repr(data))


def read(data: Any, kinds: Mapping[str, type]) -> Any:
    """The schedule that `data` describes, of the classes in `kinds`.

    Raises:
        ValueError: whatever is wrong.
    """
    _measure(data)
    return _schedule(data, kinds)


def _measure(data: Any) -> None:
    """Raises for what describes more than a schedule may be made of, before any of it is made."""
    schedules = entries = 0
    waiting = [(data, 0, 0)]
    while waiting:
        value, nesting, lists = waiting.pop()
        if isinstance(value, dict):
            schedules, nesting, lists, items = schedules + 1, nesting + 1, 0, list(value.values())
        else:
            lists, items = lists + 1, value
        if isinstance(items, (list, tuple)):
            entries += len(items)
            waiting += [(item, nesting, lists) for item in items if isinstance(item, (dict, list, tuple))]
        for number, most, what in (
            (schedules, MAX_SCHEDULES, "schedules, each counted as often as it stands there"),
            (nesting, MAX_NESTING, "levels of schedules in schedules"),
            (lists, 3, "levels of lists in lists"),
            (entries, MAX_ENTRIES, "entries in lists"),
        ):
            if number > most:
                raise ValueError(f"a schedule's dictionary must not hold more than {most:,} {what}, got {_shown(data)}")


def _schedule(data: Any, kinds: Mapping[str, type]) -> Any:
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"unknown schedule {_shown(data)}: kind must be one of {sorted(kinds)}")
    known = {field.name for field in dataclasses.fields(kinds[kind])}
    unknown = [name for name in data if name != "kind" and name not in known]
    if unknown:
        raise ValueError(f"unknown fields {_shown(unknown)} of schedule {_shown(data)}")
    fields = {name: _field(value, kinds) for name, value in data.items() if name != "kind"}
    try:
        return kinds[kind](**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot make a schedule of {_shown(data)}: {_shortened(str(error), 500)}") from error


def _field(value: Any, kinds: Mapping[str, type]) -> Any:
    if isinstance(value, dict):
        return _schedule(value, kinds)
    return tuple([_field(item, kinds) for item in value]) if isinstance(value, (list, tuple)) else value
