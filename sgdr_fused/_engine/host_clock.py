"""What happens at certain steps, without waiting for the device's clock: cycle-end hooks, the warning past an end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .._messages import shown, warn
from ..schedules import Schedule
from .cycles import require_cycles, schedule_of
from .options import Options

CycleEndHook = Callable[[Any, int], Any]  # (optimizer, index of the cycle)


class Stepping(Protocol):
    """What has the clock, and takes the steps: an optimizer's session."""

    groups: list[dict[str, Any]]
    options: Options

    @property
    def clock(self) -> Tensor: ...

    def first_device(self) -> torch.device: ...


class HostClock:
    """The hooks of one optimizer, and what the host knows of its clock.

    Reading the clock waits for the device. So the host counts the steps itself, before each is taken, which is an upper
    bound: the device may skip a step. Only when the count reaches the end of a cycle does it read. Past the end of a
    schedule it reads only where a step may have been skipped.

    Attributes:
        watches: whether there is anything to count steps for.
    """

    def __init__(self) -> None:
        self.hooks: OrderedDict[int, CycleEndHook] = OrderedDict()
        self.watches = False
        self._warned: set[Schedule] = set()
        self._ends: list[tuple[int, Schedule]] = []  # last steps of the schedules that have one, in ascending order
        self._known: _Known | None = None
        self._forgotten = object()  # another each time

    def forget(self) -> None:
        """Notes that the host no longer knows the clock."""
        self._forgotten = object()
        self._known = None

    def add(self, session: Stepping, hook: CycleEndHook) -> RemovableHandle:
        require_cycles(session.groups, "a cycle-end hook")
        handle = RemovableHandle(self.hooks)
        self.hooks[handle.id] = hook
        self.forget()  # steps without hooks were not counted
        self.watches = True
        return handle

    def look_out_for(self, schedules: list[Schedule]) -> None:
        """Notes which schedules stand for rates from here on."""
        ends = {schedule: schedule.last_step for schedule in schedules if schedule.last_step is not None}
        left = [(last, schedule) for schedule, last in ends.items() if schedule not in self._warned]
        self._ends = sorted(left, key=lambda end: end[0])
        if self._ends and not self.watches:
            self.forget()
        self.watches = bool(self.hooks or self._ends)

    def before_step(self, session: Stepping, may_be_skipped: bool) -> None:
        """Counts the step that comes; `may_be_skipped`: a GradScaler may have found an infinite gradient."""
        self.watches = bool(self.hooks or self._ends)
        if not self.watches:  # the hooks were removed
            return
        known = self._known
        if _is_capturing(session):  # the clock stays where it is, and cannot be read
            if known is not None:
                known.is_exact = False
            return
        if known is None or (self.hooks and schedule_of(session.groups) is not known.schedule):
            known = self._look(session)
        if self._ends and known.count > self._ends[0][0]:
            known = self._warn(session, known)
        known.count += 1
        if session.options["skip_nonfinite"] or may_be_skipped:
            known.is_exact = False

    def after_step(self, session: Stepping, owner: object) -> None:
        """Calls the hooks, with the owner of the session, where a cycle has ended."""
        known = self._known
        if not self.hooks or known is None or known.cycle_end is None or known.count < known.cycle_end:
            return
        if _is_capturing(session):
            return
        schedule, ended = known.schedule, known.cycle_end
        # It is more where replays of a graph went through the end: then nothing is called.
        if self._look(session).count == ended and schedule is not None:
            index = schedule.cycle(ended - 1)[0]
            for hook in tuple(self.hooks.values()):
                hook(owner, index)

    def _look(self, session: Stepping) -> _Known:
        """Reads the clock, and reads it again where a signal handler has written to it meanwhile."""
        while True:
            forgotten = self._forgotten
            known = _Known(int(session.clock), schedule_of(session.groups))
            self._known = known
            if self._forgotten is forgotten:
                return known

    def _warn(self, session: Stepping, known: _Known) -> _Known:
        """Warns of the schedules whose last step is behind the clock."""
        if not known.is_exact:
            known = self._look(session)
        step = known.count
        while self._ends and step > self._ends[0][0]:
            last, schedule = self._ends.pop(0)
            self._warned.add(schedule)
            warn(
                f"step {step} is past the end of {shown(schedule)}, whose last step is {last}: the rate stays at "
                f"{schedule(step):g} from here on. A schedule counts optimizer steps (mini-batches); if its length was "
                "meant in epochs, multiply it by the steps in one, len(loader)"
            )
        self.watches = bool(self.hooks or self._ends)
        return known


class _Known:
    """What the host knows of the clock.

    Attributes:
        count: the clock, or more than it.
        is_exact: whether it is the clock.
        schedule: the one whose cycles the optimizer goes by.
        cycle_end: what the clock is when the cycle has ended; None: it never does.
    """

    def __init__(self, clock: int, schedule: Schedule | None) -> None:
        self.count, self.is_exact, self.schedule = clock, True, schedule
        _, position, length = (0, clock, None) if schedule is None else schedule.cycle(clock)
        self.cycle_end = None if length is None else clock - position + length


def _is_capturing(session: Stepping) -> bool:
    return session.first_device().type == "cuda" and torch.cuda.is_current_stream_capturing()
