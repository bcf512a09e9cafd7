"""What the ``state_dict`` of one of torch's schedulers is of, and a scheduler that has this state."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from torch.optim import lr_scheduler as torch_schedulers

from .._messages import shown
from .errors import CommandError


class Kind(NamedTuple):
    """The entries by which the state of a class is known, and those that it may have beside them.

    Entries that all classes have, and those whose names begin with an underscore, differ from one release of torch to
    the next, and tell nothing.
    """

    needed: set[str]
    possible: frozenset[str] = frozenset()


_MOMENTUM = frozenset({"use_beta1", "base_momentums", "max_momentums"})
_CYCLIC = {"max_lrs", "total_size", "step_ratio", "mode", "gamma", "cycle_momentum"}
KINDS = {
    "StepLR": Kind({"step_size", "gamma"}),
    "MultiStepLR": Kind({"milestones", "gamma"}),
    "ConstantLR": Kind({"factor", "total_iters"}),
    "LinearLR": Kind({"start_factor", "end_factor", "total_iters"}),
    "ExponentialLR": Kind({"gamma"}),
    "PolynomialLR": Kind({"total_iters", "power"}),
    "CosineAnnealingLR": Kind({"T_max", "eta_min"}),
    "CosineAnnealingWarmRestarts": Kind({"T_0", "T_i", "T_mult", "eta_min", "T_cur"}),
    "CyclicLR": Kind(_CYCLIC, _MOMENTUM | {"scale_mode"}),
    "OneCycleLR": Kind({"total_steps", "cycle_momentum"}, frozenset({"use_beta1"})),
}
_COMMON = {"base_lrs", "last_epoch", "verbose"}
_COMPOSED = {"SequentialLR": {"_schedulers", "_milestones"}, "ChainedScheduler": {"_schedulers"}}
CLASSES = (*KINDS, *_COMPOSED)


def is_scheduler_state(value: Any) -> bool:
    if not isinstance(value, dict) or "param_groups" in value:
        return False
    return {"last_epoch", "base_lrs"} <= set(value) or "_last_lr" in value


def class_of(state: dict[str, Any], name: str | None) -> Any:
    """The class of torch's whose state this is; `name` says it where the entries do not.

    Raises:
        CommandError: for an unknown name, a state that it cannot be of, and entries that no class has.
    """
    if name is not None:
        if name not in CLASSES:
            raise CommandError(f"--scheduler must be one of {', '.join(CLASSES)}, got {shown(name)}")
        missing = sorted((KINDS[name].needed if name in KINDS else _COMPOSED[name]) - set(state))
        if missing:
            raise CommandError(f"--scheduler must fit the scheduler's state, got {name}, but the state lacks {missing}")
        return getattr(torch_schedulers, name)
    for composed, needed in _COMPOSED.items():
        if needed <= set(state):
            return getattr(torch_schedulers, composed)
    entries = {key for key in state if not str(key).startswith("_")} - _COMMON
    for known, kind in KINDS.items():
        if kind.needed <= entries <= kind.needed | kind.possible:
            return getattr(torch_schedulers, known)
    if "patience" in entries:
        raise CommandError(
            "the scheduler is a ReduceLROnPlateau, whose rate depends on a metric, so no Schedule stands for it. It "
            "goes on working over our optimizers, which load the optimizer's state as it is: nothing is to be converted"
        )
    if "lr_lambdas" in entries:
        raise CommandError(
            "the scheduler calls a function of yours (LambdaLR or MultiplicativeLR), and the file does not hold it: "
            "convert the scheduler in your program, with sgdr_fused.schedules.from_torch(scheduler)"
        )
    raise CommandError(
        f"the scheduler's class is not known by its entries, {shown(sorted(entries))}: name it with --scheduler, one "
        f"of {', '.join(CLASSES)}"
    )


class _Optimizer:
    """Stands for the optimizer of a scheduler that is only asked where it stands."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.param_groups = groups


def scheduler_with(state: dict[str, Any], name: str | None, groups: list[dict[str, Any]]) -> Any:
    """A scheduler of torch's that has this state, over groups that a file holds. It cannot be stepped."""
    cls = class_of(state, name)
    scheduler = cls.__new__(cls)
    vars(scheduler).update(copy.deepcopy(state))
    scheduler.optimizer = _Optimizer(groups)
    if cls.__name__ in _COMPOSED:
        scheduler._schedulers = [scheduler_with(part, None, groups) for part in state["_schedulers"]]
    if not hasattr(scheduler, "last_epoch"):  # ChainedScheduler's
        scheduler.last_epoch = scheduler._schedulers[0].last_epoch
    return scheduler
