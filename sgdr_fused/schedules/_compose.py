"""Schedules made of schedules. All of it happens here: the device sees a list of segments."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import _checks
from ._base import Kind, Schedule, Segment


def _checked(name: str, value: Any) -> Schedule:
    if not isinstance(value, Schedule):
        raise TypeError(f"{name} must be a Schedule, got {value!r}")
    return value


def _from_step(segments: list[Segment], step: int) -> list[Segment]:
    """What holds at `step` and later, with steps counted from there."""
    now = max(segment.first_step for segment in segments if segment.first_step <= step)
    return [
        segment._replace(first_step=max(segment.first_step - step, 0), shift=segment.shift + step)
        for segment in segments
        if segment.first_step >= now
    ]


def _delayed(segments: list[Segment], steps: int) -> list[Segment]:
    return [s._replace(first_step=s.first_step + steps, shift=s.shift - steps) for s in segments]


@dataclass(frozen=True)
class Shifted(Schedule):
    """A schedule from its step ``steps`` on; ``s.shifted(steps)`` makes one.

    ::

        value = schedule(t + steps)

    Cycles, their numbers included, are those that the schedule has at step ``t + steps``.

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
        _checked("schedule", self.schedule)
        self._set(steps=_checks.integer("steps", self.steps, 0))
        if max(segment.shift for segment in self._segments()) > _checks.MAX_STEP:
            raise ValueError(f"steps must not add up to more than 2**61, got {self.steps!r} for {self.schedule!r}")

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        return self.schedule.cycle(_checks.integer("t", t, 0) + self.steps)

    @property
    def upper_bound(self) -> float:
        return self.schedule.upper_bound

    def _segments(self) -> list[Segment]:
        return _from_step(self.schedule._segments(), self.steps)

    def _cycle_ends(self) -> list[Segment]:
        return _from_step(self.schedule._cycle_ends(), self.steps)


@dataclass(frozen=True)
class Product(Schedule):
    """Schedules multiplied with each other; ``2 * s`` and ``s1 * s2`` make one.

    ::

        value = factors[0](t) * factors[1](t) * ...

    The cycles are those of the first factor that has any.

    Args:
        factors: Schedules, at least one; a number is a :class:`Constant`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> from sgdr_fused.schedules import Exponential, LinearRamp
        >>> (2 * LinearRamp(0.0, 1.0, steps=2) * Exponential(1.0, gamma=0.5)).values(4).tolist()
        [0.0, 0.5, 0.5, 0.25]
    """

    factors: Sequence[Schedule]

    def __post_init__(self) -> None:
        if not isinstance(self.factors, (list, tuple)) or not self.factors:
            raise TypeError(f"factors must be a list of Schedules, got {self.factors!r}")
        self._set(factors=tuple(_checked(f"factors[{i}]", factor) for i, factor in enumerate(self.factors)))
        bounds = [factor.upper_bound for factor in self.factors]
        if math.isinf(math.prod(bounds)) and not any(map(math.isinf, bounds)):
            raise ValueError(f"factors must not reach an infinite product, got {self.factors!r}")

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        for factor in self.factors:
            if factor.cycle(0)[2] is not None:
                return factor.cycle(t)
        return super().cycle(t)

    def _cycle_ends(self) -> list[Segment]:
        for factor in self.factors:
            if factor.cycle(0)[2] is not None:
                return factor._cycle_ends()
        return super()._cycle_ends()

    @property
    def upper_bound(self) -> float:
        bounds = [factor.upper_bound for factor in self.factors]
        return math.inf if any(map(math.isinf, bounds)) else math.prod(bounds)

    def _segments(self) -> list[Segment]:
        """The factors' segments, cut where any factor's next one begins."""
        factors = [_groups(factor._segments()) for factor in self.factors]
        begins = sorted(set().union(*factors))
        holding = [groups[0] for groups in factors]
        result = []
        for begin in begins:
            holding = [groups.get(begin, held) for groups, held in zip(factors, holding, strict=True)]
            result += [s._replace(first_step=begin) for s in _without_constants([*itertools.chain(*holding)])]
        return result


def _groups(segments: list[Segment]) -> dict[int, list[Segment]]:
    """The segments that hold together, by their first step."""
    return {step: list(group) for step, group in itertools.groupby(segments, lambda s: s.first_step)}


def _without_constants(segments: list[Segment]) -> list[Segment]:
    """The same product in which constants scale the first of the others, if there is one."""
    curves = [s for s in segments if s.kind != Kind.CONSTANT]
    if not curves:
        return segments
    scale = math.prod(s.scale * s.values[0] for s in segments if s.kind == Kind.CONSTANT)
    return [curves[0]._replace(scale=curves[0].scale * scale), *curves[1:]]


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
        _checked("schedule", self.schedule)
        self._set(
            steps=_checks.integer("steps", self.steps, 1),
            start_factor=_checks.between("start_factor", self.start_factor, 0.0, 1.0),
        )

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        t = _checks.integer("t", t, 0)
        index, position, length = self.schedule.cycle(max(t - self.steps, 0))
        if index > self.schedule.cycle(0)[0]:
            return index, position, length
        before = self.schedule.cycle(0)[1]  # of a schedule that is shifted
        return index, before + t, None if length is None else length + self.steps

    @property
    def upper_bound(self) -> float:
        return self.schedule.upper_bound

    def _segments(self) -> list[Segment]:
        rise = Segment(
            Kind.RAMP,
            0,  # RampMode::kLinear
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
            raise TypeError(f"schedules must be a list, got {self.schedules!r}")
        parts = []
        for i, part in enumerate(self.schedules[:-1]):
            name = f"schedules[{i}]"
            if not isinstance(part, (list, tuple)) or len(part) != 2:
                raise TypeError(f"{name} must be a pair (schedule, steps), got {part!r}")
            parts.append((_checked(f"{name}[0]", part[0]), _checks.integer(f"{name}[1]", part[1], 1)))
        last = _checked(f"schedules[{len(parts)}], the last,", self.schedules[-1])
        if sum(steps for _, steps in parts) > _checks.MAX_STEP:
            raise ValueError(f"schedules must not have more than 2**61 steps in all, got {self.schedules!r}")
        self._set(schedules=(*parts, last))

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        t = _checks.integer("t", t, 0)
        part = bisect.bisect_right(self._begins, t) - 1
        schedule, begin = self._parts[part], self._begins[part]
        index, position, length = schedule.cycle(t - begin)
        before = sum(self._numbers_of_cycles[:part]) - schedule.cycle(0)[0]
        if part + 1 < len(self._begins):
            rest = self._begins[part + 1] - t  # steps to the end of the part, with this one
            length = position + rest if length is None else min(length, position + rest)
        return before + index, position, length

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
    def _numbers_of_cycles(self) -> list[int]:
        """Of each part but the last."""
        return [schedule.cycle(steps - 1)[0] - schedule.cycle(0)[0] + 1 for schedule, steps in self.schedules[:-1]]

    def _segments(self) -> list[Segment]:
        return [segment for part in self._delayed_parts(lambda schedule: schedule._segments()) for segment in part]

    def _cycle_ends(self) -> list[Segment]:
        """Those of the parts, and the last step of each part that another follows."""
        result: list[Segment] = []
        for part, next_begin in itertools.zip_longest(
            self._delayed_parts(lambda schedule: schedule._cycle_ends()), self._begins[1:]
        ):
            if next_begin is None:
                result += part
            else:
                result += [segment for segment in part if segment.first_step < next_begin - 1]
                result.append(Segment(Kind.CONSTANT, values=[1.0], first_step=next_begin - 1))
        return result

    def _delayed_parts(self, segments_of: Callable[[Schedule], list[Segment]]) -> list[list[Segment]]:
        """What holds in each part, in steps of the whole."""
        return [
            [segment for segment in _delayed(segments_of(schedule), begin) if segment.first_step < end]
            for schedule, begin, end in zip(self._parts, self._begins, [*self._begins[1:], math.inf], strict=True)
        ]
