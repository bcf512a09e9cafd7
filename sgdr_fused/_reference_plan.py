"""A step by reference.py, where there is no extension."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import reference
from ._cycle_ends import schedule_of
from ._param_checks import ParamSpec
from .averages import EMA

if TYPE_CHECKING:
    from ._optimizer import FusedOptimizer


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
        weight = self._average_weight(optimizer, clock)
        for spec in self._specs:
            grad = spec.param.grad
            if grad is not None:
                self._update(optimizer, spec, grad, grad_scale, hypers[spec.group])
            if weight and spec.average is not None:
                reference.average(spec.average, spec.param, weight)
        if weight:
            optimizer._count_on(self.device).data.add_(1)
        self._clock.data.add_(1)
        self.show()

    def _update(
        self,
        optimizer: FusedOptimizer,
        spec: ParamSpec,
        grad: Tensor,
        grad_scale: Tensor | None,
        hypers: list[float],
    ) -> None:
        if grad_scale is not None:
            unscaled = grad.to(torch.promote_types(grad.dtype, torch.float32)) / grad_scale
            grad.copy_(unscaled)
            grad = unscaled
        optimizer._reference_update(spec, grad, hypers, optimizer.param_groups[spec.group])

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
