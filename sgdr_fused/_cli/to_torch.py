"""From a state of our optimizers, with Schedules and a clock, to those of torch's optimizer and its scheduler."""

from __future__ import annotations

import copy
import json
import math
import warnings
from typing import Any

import torch

from .. import _checks
from .._engine.displays import scaled
from .._engine.hyperparameters import SCHEDULE_KEYS, scale_of
from .._engine.param_groups import COUNTS
from .._messages import shown
from ..schedules import Constant, Schedule
from .counterparts import Counterpart, Part, counterpart, part_at
from .errors import CommandError

State = dict[str, Any]
OURS = (*SCHEDULE_KEYS.values(), *COUNTS, "momentum_form")  # entries of a group that torch's do not have
OPTIONAL_STATES = ("average", "remainder")  # states of a parameter that options of ours have made
COMPARED = 300  # steps that the scheduler takes for a trial


def is_ours(optimizer: State) -> bool:
    """Whether the state of an optimizer is one of ours: its groups tell of Schedules, and be it that they have none."""
    return any("lr_schedule" in group for group in optimizer["param_groups"])


def to_torch(optimizer: State) -> tuple[State, State | None, list[str]]:
    """The state of torch's optimizer, that of its scheduler if the rates move, and sentences about both.

    Raises:
        CommandError: for what has no counterpart; the state is left as it is.
    """
    saved = optimizer["param_groups"]
    groups, clock = [_plain_group(i, group) for i, group in enumerate(saved)], _clock(saved)
    rates = _moving("lr", [_part(i, group, "lr", clock) for i, group in enumerate(saved)])
    momenta = _moving(
        "momentum",
        [_part(i, group, "betas" if "betas" in group else "momentum", clock) for i, group in enumerate(saved)],
    )
    if rates is None:
        if momenta is not None:
            raise CommandError(
                f"torch has no scheduler for the momentum {shown(momenta[0].curve)} beside a constant lr"
            )
        scheduler, said = None, ["the rates are numbers, so no scheduler is written"]
    else:
        made = counterpart(rates, momenta)
        scheduler = _scheduler_state(made, rates, momenta, groups)
        said = [f"group {i}: lr is {made.cls.__name__} at step {part.step}" for i, part in enumerate(rates)]
    state = {
        key: {name: each for name, each in value.items() if name not in OPTIONAL_STATES}
        if isinstance(value, dict)
        else value
        for key, value in optimizer["state"].items()
    }
    if left_out := sorted(
        {k for v in optimizer["state"].values() if isinstance(v, dict) for k in v} & {*OPTIONAL_STATES}
    ):
        said.append(f"left out, since torch's optimizers have no such states: {', '.join(left_out)}")
    return {**optimizer, "state": state, "param_groups": groups}, scheduler, said


def _plain_group(i: int, group: State) -> State:
    if group.get("weight_decay_schedule"):
        raise CommandError(
            f"torch has no scheduler for the weight_decay of group {i}, {group['weight_decay_schedule']}"
        )
    if group.get("momentum_form") == "classical" and (group.get("momentum") or group.get("momentum_schedule")):
        raise CommandError(
            f"group {i} has momentum_form='classical', whose buffers hold the rate, and those of torch's SGD do not"
        )
    return {key: value for key, value in group.items() if key not in OURS}


def _clock(groups: list[State]) -> int:
    counts = {_checks.count("clock of the state_dict", group["clock"]) for group in groups if "clock" in group}
    if not counts and not any(group.get(key) for group in groups for key in SCHEDULE_KEYS.values()):
        return 0  # SGD's state counts no steps, and numbers need none
    if len(counts) != 1:
        raise CommandError(f"the groups must have one clock, got {sorted(counts)}")
    return counts.pop()


def _part(i: int, group: State, key: str, clock: int) -> Part | None:
    """The formula that holds from now on in one group; None for a number."""
    data = group.get(SCHEDULE_KEYS[key])
    if not data:
        return None
    try:
        schedule = Schedule.from_dict(json.loads(data) if isinstance(data, str) else data)
        return part_at(scaled(schedule, scale_of(key, group)), clock)
    except (ValueError, TypeError, RecursionError) as error:
        raise CommandError(f"{SCHEDULE_KEYS[key]} of group {i} is no Schedule: {error}") from error


def _moving(key: str, parts: list[Part | None]) -> list[Part] | None:
    """The formulas of all groups; None where none of them moves: its value stands in the group as a number."""
    if all(part is None or isinstance(part.curve, Constant) for part in parts):
        return None
    missing = [i for i, part in enumerate(parts) if part is None]
    if missing:
        raise CommandError(
            f"a scheduler of torch's moves the {key} of all groups, got numbers in the groups {missing} and "
            "Schedules in others"
        )
    return [part for part in parts if part is not None]


def _scheduler_state(made: Counterpart, rates: list[Part], momenta: list[Part] | None, groups: list[State]) -> State:
    """The scheduler's state at the step of the parts; the groups get the values of now, and what it keeps in them."""
    step = rates[0].step
    twin: Any = _twin_of(groups, made.base_lrs)
    before = set(twin.param_groups[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the order in which a twin is stepped
        try:
            scheduler = made.cls(twin, **made.arguments)
            vars(scheduler).update(made.entries, last_epoch=step, _last_lr=[_value(part, 0) for part in rates])
            scheduler._step_count += step
            _put(twin.param_groups, rates, momenta, 0)
            state = copy.deepcopy(scheduler.state_dict())
            kept = [{k: v for k, v in group.items() if k not in before} for group in twin.param_groups]
            _try(scheduler, rates, momenta)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise CommandError(
                f"torch's {made.cls.__name__} cannot stand for {shown(rates[0].curve)}: {error}"
            ) from error
    for group, entries in zip(groups, kept, strict=True):
        group.update(entries)
    _put(groups, rates, momenta, 0)
    return state


def _twin_of(groups: list[State], base_lrs: list[float]) -> torch.optim.Optimizer:
    """An optimizer of torch's with as many groups. Schedulers ask it for a momentum or betas, and for nothing else."""
    params = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in base_lrs]
    return torch.optim.Adam(params) if "betas" in groups[0] else torch.optim.SGD(params, momentum=0.5)


def _value(part: Part, later: int) -> float:
    return part.factor * part.curve(part.step + later)


def _put(groups: list[State], rates: list[Part], momenta: list[Part] | None, later: int) -> None:
    for i, group in enumerate(groups):
        group["lr"] = _value(rates[i], later)
        if momenta is not None and "betas" in group:
            group["betas"] = (_value(momenta[i], later), group["betas"][1])
        elif momenta is not None:
            group["momentum"] = _value(momenta[i], later)


def _try(scheduler: Any, rates: list[Part], momenta: list[Part] | None) -> None:
    """Takes steps, and raises where a rate or a momentum is not that of the Schedule."""
    curve = rates[0].curve
    last = getattr(scheduler, "total_steps", math.inf) - 1 - rates[0].step  # OneCycleLR takes no steps after them
    for later in range(1, int(min(COMPARED, last)) + 1):
        scheduler.optimizer.step()
        scheduler.step()
        for i, group in enumerate(scheduler.optimizer.param_groups):
            pairs = [("lr", group["lr"], rates[i])]
            if momenta is not None:
                pairs.append(("momentum", group["betas"][0] if "betas" in group else group["momentum"], momenta[i]))
            for key, theirs, part in pairs:
                ours, highest = _value(part, later), part.factor * part.curve.upper_bound
                if not math.isclose(float(theirs), ours, rel_tol=1e-9, abs_tol=1e-12 * min(highest, 1e300)):
                    raise ValueError(
                        f"{later} steps from now its {key} is {float(theirs)!r}, and {curve} gives {ours!r}"
                    )
