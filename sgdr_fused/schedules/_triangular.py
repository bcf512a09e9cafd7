"""The triangular rate, and the momentum against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .. import _checks
from .._messages import shown
from ._base import Schedule, Segment

_MODES = ("triangular", "triangular2", "exp_range")


class _Triangle(Schedule):
    """What the triangular rate and the momentum against it have in common."""

    step_size_up: int
    step_size_down: int | None
    mode: str
    gamma: float

    _low: ClassVar[str]  # the names of the fields with the two ends
    _high: ClassVar[str]

    def __post_init__(self) -> None:
        low, high = (_checks.rate(name, getattr(self, name)) for name in (self._low, self._high))
        up = _checks.integer("step_size_up", self.step_size_up, 1)
        down = self.step_size_down
        self._set(
            **{self._low: low, self._high: high},
            step_size_up=up,
            step_size_down=up if down is None else _checks.integer("step_size_down", down, 1),
            gamma=_checks.between("gamma", self.gamma, 0.0, 1.0, low_open=True),
        )
        if low > high:
            raise ValueError(f"{self._low} must be <= {self._high}, got {low!r} > {high!r}")
        if self.mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {shown(self.mode)}")

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        length = sum(self._lengths())
        return t // length, t % length, length

    def _has_cycles_from(self, step: int) -> bool:
        return True

    @property
    def upper_bound(self) -> float:
        high: float = getattr(self, self._high)
        return high

    def _lengths(self) -> list[int]:
        assert self.step_size_down is not None  # __post_init__ has filled it in
        return [self.step_size_up, self.step_size_down]

    def _cycle_ends(self) -> list[Segment]:
        return [Segment("cycle_end", lengths=[sum(self._lengths())])]

    def _triangle(self, start: float, peak: float) -> Segment:
        return Segment("triangular", self.mode, [start, peak, self.gamma], self._lengths())


@dataclass(frozen=True)
class Triangular(_Triangle):
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

    _low: ClassVar[str] = "base_lr"
    _high: ClassVar[str] = "max_lr"

    def _curve(self) -> Segment:
        return self._triangle(self.base_lr, self.max_lr)


@dataclass(frozen=True)
class TriangularMomentum(_Triangle):
    """Momentum that moves against a :class:`Triangular` rate with the same steps, mode and gamma.

    With ``x`` and ``amplitude`` as there::

        value = max_momentum - (max_momentum - base_momentum) * x * amplitude

    Args:
        base_momentum: value at the peak of the first cycle's rate; finite, >= 0.
        max_momentum: value at the ends of a cycle; finite, >= ``base_momentum``.
        step_size_up: steps of the rate's rise; an integer >= 1.
        step_size_down: steps of the rate's fall; an integer >= 1. Default: ``step_size_up``.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: for "exp_range"; in (0, 1].

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> TriangularMomentum(0.5, 1.0, step_size_up=2).values(5).tolist()
        [1.0, 0.75, 0.5, 0.75, 1.0]

    Source: Smith, "A disciplined approach to neural network hyper-parameters" (2018), section 4.3;
    ``cycle_momentum`` of ``torch.optim.lr_scheduler.CyclicLR``.
    """

    base_momentum: float
    max_momentum: float
    step_size_up: int
    step_size_down: int | None = None
    mode: str = "triangular"
    gamma: float = 1.0

    _low: ClassVar[str] = "base_momentum"
    _high: ClassVar[str] = "max_momentum"

    def _curve(self) -> Segment:
        return self._triangle(self.max_momentum, self.base_momentum)
