"""Mappings that say when they are written to, so that a step need not look through them."""

from __future__ import annotations

import copy
import sys
import weakref
from collections import OrderedDict, defaultdict
from typing import Any, Protocol

from torch import Tensor

from .compiling import untraced

_MISSING = object()


class Holder(Protocol):
    """What holds the mappings: an optimizer's session."""

    def let_go_of_plans(self) -> None:
        """Forgets what was made from the mappings, with the memory of what may have been taken away."""


class Changes:
    """What was written: one per session, known to all mappings that it holds.

    Who uses what was written remembers the object that ``plan`` or ``numbers`` was before it looked; another object
    there means that something was written since. So nothing has to be reset, and a signal handler or an interrupt
    between any two lines loses nothing.
    """

    __slots__ = ("holder", "numbers", "plan")

    def __init__(self, holder: Holder) -> None:
        self.holder = weakref.ref(holder)  # weak, because the holder holds these changes
        self.plan = object()  # something that a plan is made from
        self.numbers = object()  # only numbers, which a step passes by value

    def note(self, only_numbers: bool = False) -> None:
        self.numbers = object()
        if only_numbers:
            return
        self.plan = object()
        holder = self.holder()
        if holder is not None:
            holder.let_go_of_plans()


@untraced()
class TrackedDict(dict[Any, Any]):
    """A dict that notes its changes in the ``Changes`` of each session that holds it.

    It is made like a dict, and then it is one, until it is told of a session.

    It may stand for a dict of the user's, its alias, as torch would keep that one: what is written here is written
    there too, and ``take_over`` fetches what the user has written there.
    """

    _changes: tuple[Changes, ...] = ()
    _alias: dict[Any, Any] | None = None

    def tell(self, changes: Changes) -> None:
        """Lets a session hear of what is written from here on."""
        if changes not in self._changes:
            self._changes = (*(c for c in self._changes if c.holder() is not None), changes)

    @property
    def told(self) -> tuple[Changes, ...]:
        """The ``Changes`` of the sessions that hear of what is written."""
        return self._changes

    @property
    def alias(self) -> dict[Any, Any] | None:
        """The user's dict that this one stands for."""
        return self._alias

    def stand_for(self, alias: dict[Any, Any]) -> None:
        dict.update(alias, self)
        self._alias = alias

    def take_over(self) -> None:
        """Takes over what was written to the alias."""
        alias = self._alias
        if alias is None:
            return
        # Each value is read where it is used: an entry before it may have brought it along, or a signal handler.
        for key in tuple(alias):
            if key in alias and dict.get(self, key, _MISSING) is not alias[key]:
                self[key] = alias[key]
                alias[key] = dict.get(self, key, _MISSING)  # the assignment may have kept what was here, which is equal
        for key in tuple(self):
            if key not in alias and key in self:
                del self[key]

    def let_go_of_alias(self) -> None:
        """Forgets an alias that nobody else holds, so that no step looks for what nobody can write."""
        if self._alias is not None and sys.getrefcount(self._alias) == 2:  # ours, and this call's argument
            self._alias = None

    def _note(self, only_numbers: bool = False) -> None:
        for changes in self._changes:
            changes.note(only_numbers)

    def store(self, entries: dict[Any, Any], only_numbers: bool = False) -> None:
        """Stores entries as they are, all at once.

        The change is noted before, in case an interrupt ends this in between, and after, in case a signal handler takes
        a step in between. The alias comes first: what differs there counts as the user's.
        """
        self._note(only_numbers)
        if self._alias is not None:
            dict.update(self._alias, entries)
        dict.update(self, entries)
        self._note(only_numbers)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.store({key: value})

    def __delitem__(self, key: Any) -> None:
        self._note()
        if self._alias is not None:
            self._alias.pop(key, None)
        super().__delitem__(key)
        self._note()

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.store(dict(*args, **kwargs))

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # the same for all of dict's signatures
        self.update(other)
        return self

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        if key not in self:
            return super().pop(key, *default)
        value = dict.__getitem__(self, key)
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        if not self:
            return super().popitem()  # raises
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        self._note()
        if self._alias is not None:
            self._alias.clear()
        super().clear()
        self._note()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OrderedDict, (), None, None, iter(self.items())  # which torch.load(weights_only=True) may make

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return copy.deepcopy(dict(self), memo)

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def copy(self) -> dict[Any, Any]:
        return dict(self)


@untraced()
class ParamState(TrackedDict):
    """The state of one parameter."""


@untraced()
class State(TrackedDict, defaultdict[Any, Any]):
    """``Optimizer.state``: parameter -> ParamState, made when it is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args and (args[0] is None or callable(args[0])):  # defaultdict's first argument
            args = args[1:]
        defaultdict.__init__(self, dict)
        self.update(*args, **kwargs)

    def tell(self, changes: Changes) -> None:
        super().tell(changes)
        for value in self.values():
            if isinstance(value, ParamState):
                value.tell(changes)

    def __missing__(self, key: Any) -> Any:
        self[key] = {}
        return self[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.store({key: self._tracked(key, value)})

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.store({key: self._tracked(key, value) for key, value in dict(*args, **kwargs).items()})

    def _tracked(self, key: Any, value: Any) -> Any:
        """A parameter's state as one of ours, which stands for the user's own dict if it is one."""
        if not isinstance(key, Tensor) or not isinstance(value, dict):
            return value
        if not isinstance(value, ParamState):
            alias, value = value, ParamState(value)
            value.stand_for(alias)
        for changes in self._changes:
            value.tell(changes)
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return copy.deepcopy(defaultdict(dict, self), memo)

    def copy(self) -> Any:
        return defaultdict(dict, self)

    __copy__ = copy
