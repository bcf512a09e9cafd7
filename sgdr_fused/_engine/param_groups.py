"""What becomes of an entry that is assigned to a parameter group, and of a dict that becomes a group."""

from __future__ import annotations

import difflib
import weakref
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._messages import shown, warn
from ..schedules import Schedule
from . import displays, hyperparameters, states_only
from .hyperparameters import SCHEDULE_KEYS, first, is_plain, with_first
from .options import OPTIONS
from .tracked import Group
from .validation import listed, real_device

if TYPE_CHECKING:
    from ..optimizers._base import FusedOptimizer


def adopted(
    optimizer: FusedOptimizer, given: dict[str, Any], values: dict[str, Any] | None = None, *, new: bool = False
) -> Group:
    """A group of the optimizer's with the entries of `given`, or with `values`, which are those completed.

    A Group stays the object that it is, also where another optimizer holds it. Another dict is the user's: torch would
    keep it, and so the Group stands for it.
    """
    if isinstance(given, Group) and optimizer._changes in given._changes:
        return given
    values = dict(given) if values is None else values
    if "params" not in values:
        raise ValueError(f"a parameter group must have 'params', got the entries {shown(sorted(values))}")
    group = given if isinstance(given, Group) else Group()
    found: dict[str, Any] = {"params": None}  # the first one, as in torch
    for key, value in values.items():
        if key not in SCHEDULE_KEYS.values():
            found.update(assignment(optimizer, group, key, value, params=values["params"], new=new)[0])
    for key, schedule_key in SCHEDULE_KEYS.items():
        found.setdefault(schedule_key, None)
        named = values.get(schedule_key)
        if named is None or named == found[schedule_key]:
            continue
        if not isinstance(named, Schedule):
            raise _read_only(schedule_key, named)
        _warn_of_number(group, key, named, found.get(key))
    if new:
        optimizer._check_group(found)
    group.store(found)
    group.tell(optimizer._changes)
    if group is not given:
        group.stand_for(given)
    return group


def assignment(
    optimizer: FusedOptimizer, group: Group, key: str, value: Any, *, params: Any = None, new: bool = False
) -> tuple[dict[str, Any], bool]:
    """Checks what is assigned to group[key]. Returns the entries to store, and whether only numbers change by them.

    `params` are the group's if it has none yet; `new` as in hyperparameters.check.
    """
    if key in SCHEDULE_KEYS.values():
        if value == group.get(key):  # a group's entries are copied one by one
            return {}, True
        raise _read_only(key, value)
    if key == "differentiable" and value:
        raise ValueError(f"differentiable must be False, got {shown(value)}: a fused step has no backward")
    if key in {hyper.key for hyper in optimizer._hypers}:
        return _hyper_assignment(optimizer, group, key, value, group.get("params", params), new)
    if key == "params":
        return {key: value if isinstance(value, list) else listed(value)}, False
    if key not in optimizer.defaults:
        return {key: value}, True
    return {key: optimizer._checked_constant(group, key, value)}, False


def _read_only(schedule_key: str, value: Any) -> ValueError:
    key = schedule_key.removesuffix("_schedule")
    return ValueError(f"group[{schedule_key!r}] is read-only; assign to group[{key!r}] instead, got {shown(value)}")


def _hyper_assignment(
    optimizer: FusedOptimizer, group: Group, key: str, value: Any, params: Any, new: bool
) -> tuple[dict[str, Any], bool]:
    schedule_key = SCHEDULE_KEYS[key]
    if key == "lr" and key in group and states_only.asked():
        optimizer._changes.note()  # so that the step that follows comes to where states are made
        return {}, True
    if key == "betas" and isinstance(value, list):
        value = tuple(value)  # what is edited in place would go unnoticed
    old, old_schedule = group.get(key), group.get(schedule_key)
    display = displays.display_of(first(value))
    schedule = first(value) if isinstance(first(value), Schedule) else None
    if display is not None:
        if displays.was_written(first(value)):
            raise _written_display(optimizer, group, key, first(value))
        schedule = display.schedule
    hyperparameters.check(key, value if schedule is None else with_first(value, schedule), new=new)
    if schedule is None:
        # Whether momentum is in use decides on the state, so on the plan.
        same_use = key != "momentum" or bool(old) == bool(value)
        only_numbers = old_schedule is None and same_use and is_plain(old) and is_plain(value)
        if old_schedule is not None:
            _warn_of_number(group, key, old_schedule, value)
        return {key: value, schedule_key: None}, only_numbers
    step = optimizer._steps_taken()
    device = _device_of(optimizer, params)
    tensor = first(value)
    if display is not None and tensor.device == device and displays.stands_in(tensor, group):
        displays.show(tensor, step)  # the clock may have moved while it stood nowhere
    else:
        tensor = displays.new_display(schedule, step, device)
    held = displays.display_of(tensor)
    assert held is not None
    held.holder = weakref.ref(group)
    return {key: with_first(value, tensor), schedule_key: schedule}, False


def _device_of(optimizer: FusedOptimizer, params: Any) -> Any:
    """That of a group's first parameter."""
    param = params[0] if isinstance(params, list) and params else None
    return real_device(param) if isinstance(param, Tensor) else optimizer._first_device()


def _written_display(optimizer: FusedOptimizer, group: Group, key: str, tensor: Tensor) -> RuntimeError:
    """What to raise for a display that was written in place and is assigned; it displays its Schedule again."""
    display, value = displays.display_of(tensor), tensor.item()
    assert display is not None
    if display.holder is not None and display.holder() is group:
        displays.show(tensor, optimizer._steps_taken())
        displays.accept_writes(tensor)
    scaled = f'0.1 * g["{key}_schedule"]'
    scaled = f'({scaled}, g["betas"][1])' if key == "betas" else scaled
    return RuntimeError(
        f"group[{key!r}] only displays what its Schedule {shown(display.schedule)} gives, and was written in place, "
        f'to {value!r}, which changes nothing (g["{key}"] *= 0.1 does that); to scale the Schedule, assign '
        f'g["{key}"] = {scaled}; to replace it, assign a number, a tensor or another Schedule'
    )


def check_displays(groups: list[Any]) -> None:
    """Raises for a display that was written in place and is not assigned."""
    for i, group in enumerate(groups):
        for key, schedule_key in SCHEDULE_KEYS.items():
            if group.get(schedule_key) is None:
                continue
            tensor = first(group[key])
            if displays.display_of(tensor) is not None and displays.was_written(tensor):
                raise RuntimeError(
                    f"group {i}: the tensor in group[{key!r}] only displays what {shown(group[schedule_key])} gives, "
                    f"and was written in place, to {tensor.item()!r} (a torch scheduler does that); to replace the "
                    f"Schedule, assign to group[{key!r}]"
                )


def _warn_of_number(group: Group, key: str, schedule: Schedule, value: Any) -> None:
    """Once a group: a Schedule is replaced by something that is none."""
    if group.warned:
        return
    factor = f'0.1 * g["{key}_schedule"]'
    warn(
        f"group[{key!r}] had a Schedule, {shown(schedule)}, in whose place {shown(value)} stands from here on. To "
        f"scale a Schedule instead, assign {factor}; a displayed value times a number is a number"
    )
    group.warned = True


def check_keys(optimizer: FusedOptimizer, group: dict[str, Any]) -> None:
    """Raises for entries of a new group that would be ignored, and were meant for something."""
    known = [*optimizer.defaults, "params"]
    for key in group:
        if key in OPTIONS:
            raise ValueError(
                f"{key} must be given to {type(optimizer).__name__}(...), not to a group: it is of the whole "
                f"optimizer, got {shown(group[key])} in a group"
            )
        meant = difflib.get_close_matches(str(key), known, n=1, cutoff=0.85)
        if key not in known and meant and not str(key).endswith("_schedule"):
            warn(f"{type(optimizer).__name__} has no {key!r}, and ignores it in a group; did you mean {meant[0]!r}?")


def show_from_host(groups: list[Any], step: int) -> None:
    """Brings all displays up to date, without a plan."""
    for group in groups:
        for key, schedule_key in SCHEDULE_KEYS.items():
            tensor = first(group.get(key))
            if group.get(schedule_key) is not None and displays.display_of(tensor) is not None:
                displays.show(tensor, step)


def follow_devices(optimizer: FusedOptimizer, groups: list[Group]) -> None:
    """Makes displays anew where a group's parameters have moved to another device."""
    for group in groups:
        device = _device_of(optimizer, group["params"])
        for key, schedule_key in SCHEDULE_KEYS.items():
            value, schedule = group.get(key), group.get(schedule_key)
            if schedule is not None and displays.display_of(first(value)) and first(value).device != device:
                group[key] = with_first(value, schedule)


def check_complete(optimizer: FusedOptimizer, i: int, group: dict[str, Any]) -> None:
    """Raises where a group lacks an entry that a step needs."""
    needed = {*(hyper.key for hyper in optimizer._hypers), *optimizer._constants, "params"}
    if missing := sorted(needed - group.keys()):
        raise ValueError(f"group {i} lacks {missing}: param_groups need the entries of {type(optimizer).__name__}")


def checked_flag(key: str, value: Any) -> bool:
    """A constant that is True or False, from what Python and NumPy have for it."""
    if isinstance(value, bool):
        return value
    try:
        truth = bool(value) if value in (0, 1) else None
    except (TypeError, ValueError, RuntimeError):
        truth = None
    if truth is None:
        raise TypeError(f"{key} must be True or False, got {shown(value)}")
    return truth
