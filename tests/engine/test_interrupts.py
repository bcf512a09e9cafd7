"""A KeyboardInterrupt, or a signal handler, at the lines of the package that an action runs through: see interrupts.py.

In CI at a few lines of each; with SGDR_FUSED_INTERRUPTS=all, which `make test-interrupts` sets, at every one.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import DEVICE
from interrupts import Action, Scenario, Setting, numbers, problems, tensor
from torch.nn import Parameter

from sgdr_fused import EMA, FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts, Triangular

pytestmark = pytest.mark.once

LINES = None if os.environ.get("SGDR_FUSED_INTERRUPTS") == "all" else 8  # of each action and way of interrupting it
ONE, OTHER = CosineWarmRestarts(0.1, T_0=4, eta_min=0.01), Triangular(0.01, 0.05, step_size_up=2)


# ---- where an action starts


def made(
    steps: int = 2, kind: Callable[..., Any] = FusedSGD, hooked: bool = False, **options: Any
) -> Callable[[], Setting]:
    """An optimizer of two groups after that many steps, its next gradients given; and a parameter in no group."""

    def make() -> Setting:
        params = [Parameter(numbers(size, i)) for i, size in enumerate((3, (2, 2), 2))]
        more = {} if kind is FusedAdam else {"momentum": 0.9}
        chosen = {"lr": ONE, **more, **options}
        opt = kind([{"params": params[:1]}, {"params": params[1:2], "lr": 0.05}], **chosen)
        setting = Setting(opt, params)
        if hooked:
            opt.register_cycle_end_hook(lambda opt, index: setting.ended.append(index))
        for step in range(steps):
            setting.give_gradients(step)
            opt.step()
        setting.give_gradients(50)
        setting.more["display"] = opt.param_groups[0]["lr"]
        return setting

    return make


def after(action: Action, make: Callable[[], Setting]) -> Callable[[], Setting]:
    def both() -> Setting:
        setting = make()
        action(setting)
        return setting

    return both


def first_group(setting: Setting) -> Any:
    return setting.opt.param_groups[0]


def first_state(setting: Setting) -> Any:
    return setting.opt.state[setting.params[0]]


# ---- actions


def step(setting: Setting) -> None:
    setting.opt.step()


def step_with_closure(setting: Setting) -> None:
    setting.opt.step(lambda: setting.give_gradients(60))


def step_with_hooks(setting: Setting) -> None:
    handles = [
        setting.opt.register_step_pre_hook(lambda *_: None),
        setting.opt.register_step_post_hook(lambda *_: None),
    ]
    try:
        setting.opt.step()
    finally:
        for handle in handles:
            handle.remove()


def scaled_step(setting: Setting) -> None:
    setting.opt.grad_scale, setting.opt.found_inf = torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE)
    try:
        setting.opt.step()
    finally:
        del setting.opt.grad_scale, setting.opt.found_inf


def assign(key: str, value: Callable[[Setting], Any], group: int = 0) -> Action:
    return lambda setting: setting.opt.param_groups[group].__setitem__(key, value(setting))


def new_gradient(setting: Setting) -> None:
    setting.params[0].grad = numbers(3, 77)


def new_data(setting: Setting) -> None:
    setting.params[1].data = numbers((2, 2), 78)


def fill_clock(setting: Setting) -> None:
    setting.opt.clock.fill_(3)


def replaced_state(setting: Setting) -> None:
    new = numbers(3, 79)
    names = ("exp_avg", "exp_avg_sq") if isinstance(setting.opt, FusedAdam) else ("momentum_buffer",)
    steps = {"step": tensor(5.0)} if isinstance(setting.opt, FusedAdam) else {}
    setting.opt.state[setting.params[0]] = {**{name: new.abs() for name in names}, **steps}


def new_entry(setting: Setting) -> None:
    first_state(setting)["momentum_buffer"] = numbers(3, 80)


def note(setting: Setting) -> None:
    first_state(setting)["note"] = 1


def updated_state(setting: Setting) -> None:
    first_state(setting).update(note=1, momentum_buffer=numbers(3, 80))


def deleted_entry(setting: Setting) -> None:
    del first_state(setting)["momentum_buffer"]


def popped_state(setting: Setting) -> None:
    setting.opt.state.pop(setting.params[0], None)


def cleared_state(setting: Setting) -> None:
    first_state(setting).clear()


def new_states(setting: Setting) -> None:
    setting.opt.state = {p: dict(state) for p, state in list(setting.opt.state.items())[:1]}


def added_group(setting: Setting) -> None:
    if all(len(group["params"]) == 1 for group in setting.opt.param_groups) and len(setting.opt.param_groups) == 2:
        setting.opt.add_param_group({"params": setting.params[2:3], "lr": OTHER})


def replaced_group(setting: Setting) -> None:
    setting.opt.param_groups[1] = {**setting.opt.param_groups[1], "lr": 0.5}


def replaced_groups(setting: Setting) -> None:
    setting.opt.param_groups = [{**group, "lr": 0.5} for group in setting.opt.param_groups]


def deleted_group(setting: Setting) -> None:
    if len(setting.opt.param_groups) > 1:
        del setting.opt.param_groups[1]


def load(setting: Setting) -> None:
    setting.opt.load_state_dict(setting.more["checkpoint"])


def loadable(make: Callable[[], Setting]) -> Callable[[], Setting]:
    """An optimizer, and a checkpoint of another one with other steps, rates and states."""

    def both() -> Setting:
        setting, other = make(), make()
        other.opt.param_groups[0]["lr"], other.opt.param_groups[1]["lr"] = 0.3, OTHER
        for number in range(3):
            other.give_gradients(number + 9)
            other.opt.step()
        setting.more["checkpoint"] = other.opt.state_dict()
        return setting

    return both


def swap(setting: Setting) -> None:
    averages = [setting.opt.state[p]["average"] for p in setting.params[:2]]
    with setting.opt.swap_average():
        assert all(torch.equal(p, average) for p, average in zip(setting.params[:2], averages, strict=True))


def copied(setting: Setting) -> None:
    copy.deepcopy(setting.opt).step()


def pickled(setting: Setting) -> None:
    pickle.loads(pickle.dumps(setting.opt)).step()


def read(setting: Setting) -> None:
    setting.opt.state_dict()


# ---- what a handler does

HANDLERS: dict[str, Action] = {
    "number": assign("lr", lambda setting: 0.25),
    "schedule": assign("lr", lambda setting: OTHER, group=1),
    "schedule_replaced": assign("lr", lambda setting: OTHER),
    "gradient": new_gradient,
    "data": new_data,
    "clock": fill_clock,
    "state": replaced_state,
    "no_state": cleared_state,
    "group": added_group,
    "step": step,  # the two steps come one after the other, in whichever order they are finished
}
# Not while the weights are the averages, or while an optimizer is being read.
HARMLESS = ("number", "schedule", "clock")


def all_but(*names: str) -> tuple[str, ...]:
    return tuple(name for name in HANDLERS if name not in names)


# Not promised, for there is no order of the two to be seen from outside: a step between the parts of a load, or of a
# step after which a hook is called, or a clock that is written there; a gradient that comes between what a closure has
# made and its use; what a handler does to the very entry, state or group that is being read, deleted or added, and what
# would be an error before the action.
SCENARIOS = (
    Scenario("first_step", made(steps=0), step),
    Scenario("step", made(), step),
    Scenario("step_adam", made(kind=FusedAdam), step),
    Scenario("first_step_adam", made(steps=0, kind=FusedAdam), step),
    Scenario("step_rebuilding", after(added_group, made()), step),
    Scenario("step_after_number", after(assign("lr", lambda s: 0.7, group=1), made()), step),
    Scenario("step_after_new_data", after(new_data, made()), step),
    Scenario("step_with_closure", made(), step_with_closure, handlers=all_but("gradient")),
    Scenario("step_with_hooks", made(), step_with_hooks),
    Scenario("step_scaled", made(), scaled_step),
    Scenario("step_with_cycle_hook", made(hooked=True), step, handlers=all_but("step")),
    Scenario("step_that_ends_a_cycle", made(steps=3, hooked=True), step, handlers=all_but("step", "clock")),
    Scenario("first_step_with_cycle_hook", made(steps=0, hooked=True), step, handlers=all_but("step")),
    Scenario("step_with_averages", made(average=EMA(0.5)), step),
    Scenario("step_with_cycle_averages", made(steps=3, average="cycle"), step, handlers=all_but("number")),
    Scenario("step_with_tensor_rate", made(momentum=torch.tensor(0.9)), step),
    Scenario("step_clipped", made(max_grad_norm=0.5, skip_nonfinite=True), step),
    Scenario("number_for_number", made(), assign("lr", lambda s: 0.7, group=1)),
    Scenario("number_for_schedule", made(), assign("lr", lambda s: 0.7)),
    Scenario("schedule_for_number", made(), assign("lr", lambda s: ONE, group=1)),
    Scenario("schedule_for_schedule", made(), assign("lr", lambda s: OTHER)),
    Scenario("tensor_for_schedule", made(), assign("lr", lambda s: tensor(0.7))),
    Scenario("momentum_schedule", made(), assign("momentum", lambda s: Triangular(0.8, 0.9, step_size_up=2))),
    Scenario("no_momentum", made(), assign("momentum", lambda s: 0)),
    Scenario("betas", made(kind=FusedAdam), assign("betas", lambda s: (Triangular(0.8, 0.9, step_size_up=2), 0.99))),
    Scenario(
        "display_back",
        after(assign("lr", lambda s: 0.7), made()),
        assign("lr", lambda s: s.more["display"]),
    ),
    Scenario("entry_replaced", made(), new_entry),
    Scenario("entry_deleted", made(), deleted_entry, handlers=all_but("no_state")),
    Scenario("entries_updated", made(), updated_state, between=(note,)),
    Scenario("state_replaced", made(), replaced_state),
    Scenario("state_popped", made(), popped_state),
    Scenario("state_cleared", made(), cleared_state),
    Scenario("states_replaced", made(), new_states, handlers=all_but("state", "no_state")),
    Scenario("group_added", made(), added_group, handlers=all_but("group")),
    Scenario("group_replaced", made(), replaced_group),
    Scenario("groups_replaced", made(), replaced_groups, handlers=all_but("group")),
    Scenario("group_deleted", made(), deleted_group, handlers=all_but("schedule")),
    Scenario("clock", made(), fill_clock),
    Scenario("clock_with_cycle_hook", made(hooked=True), fill_clock),
    Scenario("load", loadable(made()), load, handlers=all_but("step", "group")),
    Scenario("load_adam", loadable(made(kind=FusedAdam)), load, handlers=all_but("step", "group")),
    Scenario("load_with_averages", loadable(made(average=EMA(0.5))), load, handlers=all_but("step", "group")),
    Scenario("swap_average", made(average=EMA(0.5)), swap, handlers=HARMLESS),
    Scenario("swap_cycle_average", made(steps=5, average="cycle"), swap, handlers=HARMLESS[1:]),
    Scenario("state_dict", made(), read, handlers=HARMLESS),
    Scenario("deepcopy", made(), copied, handlers=HARMLESS),
    Scenario("pickle", made(), pickled, handlers=HARMLESS),
)


def report(found: list[str]) -> None:
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("scenario", [pytest.param(s, id=s.name) for s in SCENARIOS])
def test_keyboard_interrupt(scenario: Scenario) -> None:
    """An interrupt leaves what was there before the action, or after it."""
    report(problems(scenario, None, None, LINES))


@pytest.mark.parametrize(
    ("scenario", "handler"),
    [
        pytest.param(scenario, name, id=f"{scenario.name}-{name}")
        for scenario in SCENARIOS
        for name in (HANDLERS if scenario.handlers is None else scenario.handlers)
    ],
)
def test_handler(scenario: Scenario, handler: str) -> None:
    """The result is as if the handler had run before the action, or after it."""
    report(problems(scenario, handler, HANDLERS[handler], LINES))
