"""Which algorithm a checkpoint is of."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..optimizers._base import FusedOptimizer

# Every class has these, so they tell nothing.
_COMMON = {"self", "params", "options", "lr", "weight_decay"}
_COMMON |= {"maximize", "foreach", "capturable", "differentiable", "fused"}


def check_algorithm(optimizer: FusedOptimizer, saved_groups: list[dict[str, Any]]) -> None:
    """Raises for a checkpoint of another algorithm, whose states would mean something else here.

    A checkpoint does not name its algorithm, in torch's layout. Its groups' entries do.
    """
    keys = {key for group in saved_groups for key in group}
    classes = _classes(optimizer)
    scores = {cls: _likeness(_entries(cls), keys, classes) for cls in classes}
    best = max(scores.values())
    likely = [cls for cls, score in scores.items() if score == best]
    if any(cls._family() == optimizer._family() for cls in likely):
        return
    names = " or ".join(cls.__name__ for cls in likely)
    raise ValueError(
        f"the state_dict must be of {type(optimizer).__name__}, got one of {names}, going by the entries of its "
        f"groups: {sorted(keys & _all_entries(likely))}"
    )


def _likeness(entries: set[str], keys: set[str], classes: list[type[FusedOptimizer]]) -> int:
    """How many entries agree, less those that are in one of the two alone; entries of no class's do not count."""
    known = keys & _all_entries(classes)
    return len(entries & known) - len(entries ^ known)


def _entries(cls: type[FusedOptimizer]) -> set[str]:
    """What the groups of torch's class have."""
    return {*inspect.signature(cls.__init__).parameters} - _COMMON - {*cls._beyond_torch}


def _all_entries(classes: list[type[FusedOptimizer]]) -> set[str]:
    return {entry for cls in classes for entry in _entries(cls)}


def _classes(optimizer: FusedOptimizer) -> list[type[FusedOptimizer]]:
    """The optimizers of this package, and that of `optimizer`, which may be the user's own."""
    base = next(cls for cls in type(optimizer).__mro__ if cls.__name__ == "FusedOptimizer")
    found, left = [], [base]
    while left:
        cls = left.pop()
        left += cls.__subclasses__()
        if "_algorithm" in vars(cls) or cls is type(optimizer):
            found.append(cls)
    return found
