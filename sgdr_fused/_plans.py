"""From an optimizer's groups and state to the plans that take its steps, one per device.

A plan has ``valid()``: whether all that it was made from is as it was; ``run(grad_scale, found_inf)``:
one step; ``show()``: recompute the displays; ``set_number(group, hyper, value)``; ``captured``; ``device``.
The C++ extension has one; ReferencePlan is the other.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from . import _backend, _checks
from ._tracked import ParamState

if TYPE_CHECKING:
    from ._optimizer import FusedOptimizer

AnyPlan: TypeAlias = Any

# The storage that kernels exist for: the parameter's, and then its states'.
STATE_DTYPES = {
    torch.float32: (torch.float32,),
    torch.float64: (torch.float64,),
    torch.bfloat16: (torch.bfloat16, torch.float32),
    torch.float16: (torch.float16, torch.float32),
}


class ParamSpec(NamedTuple):
    """What a plan knows of a parameter."""

    param: Tensor
    group: int
    active: bool  # may get a gradient: has its state
    grad: Tensor | None
    states: list[Tensor]
    steps: Tensor | None  # 0-dim float64: updates behind it


# ---- checks


def listed(params: Any) -> list[Any]:
    """The entry "params" of a group as a list; its elements are not looked at."""
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, set) or not isinstance(params, Iterable):
        raise TypeError(f"params must be an ordered collection of tensors, got {params!r}")
    return list(params)


def check_params(params: list[Any], taken: set[Tensor]) -> None:
    """Raises for what cannot be optimized, and for a parameter that stands here or in `taken` already."""
    seen: set[Tensor] = set()
    for i, item in enumerate(params):
        param = item[1] if isinstance(item, tuple) else item
        name = f"params[{i}]"
        if not isinstance(param, Tensor):
            raise TypeError(f"{name} must be a tensor, got {param!r}")
        described = f"{name} of shape {tuple(param.shape)}, {param.dtype}"
        if param in seen or param in taken:
            where = "twice in this group" if param in seen else "in another group already"
            raise ValueError(f"{described} is {where}: a parameter may be given once")
        seen.add(param)
        if not (param.is_leaf or param.retains_grad):
            raise ValueError(f"{described} must be a leaf tensor, got the result of {param.grad_fn}")
        check_param(param, described)


def check_param(param: Tensor, described: str) -> None:
    if is_traceable_wrapper_subclass(param):
        raise TypeError(f"{described} is a {type(param).__name__}, whose memory the kernels cannot reach")
    if param.layout != torch.strided:
        raise TypeError(f"{described} must be dense, got layout {param.layout}")
    if param.dtype not in STATE_DTYPES:
        allowed = ", ".join(str(dtype) for dtype in STATE_DTYPES)
        raise TypeError(f"{described} must be one of {allowed}, got {param.dtype}")
    if _overlaps(param):
        raise ValueError(f"{described} has elements that share memory: strides {param.stride()}")


def check_grad(param: Tensor, grad: Tensor, name: str) -> None:
    described = f"the gradient of {name} (shape {tuple(param.shape)}, {param.dtype}, {param.device})"
    if grad.layout != torch.strided:
        raise RuntimeError(f"{described} must be dense, got layout {grad.layout}: sparse gradients are not supported")
    if grad.dtype != param.dtype:
        raise TypeError(f"{described} must have the parameter's dtype, got {grad.dtype}")
    if grad.device != param.device:
        raise ValueError(f"{described} must be on the parameter's device, got {grad.device}")
    if grad.shape != param.shape:
        raise ValueError(f"{described} must have the parameter's shape, got {tuple(grad.shape)}")
    if is_traceable_wrapper_subclass(grad):
        raise TypeError(f"{described} is a {type(grad).__name__}, whose memory the kernels cannot reach")
    if _overlaps(grad):
        raise ValueError(f"{described} has elements that share memory: strides {grad.stride()}")


def check_state(param: Tensor, key: str, value: Any, name: str) -> None:
    described = f"state[{key!r}] of {name} (shape {tuple(param.shape)}, {param.dtype}, {param.device})"
    if not isinstance(value, Tensor):
        raise TypeError(f"{described} must be a tensor, got {value!r}")
    if value.shape != param.shape or value.layout != torch.strided:
        raise ValueError(f"{described} must be dense and of the parameter's shape, got {tuple(value.shape)}")
    if value.dtype not in STATE_DTYPES[param.dtype]:
        allowed = " or ".join(str(dtype) for dtype in STATE_DTYPES[param.dtype])
        raise TypeError(f"{described} must be {allowed}, got {value.dtype}")
    if _overlaps(value):
        raise ValueError(f"{described} has elements that share memory: strides {value.stride()}")


def _overlaps(tensor: Tensor) -> bool:
    """Whether two indices may mean one element."""
    if tensor.is_contiguous() or tensor.numel() == 0:
        return False
    extent = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= extent:
                return True
            extent += stride * (size - 1)
    return False


def _check_apart(params: list[Tensor]) -> None:
    """Raises for two parameters that are views of the same elements: each would undo the other's step."""
    spans = sorted(
        (str(p.device), p.data_ptr(), p.data_ptr() + p.numel() * p.element_size(), tuple(p.shape))
        for p in params
        if p.numel() > 0 and torch._debug_has_internal_overlap(p) == 0
    )
    for (device, _, end, shape), (next_device, begin, _, next_shape) in zip(spans, spans[1:], strict=False):
        if device == next_device and begin < end:
            raise ValueError(f"params of shapes {shape} and {next_shape} on {device} share memory")


# ---- building


def rebuild(optimizer: FusedOptimizer) -> None:
    """Checks everything, makes the states that are missing, and makes the plans anew.

    Raises, with nothing changed, where a step cannot be taken.
    """
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
    _check_apart(params)
    _check_displays(groups)

    new_states: list[tuple[Tensor, ParamState]] = []
    specs: dict[torch.device, list[ParamSpec]] = {optimizer._first_device(): []}
    counts = _Counts(params)
    with torch.inference_mode(False), torch.no_grad():
        for i, group in enumerate(groups):
            names = optimizer._state_names(group)
            for k, param in enumerate(group["params"]):
                spec, state = _param_spec(optimizer, param, i, names, counts, f"parameter {k} of group {i}")
                specs.setdefault(param.device, []).append(spec)
                if state is not None:
                    new_states.append((param, state))

    optimizer._clocks = {device: optimizer._clock_on(device) for device in specs}
    plans, host_reads, conversions = [], [], []
    for device, device_specs in specs.items():
        plan, reads, converted = _make_plan(optimizer, device, device_specs)
        if not plan.valid():  # which also collects the gradients
            raise RuntimeError(f"the gradients on {device} changed while the step was prepared")
        plans.append(plan)
        host_reads += [(plan, *read) for read in reads]
        conversions += converted

    for param, state in new_states:
        dict.__setitem__(optimizer.state, param, state)
    optimizer._captured_plans += [plan for plan in optimizer._plans if plan.captured]
    optimizer._plans, optimizer._host_reads, optimizer._conversions = plans, host_reads, conversions
    extension = _backend.load()
    optimizer._membership = _Unknown() if extension is None else extension.Membership(groups)
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
    optimizer: FusedOptimizer, param: Tensor, group: int, names: tuple[str, ...], counts: _Counts, name: str
) -> tuple[ParamSpec, ParamState | None]:
    """The spec, and the state with what was missing in it, or None where nothing was."""
    check_param(param, name)
    grad = param.grad
    if grad is not None:
        check_grad(param, grad, name)
    if not names:
        return ParamSpec(param, group, True, grad, [], None), None
    old = dict.get(optimizer.state, param)
    present = [key for key in names if old is not None and old.get(key) is not None]
    if grad is None and not present:
        return ParamSpec(param, group, False, None, [], None), None
    if present and len(present) < len(names):
        raise ValueError(f"state of {name} has {present} but lacks {sorted(set(names) - set(present))}")

    state = ParamState(optimizer._changes, old or {})
    for key in names:
        if not present:
            dict.__setitem__(state, key, new_state(optimizer, optimizer.param_groups[group], param, key))
        check_state(param, key, state[key], name)
        if state[key].device != param.device:
            raise ValueError(f"state[{key!r}] of {name} must be on {param.device}, got {state[key].device}")
    states = [state[key] for key in names]
    if len({s.dtype for s in states}) > 1:
        raise TypeError(f"state of {name} must have one dtype, got {[str(s.dtype) for s in states]}")

    steps: Any = state.get("step") if optimizer._has_step else getattr(old, "steps", None)
    if steps is None:
        if optimizer._has_step and present:
            raise ValueError(f"state of {name} has {present} but lacks 'step'")
        steps = 1 if present else 0  # a buffer that came from elsewhere has its first step behind it
    fits = isinstance(steps, Tensor) and (steps.dtype, steps.device, steps.dim()) == (torch.float64, param.device, 0)
    if not fits:
        count = _checks.count(f"state['step'] of {name}", steps)
        if optimizer._has_step:
            steps = torch.tensor(count, dtype=torch.float64, device=param.device)
        else:
            steps = counts.take(count, param.device)
    state.steps = steps
    if optimizer._has_step:
        dict.__setitem__(state, "step", steps)
    unchanged = old is not None and old.steps is steps and all(old.get(key) is state[key] for key in state)
    return ParamSpec(param, group, True, grad, states, steps), None if unchanged else state


def new_state(optimizer: FusedOptimizer, group: dict[str, Any], param: Tensor, name: str) -> Tensor:
    return torch.full_like(param, optimizer._initial_value(group, name), memory_format=torch.preserve_format)


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


class _Unknown:
    """Stands for the extension's Membership on the reference, which looks at everything at each step."""

    def unchanged(self, param_groups: Any) -> bool:
        return False


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
    plan = extension.Plan(optimizer._algorithm, backend, clock, groups, specs, optimizer._has_step)
    return plan, reads, conversions


def set_numbers(optimizer: FusedOptimizer) -> None:
    """Hands the groups' plain numbers to the plans."""
    for i, group in enumerate(optimizer.param_groups):
        for k, hyper in enumerate(optimizer._hypers):
            value = hyper.of(group)
            if isinstance(value, Real):
                for plan in optimizer._plans:
                    plan.set_number(i, k, float(value))
    optimizer._changes.numbers = False


def on_device(value: Tensor | None, plan: AnyPlan) -> Tensor | None:
    """GradScaler's scale or its found_inf, which it keeps on one device, on the plan's."""
    if value is None or (value.device == plan.device and value.dtype == torch.float32):
        return value
    return value.to(device=plan.device, dtype=torch.float32)


class ReferencePlan:
    """A plan that updates by reference.py. It is made anew, with all checks, at each step."""

    captured = False

    def __init__(self, optimizer: FusedOptimizer, clock: Tensor, groups: list[Any], specs: list[ParamSpec]) -> None:
        self.device = clock.device
        self._optimizer = weakref.ref(optimizer)  # which holds us
        self._clock, self._groups, self._specs = clock, groups, specs
        self._numbers: dict[tuple[int, int], float] = {}

    def valid(self) -> bool:
        return True

    def set_number(self, group: int, hyper: int, value: float) -> None:
        self._numbers[group, hyper] = value

    @torch.no_grad()
    def run(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        if found_inf is not None and float(found_inf) != 0:
            return
        clock = int(self._clock)
        hypers = [
            [
                self._numbers.get((i, k), value) if isinstance(value, float) else value(clock)
                for k, (value, _) in enumerate(values)
            ]
            for i, (values, _) in enumerate(self._groups)
        ]
        optimizer = self._optimizer()
        assert optimizer is not None  # it is what calls us
        for spec in self._specs:
            grad = spec.param.grad
            if grad is None:
                continue
            if grad_scale is not None:
                unscaled = grad.to(torch.promote_types(grad.dtype, torch.float32)) / grad_scale
                grad.copy_(unscaled)
                grad = unscaled
            optimizer._reference_update(spec, grad, hypers[spec.group], optimizer.param_groups[spec.group])
        self._clock.data.add_(1)
        self.show()

    def show(self) -> None:
        clock = int(self._clock)
        for hypers, _ in self._groups:
            for value, display in hypers:
                if display is not None:
                    display.data.fill_(value(clock))
