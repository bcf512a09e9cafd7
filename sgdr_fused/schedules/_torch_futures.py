"""The closed forms of torch's schedulers, from where they stand."""

from __future__ import annotations

import copy
import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from ._base import Schedule
from ._compose import Sequential
from ._cosine import CosineAnnealing, CosineWarmRestarts
from ._decays import Exponential, MultiStep, Step
from ._one_cycle import OneCycle, OneCycleMomentum
from ._product import Product
from ._ramps import Constant, LinearRamp, Polynomial
from ._triangular import Triangular, TriangularMomentum

_MOST_LATE_STEPS = 1000  # of which a Schedule is made one by one


class NoClosedFormError(ValueError):
    """Why a scheduler has to be tabulated."""


def name_of(scheduler: Any) -> str:
    return type(scheduler).__name__


def parts_of(scheduler: Any) -> list[Any]:
    """The schedulers that one is made of."""
    return [*scheduler._schedulers] if isinstance(scheduler, COMPOSED) else []


def has_ended(scheduler: Any) -> bool:
    """Whether it is OneCycleLR, or contains one, on the one step that torch takes past its end."""
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        return bool(scheduler.last_epoch >= scheduler.total_steps)
    return any(map(has_ended, parts_of(scheduler)))


def largest_of(scheduler: Any, i: int) -> float:
    """The largest value that is known of a group, which tells what is rounding of it."""
    group = scheduler.optimizer.param_groups[i]
    known = [group[key] for key in ("initial_lr", "max_lr", "max_momentum") if key in group]
    parts = [largest_of(part, i) for part in parts_of(scheduler)]
    if hasattr(scheduler, "max_lrs"):  # CyclicLR's
        known.append(scheduler.max_lrs[i])
    return max(map(float, [*known, *parts, 0.0]))


def never_negative(value: float, largest: float) -> float:
    """0 for what torch made of 0 by rounding: LinearLR with an ``end_factor`` of 0 ends at -4e-18.

    Raises:
        ValueError: for what is really negative.
    """
    if not value < 0:
        return value
    if value < -1e-9 * largest:
        raise ValueError(f"the value {value!r}, and those of a Schedule are >= 0")
    return 0.0


# ---- the rate
#
# Each function takes a scheduler, a group's number and the rate that the group has now, and gives the
# Schedule from now on. torch computes most rates from the one before, and so do these: what the rate
# is now counts, whatever the closed form makes of the scheduler's step.


def future(scheduler: Any, i: int, rate: float | None) -> Schedule:
    """The rate may be None for a scheduler that does not ask what it is."""
    convert = next((FUTURES[cls] for cls in type(scheduler).__mro__ if cls in FUTURES), None)
    if convert is None:
        raise NoClosedFormError(f"{name_of(scheduler)} calls a function of the user's")
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
        raise NoClosedFormError(f"{name_of(scheduler)} stands between two steps, at {epoch!r}")
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
        raise NoClosedFormError("ConstantLR divides by its factor, 0")
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
        raise NoClosedFormError(f"CosineAnnealingWarmRestarts stands between two steps, at T_cur={T_cur!r}")
    base_lr, T_mult, eta_min = float(scheduler.base_lrs[i]), scheduler.T_mult, scheduler.eta_min
    # step(epoch) has taken the end of a cycle for one step more of it. Up to torch 2.6, a scheduler that was made with
    # last_epoch=n began n steps behind the start of its first cycle, which may be many cycles late.
    late: list[tuple[Schedule, int]] = []
    while T_cur >= T_i and len(late) < _MOST_LATE_STEPS:
        late.append((Constant(rate), 1))
        T_cur, T_i = T_cur + 1 - T_i, T_i * T_mult
        rate = eta_min + (base_lr - eta_min) * (1 + math.cos(math.pi * T_cur / T_i)) / 2
    if T_cur >= T_i:
        raise NoClosedFormError(
            f"CosineAnnealingWarmRestarts stands far behind the end of its cycle, at T_cur={T_cur!r}"
        )
    on_time = CosineWarmRestarts(base_lr, int(T_i), T_mult, eta_min).shifted(int(T_cur))
    return Sequential([*late, on_time]) if late else on_time


def _triangle(scheduler: Any) -> dict[str, Any]:
    """What the rate and the momentum of CyclicLR have in common."""
    if scheduler._scale_fn_custom is not None:
        raise NoClosedFormError("CyclicLR calls a scale_fn of the user's")
    up = scheduler.total_size * scheduler.step_ratio
    if not (scheduler.total_size.is_integer() and math.isclose(up, round(up), rel_tol=1e-12)):
        raise NoClosedFormError(f"CyclicLR turns between two steps, {up!r} after the start of a cycle")
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
        raise NoClosedFormError(f"OneCycleLR has a first phase that ends at {rise!r} of {total!r} steps")
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
        raise NoClosedFormError(f"OneCycleLR has a corner at 0, got {(initial, highest, lowest)!r}")
    factors = {"div_factor": highest / initial, "final_div_factor": initial / lowest}
    return OneCycle(highest, **{**factors, **_phases(scheduler)}).shifted(_epoch(scheduler))


def _sequential(scheduler: Any, i: int, rate: float) -> Schedule:
    epoch, milestones = _epoch(scheduler), scheduler._milestones
    if any(a > b for a, b in zip(milestones, milestones[1:], strict=False)) or any(m != int(m) for m in milestones):
        raise NoClosedFormError(f"SequentialLR has milestones {milestones!r}")
    first = bisect_right(milestones, epoch)
    part, begin = future(scheduler._schedulers[first], i, rate), epoch
    parts = []
    for k, milestone in enumerate(milestones[first:], first + 1):
        if milestone > begin:
            parts.append((part, int(milestone) - begin))
        part, begin = _restarted(scheduler._schedulers[k], i), int(milestone)
    return Sequential([*parts, part]) if parts else part


def _restarted(scheduler: Any, i: int) -> Schedule:
    """The Schedules of a scheduler from its step 0, as SequentialLR starts the next one."""
    if parts_of(scheduler):
        raise NoClosedFormError(f"SequentialLR cannot restart a {name_of(scheduler)}")
    twin = copy.copy(scheduler)
    twin.last_epoch = 0
    rate = float(twin._get_closed_form_lr()[i]) if hasattr(twin, "_get_closed_form_lr") else None
    return future(twin, i, rate)


def _chained(scheduler: Any, i: int, rate: float) -> Schedule:
    if len(scheduler._schedulers) == 1:
        return future(scheduler._schedulers[0], i, rate)
    others = [name_of(part) for part in scheduler._schedulers if not isinstance(part, _FACTORS)]
    if others:
        raise NoClosedFormError(f"ChainedScheduler chains {', '.join(others)} with others, and only factors multiply")
    return Product((Constant(rate), *(future(part, i, 1.0) for part in scheduler._schedulers)))


FUTURES: dict[type, Callable[[Any, int, Any], Schedule]] = {
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
TABULATED = (torch_schedulers.LambdaLR, torch_schedulers.MultiplicativeLR)
COMPOSED = (torch_schedulers.SequentialLR, torch_schedulers.ChainedScheduler)
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


def moves_momentum(scheduler: Any) -> bool:
    return getattr(scheduler, "cycle_momentum", False) or any(map(moves_momentum, parts_of(scheduler)))


def momentum_of(group: dict[str, Any]) -> float:
    """SGD's momentum, or Adam's first beta."""
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def future_momentum(scheduler: Any, i: int, value: float) -> Schedule:
    if isinstance(scheduler, torch_schedulers.CyclicLR):
        ends = float(scheduler.base_momentums[i]), float(scheduler.max_momentums[i])
        schedule: Schedule = TriangularMomentum(*ends, **_triangle(scheduler))
    elif isinstance(scheduler, torch_schedulers.OneCycleLR):
        group = scheduler.optimizer.param_groups[i]
        ends = float(group["base_momentum"]), float(group["max_momentum"])
        schedule = OneCycleMomentum(*ends, **_phases(scheduler))
    else:
        raise NoClosedFormError(f"{name_of(scheduler)} moves the momentum only at times")
    return _beginning_with(value, schedule.shifted(_epoch(scheduler)))
