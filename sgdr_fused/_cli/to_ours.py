"""From the states of one of torch's optimizers and its scheduler to a state of ours, with Schedules and a clock."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import torch

from .. import _checks
from .._engine.hyperparameters import SCHEDULE_KEYS, scale_of
from .._messages import shown
from ..schedules import Constant, Schedule, Sequential
from ..schedules._compose import Shifted
from ..schedules._torch_futures import (
    future,
    future_momentum,
    has_ended,
    largest_of,
    momentum_of,
    moves_momentum,
    never_negative,
    parts_of,
)
from .errors import CommandError
from .torch_states import scheduler_with

State = dict[str, Any]
# At these steps from now two Schedules are compared: all of the first thousands, and some that are far away.
COMPARED = (*range(4096), *(2**k + i for k in range(12, 41) for i in (-1, 0, 1)))
# What is raised for a state that no scheduler of torch's can be in, or whose curve has no closed form.
UNUSABLE = (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RuntimeError)


def to_ours(optimizer: State, scheduler: State | None, name: str | None, each_step: bool) -> tuple[State, list[str]]:
    """The optimizer's state as ours has it, and a sentence on each group.

    Args:
        optimizer, scheduler: the states of torch's; None: there is no scheduler, and the rates are numbers.
        name: the class of the scheduler, where its entries do not tell.
        each_step: whether the scheduler is known to be stepped after each step of the optimizer.

    Raises:
        CommandError, and what UNUSABLE lists: for what has no counterpart. The states are left as they are.
    """
    groups = [dict(group) for group in optimizer["param_groups"]]
    if scheduler is None:
        clock = _steps_taken(optimizer)
        said = [f"group {i}: lr is the number {float(group['lr'])!r}" for i, group in enumerate(groups)]
    else:
        theirs = scheduler_with(scheduler, name, groups)
        clock = _clock(theirs, _steps_taken(optimizer), each_step)
        said = [_convert(theirs, i, group, clock) for i, group in enumerate(groups)]
    for group in groups:
        for schedule_key in SCHEDULE_KEYS.values():
            group.setdefault(schedule_key, "")
        if clock is not None:
            group["clock"] = torch.tensor(clock, dtype=torch.int64)
    return {**optimizer, "param_groups": groups}, said


def _steps_taken(optimizer: State) -> int | None:
    """The largest count of steps in the state; None where there is none, as in that of SGD."""
    steps = [state["step"] for state in optimizer["state"].values() if isinstance(state, dict) and "step" in state]
    return max([int(step) for step in steps], default=None)


def _clock(scheduler: Any, taken: int | None, each_step: bool) -> int:
    """How many steps the scheduler has taken, which have to be those of the optimizer."""
    clock = _checks.count("last_epoch of the scheduler's state", scheduler.last_epoch)
    if taken is not None and taken > clock and not each_step:
        raise CommandError(
            f"the optimizer has taken {taken} steps and its scheduler {clock}. A Schedule counts the optimizer's "
            "steps; so if the scheduler is stepped once per epoch, write the Schedule by hand, with its lengths "
            "multiplied by the steps in an epoch. If it is stepped after each step, and was only made later, say so "
            "with --each-step"
        )
    groups, rates = len(scheduler.optimizer.param_groups), len(getattr(scheduler, "base_lrs", scheduler._last_lr))
    if groups != rates:
        raise CommandError(
            f"the scheduler must know all groups of the optimizer, got {rates} rates for {groups} groups"
        )
    return clock


def _convert(scheduler: Any, i: int, group: dict[str, Any], clock: int) -> str:
    """Puts the Schedules of one group into it, and says which."""
    rate = float(group["lr"])
    if rate < 0 and has_ended(scheduler):  # the one step past its end that a straight OneCycleLR takes
        rate = max(float(group["min_lr"]), 0.0)
    rate = never_negative(rate, largest_of(scheduler, i))
    schedule = _at(clock, future(scheduler, i, rate), _from_its_start(scheduler, i, "lr"))
    if hasattr(scheduler, "max_lrs") and isinstance(schedule, Sequential):
        raise ValueError(
            f"the rate of group {i} is {rate!r}, and CyclicLR would have another by its own mode. Perhaps it has a "
            "scale_fn, which a file does not hold: convert it in your program, with schedules.from_torch(scheduler)"
        )
    scale = scale_of("lr", group)  # by which our optimizers multiply a Schedule
    if scale != 1.0:
        schedule = (1.0 / scale) * schedule
    group["lr"], group["lr_schedule"] = rate, json.dumps(schedule.to_dict())
    said = f"group {i}: lr is {shown(schedule)}"
    if moves_momentum(scheduler):
        now = momentum_of(group)
        momentum = _at(clock, future_momentum(scheduler, i, now), _from_its_start(scheduler, i, "momentum"))
        key = "betas" if "betas" in group else "momentum"
        group[SCHEDULE_KEYS[key]] = json.dumps(momentum.to_dict())
        said += f", {key if key == 'momentum' else 'betas[0]'} is {shown(momentum)}"
    return said


def _at(clock: int, coming: Schedule, whole: Schedule | None) -> Schedule:
    """A Schedule that is `coming` from step `clock` on: `whole` if it is that, as after a training without changes."""
    if whole is not None and _agree(whole.shifted(clock), coming):
        return whole
    return coming if clock == 0 else Sequential([(Constant(coming(0)), clock), coming])


def _agree(a: Schedule, b: Schedule) -> bool:
    bound = min(a.upper_bound, b.upper_bound)
    room = 1e-12 * bound if math.isfinite(bound) else 0.0
    return all(math.isclose(a(t), b(t), rel_tol=1e-9, abs_tol=room) for t in COMPARED)


def _from_its_start(scheduler: Any, i: int, hyperparameter: str) -> Schedule | None:
    """What a scheduler gives from its step 0 on, if nothing is changed by hand; None if it is made of others."""
    if parts_of(scheduler):
        return None
    twin = copy.copy(scheduler)
    twin.last_epoch = 0
    if hasattr(twin, "T_cur"):
        twin.T_cur, twin.T_i = 0, twin.T_0
    try:
        if hyperparameter == "momentum":
            momenta = getattr(twin, "max_momentums", None)
            group = twin.optimizer.param_groups[i]
            schedule = future_momentum(twin, i, float(group["max_momentum"] if momenta is None else momenta[i]))
        else:
            rate = float(twin._get_closed_form_lr()[i]) if hasattr(twin, "_get_closed_form_lr") else None
            schedule = future(twin, i, rate)
    except UNUSABLE:  # such as a rate that torch makes negative by rounding; what is coming says what is wrong
        return None
    return schedule.schedule if isinstance(schedule, Shifted) and schedule.steps == 0 else schedule
