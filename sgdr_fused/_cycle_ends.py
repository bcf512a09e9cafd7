"""Hooks that run when a cycle of the learning rate has ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from ._optimizer import FusedOptimizer
    from .schedules import Schedule

CycleEndHook = Callable[[Any, int], Any]  # (optimizer, index of the cycle)


class CycleEnds:
    """The hooks of one optimizer, and what the host knows of its clock.

    Reading the clock waits for the device. So the host counts the steps itself, which is an upper bound, because the
    device may skip a step; only when the count reaches the end of a cycle does it read.
    """

    def __init__(self) -> None:
        self.hooks: OrderedDict[int, CycleEndHook] = OrderedDict()
        self.forget()

    def forget(self) -> None:
        """The clock is no longer what the host knows."""
        self._count: int | None = None  # the clock, or more than it
        self._schedule: Schedule | None = None
        self._end: int | None = None  # what the clock is when the cycle has ended; None: it never does

    def add(self, optimizer: FusedOptimizer, hook: CycleEndHook) -> RemovableHandle:
        if schedule_of(optimizer) is None:
            raise ValueError(f"a cycle-end hook needs a Schedule for lr, got {optimizer.param_groups[0]['lr']!r}")
        handle = RemovableHandle(self.hooks)
        self.hooks[handle.id] = hook
        self.forget()  # steps without hooks were not counted
        return handle

    def before_step(self, optimizer: FusedOptimizer) -> None:
        unknown = self._count is None or schedule_of(optimizer) is not self._schedule
        if unknown and not _is_capturing(optimizer):
            self._look(optimizer)

    def after_step(self, optimizer: FusedOptimizer) -> None:
        if self._count is None:  # in a capture; or the step's closure wrote to the clock
            return
        self._count += 1
        if self._end is None or self._count < self._end or _is_capturing(optimizer):
            return
        ended = self._end
        # It is more where replays of a graph went through the end: then nothing is called.
        if self._look(optimizer) == ended and self._schedule is not None:
            index = self._schedule.cycle(ended - 1)[0]
            for hook in tuple(self.hooks.values()):
                hook(optimizer, index)

    def _look(self, optimizer: FusedOptimizer) -> int:
        clock = int(optimizer.clock)
        schedule = schedule_of(optimizer)
        _, position, length = (0, clock, None) if schedule is None else schedule.cycle(clock)
        self._count, self._schedule = clock, schedule
        self._end = None if length is None else clock - position + length
        return clock


def schedule_of(optimizer: FusedOptimizer) -> Schedule | None:
    """Whose cycles the optimizer goes by: the first Schedule that stands for a group's lr."""
    schedules = (group["lr_schedule"] for group in optimizer.param_groups)
    return next((schedule for schedule in schedules if schedule is not None), None)


def _is_capturing(optimizer: FusedOptimizer) -> bool:
    return optimizer._first_device().type == "cuda" and torch.cuda.is_current_stream_capturing()
