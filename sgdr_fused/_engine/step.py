"""Taking a step: with the plans that there are, or with new ones where something has changed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from . import build_plan, states_only
from .param_groups import Group
from .plan import Built, Plan
from .session import Session
from .step_op import StepOp, is_traced

# A step takes a second build where something has changed, and more where signal handlers change things meanwhile.
_MOST_BUILDS = 100


def take_step(session: Session, owner: object, closure: Callable[[], Any] | None = None) -> Any:
    """Takes one step, and returns what the closure returned.

    Args:
        owner: the optimizer, on which a GradScaler leaves ``grad_scale`` and ``found_inf``, and which hooks get.
    """
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    if is_traced():
        _operator()(session, owner)
        return loss
    host_clock = session.host_clock
    if host_clock.watches:
        host_clock.before_step(session, getattr(owner, "found_inf", None) is not None)
    built = session.built
    if built.seen is not session.changes.plan:
        built = _rebuild(session)
        if states_only.asked():
            host_clock.forget()
            built.store_states(as_stepped=True)
            return loss
    try:
        if not _step_with(built, session, owner):
            built = _step_anew(session, owner)
    except BaseException:
        session.changes.note()  # the states that were made for this step are made anew
        raise
    if built.made_for is not session.changes.plan:  # a signal handler has assigned something in the middle of the step
        session.show_all()
    if host_clock.watches:
        host_clock.after_step(session, owner)
    return loss


@functools.cache
def _operator() -> StepOp:
    return StepOp(take_step)


def _step_anew(session: Session, owner: object) -> Built:
    for _ in range(_MOST_BUILDS):
        built = _rebuild(session)
        if _step_with(built, session, owner):
            return built
    raise RuntimeError("the parameters, gradients or groups changed each time that the step was prepared")


def _rebuild(session: Session) -> Built:
    new = build_plan.build(session)
    session.let_go_of_plans()
    session.built = new
    return new


def _step_with(built: Built, session: Session, owner: object) -> bool:
    """Takes a step with these plans; where something is not as it was when they were made, nothing is done."""
    if (built.needs_upkeep or built.numbers_seen is not session.changes.numbers) and not _kept_up(built, session):
        return False
    scale, found_inf = getattr(owner, "grad_scale", None), getattr(owner, "found_inf", None)
    scales = None if scale is None else [_on_device("grad_scale", scale, plan) for plan in built.plans]
    founds = None if found_inf is None else [_on_device("found_inf", found_inf, plan) for plan in built.plans]
    makes_states = bool(built.pending)
    taken = built.step(built.membership, session.groups, built.plans, scales, founds, built.pending)
    if makes_states and taken and built.membership is not None:
        built.made_for = built.membership.seen  # storing the states was a change that these plans know of
        built.seen = None if built.seen is None else built.made_for
    return taken


def _kept_up(built: Built, session: Session) -> bool:
    """Hands over what no kernel reads by itself; False where the plans are of no use any more."""
    if not all(param.is_meta for param in built.on_meta):
        return False
    if built.numbers_seen is not session.changes.numbers:
        seen = session.changes.numbers  # before the numbers are read
        _set_numbers(built, session)
        built.numbers_seen = seen
    for plan, group, hyper, tensor in built.host_reads:
        plan.set_number(group, hyper, float(tensor))
    for converted, tensor in built.conversions:
        converted.copy_(tensor.detach())
    return built.made_for is session.changes.plan


def _set_numbers(built: Built, session: Session) -> None:
    for i, group in enumerate(session.groups[: built.num_groups]):
        if not isinstance(group, Group):  # the user has put it there: the plans are of no use any more
            return
        for k, hyper in enumerate(session.algorithm.hypers):
            value = hyper.of(group)
            if isinstance(value, Real):
                for plan in built.plans:
                    plan.set_number(i, k, float(value))


def _on_device(name: str, value: Any, plan: Plan) -> Tensor | None:
    """Moves a GradScaler's scale, or its found_inf, to the plan's device.

    The scaler keeps them on one device. Its found_inf is the number 0 where no parameter had a gradient.
    """
    if value is None:
        return None
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value), dtype=torch.float32, device=plan.device)
    _checks.one_value(name, value)
    if value.device == plan.device and value.dtype == torch.float32:
        return value
    return value.to(device=plan.device, dtype=torch.float32)
