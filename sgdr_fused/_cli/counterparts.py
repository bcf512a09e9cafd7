"""Which scheduler of torch's gives the same rates as a Schedule, and with which arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.optim import lr_scheduler as torch_schedulers

from .._messages import shown
from ..schedules import (
    Constant,
    CosineAnnealing,
    CosineWarmRestarts,
    Exponential,
    LinearRamp,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    Polynomial,
    Product,
    Schedule,
    Sequential,
    Step,
    Triangular,
    TriangularMomentum,
    Warmup,
)
from ..schedules._compose import Shifted
from .errors import CommandError


class Part(NamedTuple):
    """A Schedule of one formula, times a factor, and the step at which it stands."""

    curve: Any
    factor: float
    step: int


class Counterpart(NamedTuple):
    """A scheduler's class, its arguments, the groups' rates before it, and entries that its constructor refuses."""

    cls: Any
    arguments: dict[str, Any]
    base_lrs: list[float]
    entries: dict[str, Any]


def part_at(schedule: Schedule, step: int) -> Part:
    """The one formula that holds from this step on.

    Raises:
        CommandError: for a Schedule that changes to another formula later.
    """
    factor = 1.0
    while True:
        if isinstance(schedule, Shifted):
            step, schedule = step + schedule.steps, schedule.schedule
        elif isinstance(schedule, Warmup) and step >= schedule.steps:
            step, schedule = step - schedule.steps, schedule.schedule
        elif isinstance(schedule, Sequential) and step >= (before := sum(n for _, n in schedule.schedules[:-1])):
            step, schedule = step - before, schedule.schedules[-1]
        elif isinstance(schedule, Product) and len(curves := _curves(schedule)) <= 1:
            for constant in schedule.factors:
                factor *= constant.value if isinstance(constant, Constant) else 1.0
            schedule = curves[0] if curves else Constant(1.0)
        elif isinstance(schedule, (Warmup, Sequential, Product)):
            raise CommandError(
                f"{shown(schedule)} has no scheduler in torch that has one formula from step {step} on: "
                "after a warm-up, and in the last part of a Sequential, it can be converted"
            )
        else:
            return Part(schedule, factor, step)


def _curves(product: Product) -> list[Schedule]:
    return [factor for factor in product.factors if not isinstance(factor, Constant)]


def counterpart(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
    """The scheduler for groups with these rates, and momenta where they have Schedules.

    Raises:
        CommandError: where torch has none.
    """
    kinds = sorted({type(part.curve).__name__ for part in parts})
    if len(kinds) > 1:
        raise CommandError(f"one scheduler of torch's must serve all groups, got the Schedules {', '.join(kinds)}")
    if len(steps := sorted({part.step for part in [*parts, *(momenta or [])]})) > 1:
        raise CommandError(f"the Schedules of all groups must stand at the same step, got the steps {steps}")
    if type(parts[0].curve) not in _MAKERS:
        able = ", ".join(cls.__name__ for cls in _MAKERS)
        raise CommandError(f"torch has no scheduler for {shown(parts[0].curve)}; it has some for {able}")
    if momenta is not None and not isinstance(parts[0].curve, (Triangular, OneCycle)):
        raise CommandError(f"torch has no scheduler for the momentum {shown(momenta[0].curve)} beside {kinds[0]}")
    return _MAKERS[type(parts[0].curve)](parts, momenta)


def _same(name: str, values: list[Any]) -> Any:
    """The one value of all groups. Numbers that were computed may differ in their last place."""
    alike = all(isinstance(v, float) and math.isclose(v, values[0], rel_tol=1e-14) for v in values)
    if not alike and len(set(values)) > 1:
        raise CommandError(f"a scheduler of torch's has one {name} for all groups, got {shown(values)}")
    return values[0]


def _field(name: str, parts: list[Part]) -> Any:
    return _same(name, [getattr(part.curve, name) for part in parts])


def _rates(name: str, parts: list[Part]) -> list[float]:
    return [part.factor * getattr(part.curve, name) for part in parts]


def _plain(cls: Any, base: str, **fields: str) -> Callable[..., Counterpart]:
    """For a class whose arguments, left, are fields of the Schedule, right."""

    def make(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
        arguments = {name: _field(field, parts) for name, field in fields.items()}
        return Counterpart(cls, arguments, _rates(base, parts), {})

    return make


def _linear(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
    bases = [max(part.curve.start, part.curve.end) for part in parts]
    start, end = (
        _same(
            f"{name}_factor",
            [getattr(part.curve, name) / (base or 1.0) for part, base in zip(parts, bases, strict=True)],
        )
        for name in ("start", "end")
    )
    rates = [part.factor * base for part, base in zip(parts, bases, strict=True)]
    arguments = {"start_factor": 1.0, "end_factor": end, "total_iters": _field("steps", parts)}
    return Counterpart(torch_schedulers.LinearLR, arguments, rates, {"start_factor": start})  # its start may not be 0


def _polynomial(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
    if any(part.curve.end != 0 for part in parts):
        raise CommandError(f"torch's PolynomialLR ends at 0, got {shown(parts[0].curve)}")
    arguments = {"total_iters": _field("steps", parts), "power": _field("power", parts)}
    return Counterpart(torch_schedulers.PolynomialLR, arguments, _rates("start", parts), {})


def _cosine(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
    arguments = {"T_max": _field("T_max", parts), "eta_min": _same("eta_min", _rates("eta_min", parts))}
    return Counterpart(torch_schedulers.CosineAnnealingLR, arguments, _rates("max_lr", parts), {})


def _warm_restarts(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
    for name in ("max_decay", "min_decay"):
        if _field(name, parts) != 1.0:
            raise CommandError(f"torch's CosineAnnealingWarmRestarts has no {name}, got {_field(name, parts)!r}")
    T_mult = _field("T_mult", parts)
    if T_mult != int(T_mult):
        raise CommandError(f"torch's CosineAnnealingWarmRestarts takes a whole T_mult, got {T_mult!r}")
    arguments = {
        "T_0": _field("T_0", parts),
        "T_mult": int(T_mult),
        "eta_min": _same("eta_min", _rates("eta_min", parts)),
    }
    _, T_cur, T_i = parts[0].curve.cycle(parts[0].step)
    entries = {"T_cur": T_cur, "T_i": T_i}
    return Counterpart(torch_schedulers.CosineAnnealingWarmRestarts, arguments, _rates("max_lr", parts), entries)


def _momenta(momenta: list[Part] | None, wanted: type, like: list[Part], fields: tuple[str, ...]) -> dict[str, Any]:
    """The arguments for a momentum that moves with the rate."""
    if momenta is None:
        return {"cycle_momentum": False}
    for part, rate in zip(momenta, like, strict=True):
        if not isinstance(part.curve, wanted) or any(getattr(part.curve, f) != getattr(rate.curve, f) for f in fields):
            raise CommandError(f"the momentum must move with {shown(rate.curve)}, got {shown(part.curve)}")
    ends = {name: _rates(name, momenta) for name in ("base_momentum", "max_momentum")}
    return {"cycle_momentum": True, **ends}


def _cyclic(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
    fields = ("step_size_up", "step_size_down", "mode", "gamma")
    arguments = {name: _field(name, parts) for name in fields}
    lows, highs = _rates("base_lr", parts), _rates("max_lr", parts)
    arguments |= {"base_lr": lows, "max_lr": highs, **_momenta(momenta, TriangularMomentum, parts, fields)}
    return Counterpart(torch_schedulers.CyclicLR, arguments, lows, {})


def _one_cycle(parts: list[Part], momenta: list[Part] | None) -> Counterpart:
    phases = ("total_steps", "pct_start", "anneal_strategy", "three_phase")
    arguments = {name: _field(name, parts) for name in (*phases, "div_factor", "final_div_factor")}
    if parts[0].step >= arguments["total_steps"]:
        raise CommandError(
            f"torch's OneCycleLR takes no step after its total_steps, got {shown(parts[0].curve)} "
            f"at step {parts[0].step}"
        )
    highs = _rates("max_lr", parts)
    arguments |= {"max_lr": highs, **_momenta(momenta, OneCycleMomentum, parts, phases)}
    return Counterpart(torch_schedulers.OneCycleLR, arguments, highs, {})


_MAKERS: dict[type, Callable[[list[Part], list[Part] | None], Counterpart]] = {
    Step: _plain(torch_schedulers.StepLR, "lr", step_size="step_size", gamma="gamma"),
    MultiStep: _plain(torch_schedulers.MultiStepLR, "lr", milestones="milestones", gamma="gamma"),
    Exponential: _plain(torch_schedulers.ExponentialLR, "lr", gamma="gamma"),
    LinearRamp: _linear,
    Polynomial: _polynomial,
    CosineAnnealing: _cosine,
    CosineWarmRestarts: _warm_restarts,
    Triangular: _cyclic,
    OneCycle: _one_cycle,
}
