"""From torch's schedulers to Schedules that go on where they stand."""

from __future__ import annotations

import copy
import math
import warnings
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from .. import _checks
from ._base import Schedule
from ._compose import Product, Sequential
from ._cycles import CosineAnnealing, CosineWarmRestarts, Triangular, TriangularMomentum
from ._decays import Exponential, MultiStep, Step
from ._one_cycle import OneCycle, OneCycleMomentum
from ._ramps import Constant, LinearRamp, Polynomial
from ._table import Table


def from_torch(
    scheduler: torch_schedulers.LRScheduler, hyperparameter: str = "lr", num_steps: int = 100_000
) -> list[Schedule]:
    """The Schedules, one per param group, that go on where one of torch's schedulers stands.

    ``from_torch(scheduler)[i](0)`` is what group i has now, for its next step, and each further step is one
    ``scheduler.step()``; so they belong to a clock at 0::

        schedules = from_torch(scheduler)
        groups = zip(torch_optimizer.param_groups, schedules)
        optimizer = FusedSGD([{"params": group["params"], "lr": schedule} for group, schedule in groups])

    What a scheduler has become counts, not how it was made: steps that were set, rates that were changed
    by hand or loaded are as they are.

    ``LambdaLR``, ``MultiplicativeLR``, a ``CyclicLR`` with a ``scale_fn`` and combinations that contain them
    or chain anything but factors have no closed form. A copy of such a scheduler is stepped here and now, and
    the values make a :class:`Table`, which holds its last one from there on; a warning says so.

    Args:
        scheduler: of the classes in ``torch.optim.lr_scheduler``, except ReduceLROnPlateau. It and its optimizer
            are left as they are.
        hyperparameter: "lr"; or "momentum", the momentum or first beta that CyclicLR and OneCycleLR move.
        num_steps: length of a table, where one is needed; an integer >= 1.

    Returns:
        one Schedule per group of the scheduler's optimizer.

    Raises:
        ValueError, TypeError: for a scheduler that cannot be converted, with the reason: one whose rate depends
            on more than the number of steps, or a subclass with a rule of its own.

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
        raise ValueError(f"hyperparameter must be 'lr' or 'momentum', got {hyperparameter!r}")
    num_steps = _checks.integer("num_steps", num_steps, 1)
    _check(scheduler)
    groups = scheduler.optimizer.param_groups
    if hyperparameter == "momentum" and not _moves_momentum(scheduler):
        raise ValueError(f"hyperparameter must be 'lr': {_name(scheduler)} moves no momentum, got 'momentum'")
    tables: list[Table] = []
    schedules = []
    for i, group in enumerate(groups):
        try:
            if hyperparameter == "lr":
                schedules.append(_future(scheduler, i, float(group["lr"])))
            else:
                schedules.append(_future_momentum(scheduler, i, _momentum(group)))
        except (
            ValueError,
            TypeError,
            ArithmeticError,
        ) as reason:  # _NoClosedFormError, or numbers that our closed forms refuse
            if not tables:
                tables = _tabulated(scheduler, hyperparameter, num_steps, str(reason))
            schedules.append(tables[i])
    return schedules


class _NoClosedFormError(ValueError):
    """Why a scheduler has to be tabulated."""


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__


def _parts(scheduler: Any) -> list[Any]:
    """The schedulers that one is made of."""
    return [*scheduler._schedulers] if isinstance(scheduler, _COMPOSED) else []


def _check(scheduler: Any) -> None:
    """Raises for what is not a function of the number of steps that we know."""
    if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
        raise TypeError(
            "scheduler must be a function of the step, got a ReduceLROnPlateau: its rate depends on the metric that it "
            "is given. Keep it, on a group whose lr is a number or a tensor"
        )
    known = next((cls for cls in type(scheduler).__mro__ if cls in _FUTURES or cls in _TABULATED), None)
    if known is None:
        raise TypeError(f"scheduler must be one of torch.optim.lr_scheduler's that can be converted, got {scheduler!r}")
    own = {name for cls in type(scheduler).__mro__[: type(scheduler).__mro__.index(known)] for name in vars(cls)}
    own |= {name for name in vars(scheduler) if callable(getattr(known, name, None))}
    changed = sorted(name for name in own if hasattr(known, name) and not name.startswith("__"))
    if changed:
        raise TypeError(
            f"scheduler must keep to the rule of {known.__name__}, got {scheduler!r}, which has its own {changed}"
        )
    groups, rates = len(scheduler.optimizer.param_groups), len(getattr(scheduler, "base_lrs", scheduler._last_lr))
    if groups != rates:
        raise ValueError(f"scheduler must know all groups of its optimizer, got one for {rates} of {groups} groups")
    for part in _parts(scheduler):
        _check(part)


# ---- the rate
#
# Each function takes a scheduler, a group's number and the rate that the group has now, and gives the
# Schedule from now on. torch computes most rates from the one before, and so do these: what the rate
# is now counts, whatever the closed form makes of the scheduler's step.


def _future(scheduler: Any, i: int, rate: float | None) -> Schedule:
    """The rate may be None for a scheduler that does not ask what it is."""
    convert = next((_FUTURES[cls] for cls in type(scheduler).__mro__ if cls in _FUTURES), None)
    if convert is None:
        raise _NoClosedFormError(f"{_name(scheduler)} calls a function of the user's")
    schedule = convert(scheduler, i, rate)
    return schedule if rate is None else _beginning_with(rate, schedule)


def _beginning_with(value: float, schedule: Schedule) -> Schedule:
    """Where the value was set by hand, it holds for the next step."""
    if math.isclose(schedule(0), value, rel_tol=1e-9, abs_tol=1e-15 * schedule.upper_bound):
        return schedule
    return Sequential([(Constant(value), 1), schedule.shifted(1)])


def _epoch(scheduler: Any) -> int:
    epoch = scheduler.last_epoch
    if epoch != int(epoch):
        raise _NoClosedFormError(f"{_name(scheduler)} stands between two steps, at {epoch!r}")
    return int(epoch)


def _step(scheduler: Any, i: int, rate: float) -> Schedule:
    return Step(rate, scheduler.step_size, scheduler.gamma).shifted(_epoch(scheduler) % scheduler.step_size)


def _multi_step(scheduler: Any, i: int, rate: float) -> Schedule:
    epoch = _epoch(scheduler)
    milestones = sorted(scheduler.milestones.elements())
    return MultiStep(rate, [milestone - epoch for milestone in milestones if milestone > epoch], scheduler.gamma)


def _constant(scheduler: Any, i: int, rate: float) -> Schedule:
    left = scheduler.total_iters - _epoch(scheduler)
    if left <= 0:
        return Constant(rate)
    if scheduler.factor == 0:
        raise _NoClosedFormError("ConstantLR divides by its factor, 0")
    return Sequential([(Constant(rate), left), Constant(rate * (1.0 / scheduler.factor))])


def _linear(scheduler: Any, i: int, rate: float) -> Schedule:
    epoch, total = _epoch(scheduler), scheduler.total_iters
    if epoch >= total:
        return Constant(rate)
    now = scheduler.start_factor + (scheduler.end_factor - scheduler.start_factor) * (epoch / total)
    return LinearRamp(rate, rate * scheduler.end_factor / now, total - epoch)


def _exponential(scheduler: Any, i: int, rate: float) -> Schedule:
    return Exponential(rate, scheduler.gamma)


def _polynomial(scheduler: Any, i: int, rate: float) -> Schedule:
    left = scheduler.total_iters - _epoch(scheduler)
    return Polynomial(rate, 0.0, left, scheduler.power) if left > 0 else Constant(rate)


def _cosine(scheduler: Any, i: int, rate: float) -> Schedule:
    """torch scales the distance from eta_min, except at the bottom, where it adds what base_lr would rise by."""
    T_max, eta_min, base_lr = scheduler.T_max, scheduler.eta_min, float(scheduler.base_lrs[i])
    epoch = _epoch(scheduler) % (2 * T_max)
    usual = CosineAnnealing(base_lr, T_max, eta_min)
    if math.isclose(rate, usual(epoch), rel_tol=1e-6, abs_tol=1e-9 * base_lr):
        return usual.shifted(epoch)
    # Another distance, which was set by hand, until the next bottom.
    if epoch == T_max:
        other = CosineAnnealing(base_lr + (rate - eta_min) / math.sin(math.pi / (2 * T_max)) ** 2, T_max, eta_min)
        parts = [(Constant(rate), 1), (other.shifted(T_max + 1), 2 * T_max - 1)]
    else:
        other = CosineAnnealing(
            eta_min + (rate - eta_min) / math.cos(math.pi * epoch / (2 * T_max)) ** 2, T_max, eta_min
        )
        parts = [(other.shifted(epoch), (T_max - epoch) % (2 * T_max))]
    return Sequential([*parts, usual.shifted(T_max)])


def _warm_restarts(scheduler: Any, i: int, rate: float) -> Schedule:
    T_cur, T_i = scheduler.T_cur, scheduler.T_i
    if T_cur != int(T_cur):
        raise _NoClosedFormError(f"CosineAnnealingWarmRestarts stands between two steps, at T_cur={T_cur!r}")
    base_lr, T_mult, eta_min = float(scheduler.base_lrs[i]), scheduler.T_mult, scheduler.eta_min
    if T_cur < T_i:
        return CosineWarmRestarts(base_lr, int(T_i), T_mult, eta_min).shifted(int(T_cur))
    # step(epoch) has taken the end of a cycle for one step more of it: the next step is one into the next cycle.
    after = CosineWarmRestarts(base_lr, int(T_i) * T_mult, T_mult, eta_min).shifted(int(T_cur + 1) % int(T_i))
    return Sequential([(Constant(rate), 1), after])


def _triangle(scheduler: Any) -> dict[str, Any]:
    """What the rate and the momentum of CyclicLR have in common."""
    if scheduler._scale_fn_custom is not None:
        raise _NoClosedFormError("CyclicLR calls a scale_fn of the user's")
    up = scheduler.total_size * scheduler.step_ratio
    if not (scheduler.total_size.is_integer() and math.isclose(up, round(up), rel_tol=1e-12)):
        raise _NoClosedFormError(f"CyclicLR turns between two steps, {up!r} after the start of a cycle")
    down = int(scheduler.total_size) - round(up)
    return {"step_size_up": round(up), "step_size_down": down, "mode": scheduler.mode, "gamma": scheduler.gamma}


def _cyclic(scheduler: Any, i: int, rate: float) -> Schedule:
    ends = float(scheduler.base_lrs[i]), float(scheduler.max_lrs[i])
    return Triangular(*ends, **_triangle(scheduler)).shifted(_epoch(scheduler))


def _phases(scheduler: Any) -> dict[str, Any]:
    """What the rate and the momentum of OneCycleLR have in common."""
    total, rise = scheduler.total_steps, scheduler._schedule_phases[0]["end_step"]
    # Its pct_start is forgotten: the nearest one with which the first phase ends where it does.
    candidates = [(rise + 1) / total]
    for _ in range(4):
        candidates += [math.nextafter(candidates[0], 0.0), math.nextafter(candidates[-1], 1.0)]
    pct_start = next((pct for pct in candidates if pct * total - 1 == rise), None)
    if pct_start is None:
        raise _NoClosedFormError(f"OneCycleLR has a first phase that ends at {rise!r} of {total!r} steps")
    return {
        "total_steps": total,
        "pct_start": pct_start,
        "anneal_strategy": scheduler._anneal_func_type,
        "three_phase": len(scheduler._schedule_phases) == 3,
    }


def _one_cycle(scheduler: Any, i: int, rate: float) -> Schedule:
    group = scheduler.optimizer.param_groups[i]
    initial, highest, lowest = (float(group[key]) for key in ("initial_lr", "max_lr", "min_lr"))
    if not (initial > 0 and lowest > 0):
        raise _NoClosedFormError(f"OneCycleLR has a corner at 0, got {(initial, highest, lowest)!r}")
    factors = {"div_factor": highest / initial, "final_div_factor": initial / lowest}
    return OneCycle(highest, **{**factors, **_phases(scheduler)}).shifted(_epoch(scheduler))


def _sequential(scheduler: Any, i: int, rate: float) -> Schedule:
    epoch, milestones = _epoch(scheduler), scheduler._milestones
    if any(a > b for a, b in zip(milestones, milestones[1:], strict=False)) or any(m != int(m) for m in milestones):
        raise _NoClosedFormError(f"SequentialLR has milestones {milestones!r}")
    first = bisect_right(milestones, epoch)
    part, begin = _future(scheduler._schedulers[first], i, rate), epoch
    parts = []
    for k, milestone in enumerate(milestones[first:], first + 1):
        if milestone > begin:
            parts.append((part, int(milestone) - begin))
        part, begin = _restarted(scheduler._schedulers[k], i), int(milestone)
    return Sequential([*parts, part]) if parts else part


def _restarted(scheduler: Any, i: int) -> Schedule:
    """From its step 0, as SequentialLR starts the next of its schedulers."""
    if _parts(scheduler):
        raise _NoClosedFormError(f"SequentialLR cannot restart a {_name(scheduler)}")
    twin = copy.copy(scheduler)
    twin.last_epoch = 0
    rate = float(twin._get_closed_form_lr()[i]) if hasattr(twin, "_get_closed_form_lr") else None
    return _future(twin, i, rate)


def _chained(scheduler: Any, i: int, rate: float) -> Schedule:
    if len(scheduler._schedulers) == 1:
        return _future(scheduler._schedulers[0], i, rate)
    others = [_name(part) for part in scheduler._schedulers if not isinstance(part, _FACTORS)]
    if others:
        raise _NoClosedFormError(f"ChainedScheduler chains {', '.join(others)} with others, and only factors multiply")
    return Product((Constant(rate), *(_future(part, i, 1.0) for part in scheduler._schedulers)))


_FUTURES: dict[type, Callable[[Any, int, Any], Schedule]] = {
    torch_schedulers.StepLR: _step,
    torch_schedulers.MultiStepLR: _multi_step,
    torch_schedulers.ConstantLR: _constant,
    torch_schedulers.LinearLR: _linear,
    torch_schedulers.ExponentialLR: _exponential,
    torch_schedulers.PolynomialLR: _polynomial,
    torch_schedulers.CosineAnnealingLR: _cosine,
    torch_schedulers.CosineAnnealingWarmRestarts: _warm_restarts,
    torch_schedulers.CyclicLR: _cyclic,
    torch_schedulers.OneCycleLR: _one_cycle,
    torch_schedulers.SequentialLR: _sequential,
    torch_schedulers.ChainedScheduler: _chained,
}
_TABULATED = (torch_schedulers.LambdaLR, torch_schedulers.MultiplicativeLR)
_COMPOSED = (torch_schedulers.SequentialLR, torch_schedulers.ChainedScheduler)
# These multiply the rate that they find, whatever it is, by a factor that depends on the step alone.
_FACTORS = (
    torch_schedulers.StepLR,
    torch_schedulers.MultiStepLR,
    torch_schedulers.ConstantLR,
    torch_schedulers.LinearLR,
    torch_schedulers.ExponentialLR,
    torch_schedulers.PolynomialLR,
)


# ---- the momentum


def _moves_momentum(scheduler: Any) -> bool:
    return getattr(scheduler, "cycle_momentum", False) or any(map(_moves_momentum, _parts(scheduler)))


def _momentum(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def _future_momentum(scheduler: Any, i: int, value: float) -> Schedule:
    if isinstance(scheduler, torch_schedulers.CyclicLR):
        ends = float(scheduler.base_momentums[i]), float(scheduler.max_momentums[i])
        schedule: Schedule = TriangularMomentum(*ends, **_triangle(scheduler))
    elif isinstance(scheduler, torch_schedulers.OneCycleLR):
        group = scheduler.optimizer.param_groups[i]
        ends = float(group["base_momentum"]), float(group["max_momentum"])
        schedule = OneCycleMomentum(*ends, **_phases(scheduler))
    else:
        raise _NoClosedFormError(f"{_name(scheduler)} moves the momentum only at times")
    return _beginning_with(value, schedule.shifted(_epoch(scheduler)))


# ---- what has no closed form


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
    if _parts(scheduler):
        twin._schedulers = [_twin(part, groups) for part in _parts(scheduler)]
    return twin


def _tabulated(scheduler: Any, hyperparameter: str, num_steps: int, reason: str) -> list[Table]:
    """What a copy of the scheduler does to each group in its next steps."""
    groups = _Groups(scheduler.optimizer.param_groups)
    twin = _twin(scheduler, groups)
    columns: list[list[float]] = [[] for _ in groups.param_groups]
    end = ""
    for k in range(num_steps):
        try:
            if k > 0:
                twin.step()
        except Exception as error:
            end = f" (there the scheduler raised {error!r})"
            break
        for column, group in zip(columns, groups.param_groups, strict=True):
            column.append(float(group["lr"]) if hyperparameter == "lr" else _momentum(group))
    try:
        tables = [Table(column) for column in columns]
    except ValueError as error:
        raise ValueError(f"scheduler cannot be converted: {_name(scheduler)} has {error}") from error
    warnings.warn(
        f"{_name(scheduler)} was tabulated for {len(columns[0])} steps{end}, and its last {hyperparameter} holds from "
        f"there on; num_steps says how many. It has no closed form: {reason}",
        UserWarning,
        stacklevel=3,
    )
    return tables
