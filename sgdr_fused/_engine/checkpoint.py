"""``state_dict`` and pickles: torch's layout, with the clock and the Schedules."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ..schedules import Schedule
from . import clipping
from .algorithm import Algorithm
from .displays import scaled
from .hyperparameters import SCHEDULE_KEYS, scale_of
from .options import checked_options
from .param_groups import set_groups, take_over
from .representation import with_schedules
from .session import Session
from .sharded import as_saved
from .tracked import ParamState
from .update_counts import count_of


def state_dict(session: Session) -> dict[str, Any]:
    """The state in torch's layout, with the clock and the Schedules in the groups."""
    take_over(session)

    ids: dict[Tensor, int] = {}
    first = 0
    for group in session.groups:  # a parameter in several has its number of the first, as in torch
        ids.update({param: i for i, param in enumerate(group["params"], first) if param not in ids})
        first += len(group["params"])
    counts = {
        key: torch.tensor(int(value), dtype=torch.int64, device="cpu") if isinstance(value, Tensor) else value
        for key, value in session.counts_shown().items()
    }
    clock = int(counts["clock"])
    groups = []
    for group in session.groups:
        packed = with_schedules(group)
        for key in list(packed):
            first = packed[key][0] if isinstance(packed[key], tuple) and packed[key] else packed[key]
            if isinstance(first, Schedule):
                packed[f"{key}_schedule"] = json.dumps(first.to_dict())
                value = scaled(first, scale_of(key, group))(clock)
                packed[key] = (value, *packed[key][1:]) if isinstance(packed[key], tuple) else value
        for schedule_key in SCHEDULE_KEYS.values():
            packed.setdefault(schedule_key, "")
        packed.update(counts)
        packed["params"] = [ids[param] for param in group["params"]]
        groups.append(packed)
    state = {
        ids.get(key, key): {name: as_saved(each) for name, each in value.items()} if isinstance(value, dict) else value
        for key, value in stepped_state(session).items()
    }
    return {"state": state, "param_groups": groups}


def stepped_state(session: Session) -> dict[Any, Any]:
    """The state as plain dicts, without what no step has written: presence means a first step was taken."""
    counts: dict[tuple[Any, Any], Tensor] = {}
    if not session.algorithm.has_step:
        for param, state in session.state.items():
            if isinstance(state, ParamState):
                counts.update({(param, key): n for key, value in state.items() if (n := count_of(value)) is not None})
    taken = read_all(list(counts.values()))
    fresh = {entry for entry, updates in zip(counts, taken, strict=True) if updates == 0}
    result: dict[Any, Any] = {}
    for param, state in session.state.items():
        if isinstance(state, dict):
            written = {key: value for key, value in state.items() if (param, key) not in fresh}
            if written or not state:
                result[param] = written
        else:
            result[param] = state
    return result


def read_all(counts: list[Any]) -> list[float]:
    """The values of 0-dim tensors, waiting once for each device."""
    by_device: dict[torch.device, list[int]] = defaultdict(list)
    for i, count in enumerate(counts):
        by_device[count.device].append(i)
    values = [0.0] * len(counts)
    for indices in by_device.values():
        for i, value in zip(indices, torch.stack([counts[i] for i in indices]).tolist(), strict=True):
            values[i] = value
    return values


def skipped_steps(session: Session) -> Tensor:
    return clipping.skipped_of(session.options, session.measured, session.first_device())


# ---- pickle and deepcopy


def get_state(session: Session) -> dict[str, Any]:
    """What a pickle or a copy of an optimizer holds."""
    take_over(session)
    state: dict[Any, Any] = defaultdict(dict)
    state.update(stepped_state(session))
    return {
        "defaults": session.defaults,
        "state": state,
        "param_groups": [with_schedules(group) for group in session.groups],
        "clock": int(session.clock),
        "options": session.options,
        "rounding_seed": session.rounding_seed,
        "n_averaged": int(session.n_averaged),
        "skipped_steps": int(skipped_steps(session)) if session.options["skip_nonfinite"] else 0,
    }


def session_of(state: dict[str, Any], algorithm: Algorithm, class_name: str) -> Session:
    """A session with the options of what ``get_state`` gave, and nothing else of it yet."""
    options = checked_options(state.get("options", {}))
    return Session(algorithm, class_name, options, state.get("rounding_seed"), state.get("skipped_steps", 0))


def set_state(session: Session, state: dict[str, Any]) -> None:
    """Puts what ``get_state`` gave, or a part of it, in the place of what the session has."""
    if "param_groups" in state:
        set_groups(session, state["param_groups"])
    if "state" in state:
        session.set_state(state["state"])
    if "clock" in state:
        session.clock.fill_(state["clock"])
    if "n_averaged" in state:
        session.n_averaged.fill_(state["n_averaged"])
