"""The session: all that one optimizer holds while it trains."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from . import displays, shown_rates
from .algorithm import Algorithm
from .clipping import Measured
from .clock import Clock, StepCount
from .host_clock import HostClock
from .options import Options
from .plan import Built, Plan
from .tracked import Changes, State, TrackedDict
from .validation import real_device


class Session:
    """What changes while an optimizer trains, beside its class's declaration, the algorithm.

    The functions that work on a session are in other modules. Here are its parts, and what they have to tell each
    other. A session does not know the optimizer that holds it.

    Attributes:
        algorithm: what the optimizer's class declares.
        class_name: the name of that class, for messages.
        defaults: what a group has where nothing else is given.
        options: what was given beside the arguments of torch's class.
        rounding_seed: that of stochastic rounding; None without it.
        measured: what the last step has measured.
        groups: the parameter groups.
        state: the state of each parameter.
        changes: what was written to groups and state.
        scheduler: the class of a torch scheduler that was made over a Schedule; None where there is none.
        has_aliases: whether a mapping may stand for a dict of the user's, as far as was known when plans were made.
        built: the plans, and what they were made from.
        captured_plans: plans that are of no use any more, but whose addresses a captured graph holds.
        clocks: how many steps were taken.
        counts: how many weights the averages are of.
        host_clock: what the host knows of the clock, and the hooks that it calls.
        swapped: refers to an object that lives as long as the averages stand for the weights.
    """

    def __init__(
        self, algorithm: Algorithm, class_name: str, options: Options, rounding_seed: int | None, skipped: int = 0
    ) -> None:
        self.algorithm, self.class_name = algorithm, class_name
        self.defaults: dict[str, Any] = {}
        self.options, self.rounding_seed = options, rounding_seed
        self.measured = Measured(skipped)
        self.groups: list[dict[str, Any]] = []
        self.state = State()
        self.changes = Changes(self)
        self.scheduler: str | None = None
        self.has_aliases = False
        self.built = Built(None)
        self.captured_plans: list[Plan] = []
        self.clocks = StepCount(weakref.WeakMethod(self._clock_written))
        self.counts = StepCount(weakref.WeakMethod(self._count_written))
        self.host_clock = HostClock()
        self.swapped: weakref.ref[Any] | None = None

    # ---- the clock and what it shows

    @property
    def clock(self) -> Clock:
        """The steps taken, on the first parameter's device."""
        return self.clocks.on(self.first_device())

    @property
    def n_averaged(self) -> Clock:
        """What the averages are of, on the first parameter's device."""
        return self.counts.on(self.first_device())

    def steps_taken(self) -> int:
        return int(self.clock) if self.clocks.copies else 0

    def first_device(self) -> torch.device:
        """Where the clock and the displays are: the first parameter's device, and the CPU while that is meta."""
        for group in self.groups:
            for param in group["params"]:
                return real_device(param)
        return torch.device("cpu")

    def counts_shown(self) -> dict[str, Any]:
        """What a checkpoint holds of the session itself, which each group shows as well.

        torch.distributed.checkpoint reads and writes entries of groups, the same ones whatever they hold.
        """
        return {
            "clock": self.clock,
            "n_averaged": self.n_averaged,
            "rounding_seed": -1 if self.rounding_seed is None else self.rounding_seed,
            "skipped_steps": self.measured.on(self.first_device())[1],
        }

    def keep_clocks_on(self, devices: Iterable[torch.device]) -> None:
        """Keeps one clock and one count for each of these devices, and for no other."""
        wanted = set(devices)
        for device in wanted:
            self.clocks.on(device)
            self.counts.on(device)
        for copies in (self.clocks, self.counts):
            copies.let_go_of_others(wanted)

    def show(self, display: Tensor) -> None:
        """Brings a display up to date, also where a signal handler moves the clock meanwhile."""
        step = -1
        while step != (now := self.steps_taken()):
            step = now
            displays.show(display, step)

    def show_all(self) -> None:
        """Brings all displays up to date."""
        shown_rates.show_from_host(self.groups, self.steps_taken())

    def _count_written(self, moved: bool) -> None:
        if moved:
            self.changes.note()
        self.counts.copy_to_others(self.n_averaged)

    def _clock_written(self, moved: bool) -> None:
        if moved:
            self.changes.note()  # the plans have its address
        self.host_clock.forget()
        self.clocks.copy_to_others(self.clock)
        built = self.built
        if built.plans and built.seen is self.changes.plan:
            for plan in built.plans:
                plan.show()
            if built.seen is self.changes.plan:
                return
        shown_rates.show_from_host(self.groups, int(self.clock))

    # ---- groups and state: what the user has written past us

    def set_groups(self, groups: list[dict[str, Any]]) -> None:
        """Puts a list in the place of the groups."""
        self.changes.note()
        self.groups = groups
        self.has_aliases = True
        self.changes.note()

    def set_state(self, value: dict[Any, Any]) -> None:
        """Puts a mapping in the place of the state; another dict than ours is the user's, and ours stands for it."""
        state = value if isinstance(value, State) else State(value)
        state.tell(self.changes)
        if state is not value:
            state.stand_for(value)
            self.has_aliases = True
        self.changes.note()
        self.state = state
        self.changes.note()

    def aliases(self) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
        """(ours, the user's) for each mapping that stands for one of the user's."""
        if not self.has_aliases:
            return []
        return [(ours, alias) for ours in self._mappings() if (alias := ours.alias) is not None]

    def take_over_aliases(self) -> None:
        """Fetches what was written to the user's dicts that our mappings stand for."""
        for mapping in self._mappings():
            if mapping.alias is not None:
                mapping.take_over()

    def let_go_of_aliases(self) -> None:
        """Forgets the user's dicts that nobody else holds, so that no step looks for what nobody can write.

        The state's alias holds those of the parameters, so it goes first.
        """
        mappings = self._mappings()
        for mapping in [self.state, *mappings]:
            mapping.let_go_of_alias()
        self.has_aliases = any(mapping.alias is not None for mapping in mappings)

    def _mappings(self) -> list[TrackedDict]:
        """What may stand for a dict of the user's."""
        mappings = [*self.groups, self.state, *self.state.values()]
        return [mapping for mapping in mappings if isinstance(mapping, TrackedDict)]

    # ---- plans

    def let_go_of_plans(self) -> None:
        """Forgets plans that are of no use any more, but not those whose addresses a captured graph holds."""
        if self.built.plans:
            self.captured_plans += [plan for plan in self.built.plans if plan.captured]
            self.built = Built(None)
