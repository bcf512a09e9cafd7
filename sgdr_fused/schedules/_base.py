"""What all schedules have in common, and the plain data that C++ evaluates."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import _checks, _plot, reference
from .._native import backends
from . import _sizes
from ._dicts import read

_kinds: dict[str, type[Schedule]] = {}

# What torch's schedulers have and users reach for, and what to do instead.
_OF_SCHEDULERS = {
    "step": "optimizer.step() advances the clock that it is a function of: leave the call out",
    "get_last_lr": "ask the optimizer, optimizer.get_last_lr(), or for any step the schedule itself, schedule(t)",
    "state_dict": "it has no state: optimizer.state_dict() holds the schedule and the clock",
    "load_state_dict": "it has no state: optimizer.load_state_dict() restores the schedule and the clock",
}


_FOREIGN = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)


def refuse_foreign(name: str, value: Any, kind: str) -> None:
    """Raises for what torch's schedulers are made of."""
    if isinstance(value, torch.optim.Optimizer):
        raise TypeError(
            f"a Schedule takes no optimizer: pass it as lr=, as in FusedSGD(parameters, lr={kind}(...)); "
            f"{name} is a {type(value).__name__}"
        )
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        raise TypeError(
            f"a Schedule takes none of torch's schedulers: schedules.from_torch(scheduler) makes Schedules of one; "
            f"{name} is a {type(value).__name__}"
        )


def _made(kind: str, *fields: Any) -> Schedule:
    """A schedule of that kind. Its class inherits from Schedule, so this module cannot import it: it is registered."""
    make: Any = _kinds[kind]
    return make(*fields)


class Segment(NamedTuple):
    """A curve and the steps at which it holds: ``Segment`` of csrc/math/schedules.h.

    csrc/math/schedule_names.h has the names of the kinds and modes.
    """

    kind: str
    mode: str = "none"  # the form of a ramp or of a triangular curve; other kinds have no modes
    values: Sequence[float] = ()
    lengths: Sequence[int] = ()
    table: Sequence[float] = ()  # of steps; where the kind is "table", of values
    first_step: int = 0
    shift: int = 0
    scale: float = 1.0


def _compiled_by(extension: Any, segments: list[Segment]) -> Any:
    """The C++ form of a schedule that consists of these segments."""
    return extension.CompiledSchedule([extension.Segment(**segment._asdict()) for segment in segments])


@dataclass(frozen=True)
class Schedule:
    """What all schedules have in common; not used by itself.

    Schedules are validated on construction, immutable, hashable, comparable and picklable, and
    ``eval(repr(s)) == s``.

    ``2 * s`` is the schedule times a number, ``s1 * s2`` the product of two, ``s.shifted(n)`` the schedule
    from its step ``n`` on.
    """

    __array_ufunc__: ClassVar[None] = None  # a number of NumPy's leaves the product to us

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):  # one that only others inherit from
            _kinds[cls.__name__] = cls

    if not TYPE_CHECKING:  # which would take them for a constructor and attributes of any kind

        def __new__(cls, *args, **kwargs):
            if any(isinstance(value, _FOREIGN) for value in (*args, *kwargs.values())):
                names = [field.name for field in dataclasses.fields(cls)]
                for name, value in (*zip(names, args, strict=False), *kwargs.items()):
                    refuse_foreign(name, value, cls.__name__)
            return super().__new__(cls)

        def __getattr__(self, name):
            advice = _OF_SCHEDULERS.get(name)
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(f"{text}: a Schedule is no scheduler, {advice}" if advice else text)

    def __call__(self, t: int) -> float:
        """The value at step ``t`` >= 0."""
        t = _checks.integer("t", t, 0)
        return self._reference(t) if self._compiled is None else self._compiled(t)

    def values(self, n: int) -> Tensor:
        """The values at steps 0 to ``n - 1``: a float64 tensor of shape (n,) on the CPU."""
        n = _checks.integer("n", n, 0)
        if self._compiled is None:
            return torch.tensor([*map(self._reference, range(n))], dtype=torch.float64, device="cpu")
        return self._compiled.values(n)

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        """``(index, position, length)`` of the cycle that step ``t`` is in, in steps.

        A schedule without cycles is one cycle that never ends: ``(0, t, None)``.
        """
        return self._cycle(_checks.integer("t", t, 0))

    def is_cycle_end(self, t: int) -> bool:
        """Whether step ``t`` is the last of its cycle: another follows it."""
        _, position, length = self.cycle(t)
        return length is not None and position == length - 1

    @property
    def has_cycles(self) -> bool:
        """Whether a cycle ever ends, and another follows.

        The end of a part of a :class:`Sequential` counts only if one of its parts has cycles: a warm-up and a
        plateau are none.
        """
        return self._has_cycles_from(0)

    @property
    def last_step(self) -> int | None:
        """The last step that the schedule is made for, or None where it goes on, or stays on purpose.

        What goes on after it hardly trains: :class:`OneCycle` has ended, or the value has fallen below 1 % of where
        it began. A ramp, a :class:`Polynomial` or a :class:`Table` inside another schedule is a plateau on purpose.
        """
        return self._last_step(inside=False)

    @property
    def upper_bound(self) -> float:
        """No value is larger, but for rounding."""
        raise NotImplementedError

    def shifted(self, steps: int) -> Schedule:
        """The schedule from its step ``steps`` on: ``s.shifted(n)(t) == s(t + n)``."""
        return _made("Shifted", self, steps)

    def __mul__(self, other: Schedule | float) -> Schedule:
        if isinstance(other, Schedule):
            return _made("Product", (self, other))
        if isinstance(other, Real) and not isinstance(other, bool):
            return _made("Product", (_made("Constant", _checks.rate("factor", other)), self))
        return NotImplemented

    def __rmul__(self, other: float) -> Schedule:  # two Schedules meet in __mul__
        return self.__mul__(other)

    def plot(self, num_steps: int, ax: Any = None) -> Any:
        """Draws the values at steps 0 to ``num_steps - 1``.

        Args:
            num_steps: an integer >= 1.
            ax: matplotlib Axes to draw in; None makes a Figure of its own, which pyplot does not know.

        Returns:
            the Axes; ``plot(...).figure`` shows the picture in a notebook, its ``savefig(...)`` writes a file.

        Raises:
            ImportError: without matplotlib, saying what to install.

        Example:
            >>> from sgdr_fused.schedules import LinearRamp
            >>> ax = LinearRamp(0.0, 1.0, steps=2).plot(4)
            >>> ax.lines[0].get_ydata().tolist()
            [0.0, 0.5, 1.0, 1.0]
        """
        return _plot.schedules([self], num_steps, ax)

    @staticmethod
    def plot_many(schedules: Sequence[Schedule] | Mapping[str, Schedule], num_steps: int, ax: Any = None) -> Any:
        """Draws several schedules in one picture, as :meth:`plot` does one.

        Args:
            schedules: a list, whose labels are their ``repr``, or a dict with the labels.
            num_steps, ax: as of :meth:`plot`.

        Example:
            >>> from sgdr_fused.schedules import Constant, LinearRamp
            >>> ax = Schedule.plot_many({"ramp": LinearRamp(0.0, 1.0, steps=2), "flat": Constant(0.5)}, 4)
            >>> [text.get_text() for text in ax.get_legend().get_texts()]
            ['ramp', 'flat']
        """
        return _plot.schedules(schedules, num_steps, ax)

    def to_dict(self) -> dict[str, Any]:
        """The schedule as primitives: its kind and its fields."""
        return {"kind": type(self).__name__, **{name: _to_primitive(value) for name, value in self._fields().items()}}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Schedule:
        """The schedule that ``to_dict()`` wrote.

        Raises:
            ValueError: for an unknown kind, for fields that the kind does not have, and for too many schedules.
        """
        schedule: Schedule = read(data, _kinds)
        return schedule

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._fields().values())  # not the compiled form

    def __deepcopy__(self, memo: dict[int, Any]) -> Schedule:
        return type(self)(*self._fields().values())  # its fields are immutable too

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _set(self, **values: Any) -> None:
        """Normalises fields during construction, the one time at which they may be written."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @functools.cached_property
    def _reference(self) -> Callable[[int], float]:
        """The function of the reference that is named like the class, with our fields."""
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        return functools.partial(
            getattr(reference, name), **{key: _by_reference(value) for key, value in self._fields().items()}
        )

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        """``cycle`` of a step that was checked, or lies beyond the last one by a shift."""
        return 0, t, None

    @functools.cached_property
    def _first_cycle(self) -> tuple[int, int, int | None]:
        """The cycle of step 0, which composed schedules ask for at every step."""
        return self._cycle(0)

    def _has_cycles_from(self, step: int) -> bool:
        """Whether a cycle ends at `step` or later."""
        return False

    def _last_step(self, inside: bool) -> int | None:
        """``last_step``, also for a schedule that stands inside another."""
        return None

    @functools.cached_property
    def _size(self) -> _sizes.Size:
        segments = self._segments()
        return _sizes.of_segments([len(each.table) for each in segments], [each.shift for each in segments])

    def _curve(self) -> Segment:
        """The one curve of a schedule that is not put together from others."""
        raise NotImplementedError

    def _segments(self) -> list[Segment]:
        """The segments, in ascending order of first_step."""
        return [self._curve()]

    def _cycle_ends(self) -> list[Segment]:
        """``is_cycle_end`` as segments: 1 where it is True, else 0."""
        return [Segment("constant", values=[0.0])]

    @functools.cached_property
    def _compiled_cycle_ends(self) -> Any:
        """Their C++ form; there has to be an extension."""
        return _compiled_by(backends.load(), self._cycle_ends())

    @property
    def _compiled(self) -> Any:
        """The C++ form, made once; None without an extension."""
        compiled = self.__dict__.get("_cached")
        if compiled is None:
            extension = backends.load()
            if extension is not None:
                compiled = _compiled_by(extension, self._segments())
                self._set(_cached=compiled)
        return compiled


def _to_primitive(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_to_primitive(item) for item in value] if isinstance(value, tuple) else value


def _by_reference(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value._reference
    return tuple(_by_reference(item) for item in value) if isinstance(value, tuple) else value
