"""Makes Schedules of torch's schedulers, which go on where those stand."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.optim import lr_scheduler as torch_schedulers

from .. import _checks, _messages
from .._messages import shown
from ._base import Schedule
from ._sizes import MAX_ENTRIES
from ._table import Table
from ._torch_futures import (
    FUTURES,
    TABULATED,
    future,
    future_momentum,
    has_ended,
    largest_of,
    momentum_of,
    moves_momentum,
    name_of,
    never_negative,
    parts_of,
)


def from_torch(
    scheduler: torch_schedulers.LRScheduler, hyperparameter: str = "lr", num_steps: int = 100_000
) -> list[Schedule]:
    """The Schedules, one per param group, that go on where one of torch's schedulers stands.

    ``from_torch(scheduler)[i](0)`` is what group i has now, for its next step, and each further step is one
    ``scheduler.step()``; so they belong to a clock at 0::

        schedules = from_torch(scheduler)
        groups = zip(torch_optimizer.param_groups, schedules)
        optimizer = FusedSGD([{"params": group["params"], "lr": schedule} for group, schedule in groups])

    (A scheduler that is stepped once per epoch becomes a Schedule that counts epochs.) What the scheduler has
    become counts, not how it was made: steps that were set, rates that were changed by hand or loaded are as
    they are.

    ``LambdaLR``, ``MultiplicativeLR``, a ``CyclicLR`` with a ``scale_fn`` and combinations that contain them
    or chain anything but factors have no closed form. A copy of such a scheduler is stepped here and now, and
    the values make a :class:`Table`, which holds its last one from there on; a warning says so.

    Rates that torch makes negative by rounding 0 are 0. The step past its end that OneCycleLR takes, where a straight
    line goes below 0, has the rate of the end.

    Args:
        scheduler: of the classes in ``torch.optim.lr_scheduler``, except ReduceLROnPlateau. It and its optimizer
            are left as they are.
        hyperparameter: "lr"; or "momentum", the momentum or first beta that CyclicLR and OneCycleLR move.
        num_steps: length of a table, where one is needed; an integer >= 1, and at most 16,777,216.

    Returns:
        one Schedule per group of the scheduler's optimizer.

    Raises:
        ValueError, TypeError: for a scheduler that cannot be converted, with the reason: one whose rate depends
            on more than the number of steps, one with really negative rates, or a subclass with a rule of its own.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> from_torch(scheduler)[0].values(4).tolist()
        [1.0, 0.5, 0.5, 0.25]
    """
    if hyperparameter not in ("lr", "momentum"):
        raise ValueError(f"hyperparameter must be 'lr' or 'momentum', got {shown(hyperparameter)}")
    num_steps = _checks.integer("num_steps", num_steps, 1)
    if num_steps > MAX_ENTRIES:
        raise ValueError(f"num_steps must be at most {MAX_ENTRIES:,}, got {num_steps!r}")
    _check(scheduler)
    groups = scheduler.optimizer.param_groups
    if hyperparameter == "momentum" and not moves_momentum(scheduler):
        raise ValueError(f"hyperparameter must be 'lr': {name_of(scheduler)} moves no momentum, got 'momentum'")
    tables: list[Table] = []
    schedules = []
    for i, group in enumerate(groups):
        try:
            now = never_negative(_value(scheduler, hyperparameter, group, []), largest_of(scheduler, i))
            schedules.append((future if hyperparameter == "lr" else future_momentum)(scheduler, i, now))
        # NoClosedFormError, and what closed forms make of numbers that torch alone takes.
        except (ValueError, TypeError, ArithmeticError) as reason:
            if not tables:
                tables = _tabulated(scheduler, hyperparameter, num_steps, str(reason))
            schedules.append(tables[i])
    return schedules


def _check(scheduler: Any) -> None:
    """Raises for what is not a function of the number of steps that we know."""
    if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
        raise TypeError(
            "scheduler must be a function of the step, got a ReduceLROnPlateau: its rate depends on the metric that it "
            "is given. Keep it, on a group whose lr is a number or a tensor"
        )
    known = next((cls for cls in type(scheduler).__mro__ if cls in FUTURES or cls in TABULATED), None)
    if known is None:
        raise TypeError(
            f"scheduler must be one of torch.optim.lr_scheduler's that can be converted, got {shown(scheduler)}"
        )
    own = {name for cls in type(scheduler).__mro__[: type(scheduler).__mro__.index(known)] for name in vars(cls)}
    own |= {name for name in vars(scheduler) if callable(getattr(known, name, None))}
    changed = sorted(name for name in own if hasattr(known, name) and not name.startswith("__"))
    if changed:
        raise TypeError(
            f"scheduler must keep to the rule of {known.__name__}, got {shown(scheduler)}, which has its own {changed}"
        )
    groups, rates = len(scheduler.optimizer.param_groups), len(getattr(scheduler, "base_lrs", scheduler._last_lr))
    if groups != rates:
        raise ValueError(f"scheduler must know all groups of its optimizer, got one for {rates} of {groups} groups")
    own_rates = zip(getattr(scheduler, "base_lrs", ()), scheduler.optimizer.param_groups, strict=False)
    if any(isinstance(base, Tensor) and base is group["lr"] for base, group in own_rates):
        raise ValueError(
            f"scheduler must have base_lrs of its own, got {shown(scheduler)}, of which one is group['lr'] itself: "
            "with a rate in a tensor, SequentialLR does that in some releases of torch, and loses the base rate. Make "
            "the optimizer with a number"
        )
    for part in parts_of(scheduler):
        _check(part)


# ---- what has no closed form


def _value(scheduler: Any, hyperparameter: str, group: dict[str, Any], before: list[float]) -> float:
    """What a group has now; `before` are its values in the steps before."""
    if hyperparameter == "momentum":
        return momentum_of(group)
    rate = float(group["lr"])
    if rate < 0 and has_ended(scheduler):
        return before[-1] if before else max(float(group["min_lr"]), 0.0)
    return rate


class _Groups:
    """Stands for the optimizer of a copied scheduler."""

    _opt_called = True  # no warnings about the order of steps

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.param_groups = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        for group in self.param_groups:
            group["lr"] = float(group["lr"])  # a tensor would be written in place

    def step(self) -> None:
        pass

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]


def _twin(scheduler: Any, groups: _Groups) -> Any:
    twin = copy.copy(scheduler)
    twin.optimizer = groups
    if parts_of(scheduler):
        twin._schedulers = [_twin(part, groups) for part in parts_of(scheduler)]
    return twin


def _tabulated(scheduler: Any, hyperparameter: str, num_steps: int, reason: str) -> list[Table]:
    """What a copy of the scheduler does to each group in its next steps."""
    groups = _Groups(scheduler.optimizer.param_groups)
    twin = _twin(scheduler, groups)
    columns: list[list[float]] = [[] for _ in groups.param_groups]
    largest = [largest_of(scheduler, i) for i, _ in enumerate(columns)]
    end = ""
    for k in range(num_steps):
        try:
            if k > 0:
                twin.step()
        except Exception as error:
            end = f" (there the scheduler raised {shown(error)})"
            break
        for i, (column, group) in enumerate(zip(columns, groups.param_groups, strict=True)):
            largest[i] = max(largest[i], value := _value(twin, hyperparameter, group, column))
            try:
                column.append(never_negative(value, largest[i]))
            except ValueError as error:
                raise ValueError(
                    f"scheduler cannot be converted: {name_of(scheduler)} has for the {hyperparameter} of group {i}, "
                    f"{k} steps from now, {error}"
                ) from error
    try:
        tables = [Table(column) for column in columns]
    except ValueError as error:
        raise ValueError(f"scheduler cannot be converted: {name_of(scheduler)} has {error}") from error
    _messages.warn(
        f"{name_of(scheduler)} was tabulated for {len(columns[0])} steps{end}, and its last {hyperparameter} holds "
        f"from there on; num_steps says how many. It has no closed form: {reason}"
    )
    return tables
