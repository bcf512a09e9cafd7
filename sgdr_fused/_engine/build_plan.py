"""From a session's groups and state to the plans that take its steps, one for each device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._messages import warn
from .._native import backends
from ..averages import EMA
from ..schedules import Schedule
from . import clipping, cycles, frameworks, param_groups, shown_rates
from .algorithm import Algorithm
from .hyperparameters import SCHEDULE_KEYS
from .param_state import ParamSpec
from .plan import AverageSpec, Built, GroupSpec, HyperSpec, Plan
from .reduction import Reduction, StepOverProcesses, without_found_inf
from .reference_plan import ReferencePlan, step_with_reference
from .session import Session
from .specs import SpecBuilder
from .swap_average import check_not_swapped
from .validation import check_apart, check_whole


def build(session: Session) -> Built:
    """Checks everything, and makes plans and the states that are missing.

    Raises, with nothing changed, where a step cannot be taken.
    """
    check_not_swapped(session)
    groups = session.groups
    _take_over(session, groups)
    seen = session.changes.plan  # before anything is read
    params = [param for group in groups for param in group["params"]]
    if any(param.is_cuda for param in params) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the optimizer's plan cannot be built during a CUDA graph capture: run one step before capturing"
        )
    places = _places(groups)
    shares_memory = check_apart(list(places))
    frameworks.check_scheduler(session)
    shown_rates.check_displays(groups)
    cycles.check_average(session.options, groups)
    clipping.check_devices(session.options, params)
    check_whole(params, session.options, session.algorithm.measures_params)
    session.host_clock.look_out_for(
        [schedule for group in groups for key in SCHEDULE_KEYS.values() if (schedule := group.get(key)) is not None]
    )

    new = Built(seen)
    new.num_groups = len(groups)
    reduction = Reduction(places, session.options["norm_group"])
    builder = SpecBuilder(session, params, reduction)
    specs: dict[torch.device, list[ParamSpec]] = {session.first_device(): []}
    with torch.inference_mode(False), torch.no_grad():
        for param, (index, i, k) in places.items():
            if param.is_meta:
                new.on_meta.append(param)
                continue
            spec = builder.spec(param, i, index, f"parameter {k} of group {i}")
            specs.setdefault(param.device, []).append(spec)
    new.pending, new.fresh_counts = builder.finish(), builder.fresh_counts

    session.keep_clocks_on(specs)
    param_groups.show_counts(session)
    for device, device_specs in specs.items():
        new.plans.append(_make_plan(session, device, device_specs, reduction, new))
    by_reference = any(isinstance(plan, ReferencePlan) for plan in new.plans)
    norm = clipping.needs_norm(session.options, session.algorithm.measures_params)
    if by_reference and reduction.is_needed and norm:
        raise RuntimeError(f"{norm} of parameters on several processes needs the extension: the reference adds up none")
    if shares_memory or by_reference:
        new.seen = None  # to look at everything at each step
    new.needs_upkeep = bool(by_reference or new.host_reads or new.conversions or new.on_meta)
    extension: Any = backends.load()
    if extension is not None:
        new.membership = extension.Membership(groups, session.aliases(), session.changes, seen)
    if by_reference or extension is None:
        new.step = without_found_inf(step_with_reference) if reduction.is_needed else step_with_reference
    elif reduction.is_needed:
        new.step = StepOverProcesses(
            reduction, params, new.plans, clipping.measures(session.options), session.algorithm.measures_params
        )
    else:
        new.step = extension.step
    return new


def _take_over(session: Session, groups: list[Any]) -> None:
    """Fetches what the user has written without our mappings' noticing."""
    param_groups.take_over(session)
    session.let_go_of_aliases()
    for i, group in enumerate(groups):
        param_groups.check_complete(session, i, group)
    param_groups.follow_devices(session, groups)


def _places(groups: list[Any]) -> dict[Tensor, tuple[int, int, int]]:
    """The parameters, each once: its index in the optimizer, its group, and its place there."""
    places: dict[Tensor, tuple[int, int, int]] = {}
    index = 0
    for i, group in enumerate(groups):
        for k, param in enumerate(group["params"]):
            if not isinstance(param, Tensor):
                raise TypeError(f"parameter {k} of group {i} must be a tensor, got {type(param).__name__}")
            if param not in places:
                places[param] = index, i, k
            elif places[param][1] != i:
                raise ValueError(
                    f"params: a parameter of shape {tuple(param.shape)} is in the groups twice, in group "
                    f"{places[param][1]} and in group {i}, which may want other rates for it"
                )
            index += 1
    if index != len(places):
        warn("params: a parameter is twice in its group; a step updates it once")
    return places


def _make_plan(
    session: Session, device: torch.device, specs: list[ParamSpec], reduction: Reduction, new: Built
) -> Plan:
    """The plan of a device; what it needs at each step is added to `new`."""
    backend = backends.backend_for(device)
    reads: list[tuple[int, int, Tensor]] = []
    groups = []
    for i, group in enumerate(session.groups):
        hypers = []
        for k, hyper in enumerate(session.algorithm.hypers):
            value = hyper.of(group)
            spec = _hyper_spec(value, hyper.schedule_of(value), device, backend, new.conversions)
            if spec is None:
                reads.append((i, k, value))
                spec = HyperSpec(float(value), None)
            hypers.append(spec)
        groups.append(GroupSpec(hypers, _constants(session.algorithm, group)))
    clock = session.clocks.on(device)
    if backend == "reference":
        plan: Plan = ReferencePlan(session, clock, groups, specs)
    else:
        plan = _native_plan(session, device, backend, clock, groups, specs, reduction.num_sums)
    new.host_reads += [(plan, *read) for read in reads]
    return plan


def _constants(algorithm: Algorithm, group: dict[str, Any]) -> list[float]:
    return [algorithm.kernel_constant(key, group[key]) for key in algorithm.constants]


def _hyper_spec(
    value: Any,
    schedule: Schedule | None,
    device: torch.device,
    backend: str,
    conversions: list[tuple[Tensor, Tensor]],
) -> HyperSpec | None:
    """What a plan knows of a hyperparameter; None for a tensor that the host reads at each step.

    A tensor on a GPU that the kernels cannot read, because it is of another dtype or on another GPU, is added to
    `conversions` as (copy, tensor).
    """
    if schedule is not None:
        return HyperSpec(
            schedule if backend == "reference" else schedule._compiled, value if value.device == device else None
        )
    if not isinstance(value, Tensor):
        return HyperSpec(float(value), None)
    is_read = value.device == device and value.dtype in (torch.float32, torch.float64)
    if is_read and backend != "reference":
        return HyperSpec(value, None)
    if backend == "cuda" and value.is_cuda:
        conversions.append((value.detach().to(device, torch.float64), value))
        return HyperSpec(conversions[-1][0], None)
    return None


def _native_plan(
    session: Session,
    device: torch.device,
    backend: str,
    clock: Tensor,
    groups: list[GroupSpec],
    specs: list[ParamSpec],
    num_sums: int,
) -> Plan:
    """The plan of the C++ extension: csrc/plan/specs.h says what each of these structs holds."""
    extension: Any = backends.load()
    average = _average_of(session, device)
    plan: Plan = extension.Plan(
        algorithm=session.algorithm.name,
        backend=backend,
        clock=clock,
        groups=[
            extension.Group(
                hypers=[extension.Hyper(hyper.value, display=hyper.display) for hyper in group.hypers],
                constants=group.constants,
            )
            for group in groups
        ],
        params=[extension.Param(**vars(spec)) for spec in specs],
        steps_are_state=session.algorithm.has_step,
        average=None
        if average is None
        else extension.Average(weight=extension.Hyper(average.weight), is_mean=average.is_mean, count=average.count),
        rounding_seed=session.rounding_seed,
        clipping=extension.Clipping(**clipping.for_plan(session.options, session.measured, device, num_sums)._asdict()),
    )
    return plan


def _average_of(session: Session, device: torch.device) -> AverageSpec | None:
    """What the averages go by."""
    average = session.options["average"]
    if average is None:
        return None
    if isinstance(average, EMA):
        weight = average._weight
        known = weight if isinstance(weight, float) else weight._compiled
        return AverageSpec(known, False, session.counts.on(device))
    schedule = cycles.schedule_of(session.groups)
    assert schedule is not None  # checked before
    return AverageSpec(schedule._compiled_cycle_ends, True, session.counts.on(device))
