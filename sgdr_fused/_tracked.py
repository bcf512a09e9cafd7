"""Mappings that say when they are written to, so that a step need not look through them."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ._compile import untraced


class Changes:
    """What was written since the last step. One per optimizer, shared by its mappings."""

    __slots__ = ("numbers", "plan")

    def __init__(self) -> None:
        self.plan = True  # something that a plan is made from
        self.numbers = True  # only numbers, which a step passes by value


@untraced()
class TrackedDict(dict):
    """A dict whose every change goes through ``_written(key)``, or ``_written(None)`` for all keys."""

    def _written(self, key: Any) -> None:
        raise NotImplementedError

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self._written(key)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self._written(key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # the same for all of dict's signatures
        self.update(other)
        return self

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        missing = key not in self
        value = super().pop(key, *default)
        if not missing:
            self._written(key)
        return value

    def popitem(self) -> tuple[Any, Any]:
        item = super().popitem()
        self._written(item[0])
        return item

    def clear(self) -> None:
        super().clear()
        self._written(None)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (dict(self),)  # copies and pickles are plain

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def copy(self) -> dict[Any, Any]:
        return dict(self)


@untraced()
class ParamState(TrackedDict):
    """The state of one parameter.

    Attributes:
        steps: updates behind it, where the algorithm's state has no ``step`` of its own; None where
            that is not known, because the state came from elsewhere.
    """

    def __init__(self, changes: Changes, values: dict[str, Any]) -> None:
        super().__init__(values)
        self._changes = changes
        self.steps: Tensor | None = None

    def _written(self, key: Any) -> None:
        self._changes.plan = True
        if key is None or key == "momentum_buffer":
            self.steps = None


@untraced()
class State(TrackedDict, defaultdict):
    """``Optimizer.state``: parameter -> ParamState, made when it is asked for."""

    def __init__(self, changes: Changes, values: dict[Any, Any]) -> None:
        super().__init__(dict)
        self._changes = changes
        for key, value in values.items():
            self[key] = value

    def __missing__(self, key: Any) -> Any:
        self[key] = {}
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, dict) and isinstance(key, Tensor):
            value = ParamState(self._changes, value)
        super().__setitem__(key, value)

    def _written(self, key: Any) -> None:
        self._changes.plan = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        return defaultdict, (dict,), None, None, iter(self.items())

    def copy(self) -> Any:
        return defaultdict(dict, self)

    __copy__ = copy


@untraced()
class Group(TrackedDict):
    """A parameter group.

    Attributes:
        displays: per scheduled entry (``"lr"``, ``"betas"``, ...) the tensor that shows its value, and the
            version at which nobody else has written to it.
    """

    def __init__(self, changes: Changes, assign: Callable[[Group, str, Any], Any], values: dict[str, Any]) -> None:
        super().__init__(values)
        self._changes = changes
        self._assign = weakref.WeakMethod(assign)  # no cycle: memory is freed with the optimizer
        self.displays: dict[str, tuple[Tensor, int]] = {}

    def __setitem__(self, key: str, value: Any) -> None:
        assign = self._assign()
        if assign is not None:  # else the optimizer is gone, and this is a plain dict
            value = assign(self, key, value)  # which notes what changed
        dict.__setitem__(self, key, value)

    def _written(self, key: Any) -> None:
        self._changes.plan = True

    def replace(self, key: str, value: Any) -> None:
        """Stores without checks: for the optimizer itself."""
        dict.__setitem__(self, key, value)
