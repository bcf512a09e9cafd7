"""A step by the reference, where there is no extension."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .._native import backends
from ..averages import EMA
from . import clipping
from .cycles import schedule_of
from .param_state import ParamSpec, memory_of, reference_state
from .plan import GroupSpec, Pending, Plan, store
from .session import Session


def _joined(spec: ParamSpec) -> Tensor:
    """The parameter with its remainder, in the type of the arithmetic."""
    return _widened(spec.memory) if spec.remainder is None else reference.join(spec.memory, spec.remainder)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


class ReferencePlan:
    """A plan that updates by the reference. It is made anew, with all checks, at each step."""

    captured = False

    def __init__(self, session: Session, clock: Tensor, groups: list[GroupSpec], specs: list[ParamSpec]) -> None:
        self.device = clock.device
        self._session = weakref.ref(session)  # weak, because the session holds this plan
        self._clock, self._groups, self._specs = clock, groups, specs
        self._numbers: dict[tuple[int, int], float] = {}

    def set_number(self, group: int, hyper: int, value: float) -> None:
        self._numbers[group, hyper] = value

    @torch.no_grad()
    def run(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        session = self._session()
        assert session is not None  # it is calling us
        updated = [(spec, memory_of(grad)) for spec in self._specs if (grad := spec.param.grad) is not None]
        unscaled = [_unscaled(spec.memory, grad, grad_scale) for spec, grad in updated]
        clipped = clipping.by_reference(session.options, session.measured, unscaled, self.device, found_inf)
        if clipped is None:
            return
        clock = int(self._clock)
        hypers = [
            [
                self._numbers.get((i, k), value) if isinstance(value, float) else value(clock)
                for k, (value, _) in enumerate(group.hypers)
            ]
            for i, group in enumerate(self._groups)
        ]
        weight = self._average_weight(session, clock)
        for (spec, stored), grad, used in zip(updated, unscaled, clipped, strict=True):
            if grad_scale is not None:
                stored.copy_(grad)
            self._update(session, spec, used, hypers[spec.group])
        for spec in self._specs:
            if weight and spec.average is not None:
                reference.average(spec.average, _joined(spec), weight)
        if weight:
            session.counts.on(self.device).data.add_(1)
        self._clock.data.add_(1)
        self.show()

    def _update(self, session: Session, spec: ParamSpec, grad: Tensor, hypers: list[float]) -> None:
        algorithm, group, seed = session.algorithm, session.groups[spec.group], session.rounding_seed
        same = all(state.dtype == spec.memory.dtype for state in spec.states)
        if same and spec.remainder is None and seed is None:
            algorithm.reference_update(spec.memory, grad, reference_state(algorithm, spec, group), hypers, group)
            return
        states = [_widened(state) for state in spec.states]
        wide = dataclasses.replace(spec, memory=_joined(spec).clone(), states=states)
        algorithm.reference_update(wide.memory, grad, reference_state(algorithm, wide, group), hypers, group)
        stored = [*zip((spec.memory, *spec.states), (wide.memory, *wide.states), strict=True)]
        for operand, (to, value) in enumerate(stored):
            if operand == 0 and spec.remainder is not None:
                value, remainder = reference.split(value, to.dtype)
                spec.remainder.copy_(remainder)
            elif to.dtype == torch.bfloat16 and seed is not None:
                bits = reference.random_bits(spec.memory, operand, seed, int(self._clock), spec.index)
                value = reference.round_stochastically(value, bits)
            to.copy_(value)

    def _average_weight(self, session: Session, clock: int) -> float:
        """How far this step moves the averages."""
        average = session.options["average"]
        if average is None:
            return 0.0
        count = int(session.counts.on(self.device))
        if isinstance(average, EMA):
            weight = average._weight
            now = weight if isinstance(weight, float) else weight(clock)
            return now if count or not now else 1.0
        schedule = schedule_of(session.groups)
        assert schedule is not None  # checked where this was made
        return 1.0 / (count + 1) if schedule.is_cycle_end(clock) else 0.0

    def show(self) -> None:
        clock = int(self._clock)
        for group in self._groups:
            for value, display in group.hypers:
                if display is not None:
                    display.data.fill_(value(clock))


def step_with_reference(
    membership: Any,
    groups: list[dict[str, Any]],
    plans: list[Plan],
    scales: list[Tensor | None] | None,
    founds: list[Tensor | None] | None,
    pending: Pending,
) -> bool:
    """Does what the extension's step() does, where some or all plans are the reference's."""
    nothing: list[Tensor | None] = [None] * len(plans)
    steps = [*zip(plans, scales or nothing, founds or nothing, strict=True)]
    native = [step for step in steps if not isinstance(step[0], ReferencePlan)]
    if native:
        extension: Any = backends.load()
        if not extension.step(membership, groups, *([*column] for column in zip(*native, strict=True)), []):
            return False
    for plan, scale, found_inf in steps:
        if isinstance(plan, ReferencePlan):
            plan.run(scale, found_inf)
    store(pending)
    return True


def _unscaled(param: Tensor, grad: Tensor, grad_scale: Tensor | None) -> Tensor:
    if grad_scale is not None:
        return _widened(grad) / grad_scale
    return grad if grad.dtype == param.dtype else _widened(grad)
