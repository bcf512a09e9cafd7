"""A schedule that is listed step by step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import _checks
from .._messages import shown
from ._base import Schedule, Segment
from ._ramps import last_step_of_fall
from ._sizes import MAX_ENTRIES


@dataclass(frozen=True)
class Table(Schedule):
    """A value per step, as listed or as a Python function gives them; the last one holds from there on.

    The function is called once per step, here and now; the device then reads the value of its step from
    its own memory, 8 bytes a step. A checkpoint holds all values.

    Args:
        entries: a list, a tuple, a one-dimensional tensor or array of finite numbers >= 0, at least one; or
            a function of the step. At most 16,777,216.
        num_steps: with a function, the steps 0 to ``num_steps - 1`` to call it for; an integer >= 1.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> Table([0.1, 0.3, 0.2]).values(5).tolist()
        [0.1, 0.3, 0.2, 0.2, 0.2]
        >>> Table(lambda t: 1 / (1 + t) ** 0.5, num_steps=1000)(3)
        0.5
    """

    entries: Sequence[float] | Callable[[int], float]
    num_steps: dataclasses.InitVar[int | None] = None

    def __post_init__(self, num_steps: int | None) -> None:
        entries: Any = self.entries
        if callable(entries) and not isinstance(entries, Tensor):
            number = _checks.integer("num_steps", num_steps, 1)
            if number > MAX_ENTRIES:
                raise ValueError(f"num_steps must be at most {MAX_ENTRIES:,}, got {number!r}")
            entries = [entries(t) for t in range(number)]
        elif num_steps is not None:
            raise ValueError(f"num_steps must be None unless entries is a function, got {shown(num_steps)}")
        elif isinstance(entries, Tensor) and entries.is_meta:
            raise ValueError(f"entries must have values, got a tensor of shape {tuple(entries.shape)} on meta")
        elif hasattr(entries, "tolist"):  # a tensor or an array
            entries = entries.tolist()
        if not isinstance(entries, (list, tuple)):
            raise TypeError(f"entries must be a list of numbers or a function, got {shown(self.entries)}")
        if not entries:
            raise ValueError(f"entries must not be empty, got {shown(self.entries)}")
        if len(entries) > MAX_ENTRIES:
            raise ValueError(f"entries must be at most {MAX_ENTRIES:,} numbers, got {len(entries):,}")
        self._set(
            entries=tuple(
                # Most are what they should be, and may be millions.
                value if type(value) is float and 0.0 <= value < math.inf else _checks.rate(f"entries[{t}]", value)
                for t, value in enumerate(entries)
            )
        )

    @property
    def upper_bound(self) -> float:
        assert isinstance(self.entries, tuple)  # __post_init__ has made it one
        return max(self.entries)

    def _last_step(self, inside: bool) -> int | None:
        assert isinstance(self.entries, tuple)
        return last_step_of_fall(max(self.entries), self.entries[-1], len(self.entries) - 1, inside)

    def _curve(self) -> Segment:
        assert isinstance(self.entries, tuple)
        return Segment("table", table=self.entries)
