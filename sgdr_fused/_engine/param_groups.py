"""Parameter groups: what becomes of an entry that is assigned to one, and of a dict that becomes one."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from torch import Tensor

from .. import _checks
from .._messages import FOR_A_SCHEDULER, shown, warn
from ..schedules import Schedule
from . import displays, hyperparameters, states_only
from .clock import Clock
from .compiling import untraced
from .frameworks import written_by_scheduler
from .hyperparameters import LR_SCALE, SCHEDULE_KEYS, first, is_plain, scale_of, with_first
from .options import OPTIONS
from .session import Session
from .tracked import TrackedDict
from .validation import listed, real_device

# Entries of every group that belong to the session: see Session.counts_shown().
COUNTS = ("clock", "n_averaged", "rounding_seed", "skipped_steps")


@untraced()
class Group(TrackedDict):
    """A parameter group. What is assigned to it passes each session that holds it, which checks and normalises it."""

    warned = False  # that a Schedule was replaced by a number

    def _sessions(self) -> list[Session]:
        holders = [changes.holder() for changes in self.told]
        return [holder for holder in holders if isinstance(holder, Session)]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        sessions = self._sessions()
        entries: dict[str, Any] = {} if sessions else {key: value}  # without one this is a plain dict
        only_numbers = True
        for session in sessions:
            if key == "lr" and session.scheduler and written_by_scheduler(session, sys._getframe(1)):
                return
            found, numbers = assignment(session, self, key, entries.get(key, value), self)
            entries.update(found)
            if key == "lr" and displays.display_of(value) is None:
                session.scheduler = None  # who assigns a rate, and not what was shown, has decided: see check_scheduler
            only_numbers = only_numbers and numbers
        if entries:
            self.store(entries, only_numbers)
            self.show(entries)

    def show(self, entries: dict[str, Any]) -> None:
        """Brings the displays among the entries up to date: a signal handler may have moved the clock meanwhile."""
        for value in entries.values():
            tensor = first(value)
            for session in self._sessions() if displays.display_of(tensor) is not None else ():
                session.show(tensor)

    def __delitem__(self, key: str) -> None:
        if self._sessions() and key.endswith("_schedule") and self[key] is not None:
            raise ValueError(f"group[{key!r}] is read-only; assign to group[{key.removesuffix('_schedule')!r}] instead")
        super().__delitem__(key)
        if key == LR_SCALE:
            for session in self._sessions():
                self.store(_rescaled(session, self, {}))


def set_groups(session: Session, groups: list[dict[str, Any]]) -> None:
    """Puts these in the place of the session's groups. The list stays the caller's, as in torch.

    Counts that a wrapper has saved and loaded are taken over too.
    """
    groups = groups if isinstance(groups, list) else list(groups)
    counts = _saved_counts(groups)
    groups[:] = [adopted(session, group) for group in groups]
    session.set_groups(groups)
    for key, value in counts.items():
        _count_assignment(session, key, value)
    show_counts(session)


def _saved_counts(groups: list[dict[str, Any]]) -> dict[str, int]:
    """The counts among the entries of groups that were loaded. A clock in a live group, or in a copy, is still one."""
    loaded = [group for group in groups if "clock" in group and not isinstance(group["clock"], Clock)]
    return {
        key: _checks.count(f"group[{key!r}]", group[key])
        for group in loaded
        for key in COUNTS
        if key in group and not (key == "rounding_seed" and group[key] == -1)  # it had none
    }


def take_over(session: Session) -> None:
    """Makes groups of the dicts that the user has put into the list, and fetches what was written to aliases."""
    for i, group in enumerate(session.groups):
        if not isinstance(group, Group) or session.changes not in group.told:
            session.groups[i] = adopted(session, group)
            session.has_aliases = True
    session.take_over_aliases()


def adopted(
    session: Session, given: dict[str, Any], values: dict[str, Any] | None = None, *, new: bool = False
) -> Group:
    """Makes a group of the session's, with the entries of `given`, or with `values`, which are those completed.

    A Group stays the object that it is, also where another session holds it. Another dict is the user's: torch would
    keep it, and so the Group stands for it.
    """
    if isinstance(given, Group) and session.changes in given.told:
        return given
    values = dict(given) if values is None else values
    if "params" not in values:
        raise ValueError(f"a parameter group must have 'params', got the entries {shown(sorted(values))}")
    group = given if isinstance(given, Group) else Group()
    found: dict[str, Any] = {"params": None}  # the first one, as in torch
    for key, value in values.items():
        if key not in SCHEDULE_KEYS.values() and key not in COUNTS:  # which are another session's
            found.update(assignment(session, group, key, value, values, new=new)[0])
    for key, schedule_key in SCHEDULE_KEYS.items():
        found.setdefault(schedule_key, None)
        named = values.get(schedule_key)
        if named is None or named == found[schedule_key]:
            continue
        if not isinstance(named, Schedule):
            raise _read_only(schedule_key, named)
        _warn_of_number(session, group, key, named, found.get(key))
    if new:
        session.algorithm.check_group(found)
    if session.groups:  # else the device of the counts is not known yet, and who adds the first group shows them
        found.update(session.counts_shown())
    group.store(found)
    group.tell(session.changes)
    if group is not given:
        group.stand_for(given)
    return group


def assignment(
    session: Session, group: Group, key: str, value: Any, beside: dict[str, Any], *, new: bool = False
) -> tuple[dict[str, Any], bool]:
    """Checks what is assigned to group[key]. Returns the entries to store, and whether only numbers change by them.

    `beside` has the entries that stand in the group with this one; `new` as in hyperparameters.check.
    """
    if key in SCHEDULE_KEYS.values():
        if value == group.get(key):  # a group's entries are copied one by one
            return {}, True
        raise _read_only(key, value)
    if key in COUNTS:
        return _count_assignment(session, key, value), True
    if key in OPTIONS:
        raise ValueError(
            f"{key} is an option of the whole optimizer, which is given to {session.class_name}(...) and stays as it "
            f"is, got {shown(value)} in a group"
        )
    if key == "differentiable" and value:
        raise ValueError(f"differentiable must be False, got {shown(value)}: a fused step has no backward")
    if key in {hyper.key for hyper in session.algorithm.hypers}:
        return _hyper_assignment(session, group, key, value, beside, new)
    if key == "params":
        return {key: value if isinstance(value, list) else listed(value)}, False
    if key == LR_SCALE and beside is group:
        return {key: value, **_rescaled(session, group, {key: value})}, False
    if key not in session.defaults:
        return {key: value}, True
    return {key: _checked_constant(session, group, key, value)}, False


def _count_assignment(session: Session, key: str, value: Any) -> dict[str, Any]:
    """Sets one of the session's counts, as who restores a copy of a group does; what is shown itself sets nothing."""
    shown_now = session.counts_shown()[key]
    if key == "rounding_seed":
        if session.rounding_seed is None or value == shown_now:
            return {key: shown_now}
        session.rounding_seed = _checks.count(f"group[{key!r}]", value)
        session.changes.note()
        return {key: session.rounding_seed}
    if value is not shown_now and not isinstance(value, Clock):
        number = _checks.count(f"group[{key!r}]", value)
        if number != int(shown_now):
            shown_now.fill_(number)
    return {key: shown_now}


def show_counts(session: Session) -> None:
    """Puts the session's counts into the groups where others stand, as when the parameters were moved."""
    counts = session.counts_shown()
    for group in session.groups:
        others = {key: value for key, value in counts.items() if dict.get(group, key) is not value}
        if not others:
            continue
        dict.update(group, others)
        if isinstance(group, Group) and group.alias is not None:
            dict.update(group.alias, others)


def _read_only(schedule_key: str, value: Any) -> ValueError:
    key = schedule_key.removesuffix("_schedule")
    return ValueError(f"group[{schedule_key!r}] is read-only; assign to group[{key!r}] instead, got {shown(value)}")


def _hyper_assignment(
    session: Session, group: Group, key: str, value: Any, beside: dict[str, Any], new: bool
) -> tuple[dict[str, Any], bool]:
    schedule_key = SCHEDULE_KEYS[key]
    if key == "lr" and key in group and states_only.asked():
        session.changes.note()  # so that the step that follows comes to where states are made
        return {}, True
    if key == "betas" and isinstance(value, list):
        value = tuple(value)  # what is edited in place would go unnoticed
    old, old_schedule = group.get(key), group.get(schedule_key)
    display = displays.display_of(first(value))
    schedule = first(value) if isinstance(first(value), Schedule) else None
    if display is not None:
        if displays.was_written(first(value)):
            raise _written_display(session, group, key, first(value))
        schedule = display.schedule
    hyperparameters.check(key, value if schedule is None else with_first(value, schedule), new=new)
    if schedule is None:
        # Whether momentum is in use decides on the state, so on the plan.
        same_use = key != "momentum" or bool(old) == bool(value)
        only_numbers = old_schedule is None and same_use and is_plain(old) and is_plain(value)
        if old_schedule is not None:
            _warn_of_number(session, group, key, old_schedule, value)
        return {key: value, schedule_key: None}, only_numbers
    step = session.steps_taken()
    device = _device_of(session, beside.get("params"))
    scale = scale_of(key, beside)
    tensor = first(value)
    same_place = display is not None and tensor.device == device and displays.stands_in(tensor, group)
    if display is not None and same_place and display.scale == scale:
        displays.show(tensor, step)  # the clock may have moved while it stood nowhere
    else:
        tensor = displays.new_display(schedule, step, device, scale)
    held = displays.display_of(tensor)
    assert held is not None
    held.holder = weakref.ref(group)
    return {key: with_first(value, tensor), schedule_key: schedule}, False


def _rescaled(session: Session, group: Group, scale: dict[str, Any]) -> dict[str, Any]:
    """What stands for the rate of a group that has a Schedule, when ``lr_scale`` is what `scale` says, or is gone."""
    schedule = group.get("lr_schedule")
    if schedule is None:
        return {}
    beside = {**{key: value for key, value in group.items() if key != LR_SCALE}, **scale}
    return _hyper_assignment(session, group, "lr", schedule, beside, new=False)[0]


def _device_of(session: Session, params: Any) -> Any:
    """The device of a group's first parameter."""
    param = params[0] if isinstance(params, list) and params else None
    return real_device(param) if isinstance(param, Tensor) else session.first_device()


def _written_display(session: Session, group: Group, key: str, tensor: Tensor) -> RuntimeError:
    """What to raise for a display that was written in place and is assigned; it displays its Schedule again."""
    display, value = displays.display_of(tensor), tensor.item()
    assert display is not None
    if display.holder is not None and display.holder() is group:
        displays.show(tensor, session.steps_taken())
        displays.accept_writes(tensor)
    scaled = f'0.1 * g["{key}_schedule"]'
    scaled = f'({scaled}, g["betas"][1])' if key == "betas" else scaled
    return RuntimeError(
        f"group[{key!r}] only displays what its Schedule {shown(display.schedule)} gives, and was written in place, "
        f'to {value!r}, which changes nothing (g["{key}"] *= 0.1 does that); to scale the Schedule, assign '
        f'g["{key}"] = {scaled}; to replace it, assign a number, a tensor or another Schedule'
        f"{FOR_A_SCHEDULER if key == 'lr' else ''}"
    )


def _warn_of_number(session: Session, group: Group, key: str, schedule: Schedule, value: Any) -> None:
    """Warns, once for a group, that a Schedule is replaced by something that is none."""
    if group.warned:
        return
    numbers = [i for i, each in enumerate(session.groups) if each is group]
    which = f" of group {numbers[0]}" if numbers else ""  # a group that is being made has no number yet
    factor = f'0.1 * g["{key}_schedule"]'
    warn(
        f"group[{key!r}]{which} had a Schedule, {shown(schedule)}, in whose place {shown(value)} stands from here on. "
        f"To scale a Schedule instead, assign {factor}; a displayed value times a number is a number. To put a number "
        f"there on purpose, without this warning, assign schedules.Constant(number)"
        f"{FOR_A_SCHEDULER if key == 'lr' else ''}"
    )
    group.warned = True


def follow_devices(session: Session, groups: list[Group]) -> None:
    """Makes displays anew where a group's parameters have moved to another device."""
    for group in groups:
        device = _device_of(session, group["params"])
        for key, schedule_key in SCHEDULE_KEYS.items():
            value, schedule = group.get(key), group.get(schedule_key)
            if schedule is not None and displays.display_of(first(value)) and first(value).device != device:
                group[key] = with_first(value, schedule)


def check_complete(session: Session, i: int, group: dict[str, Any]) -> None:
    """Raises where a group lacks an entry that a step needs."""
    needed = {*(hyper.key for hyper in session.algorithm.hypers), *session.algorithm.constants, "params"}
    if missing := sorted(needed - group.keys()):
        raise ValueError(f"group {i} lacks {missing}: param_groups need the entries of {session.class_name}")


def _checked_constant(session: Session, group: Group, key: str, value: Any) -> Any:
    """What is stored for an entry that is no hyperparameter."""
    algorithm = session.algorithm
    value = algorithm.fixed.get(key, value)
    algorithm.check_constant(key, value)
    if isinstance(session.defaults[key], bool) and key not in ("differentiable", "capturable"):
        value = _checked_flag(key, value)
    state_name = algorithm.meanings.get(key)
    if state_name is None or group.get(key, value) == value:
        return value
    if any(state_name in session.state.get(param, ()) for param in group["params"]):
        raise ValueError(
            f"{key} cannot change from {group[key]!r} to {value!r} while the group's parameters have a {state_name}, "
            "which means another thing in either; remove it from the state first"
        )
    return value


def _checked_flag(key: str, value: Any) -> bool:
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
