"""From an optimizer's groups and state to the plans that take its steps, one per device.

A plan has ``valid()``: whether all that it was made from is as it was; ``run(grad_scale, found_inf)``:
one step; ``show()``: recompute the displays; ``set_number(group, hyper, value)``; ``captured``; ``device``.
The C++ extension has one; ReferencePlan is the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from . import _backend, _checks, clipping
from ._cycle_ends import schedule_of
from ._param_checks import ParamSpec, average_dtype, check_apart, check_grad, check_param, check_state, kept_beside
from ._reference_plan import ReferencePlan
from ._tracked import ParamState
from .averages import EMA, Swapped, check_schedule

if TYPE_CHECKING:
    from ._optimizer import FusedOptimizer

AnyPlan: TypeAlias = Any


def rebuild(optimizer: FusedOptimizer) -> None:
    """Checks everything, makes the states that are missing, and makes the plans anew.

    Raises, with nothing changed, where a step cannot be taken.
    """
    if isinstance(optimizer._membership, Swapped):
        optimizer._membership.refuse()
    groups = optimizer.param_groups
    for i, group in enumerate(groups):
        groups[i] = optimizer._adopted(group)
    params = [param for group in groups for param in group["params"]]
    if any(param.is_cuda for param in params) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the optimizer's plan cannot be built during a CUDA graph capture: run one step before capturing"
        )
    if len(set(params)) != len(params):
        raise ValueError("params: a parameter is in the groups twice")
    check_apart(params)
    _check_displays(groups)
    check_schedule(optimizer)
    clipping.check_devices(optimizer._options, params)

    new_states: list[tuple[Tensor, ParamState]] = []
    specs: dict[torch.device, list[ParamSpec]] = {optimizer._first_device(): []}
    counts = _Counts(params)
    indices = {param: index for index, param in enumerate(params)}
    with torch.inference_mode(False), torch.no_grad():
        for i, group in enumerate(groups):
            names = optimizer._state_names(group)
            for k, param in enumerate(group["params"]):
                name = f"parameter {k} of group {i}"
                spec, state = _param_spec(optimizer, param, i, indices[param], names, counts, name)
                specs.setdefault(param.device, []).append(spec)
                if state is not None:
                    new_states.append((param, state))

    optimizer._clocks = {device: optimizer._clock_on(device) for device in specs}
    optimizer._counts = {device: optimizer._count_on(device) for device in specs}
    plans, host_reads, conversions = [], [], []
    for device, device_specs in specs.items():
        plan, reads, converted = _make_plan(optimizer, device, device_specs)
        plans.append(plan)
        host_reads += [(plan, *read) for read in reads]
        conversions += converted

    for param, state in new_states:
        dict.__setitem__(optimizer.state, param, state)
    optimizer._captured_plans += [plan for plan in optimizer._plans if plan.captured]
    optimizer._plans, optimizer._host_reads, optimizer._conversions = plans, host_reads, conversions
    extension = _backend.load()
    optimizer._membership = None if extension is None else extension.Membership(groups, [])
    native = all(not isinstance(plan, ReferencePlan) for plan in plans)
    optimizer._step_plans = extension.step if native else _step_with_reference
    optimizer._changes.plan = False
    optimizer._changes.numbers = True


def _check_displays(groups: list[Any]) -> None:
    for i, group in enumerate(groups):
        for key, (display, version) in group.displays.items():
            if display._version != version:
                raise RuntimeError(
                    f"group {i}: the tensor in group[{key!r}] only displays what {group[key + '_schedule']!r} gives, "
                    f"and was written in place, to {display.item()!r} (a torch scheduler does that); to replace the "
                    f"Schedule, assign to group[{key!r}]"
                )


def _param_spec(
    optimizer: FusedOptimizer,
    param: Tensor,
    group: int,
    index: int,
    names: tuple[str, ...],
    counts: _Counts,
    name: str,
) -> tuple[ParamSpec, ParamState | None]:
    """The spec, and the state with what was missing in it, or None where nothing was."""
    check_param(param, name, optimizer._options)
    grad = param.grad
    if grad is not None:
        check_grad(param, grad, name)
    beside = kept_beside(param, optimizer._options)
    if not names and not beside:
        return ParamSpec(param, group, True, grad, [], None, None, None, None, index), None
    old = dict.get(optimizer.state, param)
    wanted = (*names, *beside)
    present = [key for key in wanted if old is not None and old.get(key) is not None]
    if grad is None and not present:
        return ParamSpec(param, group, False, None, [], None, None, None, None, index), None
    if set(present) & set(names) and not set(names) <= set(present):
        raise ValueError(f"state of {name} has {present} but lacks {sorted(set(names) - set(present))}")

    state = ParamState(optimizer._changes, old or {})
    for key in wanted:
        if key not in present:
            dict.__setitem__(state, key, first_value(optimizer, optimizer.param_groups[group], param, key))
        check_state(param, key, state[key], name)
        if state[key].device != param.device:
            raise ValueError(f"state[{key!r}] of {name} must be on {param.device}, got {state[key].device}")
    states = [state[key] for key in names]
    if len({s.dtype for s in states}) > 1:
        raise TypeError(f"state of {name} must have one dtype, got {[str(s.dtype) for s in states]}")

    steps = product = None
    if names:
        stepped = names[0] in present
        steps = _steps(optimizer, param, state, getattr(old, "steps", None), stepped, counts, name)
        product = _product(optimizer, param, state, stepped, name)
    state.steps = steps
    unchanged = old is not None and old.steps is steps and all(old.get(key) is state[key] for key in state)
    average, remainder = (state[key] if key in beside else None for key in ("average", "remainder"))
    spec = ParamSpec(param, group, True, grad, states, average, remainder, steps, product, index)
    return spec, None if unchanged else state


def first_value(optimizer: FusedOptimizer, group: dict[str, Any], param: Tensor, key: str) -> Tensor:
    """What is in a state before the parameter's first step."""
    if key == "average":  # up to now the parameter was what it is, whatever was averaged of others
        return param.detach().to(average_dtype(param), copy=True)
    if key == "remainder":
        return torch.zeros_like(param, dtype=torch.int16, memory_format=torch.preserve_format)
    value, dtype = optimizer._initial_value(group, key), optimizer._options["state_dtype"]
    return torch.full_like(param, value, dtype=dtype, memory_format=torch.preserve_format)


def _steps(
    optimizer: FusedOptimizer,
    param: Tensor,
    state: ParamState,
    counted: Tensor | None,
    stepped: bool,
    counts: _Counts,
    name: str,
) -> Tensor:
    """The count of the parameter's updates, which is an entry of its state where the algorithm has one."""
    steps: Any = state.get("step") if optimizer._has_step else counted
    if steps is None:
        if optimizer._has_step and stepped:
            raise ValueError(f"state of {name} has {sorted(state)} but lacks 'step'")
        steps = 1 if stepped else 0  # a buffer that came from elsewhere has its first step behind it
    if not _is_number_on(param.device, steps):
        count = _checks.count(f"state['step'] of {name}", steps)
        if optimizer._has_step:
            steps = torch.tensor(count, dtype=torch.float64, device=param.device)
        else:
            steps = counts.take(count, param.device)
    if optimizer._has_step:
        dict.__setitem__(state, "step", steps)
    return steps


def _product(optimizer: FusedOptimizer, param: Tensor, state: ParamState, stepped: bool, name: str) -> Tensor | None:
    """The product of the factors of the parameter's updates, an entry of its state, where the algorithm has one."""
    key = optimizer._product
    if key is None:
        return None
    if stepped and state.get(key) is None:
        raise ValueError(f"state of {name} has {sorted(state)} but lacks {key!r}")
    product: Any = state.get(key)
    if not _is_number_on(param.device, product):
        number = 1.0 if product is None else _checks.fraction(f"state[{key!r}] of {name}", product)
        product = torch.tensor(number, dtype=torch.float64, device=param.device)
        dict.__setitem__(state, key, product)
    return product


def _is_number_on(device: torch.device, value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dtype, value.device, value.dim()) == (torch.float64, device, 0)


class _Counts:
    """Counts of updates that no user sees, side by side in memory: a step reads them all."""

    def __init__(self, params: list[Tensor]) -> None:
        self._sizes = Counter(param.device for param in params)
        self._free: dict[torch.device, Iterator[Tensor]] = {}

    def take(self, value: int, device: torch.device) -> Tensor:
        if device not in self._free:
            zeros = torch.zeros(self._sizes[device], dtype=torch.float64, device=device)
            self._free[device] = iter(zeros.unbind())
        count = next(self._free[device])
        if value:
            count.fill_(value)
        return count


def _make_plan(
    optimizer: FusedOptimizer, device: torch.device, specs: list[ParamSpec]
) -> tuple[AnyPlan, list[tuple[int, int, Tensor]], list[tuple[Tensor, Tensor]]]:
    """The plan, (group, hyper, tensor) for each tensor that the host reads at each step, and (copy, tensor) for each
    on a GPU that the kernels cannot read: of another dtype, or on another GPU."""
    groups: list[tuple[list[tuple[Any, Tensor | None]], list[float]]] = []
    reads: list[tuple[int, int, Tensor]] = []
    conversions: list[tuple[Tensor, Tensor]] = []
    backend = _backend.backend_for(device)
    reference = backend == "reference"
    for i, group in enumerate(optimizer.param_groups):
        hypers: list[tuple[Any, Tensor | None]] = []
        for k, hyper in enumerate(optimizer._hypers):
            value, schedule = hyper.of(group), hyper.schedule_of(group)
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
    extension: Any = _backend.load()
    average = _average_of(optimizer, device)
    plan = extension.Plan(
        optimizer._algorithm,
        backend,
        clock,
        groups,
        specs,
        optimizer._has_step,
        average,
        optimizer._rounding_seed,
        clipping.for_plan(optimizer, device),
    )
    return plan, reads, conversions


def _average_of(optimizer: FusedOptimizer, device: torch.device) -> tuple[Any, bool, Tensor] | None:
    """What the averages go by (weight, is_mean, count), or None."""
    if optimizer.average is None:
        return None
    if isinstance(optimizer.average, EMA):
        return 1.0 - optimizer.average.decay, False, optimizer._count_on(device)
    schedule = schedule_of(optimizer)
    assert schedule is not None  # checked before
    return schedule._compiled_cycle_ends, True, optimizer._count_on(device)


def set_numbers(optimizer: FusedOptimizer) -> None:
    """Hands the groups' plain numbers to the plans."""
    for i, group in enumerate(optimizer.param_groups):
        for k, hyper in enumerate(optimizer._hypers):
            value = hyper.of(group)
            if isinstance(value, Real):
                for plan in optimizer._plans:
                    plan.set_number(i, k, float(value))
    optimizer._changes.numbers = False


def take_step(optimizer: FusedOptimizer) -> bool:
    """One step, unless something is not as it was when the plans were made: then nothing is done."""
    if optimizer._changes.numbers:
        set_numbers(optimizer)
    for plan, group, hyper, tensor in optimizer._host_reads:
        plan.set_number(group, hyper, float(tensor))
    for converted, tensor in optimizer._conversions:
        converted.copy_(tensor.detach())
    scale, found_inf = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    plans = optimizer._plans
    scales = None if scale is None else [on_device(scale, plan) for plan in plans]
    founds = None if found_inf is None else [on_device(found_inf, plan) for plan in plans]
    return optimizer._step_plans(optimizer._membership, optimizer._param_groups, plans, scales, founds)


def _step_with_reference(membership: Any, groups: Any, plans: list[AnyPlan], scales: Any, founds: Any) -> bool:
    """As the extension's step(), with plans of which the reference has some or all."""
    nothing = [None] * len(plans)
    steps = [*zip(plans, scales or nothing, founds or nothing, strict=True)]
    if membership is not None:
        native = [step for step in steps if not isinstance(step[0], ReferencePlan)]
        lists = [[*column] for column in zip(*native, strict=True)] or [[], None, None]
        if not _backend.load().step(membership, groups, *lists):
            return False
    for plan, scale, found_inf in steps:
        if isinstance(plan, ReferencePlan):
            plan.run(scale, found_inf)
    return True


def on_device(value: Any, plan: AnyPlan) -> Tensor | None:
    """GradScaler's scale or its found_inf, which it keeps on one device, on the plan's."""
    if isinstance(value, Real):  # found_inf is the int 0 where no parameter has a gradient
        return torch.tensor(float(value), dtype=torch.float32, device=plan.device)
    if value is None or (value.device == plan.device and value.dtype == torch.float32):
        return value
    return value.to(device=plan.device, dtype=torch.float32)
