"""What may stand for a hyperparameter: a number, a tensor or a Schedule."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor

from . import _checks
from .schedules import Schedule

# Which entry of a group a Schedule may stand in, and the read-only entry that then holds it.
SCHEDULE_KEYS = {
    "lr": "lr_schedule",
    "momentum": "momentum_schedule",
    "betas": "betas_schedule",
    "weight_decay": "weight_decay_schedule",
}


class Hyper(NamedTuple):
    """A hyperparameter that may be a number, a tensor or a Schedule: group[key], or group[key][part]."""

    key: str
    part: int | None = None

    def of(self, group: dict[str, Any]) -> Any:
        """The number or tensor in the group; with a Schedule, the tensor that displays it."""
        value = group[self.key]
        return value if self.part is None else value[self.part]

    def schedule_of(self, group: dict[str, Any]) -> Schedule | None:
        return None if self.part else group[SCHEDULE_KEYS[self.key]]  # of betas, only the first has one


def check(key: str, value: Any) -> None:
    """Raises for what cannot stand in group[key]."""
    if key != "betas":
        _check_form(key, value, high=None)
        return
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"betas must be a pair, got {value!r}")
    for index, beta in enumerate(value):
        _check_form(f"betas[{index}]", beta, high=1.0)
    if isinstance(value[1], Schedule):
        raise TypeError(f"betas[1] must be a number or a tensor, got {value[1]!r}")
    if not isinstance(value[0], Schedule) and isinstance(value[0], Tensor) != isinstance(value[1], Tensor):
        raise ValueError(f"betas must be both numbers or both tensors, got {value!r}")


def _check_form(name: str, value: Any, high: float | None) -> None:
    """A number, a tensor with one element (its value is checked too), a Schedule."""
    if isinstance(value, Schedule):
        if high is not None and value.upper_bound >= high:
            raise ValueError(f"{name} must stay below {high:g}, got {value!r}, which reaches {value.upper_bound!r}")
        return
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must have one element, got a tensor of shape {tuple(value.shape)}: {value}")
        if value.device.type == "meta" or value.is_complex():
            raise TypeError(f"{name} must be a real number, got {value}")
        value = float(value)
    if high is None:
        _checks.rate(name, value)
    else:
        _checks.between(name, value, 0.0, high, high_open=True)


def first(value: Any) -> Any:
    """What a Schedule may stand for in a group's entry: of a pair, its first part."""
    return value[0] if isinstance(value, tuple) and value else value


def with_first(value: Any, new: Any) -> Any:
    return (new, *value[1:]) if isinstance(value, tuple) else new


def is_plain(value: Any) -> bool:
    """Whether it is a number, or all numbers."""
    return all(isinstance(v, Real) for v in (value if isinstance(value, tuple) else (value,)))
