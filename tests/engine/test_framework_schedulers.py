"""torch's schedulers and its gradient scaler around our steps, as around those of torch's optimizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, make_params, params_of, set_gradients, train
from courses import PAIRS, SCHEDULE, SIZES, assert_same_course, made
from torch import nn
from torch.optim import lr_scheduler

from sgdr_fused import FusedSGD, lr_find

pytestmark = pytest.mark.host

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "one_cycle_linear": lambda opt: lr_scheduler.OneCycleLR(opt, 0.3, total_steps=10, anneal_strategy="linear"),
    "one_cycle": lambda opt: lr_scheduler.OneCycleLR(opt, 0.3, total_steps=10),
    "linear_to_zero": lambda opt: lr_scheduler.LinearLR(opt, 1.0, 0.0, total_iters=9),
    "swa": lambda opt: torch.optim.swa_utils.SWALR(opt, swa_lr=0.05, anneal_epochs=4),
    "warm_restarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=4),
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=5),
    "plateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "polynomial": lambda opt: lr_scheduler.PolynomialLR(opt, total_iters=9),
    "huggingface_lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda t: max(0.0, 1 - t / 9)),
    "chained": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(opt, 0.9), lr_scheduler.ConstantLR(opt, 0.5, total_iters=4)]
    ),
    "sequential": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*epoch parameter")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
@pytest.mark.parametrize("name", PAIRS)
def test_torch_schedulers_over_numbers(name: str, schedule: Any) -> None:
    """At each step torch's rate, below zero too, where rounding or a straight line ends there."""
    opts = [make(make_params(SIZES, torch.float64), lr=0.1) for make in PAIRS[name]]
    schedulers = [schedule(opt) for opt in opts]
    for t in range(10):  # to the last step that OneCycleLR has, which is one past its end
        for opt, scheduler in zip(opts, schedulers, strict=True):
            train(opt, range(t, t + 1))
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        theirs, ours = ([group["lr"] for group in opt.param_groups] for opt in opts)
        assert theirs == ours == opts[1].get_last_lr()
        copied = made("number", name)
        copied.load_state_dict(opts[1].state_dict())  # what was reached can be loaded
        assert copied.get_last_lr() == ours
    for p, q in zip(*map(params_of, opts), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


REFUSED = r"\w+ writes rates into group 0, whose rate the Schedule CosineWarm.*InStepScheduler"


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
@pytest.mark.parametrize("steps", [0, 2])
def test_torch_scheduler_over_a_schedule(schedule: Any, steps: int) -> None:
    """Two who set one rate: the next step is refused, with nothing changed, also where nothing was written yet."""
    opt, untouched = made("schedule"), made("schedule")
    for each in (opt, untouched):
        train(each, range(steps))
    before = [bits(p) for p in params_of(opt)]
    schedule(opt)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=REFUSED):
            train(opt, range(steps, steps + 1))
    assert before == [bits(p) for p in params_of(opt)]
    assert int(opt.clock) == steps
    opt.param_groups[0]["lr"] = SCHEDULE  # the remedy for who wants the Schedule
    opt.param_groups[0]["momentum"] = 0.9  # OneCycleLR has written it
    assert_same_course(opt, untouched, range(steps, 6))


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_a_number_in_place_of_the_schedule_is_the_other_remedy(schedule: Any) -> None:
    opt, expected = made("schedule"), made("number")
    schedule(opt)
    with pytest.raises(RuntimeError, match=REFUSED):
        train(opt, range(1))
    with pytest.warns(UserWarning, match="had a Schedule"):
        opt.param_groups[0]["lr"] = 0.1
    opt.param_groups[0]["momentum"] = 0.9
    assert_same_course(opt, expected, range(3))


@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_torch_scheduler_over_the_schedule_of_one_group(schedule: Any) -> None:
    """It writes all groups; the error names the one with a Schedule, in a wrapper, and after a load too, as accelerate
    does it: what was written is gone by then."""
    params = make_params(SIZES, torch.float64)
    opt = FusedSGD([{"params": params[:2], "lr": 0.5}, {"params": params[2:], "lr": SCHEDULE}], momentum=0.9)
    schedule(HandsOn(opt))
    opt.load_state_dict(opt.state_dict())
    with pytest.raises(RuntimeError, match="into group 1, whose rate"):
        train(opt, range(1))


def puts_back(opt: Any) -> None:
    """As ZeroRedundancyOptimizer does with the groups of the optimizer inside."""
    for group in opt.param_groups:
        for key in group:
            group[key] = group[key]


def range_test(opt: Any) -> None:
    param = opt.param_groups[0]["params"][0]
    lr_find(nn.Module(), opt, None, [0], num_steps=3, batch_to_loss=lambda *_: param.square().sum())


@pytest.mark.parametrize("between", [puts_back, range_test])
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_nothing_was_decided_where_the_rate_comes_back(schedule: Any, between: Callable[[Any], None]) -> None:
    """Who puts back what was shown, or a range test, which ends as it began, has not decided for the Schedule."""
    opt = made("schedule")
    schedule(opt)
    opt.load_state_dict(opt.state_dict())  # so that only the scheduler itself is left to tell by
    between(opt)
    with pytest.raises(RuntimeError, match=REFUSED):
        train(opt, range(1))
    assert int(opt.clock) == 0


class HandsOn(torch.optim.Optimizer):
    """A wrapper whose groups are those of the optimizer inside, as accelerate's."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.defaults = inner, inner.defaults

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step(closure)


@pytest.mark.filterwarnings("ignore:.*epoch parameter")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_a_schedule_under_a_torch_scheduler(schedule: Any) -> None:
    """The Schedule was assigned while there was a scheduler: refused when the scheduler has looked or written."""
    opt = made("number")
    scheduler = schedule(opt)
    train(opt, range(1))
    opt.param_groups[0]["lr"] = SCHEDULE
    scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    with pytest.raises(RuntimeError, match="InStepScheduler"):
        train(opt, range(1, 2))
    assert int(opt.clock) == 1


@pytest.mark.parametrize("key", ["momentum", "weight_decay"])
def test_torch_scheduler_beside_schedules_of_other_hyperparameters(key: str) -> None:
    """It writes lr alone."""
    opt = FusedSGD(make_params(SIZES, torch.float64), **{"lr": 0.1, "momentum": 0.9, key: SCHEDULE})
    scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
    for t in range(3):
        train(opt, range(t, t + 1))
        scheduler.step()
    assert opt.get_last_lr() == [0.1 * 0.5**3]
    assert float(opt.param_groups[0][key]) == SCHEDULE(3)


# ---- gradient scaling


@pytest.mark.parametrize("make", [partial(torch.optim.SGD, fused=True), FusedSGD], ids=["torch", "ours"])
@pytest.mark.parametrize("lr", [0.1, SCHEDULE], ids=["number", "schedule"])
def test_scaler_without_any_gradient(make: Any, lr: Any) -> None:
    """The scaler hands over ``found_inf = sum([])``, the integer 0 (accelerate#328)."""
    params = make_params(SIZES)
    opt = make(params, lr=0.1 if not isinstance(make, type) else lr)
    before = [bits(p) for p in params]
    scaler = torch.amp.GradScaler(DEVICE.type)
    scaler.scale(torch.ones((), device=DEVICE, requires_grad=True) * 1).backward()
    scaler.step(opt)
    assert before == [bits(p) for p in params]
    assert not hasattr(opt, "found_inf")


@pytest.mark.parametrize("found_inf", [0, 1, 0.0, 1.0, False, True], ids=repr)
def test_found_inf_that_is_a_number(found_inf: Any) -> None:
    params = make_params(SIZES)
    opt = FusedSGD(params, lr=SCHEDULE)
    set_gradients(params, 0)
    before = [bits(p) for p in params]
    opt.grad_scale, opt.found_inf = None, found_inf
    opt.step()
    assert (before == [bits(p) for p in params]) == bool(found_inf)
    assert int(opt.clock) == (0 if found_inf else 1)


ORDERS = ["step", "unscale step", "unscale clip step", "overflow step", "overflow unscale clip step"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("growth", [1, 2000])
def test_scaler_in_all_orders(order: str, growth: int) -> None:
    """With and without unscaling and clipping in between, it does what torch's does; an overflow skips both."""
    ends = []
    for make in (torch.optim.SGD, FusedSGD):
        params = make_params(SIZES, torch.float32)
        opt = make(params, lr=0.0625, momentum=0.5)
        scaler = torch.amp.GradScaler(DEVICE.type, init_scale=8.0, growth_interval=growth)
        for t in range(4):
            opt.zero_grad()
            scaler.scale(sum((p * (t + 1)).sum() for p in params)).backward()
            for action in order.split():
                if action == "unscale":
                    scaler.unscale_(opt)
                elif action == "overflow" and t == 1:
                    params[1].grad.fill_(float("inf"))
                elif action == "clip":
                    nn.utils.clip_grad_norm_(params, 0.5)
                elif action == "step":
                    scaler.step(opt)
            scaler.update()
        ends.append([p.detach().cpu() for p in params])
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
