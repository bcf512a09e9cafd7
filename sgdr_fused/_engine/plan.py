"""What a plan is, and which plans an optimizer has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

# Dicts, and the entries that go into each when the step has been taken.
Pending: TypeAlias = list[tuple[dict[Any, Any], dict[Any, Any]]]


class HyperSpec(NamedTuple):
    """What a plan knows of a hyperparameter.

    Attributes:
        value: a float, a tensor or a schedule; that in its compiled form, except for the reference.
        display: the tensor that shows what the schedule gives, where it is on the plan's device.
    """

    value: Any
    display: Tensor | None


class GroupSpec(NamedTuple):
    """What a plan knows of a parameter group."""

    hypers: list[HyperSpec]
    constants: list[float]


@dataclass
class AverageSpec:
    """What the averages go by.

    Attributes:
        weight: that of the newest weights; for a mean, a compiled schedule that is 1 at the steps that count.
        is_mean: whether they are means, not exponential averages.
        count: what they are of.
    """

    weight: Any
    is_mean: bool
    count: Tensor


class Plan(Protocol):
    """All that a step on one device works on, kept from step to step.

    The C++ extension has one, which all plans of an optimizer step with in one call; ReferencePlan is the other.
    """

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph was captured with it, which then holds its addresses."""

    def show(self) -> None:
        """Brings the displays of its groups up to date."""

    def set_number(self, group: int, hyper: int, value: float) -> None:
        """Hands over a hyperparameter that is a number."""


class Membership(Protocol):
    """The lists and mappings that a user may edit without our hearing of it, as the plans found them."""

    @property
    def seen(self) -> object:
        """What ``Changes.plan`` has to be."""


class StepCall(Protocol):
    """Takes a step with all plans; where something is not as it was, it does nothing and returns False."""

    def __call__(
        self,
        membership: Any,
        param_groups: list[dict[str, Any]],
        plans: list[Plan],
        grad_scales: list[Tensor | None] | None,
        found_infs: list[Tensor | None] | None,
        pending: Pending,
        /,
    ) -> bool: ...


def _without_plans(*_: object) -> bool:
    return False


class Built:
    """The plans of an optimizer, and what they were made from.

    Attributes:
        made_for: what ``Changes.plan`` was before anything was read.
        seen: the same, for as long as the plans can be used again.
        num_groups: how many groups they were made from.
        numbers_seen: what ``Changes.numbers`` was before the groups' numbers were handed to the plans.
        plans: one for each device.
        membership: what the user may have edited; None without the extension.
        step: what takes a step with the plans.
        host_reads: (plan, group, hyper, tensor) for each tensor that the host reads at each step.
        conversions: (copy, tensor) for each tensor that the kernels cannot read.
        needs_upkeep: whether a step has to hand over more than numbers that were written.
        pending: the entries of the state that are stored when the first step has been taken.
        fresh_counts: the counts of updates behind what is pending, where no state holds them.
        on_meta: the parameters without memory, which take no part.
    """

    def __init__(self, seen: object) -> None:
        self.made_for = seen
        self.seen: object = seen
        self.num_groups = 0
        self.numbers_seen: object = None
        self.plans: list[Plan] = []
        self.membership: Membership | None = None
        self.step: StepCall = _without_plans
        self.host_reads: list[tuple[Plan, int, int, Tensor]] = []
        self.conversions: list[tuple[Tensor, Tensor]] = []
        self.needs_upkeep = False
        self.pending: Pending = []
        self.fresh_counts: list[Tensor] = []
        self.on_meta: list[Tensor] = []

    def store_states(self, as_stepped: bool = False) -> None:
        """Stores what is pending, without a step; `as_stepped`: with its first step behind it."""
        store(self.pending)
        if as_stepped:
            for count in self.fresh_counts:
                count.fill_(1)


def store(pending: Pending) -> None:
    """Puts the entries into their dicts, without noting a change."""
    for entries, new in pending:
        dict.update(entries, new)
    pending.clear()
