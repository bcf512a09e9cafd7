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


def _shown(data: Any) -> str:
    """`data` as it is in an error: a look at its outermost levels alone."""
    text = _SHORT.repr(data)
    return text if len(text) <= _messages.LONGEST else f"{text[: _messages.LONGEST - 3]}..."


class Reader:
    """Reads one schedule, by the classes of all."""

    def __init__(self, kinds: Mapping[str, type]) -> None:
        self._kinds = kinds
        self._schedules = 0
        self._entries = 0

    def schedule(self, data: Any, nesting: int = 1) -> Any:
        kind = data.get("kind") if isinstance(data, dict) else None
        if not isinstance(kind, str) or kind not in self._kinds:
            raise ValueError(f"unknown schedule {_shown(data)}: kind must be one of {sorted(self._kinds)}")
        self._schedules += 1
        if nesting > MAX_NESTING or self._schedules > MAX_SCHEDULES:
            raise ValueError(
                f"a dictionary must hold at most {MAX_SCHEDULES:,} schedules, {MAX_NESTING} in each other, "
                f"got more in {_shown(data)}"
            )
        known = {field.name for field in dataclasses.fields(self._kinds[kind])}
        unknown = [name for name in data if name != "kind" and name not in known]
        if unknown:
            raise ValueError(f"unknown fields {_shown(unknown)} of schedule {_shown(data)}")
        fields = {name: self._field(value, nesting) for name, value in data.items() if name != "kind"}
        try:
            return self._kinds[kind](**fields)
        except TypeError as error:
            raise ValueError(f"cannot make a schedule of {_shown(data)}: {error}") from error

    def _field(self, value: Any, nesting: int, lists: int = 0) -> Any:
        """A field's value; Sequential has lists in a list, and no field more."""
        if isinstance(value, dict):
            return self.schedule(value, nesting + 1)
        if not isinstance(value, (list, tuple)):
            return value
        self._entries += len(value)
        if lists == 2 or self._entries > MAX_ENTRIES:
            raise ValueError(
                f"a schedule's dictionary must have at most {MAX_ENTRIES:,} entries in lists, "
                f"which are one in the other at most, got {_shown(value)}"
            )
        if not any(isinstance(item, (dict, list, tuple)) for item in value):
            return tuple(value)
        return tuple([self._field(item, nesting, lists + 1) for item in value])
