"""state_dict, load_state_dict, pickle and deepcopy: torch's layout, plus the clock and the Schedules."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import _checks
from .._messages import shown, warn
from ..schedules import Schedule
from . import validation
from .algorithm_of import check_algorithm
from .clipping import Measured
from .hyperparameters import SCHEDULE_KEYS
from .options import checked_options
from .param_groups import adopted, show_from_host
from .representation import with_schedules
from .tracked import Group, ParamState, State

if TYPE_CHECKING:
    from ..optimizers._base import FusedOptimizer

# Entries of a checkpoint's groups that are the optimizer's, and the same in each.
_COUNTS = ("clock", "n_averaged", "rounding_seed", "skipped_steps")


# ---- saving


def state_dict(optimizer: FusedOptimizer) -> dict[str, Any]:
    for pre_hook in optimizer._optimizer_state_dict_pre_hooks.values():
        pre_hook(optimizer)
    optimizer._take_over()

    ids: dict[Tensor, int] = {}
    first = 0
    for group in optimizer.param_groups:  # a parameter in several has its number of the first, as in torch
        ids.update({param: i for i, param in enumerate(group["params"], first) if param not in ids})
        first += len(group["params"])
    clock = torch.tensor(int(optimizer.clock), dtype=torch.int64, device="cpu")
    groups = []
    for group in optimizer.param_groups:
        packed = with_schedules(group)
        for key in list(packed):
            first = packed[key][0] if isinstance(packed[key], tuple) and packed[key] else packed[key]
            if isinstance(first, Schedule):
                packed[f"{key}_schedule"] = first.to_dict()
                value = first(int(clock))
                packed[key] = (value, *packed[key][1:]) if isinstance(packed[key], tuple) else value
        for schedule_key in SCHEDULE_KEYS.values():
            packed.setdefault(schedule_key, None)
        packed["clock"] = clock
        if optimizer.average is not None:
            packed["n_averaged"] = torch.tensor(int(optimizer.n_averaged), dtype=torch.int64, device="cpu")
        if optimizer._rounding_seed is not None:
            packed["rounding_seed"] = optimizer._rounding_seed
        if optimizer._options["skip_nonfinite"]:
            packed["skipped_steps"] = torch.tensor(int(optimizer.skipped_steps), dtype=torch.int64, device="cpu")
        packed["params"] = [ids[param] for param in group["params"]]
        groups.append(packed)
    state = {ids.get(key, key): value for key, value in _stepped_state(optimizer).items()}

    result: dict[str, Any] = {"state": state, "param_groups": groups}
    for post_hook in optimizer._optimizer_state_dict_post_hooks.values():
        replaced = post_hook(optimizer, result)
        if replaced is not None:
            result = replaced
    return result


def _stepped_state(optimizer: FusedOptimizer) -> dict[Any, Any]:
    """The state as plain dicts, without what no step has written: presence means a first step was taken."""
    counted = [
        state
        for state in optimizer.state.values()
        if isinstance(state, ParamState) and state.steps is not None and not optimizer._has_step
    ]
    taken = _read_all([state.steps for state in counted])
    fresh = {id(state) for state, steps in zip(counted, taken, strict=True) if steps == 0}
    result: dict[Any, Any] = {}
    for key, state in optimizer.state.items():
        if id(state) in fresh:
            state = {k: v for k, v in state.items() if k != "momentum_buffer"}
            if not state:
                continue
        result[key] = dict(state) if isinstance(state, dict) else state
    return result


def _read_all(counts: list[Any]) -> list[float]:
    """The values of 0-dim tensors, waiting once for each device."""
    by_device: dict[torch.device, list[int]] = defaultdict(list)
    for i, count in enumerate(counts):
        by_device[count.device].append(i)
    values = [0.0] * len(counts)
    for indices in by_device.values():
        for i, value in zip(indices, torch.stack([counts[i] for i in indices]).tolist(), strict=True):
            values[i] = value
    return values


# ---- loading


def load_state_dict(optimizer: FusedOptimizer, state_dict: dict[str, Any]) -> None:
    if not isinstance(state_dict, dict):
        raise TypeError(f"state_dict must be a dict, got {shown(state_dict)}")
    state_dict = state_dict.copy()
    for pre_hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = pre_hook(optimizer, state_dict)
        if replaced is not None:
            state_dict = replaced

    # Everything is made before anything is changed.
    optimizer._take_over()
    saved_groups = _checked_groups(optimizer, state_dict)
    check_algorithm(optimizer, saved_groups)
    ours = optimizer.param_groups
    groups = [
        _loaded_group(optimizer, i, group, saved)
        for i, (group, saved) in enumerate(zip(ours, saved_groups, strict=True))
    ]
    state = _loaded_state(optimizer, groups, saved_groups, state_dict["state"])
    clock = _loaded_clock(saved_groups, state)
    n_averaged = _same_in_all("n_averaged", saved_groups) or 0
    rounding_seed = _same_in_all("rounding_seed", saved_groups)
    skipped_steps = _same_in_all("skipped_steps", saved_groups) or 0
    keeps_schedules = any("lr_schedule" not in saved for saved in saved_groups) and any(
        group[key] is not None for group in groups for key in SCHEDULE_KEYS.values()
    )
    _warn_of_replaced(ours, groups)
    if clock is None and keeps_schedules:
        warn(
            f"the checkpoint has no clock; the Schedules go on from step {int(optimizer.clock)}. "
            "If it was saved after n steps, call opt.clock.fill_(n)"
        )

    def commit() -> None:
        optimizer.param_groups = [*groups]
        optimizer.state = state
        optimizer.n_averaged.fill_(n_averaged)
        if optimizer._rounding_seed is not None and rounding_seed is not None:
            optimizer._rounding_seed = rounding_seed
        if optimizer._options["skip_nonfinite"]:
            optimizer.skipped_steps.fill_(skipped_steps)
        if clock is not None:
            optimizer.clock.fill_(clock)
        show_from_host(optimizer._param_groups, optimizer._steps_taken())

    try:
        commit()
    except BaseException:  # an interrupt: half a checkpoint is worse than all of it
        commit()
        raise
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)


def _checked_groups(optimizer: FusedOptimizer, state_dict: dict[str, Any]) -> list[dict[str, Any]]:
    for key, kind in (("state", dict), ("param_groups", list)):
        if not isinstance(state_dict.get(key), kind):
            raise ValueError(f"state_dict[{key!r}] must be a {kind.__name__}, got {shown(state_dict.get(key))}")
    saved_groups = state_dict["param_groups"]
    for i, saved in enumerate(saved_groups):
        if not isinstance(saved, dict) or not isinstance(saved.get("params"), (list, tuple)):
            raise ValueError(f"group {i} of the state_dict must be a dict with a list 'params', got {shown(saved)}")
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved_sizes = [len(group["params"]) for group in saved_groups]
    if sizes != saved_sizes:
        raise ValueError(
            f"state_dict must have {len(sizes)} param_groups of {shown(sizes)} parameters, "
            f"got {len(saved_sizes)} of {shown(saved_sizes)}"
        )
    return saved_groups


def _loaded_group(optimizer: FusedOptimizer, i: int, group: dict[str, Any], saved: dict[str, Any]) -> Group:
    """The checkpoint's entries, with ours for those it lacks, and our Schedules where it has no notion of them."""
    ours = with_schedules(group)
    from_checkpoint = {key: value for key, value in saved.items() if key not in _COUNTS}
    values = {**ours, **optimizer._beyond_torch, **from_checkpoint}
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
    return adopted(optimizer, Group(), values)


def _schedule_from(name: str, data: Any) -> Schedule:
    """From what ``to_dict()`` gave, or the JSON of that."""
    if isinstance(data, Schedule):
        return data
    try:
        return Schedule.from_dict(json.loads(data) if isinstance(data, str) else data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no Schedule: {error}") from error


def _warn_of_replaced(ours: list[dict[str, Any]], groups: list[Group]) -> None:
    """Once for a checkpoint: its Schedules are not those that the optimizer was made with."""
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
    optimizer: FusedOptimizer, groups: list[Group], saved_groups: list[dict[str, Any]], saved_state: dict[Any, Any]
) -> State:
    places: dict[Any, tuple[Tensor, tuple[str, ...], str]] = {}  # parameter, names of its states, where it is
    for i, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        for k, (param, key) in enumerate(zip(group["params"], saved["params"], strict=True)):
            names = (*optimizer._state_names(group), *validation.kept_beside(param, optimizer._options))
            places[key] = param, names, f"parameter {k} of group {i}"
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
            if name in names:
                validation.check_state(param, name, value, described)
            loaded[name] = _loaded_value(optimizer, param, name, value, described)
        if loaded:
            state[param] = loaded
    return State(state)


def _loaded_value(optimizer: FusedOptimizer, param: Tensor, name: str, value: Any, described: str) -> Any:
    """A copy on the parameter's device, in its own dtype."""
    if name == "step":
        steps = _checks.count(f"state['step'] of {described}", value)
        return torch.tensor(steps, dtype=torch.float64, device=param.device)
    if name == optimizer._product:
        product = _checks.fraction(f"state[{name!r}] of {described}", value)
        return torch.tensor(product, dtype=torch.float64, device=param.device)
    if not isinstance(value, Tensor):
        return value
    if value.layout == torch.strided and value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(
            f"state[{name!r}] of {described} must have memory for each element, got shape {tuple(value.shape)} with "
            f"strides {value.stride()}"
        )
    with torch.inference_mode(False), torch.no_grad():
        return value.detach().to(device=param.device, copy=True)


def _loaded_clock(saved_groups: list[dict[str, Any]], state: State) -> int | None:
    clock = _same_in_all("clock", saved_groups)
    if clock is not None:
        return clock
    taken = _read_all([s["step"] for s in state.values() if isinstance(s, dict) and isinstance(s.get("step"), Tensor)])
    return int(max(taken)) if taken else None


def _same_in_all(key: str, saved_groups: list[dict[str, Any]]) -> int | None:
    """The count that each group of a checkpoint has under this key; None where they have none."""
    values = [group[key] for group in saved_groups if key in group]
    counts = {_checks.count(f"{key} of the state_dict", value) for value in values}
    if len(counts) > 1 or 0 < len(values) < len(saved_groups):
        raise ValueError(f"{key} of the state_dict must be the same in all param_groups, got {shown(values)}")
    return counts.pop() if counts else None


# ---- pickle and deepcopy


def get_state(optimizer: FusedOptimizer) -> dict[str, Any]:
    optimizer._take_over()
    state: dict[Any, Any] = defaultdict(dict)
    state.update(_stepped_state(optimizer))
    return {
        "defaults": optimizer.defaults,
        "state": state,
        "param_groups": [with_schedules(group) for group in optimizer.param_groups],
        "clock": int(optimizer.clock),
        "options": optimizer._options,
        "rounding_seed": optimizer._rounding_seed,
        "n_averaged": int(optimizer.n_averaged),
        "skipped_steps": int(optimizer.skipped_steps) if optimizer._options["skip_nonfinite"] else 0,
    }


def set_state(optimizer: FusedOptimizer, state: dict[str, Any]) -> None:
    if "_changes" not in optimizer.__dict__:
        optimizer._reset()
        optimizer._options = checked_options(state.get("options", {}))
        optimizer._rounding_seed = state.get("rounding_seed")
        optimizer._measured = Measured(state.get("skipped_steps", 0))
    # Hooks and such; the rest goes through our own setters.
    Optimizer.__setstate__(optimizer, {"defaults": state.get("defaults", optimizer.__dict__.get("defaults"))})
    if "param_groups" in state:
        optimizer.param_groups = state["param_groups"]
    if "state" in state:
        optimizer.state = state["state"]
    if "clock" in state:
        optimizer.clock.fill_(state["clock"])
    if "n_averaged" in state:
        optimizer.n_averaged.fill_(state["n_averaged"])
