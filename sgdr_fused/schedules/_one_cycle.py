"""One cycle: a rise, a long fall, and momentum that moves the other way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import _checks
from .._messages import shown
from ._base import Schedule, Segment

# To the mode of a ramp.
_STRATEGIES = {"linear": "linear", "cos": "half_cosine"}


class _Cycle(Schedule):
    """What the rate and the momentum of one cycle have in common: the phases."""

    total_steps: int
    pct_start: float
    anneal_strategy: str
    three_phase: bool

    def _check_phases(self) -> None:
        if not isinstance(self.three_phase, bool):
            raise TypeError(f"three_phase must be True or False, got {shown(self.three_phase)}")
        if not isinstance(self.anneal_strategy, str) or self.anneal_strategy not in _STRATEGIES:
            raise ValueError(f"anneal_strategy must be one of {sorted(_STRATEGIES)}, got {shown(self.anneal_strategy)}")
        self._set(
            total_steps=_checks.integer("total_steps", self.total_steps, 2),
            pct_start=_checks.between("pct_start", self.pct_start, 0.0, 1.0),
        )

    def _cycle(self, t: int) -> tuple[int, int, int | None]:
        return (0, t, self.total_steps) if t < self.total_steps else (1, t - self.total_steps, None)

    def _has_cycles_from(self, step: int) -> bool:
        return step < self.total_steps

    def _corners(self) -> tuple[float, ...]:
        """What the phases lead from, through and to: one value more than there are phases."""
        raise NotImplementedError

    def _phase_ends(self) -> tuple[float, ...]:
        """The phases' ends as torch computes them: a phase may end between two steps, or before step 0."""
        rise = self.pct_start * self.total_steps
        last = float(self.total_steps - 1)
        return (rise - 1, 2 * rise - 2, last) if self.three_phase else (rise - 1, last)

    def _cycle_ends(self) -> list[Segment]:
        after = Segment("constant", values=[0.0], first_step=self.total_steps)
        return [Segment("cycle_end", lengths=[self.total_steps]), after]

    def _segments(self) -> list[Segment]:
        corners, segments = self._corners(), []
        begin, first_step = 0.0, 0
        for end, start_value, end_value in zip(self._phase_ends(), corners, corners[1:], strict=False):
            held_from = min(math.floor(end), self.total_steps - 1)
            if end > begin and held_from >= first_step:  # else no step is in it
                zero = math.floor(begin)
                segments.append(
                    Segment(
                        "ramp",
                        _STRATEGIES[self.anneal_strategy],
                        [start_value, end_value, begin - zero, end - math.floor(end)],
                        [math.floor(end) - zero, held_from - zero],
                        first_step=first_step,
                        shift=-zero,
                    )
                )
                first_step = held_from + 1
            begin = end
        return segments


@dataclass(frozen=True)
class OneCycle(_Cycle):
    """One cycle of the rate: up, down, and far down; and momentum the other way.

    It is the rate, and brings its momentum along::

        lr, momentum = OneCycle(0.1, total_steps=1000)
        FusedSGD(parameters, lr=lr, momentum=momentum)
        FusedAdam(parameters, lr=lr, betas=(momentum, 0.999))

    The rate goes from ``initial = max_lr / div_factor`` to ``max_lr``, which it reaches at step
    ``pct_start * total_steps - 1``, and from there to ``initial / final_div_factor`` at step
    ``total_steps - 1``; with ``three_phase`` back to ``initial`` in as many steps as it rose, and then to
    ``initial / final_div_factor``. Within each phase along half a cosine, or in a straight line. A phase
    may begin and end between two steps; one without a step in it is left out. After step
    ``total_steps - 1`` its value holds. Those steps are one cycle, what follows another that never ends.

    Args:
        max_lr: the peak; finite, >= 0.
        total_steps: steps of the cycle, which are mini-batches; an integer >= 2.
        pct_start: part of the steps in which the rate rises; in [0, 1].
        anneal_strategy: "cos" or "linear".
        base_momentum: the momentum at the rate's peak; finite, >= 0.
        max_momentum: the momentum at the start and the end; finite, >= ``base_momentum``.
        div_factor: ``max_lr`` over the rate at step 0; finite, > 0.
        final_div_factor: the rate at step 0 over that at the end; finite, > 0.
        three_phase: whether the fall to ``initial`` is a phase of its own.
        epochs, steps_per_epoch: instead of ``total_steps``, which becomes their product; integers >= 1.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> lr, momentum = OneCycle(1.0, total_steps=10, pct_start=0.5, anneal_strategy="linear", div_factor=4)
        >>> [round(lr(t), 4) for t in (0, 4, 9, 20)]
        [0.25, 1.0, 0.0, 0.0]
        >>> [round(momentum(t), 4) for t in (0, 4, 9, 20)]
        [0.95, 0.85, 0.95, 0.95]
        >>> lr.is_cycle_end(9)
        True
        >>> OneCycle(1.0, epochs=3, steps_per_epoch=100).total_steps
        300

    Source: Smith & Topin, "Super-convergence" (2018); ``torch.optim.lr_scheduler.OneCycleLR``.
    """

    max_lr: float
    total_steps: int = None  # type: ignore[assignment]  # left out only where the last two fields give it
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    epochs: dataclasses.InitVar[int | None] = dataclasses.field(default=None, kw_only=True)
    steps_per_epoch: dataclasses.InitVar[int | None] = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self, epochs: int | None, steps_per_epoch: int | None) -> None:
        self._set(total_steps=_number_of_steps(self.total_steps, epochs, steps_per_epoch))
        self._check_phases()
        self._set(max_lr=_checks.rate("max_lr", self.max_lr))
        for name in ("div_factor", "final_div_factor"):
            number = _checks.between(name, getattr(self, name), 0.0, math.inf, low_open=True, high_open=True)
            self._set(**{name: number})
        if math.isinf(max(self._corners())):
            raise ValueError(
                "div_factor and final_div_factor must not make the rate infinite, "
                f"got {self.div_factor!r} and {self.final_div_factor!r} with max_lr={self.max_lr!r}"
            )
        momentum = self.momentum  # which checks its own
        self._set(base_momentum=momentum.base_momentum, max_momentum=momentum.max_momentum)

    @property
    def momentum(self) -> OneCycleMomentum:
        """The momentum that belongs to the rate."""
        return OneCycleMomentum(
            self.base_momentum,
            self.max_momentum,
            self.total_steps,
            self.pct_start,
            self.anneal_strategy,
            self.three_phase,
        )

    def __iter__(self) -> Iterator[Schedule]:
        """The rate, which is the schedule itself, and the momentum."""
        return iter((self, self.momentum))

    @property
    def upper_bound(self) -> float:
        return max(self._corners())

    def _last_step(self, inside: bool) -> int | None:
        return self.total_steps - 1

    def _corners(self) -> tuple[float, ...]:
        initial = self.max_lr / self.div_factor
        lowest = initial / self.final_div_factor
        return (initial, self.max_lr, initial, lowest) if self.three_phase else (initial, self.max_lr, lowest)


def _number_of_steps(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> Any:
    if epochs is None and steps_per_epoch is None:
        if total_steps is None:
            raise ValueError("total_steps must be given, or epochs and steps_per_epoch, got None for all three")
        return total_steps
    if total_steps is not None:
        raise ValueError(
            "total_steps must be left out where epochs and steps_per_epoch are given, "
            f"got {shown(total_steps)}, {shown(epochs)} and {shown(steps_per_epoch)}"
        )
    return _checks.integer("epochs", epochs, 1) * _checks.integer("steps_per_epoch", steps_per_epoch, 1)


@dataclass(frozen=True)
class OneCycleMomentum(_Cycle):
    """The momentum that moves against a :class:`OneCycle` rate with the same steps: down, and up again.

    From ``max_momentum`` to ``base_momentum`` while the rate rises, back to ``max_momentum`` while it
    falls; with ``three_phase`` it is back when the rate is.

    Args:
        base_momentum: value at the rate's peak; finite, >= 0.
        max_momentum: value at the start and the end; finite, >= ``base_momentum``.
        total_steps: steps of the cycle; an integer >= 2.
        pct_start: part of the steps in which the rate rises; in [0, 1].
        anneal_strategy: "cos" or "linear".
        three_phase: as the rate's.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> OneCycleMomentum(0.5, 1.0, total_steps=5, pct_start=0.6, anneal_strategy="linear").values(6).tolist()
        [1.0, 0.75, 0.5, 0.75, 1.0, 1.0]

    Source: Smith & Topin, "Super-convergence" (2018); ``torch.optim.lr_scheduler.OneCycleLR``.
    """

    base_momentum: float
    max_momentum: float
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    three_phase: bool = False

    def __post_init__(self) -> None:
        self._check_phases()
        self._set(
            base_momentum=_checks.rate("base_momentum", self.base_momentum),
            max_momentum=_checks.rate("max_momentum", self.max_momentum),
        )
        if self.base_momentum > self.max_momentum:
            raise ValueError(
                f"base_momentum must be <= max_momentum, got {self.base_momentum!r} > {self.max_momentum!r}"
            )

    @property
    def upper_bound(self) -> float:
        return self.max_momentum

    def _corners(self) -> tuple[float, ...]:
        high, low = self.max_momentum, self.base_momentum
        return (high, low, high, high) if self.three_phase else (high, low, high)
