"""A step by reference.py, where there is no extension."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import reference
from ..averages import EMA
from . import clipping
from .host_clock import schedule_of
from .validation import ParamSpec

if TYPE_CHECKING:
    from ..optimizers._base import FusedOptimizer


def _joined(spec: ParamSpec) -> Tensor:
    """The parameter with its remainder, in the type of the arithmetic."""
    return _widened(spec.param) if spec.remainder is None else reference.join(spec.param, spec.remainder)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


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
        optimizer = self._optimizer()
        assert optimizer is not None  # it is what calls us
        updated = [(spec, spec.param.grad) for spec in self._specs if spec.param.grad is not None]
        unscaled = [_unscaled(spec.param, grad, grad_scale) for spec, grad in updated]
        clipped = clipping.by_reference(optimizer, unscaled, self.device, found_inf)
        if clipped is None:
            return
        clock = int(self._clock)
        hypers = [
            [
                self._numbers.get((i, k), value) if isinstance(value, float) else value(clock)
                for k, (value, _) in enumerate(values)
            ]
            for i, (values, _) in enumerate(self._groups)
        ]
        weight = self._average_weight(optimizer, clock)
        for (spec, stored), grad, used in zip(updated, unscaled, clipped, strict=True):
            if grad_scale is not None:
                stored.copy_(grad)
            self._update(optimizer, spec, used, hypers[spec.group])
        for spec in self._specs:
            if weight and spec.average is not None:
                reference.average(spec.average, _joined(spec), weight)
        if weight:
            optimizer._count_on(self.device).data.add_(1)
        self._clock.data.add_(1)
        self.show()

    def _update(self, optimizer: FusedOptimizer, spec: ParamSpec, grad: Tensor, hypers: list[float]) -> None:
        group, seed = optimizer._param_groups[spec.group], optimizer._rounding_seed
        same = all(state.dtype == spec.param.dtype for state in spec.states)
        if same and spec.remainder is None and seed is None:
            optimizer._reference_update(spec, grad, hypers, group)
            return
        wide = spec._replace(param=_joined(spec).clone(), states=[_widened(state) for state in spec.states])
        optimizer._reference_update(wide, grad, hypers, group)
        stored = [*zip((spec.param, *spec.states), (wide.param, *wide.states), strict=True)]
        for operand, (to, value) in enumerate(stored):
            if operand == 0 and spec.remainder is not None:
                value, remainder = reference.split(value, to.dtype)
                spec.remainder.copy_(remainder)
            elif to.dtype == torch.bfloat16 and seed is not None:
                bits = reference.random_bits(spec.param, operand, seed, int(self._clock), spec.number)
                value = reference.round_stochastically(value, bits)
            to.copy_(value)

    def _average_weight(self, optimizer: FusedOptimizer, clock: int) -> float:
        """How far this step moves the averages."""
        if optimizer.average is None:
            return 0.0
        count = int(optimizer._count_on(self.device))
        if isinstance(optimizer.average, EMA):
            return 1.0 - optimizer.average.decay if count else 1.0
        schedule = schedule_of(optimizer)
        assert schedule is not None  # checked where this was made
        return 1.0 / (count + 1) if schedule.is_cycle_end(clock) else 0.0

    def show(self) -> None:
        clock = int(self._clock)
        for hypers, _ in self._groups:
            for value, display in hypers:
                if display is not None:
                    display.data.fill_(value(clock))


def _unscaled(param: Tensor, grad: Tensor, grad_scale: Tensor | None) -> Tensor:
    if grad_scale is not None:
        return _widened(grad) / grad_scale
    return grad if grad.dtype == param.dtype else _widened(grad)
