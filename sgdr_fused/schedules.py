"""Schedules: a hyperparameter as a function of the optimizer's clock.

A schedule is a frozen dataclass: pass one where an optimizer takes a number, and the device evaluates
it inside the step. ``schedule(t)`` is its value at step ``t``, counted in optimizer steps
(mini-batches) from 0, by the same C++ closed form as the device's.

To think in epochs, multiply by the steps in one, fractions included::

    steps_per_epoch = len(loader)
    CosineWarmRestarts(0.1, T_0=round(2.5 * steps_per_epoch), T_mult=2)   # a first cycle of 2.5 epochs
"""

from __future__ import annotations

import bisect
import dataclasses
import decimal
import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import _backend, _checks, reference

__all__ = ["Constant", "CosineWarmRestarts", "Schedule", "Triangular"]

# Cycles of growing length that are told apart, and where the last of them ends at the latest: 64-bit
# integers hold no more. After that, its length repeats.
MAX_CYCLES = 65_536
LAST_START = 2**62

_kinds: dict[str, type[Schedule]] = {}


@dataclass(frozen=True)
class Schedule:
    """What all schedules have in common; not used by itself.

    Schedules are validated on construction, immutable, hashable, comparable and picklable, and
    ``eval(repr(s)) == s``.
    """

    _reference: ClassVar[str]  # the function in reference.py that takes our fields

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _kinds[cls.__name__] = cls

    def __call__(self, t: int) -> float:
        """The value at step ``t`` >= 0."""
        t = _checks.integer("t", t, 0)
        if self._compiled is not None:
            return self._compiled(t)
        return getattr(reference, self._reference)(t, **self._fields())

    def values(self, n: int) -> Tensor:
        """The values at steps 0 to ``n - 1``: a float64 tensor of shape (n,) on the CPU."""
        n = _checks.integer("n", n, 0)
        if self._compiled is not None:
            return self._compiled.values(n)
        value = functools.partial(getattr(reference, self._reference), **self._fields())
        return torch.tensor([value(t) for t in range(n)], dtype=torch.float64)

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        """``(index, position, length)`` of the cycle that step ``t`` is in, in steps.

        A schedule without cycles is one cycle that never ends: ``(0, t, None)``.
        """
        return 0, _checks.integer("t", t, 0), None

    def is_cycle_end(self, t: int) -> bool:
        """Whether step ``t`` is the last of its cycle: a restart follows it."""
        _, position, length = self.cycle(t)
        return length is not None and position == length - 1

    @property
    def upper_bound(self) -> float:
        """No value is larger."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The schedule as primitives: its kind and its fields."""
        return {"kind": type(self).__name__, **self._fields()}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Schedule:
        """The schedule that ``to_dict()`` wrote.

        Raises:
            ValueError: for an unknown kind, and for fields that the kind does not have.
        """
        kind = data.get("kind") if isinstance(data, dict) else None
        if not isinstance(kind, str) or kind not in _kinds:
            raise ValueError(f"unknown schedule {data!r}: kind must be one of {sorted(_kinds)}")
        fields = {name: value for name, value in data.items() if name != "kind"}
        known = {field.name for field in dataclasses.fields(_kinds[kind])}
        if not fields.keys() <= known:
            raise ValueError(f"unknown fields {sorted(fields.keys() - known)} of schedule {data!r}")
        try:
            return _kinds[kind](**fields)
        except TypeError as error:
            raise ValueError(f"cannot make a schedule of {data!r}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._fields().values())  # not the compiled form

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _set(self, **values: Any) -> None:
        """Normalises fields during construction, the one time at which they may be written."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _curve(self) -> tuple[int, int, list[float], list[int], list[int]]:
        """Kind, mode, values, lengths and cycle starts, as csrc/schedules.h describes a Segment."""
        raise NotImplementedError

    @property
    def _compiled(self) -> Any:
        """The C++ form, made once; None without an extension."""
        compiled = self.__dict__.get("_cached")
        if compiled is None:
            extension = _backend.load()
            if extension is not None:
                compiled = extension.CompiledSchedule([(0, 0, 1.0, *self._curve())])
                self._set(_cached=compiled)
        return compiled


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Args:
        value: finite, >= 0.

    Example:
        >>> Constant(0.1)(1000)
        0.1
    """

    value: float

    _reference: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        self._set(value=_checks.rate("value", self.value))

    def _curve(self) -> tuple[int, int, list[float], list[int], list[int]]:
        return 0, 0, [self.value], [], []

    @property
    def upper_bound(self) -> float:
        return self.value


@dataclass(frozen=True)
class CosineWarmRestarts(Schedule):
    r"""Cosine annealing with warm restarts (SGDR).

    In cycle ``i``, ``pos`` steps after its start, with its length ``T_i``::

        max_i = max_lr * max_decay**i        min_i = eta_min * min_decay**i
        value = min_i + (max_i - min_i) * (1 + cos(pi * pos / T_i)) / 2
        T_i   = T_0 * T_mult**i, rounded to whole steps, halves to even

    evaluated so that nothing cancels: exactly ``max_i`` at every restart, and as precise at the end
    of a long cycle as at its start. ``T_mult`` may be a float; the product is rounded, not the
    length before, so errors do not add up. 65,536 cycles are told apart, and the last one's length
    repeats; none ends after step 2**62. ``eta_min`` itself is not reached: the step that would take
    it is the restart.

    Args:
        max_lr: value at each restart; finite, >= 0.
        T_0: steps in the first cycle; an integer >= 1.
        T_mult: growth of the cycles; a finite number >= 1.
        eta_min: what a cycle anneals to; 0 <= ``eta_min`` <= ``max_lr``.
        max_decay: factor on the maximum after each cycle; in [0, 1].
        min_decay: factor on the minimum after each cycle; in [0, 1]. Decayed maxima and minima are
            not held against each other.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> schedule = CosineWarmRestarts(0.1, T_0=10, T_mult=2)
        >>> schedule(0), round(schedule(5), 6), schedule(10), schedule.cycle(12)
        (0.1, 0.05, 0.1, (1, 2, 20))
        >>> schedule.is_cycle_end(9), schedule.is_cycle_end(10)
        (True, False)

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), eq. 5.
    """

    max_lr: float
    T_0: int
    T_mult: float = 1
    eta_min: float = 0.0
    max_decay: float = 1.0
    min_decay: float = 1.0

    _reference: ClassVar[str] = "cosine_warm_restarts"

    def __post_init__(self) -> None:
        growth = _checks.between("T_mult", self.T_mult, 1.0, math.inf, high_open=True)
        self._set(
            max_lr=_checks.rate("max_lr", self.max_lr),
            T_0=_checks.integer("T_0", self.T_0, 1),
            T_mult=int(growth) if growth.is_integer() else growth,
            eta_min=_checks.rate("eta_min", self.eta_min),
            max_decay=_checks.between("max_decay", self.max_decay, 0.0, 1.0),
            min_decay=_checks.between("min_decay", self.min_decay, 0.0, 1.0),
        )
        if self.eta_min > self.max_lr:
            raise ValueError(f"eta_min must be <= max_lr, got {self.eta_min!r} > {self.max_lr!r}")

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        t = _checks.integer("t", t, 0)
        starts = self._cycle_starts
        if not starts:
            return t // self.T_0, t % self.T_0, self.T_0
        index = bisect.bisect_right(starts, t) - 1
        if index < len(starts) - 1:
            return index, t - starts[index], starts[index + 1] - starts[index]
        length = starts[-1] - starts[-2]
        return index + (t - starts[-1]) // length, (t - starts[-1]) % length, length

    @property
    def upper_bound(self) -> float:
        return self.max_lr

    @functools.cached_property
    def _cycle_starts(self) -> list[int]:
        """Where cycles 0, 1, ... start and the last one ends; empty where all are equally long."""
        if self.T_mult == 1:
            return []
        starts = [0]
        # 60 digits: the whole steps below 2**62 take 19, so what is rounded is good to 1e-40.
        with decimal.localcontext(decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)):
            length, growth = decimal.Decimal(self.T_0), decimal.Decimal(self.T_mult)
            while len(starts) <= MAX_CYCLES and starts[-1] < LAST_START:
                starts.append(min(starts[-1] + int(length.to_integral_value()), LAST_START))
                length *= growth
        return starts

    def _curve(self) -> tuple[int, int, list[float], list[int], list[int]]:
        values = [self.max_lr, self.eta_min, self.max_decay, self.min_decay]
        return 1, 0, values, [self.T_0], self._cycle_starts


@dataclass(frozen=True)
class Triangular(Schedule):
    r"""The triangular cyclical rate: a linear rise and a linear fall, over and over.

    In cycle ``i``, ``pos`` steps after its start::

        x     = pos / step_size_up                                       on the way up
                (step_size_up + step_size_down - pos) / step_size_down   on the way down
        value = base_lr + (max_lr - base_lr) * x * amplitude
        amplitude = 1 ("triangular"), 2**-i ("triangular2"), gamma**t ("exp_range")

    Args:
        base_lr: value at the ends of a cycle; finite, >= 0.
        max_lr: value at the peak of the first one; finite, >= ``base_lr``.
        step_size_up: steps of the rise; an integer >= 1.
        step_size_down: steps of the fall; an integer >= 1. Default: ``step_size_up``.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: for "exp_range"; in (0, 1]. Its exponent is the step, not the cycle.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> schedule = Triangular(0.1, 0.5, step_size_up=2)
        >>> schedule.values(5).tolist()
        [0.1, 0.3, 0.5, 0.3, 0.1]

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (2015), section 3.
    """

    base_lr: float
    max_lr: float
    step_size_up: int
    step_size_down: int | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    _reference: ClassVar[str] = "triangular"
    _modes: ClassVar[tuple[str, ...]] = ("triangular", "triangular2", "exp_range")

    def __post_init__(self) -> None:
        up = _checks.integer("step_size_up", self.step_size_up, 1)
        down = self.step_size_down
        self._set(
            base_lr=_checks.rate("base_lr", self.base_lr),
            max_lr=_checks.rate("max_lr", self.max_lr),
            step_size_up=up,
            step_size_down=up if down is None else _checks.integer("step_size_down", down, 1),
            gamma=_checks.between("gamma", self.gamma, 0.0, 1.0, low_open=True),
        )
        if self.base_lr > self.max_lr:
            raise ValueError(f"base_lr must be <= max_lr, got {self.base_lr!r} > {self.max_lr!r}")
        if self.mode not in self._modes:
            raise ValueError(f"mode must be one of {self._modes}, got {self.mode!r}")

    def cycle(self, t: int) -> tuple[int, int, int | None]:
        t = _checks.integer("t", t, 0)
        length = sum(self._lengths())
        return t // length, t % length, length

    @property
    def upper_bound(self) -> float:
        return self.max_lr

    def _lengths(self) -> list[int]:
        assert self.step_size_down is not None  # __post_init__ has filled it in
        return [self.step_size_up, self.step_size_down]

    def _curve(self) -> tuple[int, int, list[float], list[int], list[int]]:
        mode = self._modes.index(self.mode)
        return 2, mode, [self.base_lr, self.max_lr, self.gamma], self._lengths(), []
