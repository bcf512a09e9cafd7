"""torch's schedulers and its gradient scaler around our steps, as around those of torch's optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, make_params, params_of, set_gradients, train
from courses import PAIRS, SCHEDULE, SIZES, made
from torch import nn
from torch.optim import lr_scheduler

from sgdr_fused import FusedSGD

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


@pytest.mark.filterwarnings("ignore:.*epoch parameter")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_torch_scheduler_over_a_schedule(schedule: Any) -> None:
    """Two who set one rate: an error where it is noticed first, or a warning that the Schedule is gone."""
    opt = made("schedule")

    def run() -> None:
        scheduler = schedule(opt)
        for t in range(3):
            train(opt, range(t, t + 1))
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((RuntimeError, ValueError, TypeError, UserWarning), match="Schedule"):
            run()


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
