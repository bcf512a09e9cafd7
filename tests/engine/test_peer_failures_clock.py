"""Failures that this package has had, by the number that they have in our list: clock, checkpoints, errors, bounds."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import ALGORITHMS_OF_TORCH, DEVICE, make_params, params_of, train
from rates import OTHER, SCHEDULE, TIGHT, expected, rates_of, sgd

from sgdr_fused import EMA, FusedAdam, FusedAdamW, FusedLAMB, FusedRMSprop, FusedSGD
from sgdr_fused.schedules import Exponential, OneCycle, Table

pytestmark = pytest.mark.untracked

# --------------------------------------------------------------------------- 32, 33, 38, 43, 44


@pytest.mark.once
def test_peer_32_a_default_device_decides_on_nothing_of_ours() -> None:
    params = make_params((3,), torch.float64)
    gradient = torch.ones_like(params[0])
    low = make_params((3,), torch.bfloat16)
    with torch.device("meta"):
        opt = FusedAdam(params, lr=SCHEDULE, max_grad_norm=1.0, stochastic_rounding=False, average=EMA(0.9))
        params[0].grad = gradient
        for _ in range(3):
            opt.step()
        state = opt.state_dict()
        opt.load_state_dict(state)
        rates = opt.get_last_lr()
        again = pickle.loads(pickle.dumps(opt))
        FusedSGD(low, lr=0.1, stochastic_rounding=True)
    assert rates == [SCHEDULE(3)] and int(opt.clock) == int(again.clock) == 3
    tensors = [value for entry in state["state"].values() for value in entry.values()]
    tensors += [opt.clock, opt.grad_norm, opt.n_averaged, state["param_groups"][0]["clock"]]
    assert {tensor.device.type for tensor in tensors} <= {"cpu", DEVICE.type}


def test_peer_33_another_schedule_in_the_checkpoint_is_said_once() -> None:
    source = sgd(OTHER, weight_decay=OTHER)
    train(source, range(2))
    opt = sgd(SCHEDULE)
    with pytest.warns(UserWarning, match="takes the place of CosineWarmRestarts") as caught:
        opt.load_state_dict(source.state_dict())
    assert len(caught) == 1 and caught[0].filename == __file__
    assert opt.param_groups[0]["lr_schedule"] == OTHER
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.load_state_dict(source.state_dict())  # the same
        sgd(0.1).load_state_dict(source.state_dict())  # none before
    with pytest.warns(UserWarning, match="takes the place of"):
        opt.load_state_dict(sgd(0.1).state_dict())


def _data(opt: Any, value: int) -> None:
    opt.clock.data = torch.tensor(value, device=DEVICE)


def _set_item(opt: Any, value: int) -> None:
    opt.clock[()] = value


def _in_place(opt: Any, value: int) -> None:
    clock = opt.clock
    clock += value - int(clock)


CLOCK_WRITES = [
    lambda opt, value: opt.clock.fill_(value),
    lambda opt, value: opt.clock.copy_(torch.tensor(value)),
    lambda opt, value: torch.add(torch.tensor(value, device=DEVICE), 0, out=opt.clock),
    lambda opt, value: torch._foreach_add_([opt.clock], [value - int(opt.clock)]),
    _data,
    _set_item,
    _in_place,
]


@pytest.mark.parametrize("write", CLOCK_WRITES, ids=["fill", "copy", "out", "foreach", "data", "setitem", "iadd"])
@pytest.mark.parametrize("schedule", [SCHEDULE, Table([0.5, 0.25, 0.125])], ids=["cosine", "table"])
def test_peer_38_the_clock_takes_steps_alone(schedule: Any, write: Any) -> None:
    opt = sgd(schedule, momentum=0.0)
    rates_of(opt, 2)
    write(opt, 5)
    assert int(opt.clock) == 5 and opt.get_last_lr() == [schedule(5)]
    for wrong in (-1, -(10**13), 2**61 + 1, -(2**62)):
        with pytest.raises(ValueError, match=rf"clock must be in \[0, 2\*\*61\], got {wrong}"):
            write(opt, wrong)
        assert int(opt.clock) == 5 and opt.get_last_lr() == [schedule(5)]
    assert rates_of(opt, 2) == expected(schedule, range(5, 7))
    write(opt, 2**61)
    assert opt.get_last_lr() == [schedule(2**61)]


@pytest.mark.parametrize("attribute", ["clock", "grad_norm", "n_averaged"])
def test_peer_34_what_a_user_can_reach_may_move(attribute: str) -> None:
    opt, twin = (sgd(max_grad_norm=10.0, average=EMA(0.5)) for _ in range(2))
    for each in (opt, twin):
        train(each, range(2))
    getattr(opt, attribute).share_memory_()
    opt.param_groups[0]["lr"].share_memory_()
    for each in (opt, twin):
        train(each, range(2, 5))
    assert snapshot(opt) == snapshot(twin)
    assert opt.get_last_lr() == twin.get_last_lr() == [SCHEDULE(5)]
    assert int(opt.n_averaged) == int(twin.n_averaged) == 5 and bits(opt.grad_norm) == bits(twin.grad_norm)


@pytest.mark.once
def test_peer_43_errors_are_named_early_and_short() -> None:
    opt = sgd()
    train(opt, range(2))
    state = opt.state_dict()
    before = snapshot(opt)
    without = {**state, "param_groups": [{k: v for k, v in state["param_groups"][0].items() if k != "params"}]}
    with pytest.raises(ValueError, match="group 0 of the state_dict must be a dict with a list 'params'"):
        opt.load_state_dict(without)
    with pytest.raises(TypeError, match="maximize must be True or False, got 'yes'"):
        opt.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], "maximize": "yes"}]})
    with pytest.raises(TypeError, match="nesterov must be True or False, got 'yes'"):
        opt.param_groups[0]["nesterov"] = "yes"
    huge = {**state, "param_groups": [{**state["param_groups"][0], "lr": "x" * 10**6, "lr_schedule": None}]}
    with pytest.raises(TypeError, match="lr must be") as caught:
        opt.load_state_dict(huge)
    assert len(str(caught.value)) < 1000
    wide = {0: {"momentum_buffer": torch.zeros(1, dtype=torch.float64).expand(2**40)}}
    with pytest.raises(ValueError, match="momentum_buffer"):
        opt.load_state_dict({**state, "state": wide})
    unknown = {0: {**state["state"][0], "of_a_hook": torch.zeros(1).expand(2**40)}}
    with pytest.raises(ValueError, match="must have memory for each element"):
        opt.load_state_dict({**state, "state": unknown})
    assert snapshot(opt) == before
    averaged = sgd(average="cycle")
    train(averaged, range(2))
    del averaged.param_groups[0]
    with pytest.raises(ValueError, match="needs a Schedule for lr"):
        averaged.step()
    for key in ("lr", "params", "dampening"):
        opt = sgd()
        opt.param_groups[0].pop(key)
        with pytest.raises(ValueError, match=rf"lacks \['{key}'\]|must have 'params'"):
            opt.step()


@pytest.mark.parametrize("max_grad_value", [None, 4.0])
def test_peer_44_an_infinite_bound_only_measures(max_grad_value: float | None) -> None:
    opt, twin = (sgd(0.1, max_grad_value=max_grad_value, **options) for options in ({"max_grad_norm": math.inf}, {}))
    for each in (opt, twin):
        for param in params_of(each):
            param.grad = torch.tensor([1.0, math.inf, 2.0], dtype=torch.float64, device=DEVICE)
        each.step()
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(twin)]
    assert opt.grad_norm.item() == (math.inf if max_grad_value is None else math.sqrt(1 + 16 + 4))


@pytest.mark.parametrize("fused", [FusedSGD, FusedAdam])
def test_peer_44_the_first_step_leaves_everything(fused: Any) -> None:
    opt = fused(make_params((3,), torch.float64), lr=SCHEDULE, error_if_nonfinite=True, average=EMA(0.5))
    param = params_of(opt)[0]
    param.grad = torch.full_like(param, math.nan)
    before = bits(param)
    with pytest.raises(RuntimeError, match="the step was not taken"):
        opt.step()
    assert not opt.state and bits(param) == before and int(opt.clock) == 0
    twin = fused(make_params((3,), torch.float64), lr=SCHEDULE, error_if_nonfinite=True, average=EMA(0.5))
    for each in (opt, twin):
        train(each, range(3))
    assert snapshot(opt) == snapshot(twin)


# ---------------------------------------------------------------------------------- without a number


@pytest.mark.parametrize(
    ("make", "loads"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), FusedAdam),
        (lambda p: torch.optim.Adam(p, lr=0.1), FusedSGD),
        (lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9), FusedSGD),
        (lambda p: FusedRMSprop(p, lr=0.1, momentum=0.9), FusedSGD),
        (lambda p: FusedSGD(p, lr=0.1, momentum=0.9), FusedRMSprop),
        (lambda p: torch.optim.Adamax(p, lr=0.1), FusedAdam),
        (lambda p: torch.optim.NAdam(p, lr=0.1), FusedAdamW),
    ],
    ids=["sgd-adam", "adam-sgd", "rmsprop-sgd", "ours-rmsprop-sgd", "ours-sgd-rmsprop", "adamax-adam", "nadam-adamw"],
)
def test_a_checkpoint_of_another_algorithm_is_refused(make: Any, loads: Any) -> None:
    source = make(make_params((3,)))
    train(source, range(2))
    opt = loads(make_params((3,)), lr=0.1)
    train(opt, range(1))
    before = snapshot(opt)
    name = "Fused" + type(source).__name__.removeprefix("Fused")
    with pytest.raises(ValueError, match=rf"must be of {loads.__name__}, got one of .*{name}"):
        opt.load_state_dict(source.state_dict())
    assert snapshot(opt) == before


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, FusedAdam, FusedLAMB])
@pytest.mark.parametrize("loads", [FusedAdam, FusedAdamW, FusedLAMB])
def test_checkpoints_go_from_one_form_of_adam_to_another(make: Any, loads: Any) -> None:
    source = make(make_params((3,)), lr=0.1)
    train(source, range(2))
    opt = loads(make_params((3,)), lr=0.1)
    opt.load_state_dict(source.state_dict())
    assert bits(opt.state[params_of(opt)[0]]["exp_avg"]) == bits(source.state[params_of(source)[0]]["exp_avg"])


@pytest.mark.parametrize("name", list(ALGORITHMS_OF_TORCH))
def test_every_algorithm_knows_its_own_checkpoints(name: str) -> None:
    algorithm = ALGORITHMS_OF_TORCH[name]
    for make in (algorithm.fused, algorithm.torch):
        source = make(make_params((3,)), lr=0.1)
        train(source, range(2))
        algorithm.fused(make_params((3,)), lr=0.1).load_state_dict(source.state_dict())


def test_last_rates_are_numbers() -> None:
    import json

    one, two = make_params((3, 4))
    opt = FusedSGD([{"params": [one]}, {"params": [two], "lr": 0.25}], lr=SCHEDULE)
    history = []
    for t in range(4):
        history.append(opt.get_last_lr())
        train(opt, range(t, t + 1))
    read = json.loads(json.dumps(history))
    assert read == [pytest.approx([SCHEDULE(t), 0.25], rel=TIGHT) for t in range(4)]


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_past_the_end_of_a_schedule_it_warns_once() -> None:
    lr, momentum = OneCycle(0.1, total_steps=5)
    opt = sgd(lr, momentum=momentum)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(opt, range(5))
    with pytest.warns(UserWarning, match=r"step 5 is past the end of OneCycle.*epochs") as caught:
        train(opt, range(5, 6))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(opt, range(6, 12))
        plateau = sgd(Exponential(0.1, 0.5))
        train(plateau, range(12))


def test_past_the_end_skipped_steps_do_not_count() -> None:
    lr, _ = OneCycle(0.1, total_steps=3)
    opt = sgd(lr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t, found_inf in enumerate((0.0, 1.0, 1.0, 0.0, 0.0)):
            opt.found_inf = torch.tensor(found_inf, device=DEVICE)
            train(opt, range(t, t + 1))
    assert int(opt.clock) == 3
    with pytest.warns(UserWarning, match="step 3 is past the end"):
        train(opt, range(5, 6))


def test_the_clock_cannot_be_replaced() -> None:
    opt = sgd()
    with pytest.raises(TypeError, match=r"opt\.clock\.fill_\(5\)"):
        opt.clock = 5


@pytest.mark.once
def test_representation() -> None:
    opt = sgd(max_grad_norm=1.0, average=EMA(0.5))
    train(opt, range(2))
    text = repr(opt)
    for shown in (
        f"lr: {SCHEDULE!r}",
        "max_grad_norm: 1.0",
        "average: EMA(decay=0.5, warmup=None, start=0)",
        "clock: 2",
        "momentum: 0.5",
    ):
        assert shown in text
    assert "_schedule" not in text and "skip_nonfinite" not in text
