"""Which algorithm a checkpoint is of."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from .algorithm import Algorithm

# Every class has these entries, so they tell nothing about the class.
_COMMON = {"self", "params", "options", "lr", "weight_decay"}
_COMMON |= {"maximize", "foreach", "capturable", "differentiable", "fused"}


class Candidate(NamedTuple):
    """What a checkpoint can tell of a class of optimizers.

    Attributes:
        name: that of the class.
        family: that of its algorithm.
        entries: what only the groups of some of torch's classes have.
    """

    name: str
    family: str
    entries: frozenset[str]


class Kin(NamedTuple):
    """The class that loads a checkpoint, and all those whose checkpoint it might be."""

    own: Candidate
    all: list[Candidate]


def candidate(cls: type[Any], algorithm: Algorithm) -> Candidate:
    """What is known of an optimizer's class; its constructor takes what the groups of torch's class have."""
    entries = {*inspect.signature(cls.__init__).parameters} - _COMMON - {*algorithm.beyond_torch}
    return Candidate(cls.__name__, algorithm.family or algorithm.name, frozenset(entries))


def check_algorithm(kin: Kin, saved_groups: list[dict[str, Any]]) -> None:
    """Raises for a checkpoint of another algorithm, whose states would mean something else here.

    A checkpoint does not name its algorithm, in torch's layout. Its groups' entries do.
    """
    keys = {key for group in saved_groups for key in group}
    scores = [(each, _likeness(each, keys, kin.all)) for each in kin.all]
    best = max(score for _, score in scores)
    likely = [each for each, score in scores if score == best]
    if any(each.family == kin.own.family for each in likely):
        return
    names = " or ".join(each.name for each in likely)
    raise ValueError(
        f"the state_dict must be of {kin.own.name}, got one of {names}, going by the entries of its "
        f"groups: {sorted(keys & _all_entries(likely))}"
    )


def _likeness(each: Candidate, keys: set[str], candidates: list[Candidate]) -> int:
    """How many entries agree, less those that only one of the two has. Entries that no class has do not count."""
    known = keys & _all_entries(candidates)
    return len(each.entries & known) - len(each.entries ^ known)


def _all_entries(candidates: list[Candidate]) -> set[str]:
    return {entry for each in candidates for entry in each.entries}
