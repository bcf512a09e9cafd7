"""``load_state_dict``: a checkpoint of ours, or of the counterpart in torch.optim."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._messages import shown, warn
from ..schedules import Schedule
from .algorithm import Algorithm
from .algorithm_of import Kin, check_algorithm
from .by_name import arranged, names_of
from .checkpoint import read_all, skipped_steps
from .hyperparameters import LR_SCALE, SCHEDULE_KEYS
from .options import OPTIONS
from .param_groups import COUNTS, Group, adopted, set_groups, show_counts, take_over
from .param_state import dtypes_of, memory_of, new_number, number_keys, tensor_names
from .representation import with_schedules
from .session import Session
from .sharded import as_loaded, placed_as
from .tracked import State
from .validation import check_state


def load_state_dict(session: Session, state_dict: dict[str, Any], kin: Kin) -> None:
    """Puts a checkpoint in the place of what the session has; raises with nothing changed where it does not fit.

    Args:
        kin: the optimizer's class, and those whose checkpoint it might be.
    """
    # Everything is made before anything is changed.
    take_over(session)
    saved_groups, moved = _checked_groups(session, state_dict)
    check_algorithm(kin, saved_groups)
    ours = session.groups
    groups = [
        _loaded_group(session, i, group, saved) for i, (group, saved) in enumerate(zip(ours, saved_groups, strict=True))
    ]
    state = _loaded_state(session, groups, saved_groups, state_dict["state"])
    clock = _loaded_clock(saved_groups, state)
    n_averaged = _same_in_all("n_averaged", saved_groups) or 0
    rounding_seed = None if _has_no_seed(saved_groups) else _same_in_all("rounding_seed", saved_groups)
    skipped = _same_in_all("skipped_steps", saved_groups) or 0
    keeps_schedules = any("lr_schedule" not in saved for saved in saved_groups) and any(
        group[key] is not None for group in groups for key in SCHEDULE_KEYS.values()
    )
    _warn_of_replaced(ours, groups)
    if moved is not None:
        warn(moved)
    if clock is None and keeps_schedules:
        warn(
            f"the checkpoint has no clock; the Schedules go on from step {int(session.clock)}. "
            "If it was saved after n steps, call opt.clock.fill_(n)"
        )

    def commit() -> None:
        set_groups(session, [*groups])
        session.set_state(state)
        if session.options["average"] is not None:
            session.n_averaged.fill_(n_averaged)
        if session.rounding_seed is not None and rounding_seed is not None:
            session.rounding_seed = rounding_seed
            show_counts(session)  # the groups were made with the seed that it replaces
        if session.options["skip_nonfinite"]:
            skipped_steps(session).fill_(skipped)
        if clock is not None:
            session.clock.fill_(clock)
        session.show_all()

    try:
        commit()
    except BaseException:  # an interrupt: half a checkpoint is worse than all of it
        commit()
        raise


def _checked_groups(session: Session, state_dict: dict[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """The checkpoint's groups, arranged as ours are, and what to warn of once they are loaded."""
    for key, kind in (("state", dict), ("param_groups", list)):
        if not isinstance(state_dict.get(key), kind):
            raise ValueError(f"state_dict[{key!r}] must be a {kind.__name__}, got {shown(state_dict.get(key))}")
    for i, saved in enumerate(state_dict["param_groups"]):
        if not isinstance(saved, dict) or not isinstance(saved.get("params"), (list, tuple)):
            raise ValueError(f"group {i} of the state_dict must be a dict with a list 'params', got {shown(saved)}")
    saved_groups, moved = arranged(session.groups, state_dict["param_groups"])
    sizes = [len(group["params"]) for group in session.groups]
    saved_sizes = [len(group["params"]) for group in saved_groups]
    if sizes != saved_sizes:
        raise ValueError(
            f"state_dict must have {len(sizes)} param_groups of {shown(sizes)} parameters, "
            f"got {len(saved_sizes)} of {shown(saved_sizes)}"
        )
    return saved_groups, moved


def _loaded_group(session: Session, i: int, group: dict[str, Any], saved: dict[str, Any]) -> Group:
    """The checkpoint's entries, with ours for those that a step needs, and our Schedules where it knows of none.

    Other entries of ours that it lacks are dropped, as in torch: a scheduler's ``initial_lr`` belongs to another time.
    """
    kept = {*session.defaults, "param_names", LR_SCALE}
    ours = {key: value for key, value in with_schedules(group).items() if key in kept}
    from_checkpoint = {key: value for key, value in saved.items() if key not in (*COUNTS, *OPTIONS)}
    values = {**ours, **session.algorithm.beyond_torch, **from_checkpoint}
    for key, schedule_key in SCHEDULE_KEYS.items():
        data = values.pop(schedule_key, None)
        if schedule_key in saved and data:  # not None, and not the empty string
            if key not in values:
                raise ValueError(f"group {i} of the state_dict has {schedule_key}={shown(data)} but no {key}")
            schedule: Any = _schedule_from(f"{schedule_key} of group {i} of the state_dict", data)
        elif schedule_key not in saved and group.get(schedule_key) is not None:
            schedule = group[schedule_key]
        else:
            continue
        values[key] = (schedule, *values[key][1:]) if isinstance(values[key], (tuple, list)) else schedule
    values["params"] = group["params"]
    if names_of([group]) is not None:
        values["param_names"] = group["param_names"]  # in the order of our parameters
    return adopted(session, Group(), values)


def _schedule_from(name: str, data: Any) -> Schedule:
    """Makes a Schedule of what ``to_dict()`` gave, or of the JSON of that."""
    if isinstance(data, Schedule):
        return data
    try:
        return Schedule.from_dict(json.loads(data) if isinstance(data, str) else data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no Schedule: {error}") from error


def _warn_of_replaced(ours: list[dict[str, Any]], groups: list[Group]) -> None:
    """Warns, once for a checkpoint, that its Schedules are not those that the optimizer was made with."""
    for i, (old, new) in enumerate(zip(ours, groups, strict=True)):
        for key, schedule_key in SCHEDULE_KEYS.items():
            schedule, loaded = old.get(schedule_key), new.get(schedule_key)
            if schedule is None or schedule == loaded:
                continue
            warn(
                f"group {i}: the checkpoint's {key}, {shown(new.get(key) if loaded is None else loaded)}, takes the "
                f"place of {shown(schedule)}; to go on with that one, assign it to group[{key!r}] after loading"
            )
            return


def _loaded_state(
    session: Session, groups: list[Group], saved_groups: list[dict[str, Any]], saved_state: dict[Any, Any]
) -> State:
    places: dict[Any, tuple[Tensor, tuple[str, ...], str]] = {}  # parameter, names of its states, where it is
    for i, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        own_names = names_of([group])
        for k, (param, key) in enumerate(zip(group["params"], saved["params"], strict=True)):
            names = tensor_names(session.algorithm, session.options, group, param)
            called = f", {shown(own_names[0][k])}," if own_names else ""
            places[key] = param, names, f"parameter {k} of group {i}{called}"
    state: dict[Any, Any] = {}
    for key, values in saved_state.items():
        if key not in places:
            state[key] = values  # as in torch: not of a parameter
            continue
        if not isinstance(values, dict):
            raise ValueError(f"state_dict['state'][{key!r}] must be a dict, got {shown(values)}")
        param, names, described = places[key]
        loaded = {}
        for name, value in values.items():
            if value is None:  # older torch's SGD without momentum
                continue
            loaded[name] = _loaded_value(session.algorithm, param, name, value, described)
            if name in names:  # where the value is now, which a checkpoint of another device's was not
                check_state(param, name, loaded[name], described)
        if loaded:
            state[param] = loaded
    return State(state)


def _loaded_value(algorithm: Algorithm, param: Tensor, name: str, value: Any, described: str) -> Any:
    """A copy of the value on the parameter's device, in its own dtype."""
    if number := number_keys(algorithm).get(name):
        return new_number(number.checked(f"state[{name!r}] of {described}", value), param)
    if not isinstance(value, Tensor):
        return value
    if value.is_meta and not param.is_meta:
        raise ValueError(
            f"state[{name!r}] of {described} must have values, got shape {tuple(value.shape)} on the device "
            "meta, which has none"
        )
    here = memory_of(value)
    if here.layout == torch.strided and here.numel() * here.element_size() > here.untyped_storage().nbytes():
        raise ValueError(
            f"state[{name!r}] of {described} must have memory for each element, got shape {tuple(value.shape)} with "
            f"strides {value.stride()}"
        )
    with torch.inference_mode(False), torch.no_grad():
        own = placed_as(param, value.detach()).to(device=param.device, copy=True)
        return as_loaded(own, dtypes_of(param, name)) if own.dtype == torch.int32 else own


def _loaded_clock(saved_groups: list[dict[str, Any]], state: State) -> int | None:
    clock = _same_in_all("clock", saved_groups)
    if clock:
        return clock
    taken = read_all([s["step"] for s in state.values() if isinstance(s, dict) and isinstance(s.get("step"), Tensor)])
    steps = int(max(taken, default=0))
    if clock is None:
        return steps if taken else None
    if steps:
        warn(
            f"the checkpoint's clock is 0, while its states have {steps} steps behind them, as after a distributed "
            "checkpoint of torch.optim, which has no clock, was read into a state dict of ours. Schedules start anew; "
            f"to go on with them, call opt.clock.fill_({steps})"
        )
    return clock


def _has_no_seed(saved_groups: list[dict[str, Any]]) -> bool:
    return all(group.get("rounding_seed", -1) == -1 for group in saved_groups)


def _same_in_all(key: str, saved_groups: list[dict[str, Any]]) -> int | None:
    """The count that each group of a checkpoint has under this key; None where they have none."""
    values = [group[key] for group in saved_groups if key in group]
    counts = {_checks.count(f"{key} of the state_dict", value) for value in values}
    if len(counts) > 1 or 0 < len(values) < len(saved_groups):
        raise ValueError(f"{key} of the state_dict must be the same in all param_groups, got {shown(values)}")
    return counts.pop() if counts else None
