"""Schedules made of schedules, one at a time. The device sees a list of segments."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import _checks
from .._messages import shown
from . import _sizes
from ._base import Schedule, Segment, refuse_foreign


def checked(name: str, value: Any) -> Schedule:
    if isinstance(value, Schedule):
        return value
    refuse_foreign(name, value, "CosineWarmRestarts")
    what = shown(value)
    if isinstance(value, type) and issubclass(value, Schedule):
        what += f", the class: make one, {value.__name__}(...)"
    raise TypeError(f"{name} must be a Schedule, got {what}")


def _from_step(segments: list[Segment], step: int) -> list[Segment]:
    """The segments that hold at `step` and later, with steps counted from there."""
    now = max(segment.first_step for segment in segments if segment.first_step <= step)
    return [
        segment._replace(first_step=max(segment.first_step - step, 0), shift=segment.shift + step)
        for segment in segments
        if segment.first_step >= now
    ]


def _delayed(segments: list[Segment], steps: int) -> list[Segment]:
    """The same segments so many steps later, without those that would begin after the last step of all."""
    return [
        segment._replace(first_step=segment.first_step + steps, shift=segment.shift - steps)
        for segment in segments
        if segment.first_step + steps <= _checks.MAX_STEP
    ]


@dataclass(frozen=True)
class Shifted(Schedule):
    """A schedule from its step ``steps`` on; ``s.shifted(steps)`` makes one.

    ::

        value = schedule(t + steps)

    Cycles, their numbers included, are those that the schedule has at step ``t + steps``. One that is shifted again
    is shifted by the sum.

    Args:
        schedule: a Schedule.
        steps: an integer >= 0.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> from sgdr_fused.schedules import LinearRamp
        >>> LinearRamp(0.0, 1.0, steps=4).shifted(1).values(4).tolist()
        [0.25, 0.5, 0.75, 1.0]
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        schedule, steps = checked("schedule", self.schedule), _checks.integer("steps", self.steps, 0)
        if isinstance(schedule, Shifted):
            steps += schedule.steps
            schedule = schedule.schedule
        self._set(schedule=schedule, steps=steps)
        _sizes.check("schedule", self._size)

    @functools.cached_property
    def _size(self) -> _sizes.Size:
        return _sizes.shifted(self.schedule._size, self.steps)

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        return self.schedule._cycle(t + self.steps)

    def _has_cycles_from(self, step: int) -> bool:
        return self.schedule._has_cycles_from(step + self.steps)

    def _last_step(self, inside: bool) -> int | None:
        last = self.schedule._last_step(inside)
        return None if last is None else max(last - self.steps, 0)

    @property
    def upper_bound(self) -> float:
        return self.schedule.upper_bound

    def _segments(self) -> list[Segment]:
        return _from_step(self.schedule._segments(), self.steps)

    def _cycle_ends(self) -> list[Segment]:
        return _from_step(self.schedule._cycle_ends(), self.steps)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A schedule after a linear rise to its first value.

    ::

        value = schedule(0) * (start_factor + (1 - start_factor) * t / steps)     for t < steps,
                schedule(t - steps)                                               from then on

    The rise is part of the schedule's first cycle, which is ``steps`` longer.

    Args:
        schedule: a Schedule.
        steps: steps of the rise; an integer >= 1.
        start_factor: in [0, 1].

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> from sgdr_fused.schedules import CosineWarmRestarts
        >>> schedule = Warmup(CosineWarmRestarts(1.0, T_0=10), steps=4)
        >>> schedule.values(6)[:5].tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
        >>> schedule.cycle(13), schedule.cycle(14)
        ((0, 13, 14), (1, 0, 10))

    Source: Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2.
    """

    schedule: Schedule
    steps: int
    start_factor: float = 0.0

    def __post_init__(self) -> None:
        checked("schedule", self.schedule)
        self._set(
            steps=_checks.integer("steps", self.steps, 1),
            start_factor=_checks.between("start_factor", self.start_factor, 0.0, 1.0),
        )
        _sizes.check("schedule", self._size)

    @functools.cached_property
    def _size(self) -> _sizes.Size:
        rise = _sizes.Size(1, 0, 1, 1, 1, 0, 0, 0)
        return _sizes.in_turn([rise, self.schedule._size])

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        first, before, first_length = self.schedule._first_cycle
        if t >= self.steps:
            index, position, length = self.schedule._cycle(t - self.steps)
            if index > first:
                return index, position, length
        # The first cycle of a schedule that is shifted may have begun before.
        return first, before + t, None if first_length is None else first_length + self.steps

    def _has_cycles_from(self, step: int) -> bool:
        return self.schedule._has_cycles_from(max(step - self.steps, 0))

    def _last_step(self, inside: bool) -> int | None:
        last = self.schedule._last_step(inside=True)
        return None if last is None else last + self.steps

    @property
    def upper_bound(self) -> float:
        return self.schedule.upper_bound

    def _segments(self) -> list[Segment]:
        rise = Segment(
            "ramp",
            "linear",
            [self.start_factor, 1.0, 0.0, 0.0],
            [self.steps, self.steps],
            scale=self.schedule(0),
        )
        return [rise, *_delayed(self.schedule._segments(), self.steps)]

    def _cycle_ends(self) -> list[Segment]:
        return [*super()._cycle_ends(), *_delayed(self.schedule._cycle_ends(), self.steps)]


@dataclass(frozen=True)
class Sequential(Schedule):
    """Schedules one after the other, each from its own step 0.

    Where a part ends, so does its cycle; the next part's cycles are counted on.

    Args:
        schedules: ``(schedule, steps)`` for each part but the last, and the last part's schedule; steps are
            integers >= 1.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> from sgdr_fused.schedules import Constant, LinearRamp
        >>> schedule = Sequential([(LinearRamp(0.0, 1.0, steps=2), 3), (Constant(0.5), 1), Constant(0.25)])
        >>> schedule.values(6).tolist()
        [0.0, 0.5, 1.0, 0.5, 0.25, 0.25]
        >>> [schedule.cycle(t) for t in (2, 3, 10)]
        [(0, 2, 3), (1, 0, 1), (2, 6, None)]
    """

    schedules: Sequence[Any]  # of (Schedule, int), and a Schedule at the end

    def __post_init__(self) -> None:
        if not isinstance(self.schedules, (list, tuple)) or not self.schedules:
            raise TypeError(f"schedules must be a list, got {shown(self.schedules)}")
        if len(self.schedules) > _sizes.MAX_SCHEDULES:
            raise ValueError(f"schedules must be at most {_sizes.MAX_SCHEDULES:,}, got {len(self.schedules):,}")
        parts = []
        for i, part in enumerate(self.schedules[:-1]):
            name = f"schedules[{i}]"
            refuse_foreign(name, part, "Sequential")
            if not isinstance(part, (list, tuple)) or len(part) != 2:
                raise TypeError(f"{name} must be a pair (schedule, steps), got {shown(part)}")
            parts.append((checked(f"{name}[0]", part[0]), _checks.integer(f"{name}[1]", part[1], 1)))
        last = checked(f"schedules[{len(parts)}], the last,", self.schedules[-1])
        if sum(steps for _, steps in parts) > _checks.MAX_STEP:
            raise ValueError(f"schedules must not have more than 2**61 steps in all, got {shown(self.schedules)}")
        self._set(schedules=(*parts, last))
        _sizes.check("schedules", self._size)

    @functools.cached_property
    def _size(self) -> _sizes.Size:
        return _sizes.in_turn([schedule._size for schedule in self._parts])

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        part = bisect.bisect_right(self._begins, t) - 1
        schedule, begin = self._parts[part], self._begins[part]
        index, position, length = schedule._cycle(t - begin)
        if part + 1 < len(self._begins):
            rest = self._begins[part + 1] - t  # steps to the end of the part, with this one
            length = position + rest if length is None else min(length, position + rest)
        return self._cycles_before[part] + index - schedule._first_cycle[0], position, length

    def _has_cycles_from(self, step: int) -> bool:
        """The ends of cycle-less parts count only beside a part that has cycles."""
        part = bisect.bisect_right(self._begins, step) - 1
        later = zip(self._parts[part:], self._begins[part:], strict=True)
        return any(schedule._has_cycles_from(max(step - begin, 0)) for schedule, begin in later)

    def _last_step(self, inside: bool) -> int | None:
        last = self._parts[-1]._last_step(inside=True)
        return None if last is None else last + self._begins[-1]

    @property
    def upper_bound(self) -> float:
        return max(schedule.upper_bound for schedule in self._parts)

    @functools.cached_property
    def _parts(self) -> list[Schedule]:
        return [*(schedule for schedule, _ in self.schedules[:-1]), self.schedules[-1]]

    @functools.cached_property
    def _begins(self) -> list[int]:
        return [0, *itertools.accumulate(steps for _, steps in self.schedules[:-1])]

    @functools.cached_property
    def _cycles_before(self) -> list[int]:
        """How many cycles there are before each part."""
        counts = [
            schedule._cycle(steps - 1)[0] - schedule._first_cycle[0] + 1 for schedule, steps in self.schedules[:-1]
        ]
        return [0, *itertools.accumulate(counts)]

    def _segments(self) -> list[Segment]:
        return [segment for part in self._delayed_parts(lambda schedule: schedule._segments()) for segment in part]

    def _cycle_ends(self) -> list[Segment]:
        """The ends of the parts' cycles, and the last step of each part that another follows."""
        result: list[Segment] = []
        for part, next_begin in itertools.zip_longest(
            self._delayed_parts(lambda schedule: schedule._cycle_ends()), self._begins[1:]
        ):
            if next_begin is None:
                result += part
            else:
                result += [segment for segment in part if segment.first_step < next_begin - 1]
                result.append(Segment("constant", values=[1.0], first_step=next_begin - 1))
        return result

    def _delayed_parts(self, segments_of: Callable[[Schedule], list[Segment]]) -> list[list[Segment]]:
        """What holds in each part, in steps of the whole."""
        return [
            [segment for segment in _delayed(segments_of(schedule), begin) if segment.first_step < end]
            for schedule, begin, end in zip(
                self._parts, self._begins, [*self._begins[1:], _checks.MAX_STEP + 1], strict=True
            )
        ]
