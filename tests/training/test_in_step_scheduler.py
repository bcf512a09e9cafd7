"""A scheduler for frameworks that insist on one, beside torch's schedulers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from cases import DEVICE, values
from networks import model
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts, LinearRamp
from sgdr_fused.training import InStepScheduler

SCHEDULE = CosineWarmRestarts(0.1, T_0=3, T_mult=2)


def train(opt: Any, scheduler: Any, network: torch.nn.Module, steps: int) -> list[list[float]]:
    """The rates that the scheduler gives after each step, as frameworks log them."""
    logged = []
    for t in range(steps):
        opt.zero_grad()
        network(values((6, 4), t)).square().sum().backward()
        opt.step()
        scheduler.step()
        logged.append([float(rate) for rate in scheduler.get_last_lr()])
    return logged


def test_gives_what_torchs_schedulers_give() -> None:
    network = model()
    twin = copy.deepcopy(network)
    fused = FusedSGD(network.parameters(), lr=SCHEDULE)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    logged = train(fused, InStepScheduler(fused), network, 10)
    expected = train(theirs, CosineAnnealingWarmRestarts(theirs, 3, 2), twin, 10)
    torch.testing.assert_close(logged, expected, rtol=1e-12, atol=0.0)  # torch goes from rate to rate
    for param, like in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, like)


def test_changes_nothing() -> None:
    networks = model(), model()
    alone, scheduled = (FusedAdamW(network.parameters(), lr=SCHEDULE) for network in networks)
    step, keys = scheduled.step, set(scheduled.param_groups[0])
    scheduler = InStepScheduler(scheduled)
    assert scheduled.step == step
    for t in range(5):
        for opt, network in zip((alone, scheduled), networks, strict=True):
            opt.zero_grad()
            network(values((6, 4), t)).square().sum().backward()
            opt.step()
        for _ in range(t):  # however often it is called
            scheduler.step()
    assert set(scheduled.param_groups[0]) == keys
    assert scheduled.param_groups[0]["lr_schedule"] == SCHEDULE
    for param, like in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(param, like)


def test_what_frameworks_read() -> None:
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    opt = FusedSGD([{"params": [first], "lr": LinearRamp(1.0, 0.0, 4)}, {"params": [second]}], lr=0.25)
    scheduler = InStepScheduler(opt)
    assert isinstance(scheduler, LRScheduler)
    assert scheduler.optimizer is opt
    assert scheduler.base_lrs == [1.0, 0.25]
    assert scheduler.last_epoch == 0
    opt.step()
    assert scheduler.last_epoch == 1
    assert scheduler.base_lrs == [1.0, 0.25]
    assert scheduler.get_last_lr() == [1.0, 0.25]  # of the step that was taken
    scheduler.step()
    assert scheduler.get_last_lr() == opt.get_last_lr() == [0.75, 0.25]
    assert [type(rate) for rate in scheduler.get_last_lr()] == [float, float]


def test_what_is_written_back_changes_nothing() -> None:
    """ignite assigns what ``get_lr()`` gives, and counts ``last_epoch`` up."""
    opt = FusedSGD(model().parameters(), lr=SCHEDULE)
    scheduler = InStepScheduler(opt)
    opt.step()
    scheduler.last_epoch += 1
    for group, rate in zip(opt.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
    assert scheduler.last_epoch == 1
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE


def test_checkpoints_need_nothing_of_it() -> None:
    network = model()
    opt = FusedSGD(network.parameters(), lr=SCHEDULE)
    scheduler = InStepScheduler(opt)
    train(opt, scheduler, network, 4)
    assert scheduler.state_dict() == {}
    rates = scheduler.get_last_lr()
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    with pytest.warns(UserWarning, match=r"InStepScheduler takes nothing .*'T_0'.*from_torch"):
        scheduler.load_state_dict(CosineAnnealingWarmRestarts(theirs, 7).state_dict())
    with pytest.warns(UserWarning, match="InStepScheduler takes nothing"):
        scheduler.step()
    scheduler.step()  # and no more; CI makes an error of an unexpected one
    scheduler.load_state_dict({})
    assert scheduler.get_last_lr() == rates
    assert scheduler.last_epoch == 4
    again = pickle.loads(pickle.dumps(scheduler))
    assert again.get_last_lr() == rates
    assert again.optimizer is not opt


@pytest.mark.parametrize("logs", ["before", "after"])
def test_rates_are_those_that_torchs_schedulers_give_at_any_time(logs: str) -> None:
    """Frameworks ask before they step the scheduler, or after it. A scaler skips steps, and so the scheduler's."""
    network = model()
    twin = copy.deepcopy(network)
    fused = FusedSGD(network.parameters(), lr=SCHEDULE)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    histories = []
    for opt, scheduler, net in (
        (fused, InStepScheduler(fused), network),
        (theirs, CosineAnnealingWarmRestarts(theirs, 3, 2), twin),
    ):
        scaler = torch.amp.GradScaler(DEVICE.type, init_scale=4.0)
        history = [scheduler.get_last_lr()]
        for t in range(8):
            opt.zero_grad()
            scaler.scale(net(values((6, 4), t)).square().sum()).backward()
            if t in (2, 5):
                next(net.parameters()).grad[0, 0] = float("inf")
            before = scaler.get_scale()
            scaler.step(opt)
            scaler.update()
            if logs == "before":
                history.append(scheduler.get_last_lr())
            if scaler.get_scale() >= before:  # not skipped
                scheduler.step()
            if logs == "after":
                history.append(scheduler.get_last_lr())
        histories.append(history)
    torch.testing.assert_close(histories[0], histories[1], rtol=1e-12, atol=0.0)  # torch goes from rate to rate


class Wrapper:
    """accelerate's and others': it has the groups of the optimizer inside."""

    def __init__(self, optimizer: Any) -> None:
        self.inner = optimizer

    @property
    def param_groups(self) -> Any:
        return self.inner.param_groups


def test_takes_a_wrapped_optimizer() -> None:
    network = model()
    opt = FusedSGD(network.parameters(), lr=SCHEDULE)
    wrapper = Wrapper(Wrapper(opt))
    scheduler = InStepScheduler(wrapper)
    assert scheduler.optimizer is wrapper
    train(opt, scheduler, network, 2)
    assert scheduler.get_last_lr() == [SCHEDULE(2)]


def test_refuses_other_optimizers() -> None:
    theirs: Any = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
    for wrong in (theirs, Wrapper(theirs), None, SCHEDULE):
        with pytest.raises(TypeError, match="optimizer must be a fused optimizer, whose step moves the rate, got "):
            InStepScheduler(wrong)
