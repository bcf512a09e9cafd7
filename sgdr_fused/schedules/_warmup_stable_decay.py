"""A warm-up, a plateau, and a decay: one long training at one rate, of which each decay makes a finished model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .. import _checks
from .._messages import shown
from ._base import Schedule, Segment
from ._ramps import last_step_of_fall

# To the mode of a ramp.
_TYPES = {"linear": "linear", "cosine": "half_cosine"}


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A warm-up, a stable rate, and a decay (WSD).

    ::

        value = min_lr + (max_lr - min_lr) * rise(t / num_warmup_steps)    in the first num_warmup_steps,
                max_lr                                                     in the next num_stable_steps,
                min_lr + (max_lr - min_lr) * fall(x / num_decay_steps)     x = 0, 1, 2, ... steps after that,
                min_lr                                                     from x = num_decay_steps on

        min_lr = min_lr_ratio * max_lr
        linear:  rise(u) = u,                       fall(u) = 1 - u
        cosine:  rise(u) = (1 - cos(pi * u)) / 2,   fall(u) = (1 + cos(pi * u)) / 2

    At each step it is what Hugging Face's ``get_wsd_schedule`` gives under these names. So the rise begins at
    ``min_lr``, and not at 0. For a rise from 0, leave the warm-up out here and put a :class:`Warmup` in front.

    The decay may begin at any step of the stable phase, from a checkpoint that was saved there: only
    ``num_stable_steps`` differs between a short training and a long one.

    Hägele et al. found a decay by ``1 - sqrt(u)`` to be the best. It is no ``decay_type`` here; the last lines of the
    example make it with a :class:`Table`.

    Args:
        max_lr: the stable rate; finite, >= 0.
        num_warmup_steps: steps of the rise, which are mini-batches; an integer >= 0.
        num_stable_steps: steps at ``max_lr``; an integer >= 0. Left out where ``num_training_steps`` is given.
        num_decay_steps: steps of the decay; an integer >= 1.
        warmup_type, decay_type: "linear" or "cosine".
        min_lr_ratio: where the rise begins and the decay ends, as a part of ``max_lr``; in [0, 1].
        num_training_steps: the steps of all three phases, instead of ``num_stable_steps``; an integer.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> schedule = WarmupStableDecay(
        ...     1.0, num_warmup_steps=2, num_stable_steps=3, num_decay_steps=4, decay_type="linear", min_lr_ratio=0.2
        ... )
        >>> [round(schedule(t), 3) for t in range(11)]
        [0.2, 0.6, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
        >>> WarmupStableDecay(0.1, 100, num_decay_steps=200, num_training_steps=1000).num_stable_steps
        700

        >>> from sgdr_fused.schedules import Constant, Sequential, Table, Warmup
        >>> decay = Table(lambda u: 1.0 - (u / 4) ** 0.5, num_steps=5)
        >>> schedule = Sequential([(Warmup(Constant(1.0), steps=2), 5), decay])
        >>> [round(schedule(t), 3) for t in range(11)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0, 0.0]

    Sources: Hu et al., "MiniCPM" (2024), section 4, whose decay is exponential; Hägele et al., "Scaling laws and
    compute-optimal training beyond fixed training durations" (2024); ``transformers.get_wsd_schedule``.
    """

    max_lr: float
    num_warmup_steps: int
    num_stable_steps: int = None  # type: ignore[assignment]  # left out only where the last field gives it
    num_decay_steps: int = None  # type: ignore[assignment]  # always given; a default only because it stands after one
    warmup_type: str = "linear"
    decay_type: str = "cosine"
    min_lr_ratio: float = 0.0
    num_training_steps: dataclasses.InitVar[int | None] = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self, num_training_steps: int | None) -> None:
        for name in ("warmup_type", "decay_type"):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in _TYPES:
                raise ValueError(f"{name} must be one of {sorted(_TYPES)}, got {shown(value)}")
        self._set(
            max_lr=_checks.rate("max_lr", self.max_lr),
            num_warmup_steps=_checks.integer("num_warmup_steps", self.num_warmup_steps, 0),
            num_decay_steps=_checks.integer("num_decay_steps", self.num_decay_steps, 1),
            min_lr_ratio=_checks.between("min_lr_ratio", self.min_lr_ratio, 0.0, 1.0),
        )
        self._set(num_stable_steps=self._stable_steps(num_training_steps))
        if self._end > _checks.MAX_STEP:
            raise ValueError(
                "num_warmup_steps, num_stable_steps and num_decay_steps must add up to at most 2**61, got "
                f"{self.num_warmup_steps!r}, {self.num_stable_steps!r} and {self.num_decay_steps!r}"
            )

    def _stable_steps(self, num_training_steps: Any) -> int:
        if num_training_steps is None:
            if self.num_stable_steps is None:
                raise ValueError("num_stable_steps must be given, or num_training_steps, got None for both")
            return _checks.integer("num_stable_steps", self.num_stable_steps, 0)
        if self.num_stable_steps is not None:
            raise ValueError(
                "num_stable_steps must be left out where num_training_steps is given, "
                f"got {shown(self.num_stable_steps)} and {shown(num_training_steps)}"
            )
        others = self.num_warmup_steps + self.num_decay_steps
        stable = _checks.integer("num_training_steps", num_training_steps, 1) - others
        if stable < 0:
            raise ValueError(
                f"num_training_steps must be at least num_warmup_steps + num_decay_steps = {others}, "
                f"got {num_training_steps!r}"
            )
        return stable

    @property
    def upper_bound(self) -> float:
        return self.max_lr

    @property
    def _min_lr(self) -> float:
        return self.min_lr_ratio * self.max_lr

    @property
    def _decay_begin(self) -> int:
        return self.num_warmup_steps + self.num_stable_steps

    @property
    def _end(self) -> int:
        """The first step at which the decay has ended."""
        return self._decay_begin + self.num_decay_steps

    def _last_step(self, inside: bool) -> int | None:
        return last_step_of_fall(self.max_lr, self._min_lr, self._end, inside=False)  # no plateau: a whole training

    def _segments(self) -> list[Segment]:
        segments = []
        if self.num_warmup_steps:
            ends, steps = [self._min_lr, self.max_lr, 0.0, 0.0], self.num_warmup_steps
            segments.append(Segment("ramp", _TYPES[self.warmup_type], ends, [steps, steps]))
        if self.num_stable_steps:
            segments.append(Segment("constant", values=[self.max_lr], first_step=self.num_warmup_steps))
        ends, steps, begin = [self.max_lr, self._min_lr, 0.0, 0.0], self.num_decay_steps, self._decay_begin
        decay = Segment("ramp", _TYPES[self.decay_type], ends, [steps, steps], first_step=begin, shift=-begin)
        return [*segments, decay]
