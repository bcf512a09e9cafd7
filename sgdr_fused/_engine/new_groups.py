"""Parameter groups that are added: what a constructor or ``add_param_group`` was given."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from .._messages import shown, warn
from . import clipping, validation
from .options import OPTIONS
from .param_groups import Group, adopted, show_counts
from .session import Session


def groups_of(params: Any) -> list[Any]:
    """What a constructor was given as params, as a list of groups."""
    if isinstance(params, Module):
        raise TypeError(f"params must be tensors, got a {type(params).__name__}; pass model.parameters()")
    if isinstance(params, Tensor):
        raise TypeError(f"params must be a list of tensors, got one of shape {tuple(params.shape)}; pass [tensor]")
    if isinstance(params, dict):
        raise TypeError(f"params must be a list of groups, got a dict: {shown(params)}; pass [group]")
    if isinstance(params, (str, bytes, set)) or not isinstance(params, Iterable):
        raise TypeError(f"params must be an ordered collection of tensors or groups, got {shown(params)}")
    given = list(params)
    if not given:
        used_up = isinstance(params, Iterator)
        reason = "; it gives its tensors once, and was used up: call model.parameters() anew" if used_up else ""
        raise ValueError(f"params must not be empty, got {shown(params)}{reason}")
    return given if isinstance(given[0], dict) else [Group(params=given)]


def add(session: Session, param_group: Any) -> None:
    """Adds a group, completed with the defaults; raises with nothing changed where it cannot be one."""
    if not isinstance(param_group, dict):
        raise TypeError(f"param_group must be a dict, got {shown(param_group)}")
    values = {**param_group, "params": validation.listed(param_group.get("params"))}
    taken = {p for group in session.groups for p in group["params"]}
    validation.check_params(values["params"], taken, session.options)
    values = _with_names(values)
    _check_names(session, values)
    _check_keys(session, values)
    newcomer: Any = _Newcomer(session.defaults, list(session.groups))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "optimizer contains a parameter group with duplicate")  # see check_params
        Optimizer.add_param_group(newcomer, values)
    params = [param for group in newcomer.param_groups for param in group["params"]]
    clipping.check_devices(session.options, params)
    validation.check_whole(params, session.options, session.algorithm.measures_params)
    group = adopted(session, param_group, values, new=True)
    session.changes.note()
    session.groups.append(group)
    show_counts(session)
    session.has_aliases = True
    session.changes.note()
    group.show(group)


class _Newcomer:
    """Stands for an optimizer while torch checks and completes a new group, so that nothing is changed by a failure."""

    def __init__(self, defaults: dict[str, Any], param_groups: list[dict[str, Any]]) -> None:
        self.defaults, self.param_groups = defaults, param_groups


def _with_names(values: dict[str, Any]) -> dict[str, Any]:
    """A group of named parameters as torch makes it since 2.6: the names are an entry of their own."""
    named = [item for item in values["params"] if isinstance(item, tuple)]
    if not named:
        return values
    if len(named) < len(values["params"]):
        i = next(i for i, item in enumerate(values["params"]) if not isinstance(item, tuple))
        raise ValueError(f"params must all have names, or none: params[{i}] has none, params has {len(named)} names")
    return {**values, "params": [param for _, param in named], "param_names": [name for name, _ in named]}


def _check_names(session: Session, values: dict[str, Any]) -> None:
    """Raises for a group with names beside groups without, or the other way round."""
    has_names = "param_names" in values
    if any(("param_names" in group) != has_names for group in session.groups):
        got = "a group with names beside groups without" if has_names else "a group without names beside groups with"
        raise ValueError(f"params must have names in all groups, or in none, got {got}: {shown(values['params'])}")


def _check_keys(session: Session, group: dict[str, Any]) -> None:
    """Raises for entries of a new group that would be ignored, and were meant for something."""
    known = [*session.defaults, "params"]
    for key in group:
        if key in OPTIONS:
            raise ValueError(
                f"{key} must be given to {session.class_name}(...), not to a group: it is of the whole "
                f"optimizer, got {shown(group[key])} in a group; a wrapper that copies its arguments into groups, as "
                f"ZeroRedundancyOptimizer does, takes functools.partial({session.class_name}, {key}=...)"
            )
        meant = difflib.get_close_matches(str(key), known, n=1, cutoff=0.85)
        if key not in known and meant and not str(key).endswith("_schedule"):
            warn(f"{session.class_name} has no {key!r}, and ignores it in a group; did you mean {meant[0]!r}?")
