"""The clock: a tensor that says when it is written to, and refuses what is no number of steps; and its copies."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._checks import MAX_STEP
from .compiling import untraced

# These methods write, beside those whose names end in an underscore and those that are given `out=`.
_WRITING = {"__set__", "__setitem__", "__iadd__", "__isub__", "__imul__", "__ifloordiv__", "__imod__", "__ipow__"}

# A session's method, which the clock may outlive; it is told whether the clock's memory is another than before.
Written: TypeAlias = weakref.WeakMethod[Callable[[bool], None]]


@untraced()
class Clock(Tensor):
    """A 0-dim int64 tensor: the optimizer steps taken, in [0, 2**61].

    The displayed rates must follow ``clock.fill_(n)`` at once, and the copies on other devices too. So
    every operation on the clock passes here, and one that wrote to it calls ``written``, with whether its memory is
    another than before. The results of operations are plain tensors.
    """

    _version_seen: int
    _address_seen: int
    _written: Written

    @staticmethod
    def make(steps: int, device: torch.device, written: Written) -> Clock:
        with torch.inference_mode(False):
            clock = torch.tensor(steps, dtype=torch.int64, device=device).as_subclass(Clock)
        clock._see()
        clock._written = written
        return clock

    def _now(self) -> tuple[int, int]:
        return _plainly(Tensor._version.__get__, self), _plainly(Tensor.data_ptr, self)  # type: ignore[attr-defined]

    def _see(self) -> None:
        self._version_seen, self._address_seen = self._now()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = [item for value in (*args, *kwargs.values()) for item in _items(value)]
        clocks = [operand for operand in operands if isinstance(operand, Clock)]
        name = getattr(func, "__name__", "")
        writes = name in _WRITING or (name.endswith("_") and not name.endswith("__")) or "out" in kwargs
        before = [(clock, _data_of(clock), _plainly(Tensor.clone, _data_of(clock))) for clock in clocks if writes]
        try:
            result = _plainly(func, *args, **kwargs)
            _tell(clocks, before)
        except BaseException:  # an interrupt may have come between the write and the telling
            _tell(clocks, before)
            raise
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By itself it is just a number of steps; an optimizer brings its own clock. Memory that processes share would
        # have to live until the other one has opened it.
        return number_of_steps, (int(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.as_subclass(Tensor).detach().clone()


def number_of_steps(count: int) -> Tensor:
    """What a pickle of a clock makes."""
    return torch.tensor(count, dtype=torch.int64, device="cpu")


torch.serialization.add_safe_globals([number_of_steps])  # wrappers save groups, which hold clocks


def _plainly(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls torch past the clock's own methods. A context manager would not do: an interrupt could skip its end."""
    return torch._C._disabled_torch_function_impl(func, (Clock,), args, kwargs)


def _data_of(clock: Clock) -> Tensor:
    """The clock's memory as a plain tensor."""
    return _plainly(Tensor.data.__get__, clock)  # type: ignore[attr-defined]


def _tell(clocks: list[Clock], before: list[tuple[Clock, Tensor, Tensor]]) -> None:
    """Refuses what was written to clocks, or makes the displays follow it; a second call does nothing."""
    changed = [clock for clock in clocks if clock._now() != (clock._version_seen, clock._address_seen)]
    refused = next((message for clock in changed if (message := _fault(_data_of(clock)))), None)
    if refused:
        for clock, data, steps in before:
            _plainly(Tensor.data.__set__, clock, data)  # type: ignore[attr-defined]  # where it was
            data.copy_(steps)
            clock._see()
        raise ValueError(refused)
    for clock in changed:
        written = clock._written()
        if written is not None:
            _plainly(written, clock._now()[1] != clock._address_seen)  # which uses the clock
        clock._see()


def _items(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


def _fault(clock: Tensor) -> str | None:
    """What is wrong with what was written to the clock."""
    if clock.dtype != torch.int64 or clock.dim() != 0:
        return f"clock must be a 0-dim int64 tensor, got one of shape {tuple(clock.shape)}, {clock.dtype}"
    if clock.is_cuda and torch.cuda.is_current_stream_capturing():
        return None  # it cannot be read now; schedules have a value for every integer
    steps = int(clock)
    return None if 0 <= steps <= MAX_STEP else f"clock must be in [0, 2**61], got {steps}"


class StepCount:
    """A number of steps, with a copy on each device that reads it. Whoever is told of a write copies it to the others.

    Args:
        written: is called after each write to one of the copies.
    """

    def __init__(self, written: Written) -> None:
        self._written = written
        self.copies: dict[torch.device, Clock] = {}

    def on(self, device: torch.device) -> Clock:
        if device not in self.copies:
            clock = Clock.make(int(next(iter(self.copies.values()), 0)), device, self._written)
            self.copies.setdefault(device, clock)  # a signal handler may have asked for it meanwhile
        return self.copies[device]

    def let_go_of_others(self, devices: set[torch.device]) -> None:
        """Keeps the copies on these devices alone."""
        for device in self.copies.keys() - devices:
            del self.copies[device]

    def copy_to_others(self, source: Clock) -> None:
        for copy in self.copies.values():
            if copy is not source:
                copy.data.copy_(source.as_subclass(Tensor))
