"""From an optimizer's groups and state to the plans that take its steps, one per device.

All plans of an optimizer step in one call, ``step(membership, groups, plans, scales, founds, pending)``, which does
nothing and returns False where something is not as it was. A plan has ``show()``: recompute the displays;
``set_number(group, hyper, value)``; ``captured``; ``device``.
The C++ extension has one; ReferencePlan is the other.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .._messages import warn
from .._native import backends
from ..averages import EMA, check_not_swapped, check_schedule
from . import clipping, param_groups
from .host_clock import schedule_of
from .hyperparameters import SCHEDULE_KEYS
from .reference_plan import ReferencePlan
from .specs import Pending, SpecBuilder
from .tracked import Group
from .validation import ParamSpec, check_apart, check_whole

if TYPE_CHECKING:
    from ..optimizers._base import FusedOptimizer

AnyPlan: TypeAlias = Any


class Built:
    """The plans of an optimizer, and what they were made from.

    Attributes:
        made_for: what ``Changes.plan`` was before anything was read.
        seen: the same, for as long as the plans can be used again.
        numbers_seen: what ``Changes.numbers`` was before the groups' numbers were handed to the plans.
        host_reads: (plan, group, hyper, tensor) for each tensor that the host reads at each step.
        conversions: (copy, tensor) for each tensor that the kernels cannot read.
        needs_upkeep: whether a step has to hand over more than numbers that were written.
        pending: the entries of the state that are stored when the first step has been taken.
    """

    def __init__(self, seen: object) -> None:
        self.seen: object = seen
        self.made_for = seen
        self.num_groups = 0
        self.numbers_seen: object = None
        self.plans: list[AnyPlan] = []
        self.membership: Any = None
        self.step: Callable[..., bool] = _step_with_reference
        self.host_reads: list[tuple[AnyPlan, int, int, Tensor]] = []
        self.conversions: list[tuple[Tensor, Tensor]] = []
        self.needs_upkeep = False
        self.pending: Pending = []
        self.fresh_counts: list[Tensor] = []  # of updates behind what is pending, where no state holds them
        self.on_meta: list[Tensor] = []  # parameters without memory, which take no part

    @property
    def by_reference(self) -> bool:
        return any(isinstance(plan, ReferencePlan) for plan in self.plans)

    def _set_numbers(self, optimizer: FusedOptimizer) -> None:
        for i, group in enumerate(optimizer._param_groups[: self.num_groups]):
            if not isinstance(group, Group):  # the user has put it there: the plans are of no use any more
                return
            for k, hyper in enumerate(optimizer._hypers):
                value = hyper.of(group)
                if isinstance(value, Real):
                    for plan in self.plans:
                        plan.set_number(i, k, float(value))

    def take_step(self, optimizer: FusedOptimizer) -> bool:
        """One step, unless something is not as it was when the plans were made: then nothing is done."""
        if (self.needs_upkeep or self.numbers_seen is not optimizer._changes.numbers) and not self._kept_up(optimizer):
            return False
        scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
        scales = None if scale is None else [on_device("grad_scale", scale, plan) for plan in self.plans]
        founds = None if found_inf is None else [on_device("found_inf", found_inf, plan) for plan in self.plans]
        makes_states = bool(self.pending)
        taken = self.step(self.membership, optimizer._param_groups, self.plans, scales, founds, self.pending)
        if makes_states and taken and self.membership is not None:
            self.made_for = self.membership.seen  # storing the states was a change that these plans know of
            self.seen = None if self.seen is None else self.made_for
        return taken

    def _kept_up(self, optimizer: FusedOptimizer) -> bool:
        """Hands over what no kernel reads by itself; False where the plans are of no use any more."""
        if not all(param.is_meta for param in self.on_meta):
            return False
        if self.numbers_seen is not optimizer._changes.numbers:
            seen = optimizer._changes.numbers  # before the numbers are read
            self._set_numbers(optimizer)
            self.numbers_seen = seen
        for plan, group, hyper, tensor in self.host_reads:
            plan.set_number(group, hyper, float(tensor))
        for converted, tensor in self.conversions:
            converted.copy_(tensor.detach())
        return self.made_for is optimizer._changes.plan

    def store_states(self, as_stepped: bool = False) -> None:
        """Stores what is pending, without a step; `as_stepped`: with its first step behind it."""
        _store(self.pending)
        if as_stepped:
            for count in self.fresh_counts:
                count.fill_(1)


def built(optimizer: FusedOptimizer) -> Built:
    """Checks everything, and makes plans and the states that are missing.

    Raises, with nothing changed, where a step cannot be taken.
    """
    check_not_swapped(optimizer)
    groups = optimizer._param_groups
    _take_over(optimizer, groups)
    seen = optimizer._changes.plan  # before anything is read
    params = [param for group in groups for param in group["params"]]
    if any(param.is_cuda for param in params) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the optimizer's plan cannot be built during a CUDA graph capture: run one step before capturing"
        )
    numbers = _numbered(groups)
    shares_memory = check_apart(list(numbers))
    param_groups.check_displays(groups)
    check_schedule(optimizer)
    clipping.check_devices(optimizer._options, params)
    check_whole(params, clipping.needs_norm(optimizer._options, optimizer._measures_params))
    optimizer._host_clock.look_out_for(
        [schedule for group in groups for key in SCHEDULE_KEYS.values() if (schedule := group.get(key)) is not None]
    )

    new = Built(seen)
    new.num_groups = len(groups)
    builder = SpecBuilder(optimizer, params)
    specs: dict[torch.device, list[ParamSpec]] = {optimizer._first_device(): []}
    with torch.inference_mode(False), torch.no_grad():
        for param, (number, i, k) in numbers.items():
            if param.is_meta:
                new.on_meta.append(param)
                continue
            spec = builder.spec(param, i, number, f"parameter {k} of group {i}")
            specs.setdefault(param.device, []).append(spec)
    new.pending, new.fresh_counts = builder.finish(), builder.fresh_counts

    optimizer._keep_clocks_on(specs)
    for device, device_specs in specs.items():
        plan, reads, conversions = _make_plan(optimizer, device, device_specs)
        new.plans.append(plan)
        new.host_reads += [(plan, *read) for read in reads]
        new.conversions += conversions
    if shares_memory or new.by_reference:
        new.seen = None  # to look at everything at each step
    new.needs_upkeep = bool(new.by_reference or new.host_reads or new.conversions or new.on_meta)
    extension: Any = backends.load()
    if extension is not None:
        new.membership = extension.Membership(groups, optimizer._aliases(), optimizer._changes, seen)
        if not new.by_reference:
            new.step = extension.step
    return new


def _step_with_reference(
    membership: Any, groups: Any, plans: list[AnyPlan], scales: Any, founds: Any, pending: Pending
) -> bool:
    """As the extension's step(), with plans of which the reference has some or all."""
    nothing = [None] * len(plans)
    steps = [*zip(plans, scales or nothing, founds or nothing, strict=True)]
    native = [step for step in steps if not isinstance(step[0], ReferencePlan)]
    if native:
        extension: Any = backends.load()
        if not extension.step(membership, groups, *([*column] for column in zip(*native, strict=True)), []):
            return False
    for plan, scale, found_inf in steps:
        if isinstance(plan, ReferencePlan):
            plan.run(scale, found_inf)
    _store(pending)
    return True


def _store(pending: Pending) -> None:
    for entries, new in pending:
        dict.update(entries, new)
    pending.clear()


def _take_over(optimizer: FusedOptimizer, groups: list[Any]) -> None:
    """Brings in what the user has written past us."""
    optimizer._take_over()
    optimizer._let_go_of_aliases()
    for i, group in enumerate(groups):
        param_groups.check_complete(optimizer, i, group)
    param_groups.follow_devices(optimizer, groups)


def _numbered(groups: list[Any]) -> dict[Tensor, tuple[int, int, int]]:
    """The parameters, each once: their numbers in the optimizer, their groups and their places there."""
    numbers: dict[Tensor, tuple[int, int, int]] = {}
    number = 0
    for i, group in enumerate(groups):
        for k, param in enumerate(group["params"]):
            if not isinstance(param, Tensor):
                raise TypeError(f"parameter {k} of group {i} must be a tensor, got {type(param).__name__}")
            if param not in numbers:
                numbers[param] = number, i, k
            elif numbers[param][1] != i:
                raise ValueError(
                    f"params: a parameter of shape {tuple(param.shape)} is in the groups twice, in group "
                    f"{numbers[param][1]} and in group {i}, which may want other rates for it"
                )
            number += 1
    if number != len(numbers):
        warn("params: a parameter is twice in its group; a step updates it once")
    return numbers


def _make_plan(
    optimizer: FusedOptimizer, device: torch.device, specs: list[ParamSpec]
) -> tuple[AnyPlan, list[tuple[int, int, Tensor]], list[tuple[Tensor, Tensor]]]:
    """The plan, (group, hyper, tensor) for each tensor that the host reads at each step, and (copy, tensor) for each
    on a GPU that the kernels cannot read: of another dtype, or on another GPU."""
    groups: list[tuple[list[tuple[Any, Tensor | None]], list[float]]] = []
    reads: list[tuple[int, int, Tensor]] = []
    conversions: list[tuple[Tensor, Tensor]] = []
    backend = backends.backend_for(device)
    reference = backend == "reference"
    for i, group in enumerate(optimizer._param_groups):
        hypers: list[tuple[Any, Tensor | None]] = []
        for k, hyper in enumerate(optimizer._hypers):
            value = hyper.of(group)
            schedule = hyper.schedule_of(value)
            if schedule is not None:
                hypers.append(
                    (schedule if reference else schedule._compiled, value if value.device == device else None)
                )
            elif isinstance(value, Tensor):
                if value.device == device and value.dtype in (torch.float32, torch.float64) and not reference:
                    hypers.append((value, None))
                elif backend == "cuda" and value.is_cuda:
                    conversions.append((value.detach().to(device, torch.float64), value))
                    hypers.append((conversions[-1][0], None))
                else:
                    reads.append((i, k, value))
                    hypers.append((float(value), None))
            else:
                hypers.append((float(value), None))
        groups.append((hypers, [optimizer._kernel_constant(key, group[key]) for key in optimizer._constants]))
    clock = optimizer._clock_on(device)
    if reference:
        return ReferencePlan(optimizer, clock, groups, specs), reads, conversions
    return _native_plan(optimizer, backend, clock, groups, specs), reads, conversions


def _native_plan(
    optimizer: FusedOptimizer,
    backend: str,
    clock: Tensor,
    groups: list[tuple[list[tuple[Any, Tensor | None]], list[float]]],
    specs: list[ParamSpec],
) -> AnyPlan:
    """The extension's plan: csrc/plan/specs.h says what each of these structs holds."""
    extension: Any = backends.load()
    return extension.Plan(
        algorithm=optimizer._algorithm,
        backend=backend,
        clock=clock,
        groups=[
            extension.Group(
                hypers=[extension.Hyper(value, display=display) for value, display in hypers], constants=constants
            )
            for hypers, constants in groups
        ],
        params=[extension.Param(memory=spec.param, **spec._asdict()) for spec in specs],
        steps_are_state=optimizer._has_step,
        average=_average_of(optimizer, clock.device),
        rounding_seed=optimizer._rounding_seed,
        clipping=extension.Clipping(**clipping.for_plan(optimizer, clock.device)),
    )


def _average_of(optimizer: FusedOptimizer, device: torch.device) -> Any:
    """What the averages go by, or None."""
    if optimizer.average is None:
        return None
    extension: Any = backends.load()
    count = optimizer._count_on(device)
    if isinstance(optimizer.average, EMA):
        weight = extension.Hyper(1.0 - optimizer.average.decay)
        return extension.Average(weight=weight, is_mean=False, count=count)
    schedule = schedule_of(optimizer)
    assert schedule is not None  # checked before
    return extension.Average(weight=extension.Hyper(schedule._compiled_cycle_ends), is_mean=True, count=count)


def on_device(name: str, value: Any, plan: AnyPlan) -> Tensor | None:
    """GradScaler's scale or its found_inf on the plan's device.

    The scaler keeps them on one device. Its found_inf is the number 0 where no parameter had a gradient.
    """
    if value is None:
        return None
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value), dtype=torch.float32, device=plan.device)
    if value.numel() != 1:
        raise ValueError(f"{name} must have one element, got a tensor of shape {tuple(value.shape)}")
    if value.device == plan.device and value.dtype == torch.float32:
        return value
    return value.to(device=plan.device, dtype=torch.float32)
