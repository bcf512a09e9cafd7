"""Schedules multiplied with each other. The device sees a list of segments, of which several hold at a time."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .._messages import shown
from . import _sizes
from ._base import Schedule, Segment
from ._compose import checked
from ._ramps import Constant


@dataclass(frozen=True)
class Product(Schedule):
    """Schedules multiplied with each other; ``2 * s`` and ``s1 * s2`` make one.

    ::

        value = factors[0](t) * factors[1](t) * ...

    The cycles are those of the first factor that has any. Products in a product are its own factors, and all constants
    are one, so that a schedule may be multiplied any number of times.

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
            raise TypeError(f"factors must be a list of Schedules, got {shown(self.factors)}")
        factors: list[Schedule] = []
        for i, given in enumerate(self.factors):
            factor = checked(f"factors[{i}]", given)
            factors += factor.factors if isinstance(factor, Product) else [factor]
            if len(factors) > _sizes.MAX_SCHEDULES:
                raise ValueError(f"factors must be at most {_sizes.MAX_SCHEDULES:,}, got {shown(self.factors)}")
        constant, curves, merged = _apart(factors)
        bounds = [curve.upper_bound for curve in curves]
        # The order is that of the reference and the device, because 0 times an infinite product is no number.
        products = [constant, math.prod(factor.upper_bound for factor in merged)]
        products += [math.prod([*bounds[:0:-1], bounds[0] * constant])] if bounds else []
        if not all(map(math.isfinite, products)) and not any(map(math.isinf, bounds)):
            raise ValueError(f"factors must not reach an infinite product, got {shown(self.factors)}")
        self._set(factors=merged)
        _sizes.check("factors", self._size)

    @functools.cached_property
    def _size(self) -> _sizes.Size:
        return _sizes.product([factor._size for factor in self.factors])

    @functools.cached_property
    def _leader(self) -> Schedule | None:
        """The factor whose cycles the product has: the first with cycles, else the first whose parts end."""
        has_cycles = (factor for factor in self.factors if factor.has_cycles)
        has_ends = (factor for factor in self.factors if factor._first_cycle[2] is not None)
        return next(itertools.chain(has_cycles, has_ends), None)

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        return super()._cycle(t) if self._leader is None else self._leader._cycle(t)

    def _has_cycles_from(self, step: int) -> bool:
        return self._leader is not None and self._leader._has_cycles_from(step)

    def _last_step(self, inside: bool) -> int | None:
        return min((last for factor in self.factors if (last := factor._last_step(inside)) is not None), default=None)

    def _cycle_ends(self) -> list[Segment]:
        return super()._cycle_ends() if self._leader is None else self._leader._cycle_ends()

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


def _apart(factors: list[Schedule]) -> tuple[float, list[Schedule], tuple[Schedule, ...]]:
    """The product of all constants; the other factors; and all, with one constant where the first of them stands."""
    constants = [factor for factor in factors if isinstance(factor, Constant)]
    curves = [factor for factor in factors if not isinstance(factor, Constant)]
    value = math.prod(constant.value for constant in constants)
    if len(constants) < 2 or not math.isfinite(value):  # such a product is refused
        return value, curves, tuple(factors)
    place = factors.index(constants[0])
    return value, curves, (*curves[:place], Constant(value), *curves[place:])


def _groups(segments: list[Segment]) -> dict[int, list[Segment]]:
    """The segments that hold together, by their first step."""
    return {step: list(group) for step, group in itertools.groupby(segments, lambda s: s.first_step)}


def _without_constants(segments: list[Segment]) -> list[Segment]:
    """The same product in which constants scale the first of the others, if there is one."""
    curves = [s for s in segments if s.kind != "constant"]
    if not curves:
        return segments
    scale = math.prod(s.scale * s.values[0] for s in segments if s.kind == "constant")
    return [curves[0]._replace(scale=curves[0].scale * scale), *curves[1:]]
