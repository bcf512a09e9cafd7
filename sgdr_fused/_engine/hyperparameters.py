"""What may stand for a hyperparameter: a number, a tensor or a Schedule."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from .. import _checks
from .._messages import shown
from ..schedules import OneCycle, Schedule
from .displays import display_of

# Which entry of a group a Schedule may stand in, and the read-only entry that then holds it.
SCHEDULE_KEYS = {
    "lr": "lr_schedule",
    "momentum": "momentum_schedule",
    "betas": "betas_schedule",
    "weight_decay": "weight_decay_schedule",
}
# The entry of a group that a Schedule for its lr is multiplied by: timm's name, for rates that differ between layers.
LR_SCALE = "lr_scale"


def scale_of(key: str, group: dict[str, Any]) -> float:
    """What a Schedule in this entry of the group is multiplied by."""
    return _checks.rate(LR_SCALE, group[LR_SCALE]) if key == "lr" and LR_SCALE in group else 1.0


class Hyper(NamedTuple):
    """A hyperparameter that may be a number, a tensor or a Schedule: group[key], or group[key][part]."""

    key: str
    part: int | None = None

    def of(self, group: dict[str, Any]) -> Any:
        """The number or tensor in the group; with a Schedule, the tensor that displays it."""
        value = group[self.key]
        return value if self.part is None else value[self.part]

    def schedule_of(self, value: Any) -> Schedule | None:
        """The Schedule that such a tensor displays, scaled as the group says; None for everything else."""
        display = None if self.part else display_of(value)  # of betas, only the first has one
        return None if display is None else display.displayed


def check(key: str, value: Any, *, new: bool) -> None:
    """Raises for what cannot stand in group[key].

    A `new` group, which the constructor or add_param_group makes, takes numbers >= 0. What is assigned later, by one of
    torch's schedulers for example, may be any finite number, as in torch.
    """
    low = 0.0 if new else -math.inf
    if key != "betas":
        _check_form(key, value, low, high=math.inf)
        return
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"betas must be a pair, got {shown(value)}{_hint(value, key)}")
    for index, beta in enumerate(value):
        _check_form(f"betas[{index}]", beta, 0.0, high=1.0)
    if isinstance(value[1], Schedule):
        raise TypeError(f"betas[1] must be a number or a tensor, got {shown(value[1])}")
    if not isinstance(value[0], Schedule) and isinstance(value[0], Tensor) != isinstance(value[1], Tensor):
        raise ValueError(f"betas must be both numbers or both tensors, got {shown(value)}")


def _check_form(name: str, value: Any, low: float, high: float) -> None:
    """A number, a tensor with one element (its value is checked too), a Schedule."""
    if isinstance(value, Schedule):
        if isinstance(value, OneCycle) and name != "lr":
            raise TypeError(f"{name} must not be a OneCycle, which is a rate, got {shown(value)}{_hint(value, name)}")
        if math.isfinite(high) and value.upper_bound >= high:
            reached = f"which reaches {value.upper_bound!r}"
            raise ValueError(f"{name} must stay below {high:g}, got {shown(value)}, {reached}")
        return
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must have one element, got a tensor of shape {tuple(value.shape)}")
        if value.device.type == "meta" or value.is_complex():
            raise TypeError(f"{name} must be a real number, got {shown(value)}")
        value = float(value)
    elif isinstance(value, bool) or not isinstance(value, Real):
        wanted = "a number, a tensor with one element or a Schedule"
        raise TypeError(f"{name} must be {wanted}, got {shown(value)}{_hint(value, name)}")
    if math.isinf(low):
        _checks.finite(name, value)
    else:
        _checks.between(name, value, low, high, high_open=True)


def _hint(value: Any, name: str) -> str:
    """A hint at what was probably meant."""
    pair = isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, Schedule) for part in value)
    if pair or isinstance(value, OneCycle):
        return "; it gives two, to be unpacked: lr, momentum = OneCycle(...)"
    if isinstance(value, type):
        return f"; this is the class, which has to be called: {value.__name__}(...)"
    if isinstance(value, LRScheduler):
        return "; sgdr_fused.schedules.from_torch(scheduler) makes Schedules of it"
    if callable(value) and not isinstance(value, Tensor):
        return f"; a function of the step becomes a Schedule by Table(function, num_steps), given as {name}"
    if isinstance(value, str):
        return "; convert it with float() first"
    return ""


def first(value: Any) -> Any:
    """What a Schedule may stand for in a group's entry: of a pair, its first part."""
    return value[0] if isinstance(value, tuple) and value else value


def with_first(value: Any, new: Any) -> Any:
    return (new, *value[1:]) if isinstance(value, tuple) else new


def is_plain(value: Any) -> bool:
    """Whether it is a number, or all numbers."""
    return all(isinstance(v, Real) for v in (value if isinstance(value, tuple) else (value,)))
