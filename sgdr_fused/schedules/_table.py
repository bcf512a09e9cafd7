"""A schedule that is listed step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import _checks
from ._base import Kind, Schedule, Segment


@dataclass(frozen=True)
class Table(Schedule):
    """A value per step, as listed or as a Python function gives them; the last one holds from there on.

    The function is called once per step, here and now; the device then reads the value of its step from
    its own memory, 8 bytes a step. A checkpoint holds all values.

    Args:
        entries: a list, a tuple, a one-dimensional tensor or array of finite numbers >= 0, at least one; or
            a function of the step.
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
            entries = [entries(t) for t in range(number)]
        elif num_steps is not None:
            raise ValueError(f"num_steps must be None unless entries is a function, got {num_steps!r}")
        elif hasattr(entries, "tolist"):  # a tensor or an array
            entries = entries.tolist()
        if not isinstance(entries, (list, tuple)):
            raise TypeError(f"entries must be a list of numbers or a function, got {self.entries!r}")
        if not entries:
            raise ValueError(f"entries must not be empty, got {self.entries!r}")
        self._set(entries=tuple(_checks.rate(f"entries[{t}]", value) for t, value in enumerate(entries)))

    @property
    def upper_bound(self) -> float:
        assert isinstance(self.entries, tuple)  # __post_init__ has made it one
        return max(self.entries)

    def _curve(self) -> Segment:
        assert isinstance(self.entries, tuple)
        return Segment(Kind.TABLE, table=self.entries)
