"""Which group of a checkpoint is which of ours, and which parameter, where both sides have names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .._messages import shown
from .._wrapper_names import plain_name

_BY_POSITION = "; to load by position instead, delete 'param_names' from its param_groups"


def arranged(
    groups: Sequence[dict[str, Any]], saved_groups: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], str | None]:
    """The checkpoint's groups in the order of ours, and in each the parameters in the order of ours.

    They stay as they are where parameters match by position: where a side lacks names, and where both sides have the
    same names at the same places, even one name twice.

    Returns:
        the groups, and what to warn of once they are loaded.

    Raises:
        ValueError: naming the parameters or groups that do not match.
    """
    ours, saved = names_of(groups), names_of(saved_groups)
    if ours is None or saved is None or ours == saved or len(ours) != len(saved) or _is_arranged(groups, saved_groups):
        return saved_groups, None
    source = _sources(ours, saved)
    group_of = {name: i for i, names in enumerate(saved) for name in names}
    id_of = {
        name: key
        for group, names in zip(saved_groups, saved, strict=True)
        for name, key in zip(names, group["params"], strict=True)
    }
    wanted = [[source[name] for name in names] for names in ours]
    matches = _matching_groups(wanted, group_of)
    result = [
        {**saved_groups[match], "params": [id_of[name] for name in names], "param_names": own}
        for match, names, own in zip(matches, wanted, ours, strict=True)
    ]
    return result, _moved(ours, source, group_of, matches)


def names_of(groups: Sequence[dict[str, Any]]) -> list[list[str]] | None:
    """The names of the parameters of each group; None where a parameter lacks one.

    Wrappers that give an optimizer a part of a group's parameters, as ZeroRedundancyOptimizer does, leave it the names
    of all. Such names tell nothing.
    """
    lists = [group.get("param_names", ()) for group in groups]
    for names, group in zip(lists, groups, strict=True):
        if not isinstance(names, (list, tuple)) or len(names) != len(group["params"]):
            return None
        if not all(isinstance(name, str) for name in names):
            return None
    return [list(names) for names in lists] if any(lists) else None


def _is_arranged(groups: Sequence[dict[str, Any]], saved_groups: list[dict[str, Any]]) -> bool:
    """Whether torch's distributed state dicts have put the parameters into our order already.

    They leave the checkpoint's ``param_names`` in the checkpoint's order. They are known by names in place of numbers
    for the parameters, and for FullyShardedDataParallel, which makes numbers again, by the parameters that it has cut.
    """
    if not all(isinstance(key, int) for saved in saved_groups for key in saved["params"]):
        return True
    params = [param for group in groups for param in group["params"]]
    return any(getattr(param, mark, False) for param in params for mark in ("_is_flat_param", "_fsdp_flattened"))


def _sources(ours: list[list[str]], saved: list[list[str]]) -> dict[str, str]:
    """For each name of ours the checkpoint's, which may have a wrapper's prefix where ours has none, or the reverse."""
    own, given = ([name for names in side for name in names] for side in (ours, saved))
    for what, names in (("the optimizer", own), ("the state_dict", given)):
        twice = [name for name, number in Counter(names).items() if number > 1]
        if twice:
            raise ValueError(
                f"param_names of {what} must have each name once, because those of the optimizer and of the "
                f"state_dict differ; more than once: {_few(twice)}{_BY_POSITION}"
            )
    if set(own) == set(given):
        return {name: name for name in own}
    plain_own, plain_given = ({plain_name(name): name for name in names} for names in (own, given))
    if len(plain_own) < len(own) or len(plain_given) < len(given):  # the prefixes of wrappers tell names apart
        plain_own, plain_given = ({name: name for name in names} for names in (own, given))
    missing = [name for plain, name in plain_own.items() if plain not in plain_given]
    unexpected = [name for plain, name in plain_given.items() if plain not in plain_own]
    if not missing and not unexpected:
        return {name: plain_given[plain] for plain, name in plain_own.items()}
    differences = [
        f"{kind}: {_few(names)}" for kind, names in (("missing", missing), ("unexpected", unexpected)) if names
    ]
    raise ValueError(
        f"param_names of the state_dict must be those of the optimizer; {'; '.join(differences)}{_BY_POSITION}"
    )


def _matching_groups(wanted: list[list[str]], group_of: dict[str, int]) -> list[int]:
    """For each group of ours the checkpoint's group that has the most of its parameters.

    Raises:
        ValueError: where that is no single group, or is one for two groups of ours.
    """
    matches: dict[int, int] = {}
    for i, names in enumerate(wanted):
        shared = Counter(group_of[name] for name in names)
        likely = [j for j, number in shared.items() if number == max(shared.values())]
        if len(likely) > 1 or (likely and likely[0] in matches.values()):
            examples = {j: next(name for name in names if group_of[name] == j) for j in shared}
            where = ", ".join(f"{shown(name)} is in group {j} there" for j, name in sorted(examples.items()))
            raise ValueError(
                "param_groups of the state_dict must be those of the optimizer, but for single parameters; group "
                f"{i} of the optimizer ({where}) has no counterpart there whose entries it could take; load into an "
                "optimizer that has the groups of the state_dict"
            )
        if likely:
            matches[i] = likely[0]
    left = [j for j in range(len(wanted)) if j not in matches.values()]
    matches.update(zip([i for i in range(len(wanted)) if i not in matches], left, strict=True))  # groups without any
    return [matches[i] for i in range(len(wanted))]


def _moved(ours: list[list[str]], source: dict[str, str], group_of: dict[str, int], matches: list[int]) -> str | None:
    """A warning of the parameters that are in another group now."""
    moved = [
        (name, i, group_of[source[name]])
        for i, names in enumerate(ours)
        for name in names
        if group_of[source[name]] != matches[i]
    ]
    if not moved:
        return None
    name, here, there = moved[0]
    more = f" (and {len(moved) - 1} more)" if len(moved) > 1 else ""
    return (
        f"parameter {shown(name)}{more} is in group {here}, and was in another one, group {there} of the state_dict: "
        f"its state was loaded, and its hyperparameters are those of group {here} from here on"
    )


def _few(names: Iterable[str]) -> str:
    listed = [*names]
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(map(shown, listed[:3])) + more
