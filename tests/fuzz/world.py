"""One optimizer, what its user expects of it, and the comparison of the two.

Beside ours runs torch's own for-loop, in float64 and fed with plain numbers: its groups are made anew before each step
from what the user has put into ours. It starts each step from what ours holds, so that errors do not add up and the
bound is that of one step; from the same place starts the second oracle, the reference.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import DEVICE, NUMBERS, Case, assert_within, make_params, one_step_tolerance, values
from torch import Tensor
from torch.nn import Parameter

from sgdr_fused.schedules import Schedule

SHAPES = ((3,), (2, 3), (), (5, 2), (0,), (2, 3, 2, 2), (17,))
EVERY_SCHEDULABLE = ("lr", "momentum", "betas", "weight_decay")


def as_double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double().clone()


def shows(shown: Any, number: float) -> bool:
    """Exactly; but a GPU's cosine may differ from the host's in the last place."""
    return float(shown) == number or (DEVICE.type == "cuda" and abs(float(shown) - number) <= 1e-12 * abs(number))


def same_values(a: Tensor, b: Tensor) -> bool:
    """Bit for bit but for the sign of zero, and a NaN for a NaN: states may be edited to what no training makes."""
    a = a.detach().cpu().double()
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


@dataclasses.dataclass(eq=False)
class GroupModel:
    """A group as its user sees it: numbers, tensors and Schedules under the names that they were given."""

    params: list[Parameter]
    values: dict[str, Any]
    warned: bool | None = False  # that a number replaced a Schedule; None where that is not known
    user_dicts: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # that stand for it, as in torch
    put_in: bool = False  # a plain dict that no step has seen yet

    def schedule(self, key: str) -> Schedule | None:
        value = self.values[key]
        first = value[0] if isinstance(value, tuple) else value
        return first if isinstance(first, Schedule) else None

    def numbers(self, clock: int) -> dict[str, Any]:
        return {key: _number(value, clock) for key, value in self.values.items()}


def _number(value: Any, clock: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_number(v, clock) for v in value)
    if isinstance(value, Schedule):
        return value(clock)
    return float(value) if isinstance(value, Tensor) else value


def _has(group: dict[str, Any], param: Parameter) -> bool:
    return any(each is param for each in group["params"])


class World:
    """See the module."""

    def __init__(self, case: Case, sizes: list[list[int]], dtype: torch.dtype, lr: Any, by_dicts: bool) -> None:
        self.case, self.dtype, self.clock = case, dtype, 0
        self.made = 0
        self.mirror: dict[Parameter, Parameter] = {}
        self.displays: list[tuple[str, Any, Schedule]] = []
        self.groups: list[GroupModel] = []
        parts = [[self.new_param(size) for size in group] for group in sizes]
        given: Any = [{"params": list(params)} for params in parts] if by_dicts else parts[0]
        self.opt: Any = case.fused(given, lr=lr)
        theirs = [self.mirror[p] for p in self.mirror]
        self.twin: Any = case.torch(theirs, lr=0.1, foreach=False)
        self.constants = {
            key: value
            for key, value in self.twin.param_groups[0].items()
            if key not in (*EVERY_SCHEDULABLE, "params", "foreach", "fused", "capturable", "differentiable")
        }
        self.keys = tuple(key for key in EVERY_SCHEDULABLE if key in self.twin.defaults)
        self.defaults = {**{key: self.twin.defaults[key] for key in self.keys}, "lr": lr, **self.constants}
        for i, params in enumerate(parts if by_dicts else parts[:1]):
            self.groups.append(GroupModel(list(params), dict(self.defaults), user_dicts=given[i : i + 1] * by_dicts))
        self.remember_displays()

    # ---- parts

    def new_param(self, shape: int, dtype: torch.dtype | None = None) -> Parameter:
        size = SHAPES[shape % len(SHAPES)]
        self.made += 1
        (param,) = make_params([size], dtype or self.dtype, seed=self.made)
        param.grad_dtype = None  # any
        if len(size) == 4:
            param.data = param.data.to(memory_format=torch.channels_last)
        elif len(size) == 2 and self.made % 2:
            param.data = param.data.t().contiguous().t()
        self.mirror[param] = Parameter(as_double(param))
        return param

    def random(self, param: Tensor) -> Tensor:
        """Numbers that no other call gives, with the parameter's dtype and layout."""
        self.made += 1
        return torch.empty_like(param.detach()).copy_(values(param.shape, 1000 + self.made))

    @property
    def params(self) -> list[Parameter]:
        return [p for group in self.groups for p in group.params]

    def param(self, index: int) -> Parameter | None:
        params = self.params
        return params[index % len(params)] if params else None

    def group(self, index: int) -> tuple[int, GroupModel] | None:
        if not self.groups:
            return None
        return index % len(self.groups), self.groups[index % len(self.groups)]

    def expected_state(self, param: Parameter) -> dict[str, Any]:
        """What torch's optimizer holds for it; an empty dict without anything."""
        return self.twin.state.get(self.mirror[param], {})

    def unread(self, param: Parameter) -> tuple[str, ...]:
        """What of its state no step looks at: the buffer that an earlier momentum has left, where it is 0 now."""
        zero = any(group.get("momentum", 1) == 0 for group in self.opt.param_groups if _has(group, param))
        return ("momentum_buffer",) if zero else ()

    def remember_displays(self) -> None:
        """Keeps the displays, so that they can be put back after something else has replaced them."""
        for ours, group in zip(self.opt.param_groups, self.groups, strict=True):
            for key in self.keys:
                schedule = group.schedule(key)
                if schedule is not None and not group.put_in and isinstance(ours[key], (Tensor, tuple)):
                    kept = (key, ours[key], schedule)
                    if not any(kept[1] is old[1] for old in self.displays):
                        self.displays.append(kept)
        del self.displays[:-6]

    # ---- what is refused

    def refused(self, *errors: type[Exception]) -> Any:
        """The block raises; that it changes nothing is what the comparison after every action finds."""
        return pytest.raises(errors or (ValueError, TypeError))

    def warnings_of(self, action: Callable[[], Any]) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            action()
        return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]

    # ---- the step

    def step(self, scale: float | None = None, found_inf: float | None = None, run: Any = None) -> None:
        """One step of each, from the same place; `run(step)` takes ours in another way than by `step()`."""
        if scale is not None:
            self.opt.grad_scale = torch.tensor(scale, device=DEVICE)
        if found_inf is not None:
            self.opt.found_inf = torch.tensor(found_inf, device=DEVICE)
        given = {p: as_double(p.grad) / scale for p in self.params if p.grad is not None} if scale else {}
        (run or operator.methodcaller("step"))(self.opt)
        for name in ("grad_scale", "found_inf"):
            if name in self.opt.__dict__:
                delattr(self.opt, name)
        for group in self.groups:
            group.put_in = False
        if found_inf:
            return
        gradients = given or {p: as_double(p.grad) for p in self.params if p.grad is not None}
        before = {p: self._values_of(p) for p in gradients}
        referred = self._reference_step(before, gradients)
        self._twin_step(gradients)
        for p, old in before.items():
            self._compare_step(p, old, referred[p], gradients[p])
        self.clock += 1
        self.remember_displays()

    def _values_of(self, param: Parameter) -> dict[str, Tensor]:
        state = {key: value for key, value in self.expected_state(param).items() if isinstance(value, Tensor)}
        return {"param": as_double(self.mirror[param]), **{key: as_double(value) for key, value in state.items()}}

    def _twin_step(self, gradients: dict[Parameter, Tensor]) -> None:
        self.twin.param_groups = [
            {**self.constants, **group.numbers(self.clock), "params": [self.mirror[p] for p in group.params]}
            | dict.fromkeys(("fused", "foreach", "capturable", "differentiable"), False)
            for group in self.groups
        ]
        for p in self.params:
            self.mirror[p].grad = gradients.get(p)
        self.twin.step()

    def _reference_step(self, before: dict[Any, dict[str, Tensor]], gradients: dict[Any, Tensor]) -> dict[Any, Any]:
        after = {}
        takes = inspect.signature(self.case.algorithm.reference).parameters
        for group in self.groups:
            numbers = {key: value for key, value in group.numbers(self.clock).items() if key in takes}
            for p in group.params:
                if p not in before:
                    continue
                new = {key: value.clone() for key, value in before[p].items()}
                param = new.pop("param")
                self.case.reference(param, gradients[p], new, **numbers)
                after[p] = {"param": param, **new}
        return after

    def _compare_step(self, p: Parameter, old: dict[str, Tensor], referred: dict[str, Tensor], grad: Tensor) -> None:
        group = next(g for g in self.groups if any(p is q for q in g.params))
        numbers = {key: abs(v) if isinstance(v, float) else v for key, v in group.numbers(self.clock).items()}
        hyper = {**self.case.algorithm.defaults, **self.case.hyper, **numbers}
        new = self._values_of(p)
        taken = int(new["step"]) if "step" in new else 1
        operands = self.case.algorithm.largest_operand(hyper, hyper["lr"], old, grad.abs(), new, taken)
        ours = {"param": p, **self.opt.state.get(p, {})}
        for key, expected in new.items():
            if key in NUMBERS:
                assert abs(float(ours[key]) - float(expected)) <= 1e-12 * abs(float(expected)), f"{key} of {p.shape}"
            else:
                operand = operands.get(key, expected.abs())
                tolerance = one_step_tolerance(expected, operand, p.dtype)
                what = f"{key} of {tuple(p.shape)} after {self.clock + 1} steps"
                _assert_within(ours[key], expected, tolerance, what)
                if key in referred:
                    _assert_within(ours[key], referred[key], tolerance, f"{what}, by the reference")
        with torch.no_grad():  # from here on, both go on from where ours is
            self.mirror[p].copy_(as_double(p))
            for key, value in self.expected_state(p).items():
                value.copy_(as_double(ours[key]))

    # ---- what is seen between steps

    def check(self) -> None:
        assert int(self.opt.clock) == self.clock
        assert len(self.opt.param_groups) == len(self.groups)
        for i, (ours, group) in enumerate(zip(self.opt.param_groups, self.groups, strict=True)):
            assert [id(p) for p in ours["params"]] == [id(p) for p in group.params], f"params of group {i}"
            if not group.put_in:
                self._check_entries(i, ours, group)
        for p, mirrored in self.mirror.items():
            assert same_values(p, mirrored.detach()), f"the parameter of shape {tuple(p.shape)} has changed"
            self._check_state(p)

    def _check_entries(self, i: int, ours: dict[str, Any], group: GroupModel) -> None:
        for key in self.keys:
            schedule = group.schedule(key)
            assert ours.get(f"{key}_schedule") == schedule, f"{key}_schedule of group {i}"
            seen, wanted = ours[key], group.values[key]
            if not isinstance(wanted, tuple):
                seen, wanted = (seen,), (wanted,)
            for shown, value in zip(seen, wanted, strict=True):
                number = _number(value, self.clock)
                assert shows(shown, number), f"{key} of group {i} shows {float(shown)!r}, not {number!r}"
                if isinstance(value, Schedule):
                    assert shown.shape == () and shown.dtype == torch.float64
                elif isinstance(value, Tensor):
                    assert shown is value, f"{key} of group {i} is another tensor"
        for key in self.constants:
            assert ours[key] == group.values[key], f"{key} of group {i}"

    def _check_state(self, p: Parameter) -> None:
        expected = self.expected_state(p)
        state = self.opt.state.get(p, {})
        if not expected:  # a step that was skipped may have made what no step has written
            assert all(float(value.abs().sum()) == 0.0 for key, value in state.items() if key != "mu_product"), state
            return
        assert set(state) >= set(expected), f"the state of shape {tuple(p.shape)} has {sorted(state)}"
        for key, value in expected.items():
            assert same_values(torch.as_tensor(state[key]), value.double()), f"{key} of shape {tuple(p.shape)}"

    # ---- another optimizer takes its place

    def replace(self, opt: Any, params: list[Parameter] | None = None) -> None:
        """From here on this optimizer is ours, with these parameters in the place of those in the groups."""
        if params is not None:
            moved = dict(zip(self.params, params, strict=True))
            for old, new in moved.items():
                new.grad_dtype = None
                self.mirror[new] = self.mirror.pop(old)
            for outside in [p for p in self.mirror if p not in set(params)]:  # the copy has not heard of them
                self.twin.state.pop(self.mirror.pop(outside), None)
            for group in self.groups:
                group.params = [moved[p] for p in group.params]
        for group in self.groups:
            group.warned, group.user_dicts, group.put_in = None, [], False
        self.opt = opt
        self.displays.clear()
        self.remember_displays()


def rebuilt(mapping: Any) -> Any:
    """Rebuilds a container as frameworks do: by its type, from an OrderedDict of the items."""
    return type(mapping)(OrderedDict(mapping))


def _assert_within(actual: Tensor, expected: Tensor, tolerance: Tensor, what: str) -> None:
    """assert_within, except that a NaN is right where a NaN is expected."""
    actual = actual.detach().cpu().double()
    both = actual.isnan() & expected.isnan()
    assert_within(
        actual.masked_fill(both, 0.0), expected.masked_fill(both, 0.0), tolerance.masked_fill(both, 0.0), what
    )
