"""What frameworks ask of an optimizer, each by a function that has the name and the module of the real one.

tests/integrations/ asks by the frameworks themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, make_params, params_of, train
from courses import SCHEDULE, SIZES, made
from torch.optim.swa_utils import SWALR

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import LinearRamp

pytestmark = pytest.mark.host


def in_module(module: str, source: str, **names: Any) -> dict[str, Any]:
    """What the source defines, as if it stood in a module of this name."""
    namespace = {"__name__": module, **names}
    exec(source, namespace)
    return namespace


# ---- monitors, which keep what they read

READS = """
def {name}(optimizer):
    return [(group["lr"], group["betas"], group["weight_decay"]) for group in optimizer.param_groups]
"""
MONITORS = [
    ("lightning.pytorch.callbacks.lr_monitor", "_get_optimizer_stats"),
    ("pytorch_lightning.callbacks.lr_monitor", "_get_optimizer_stats"),
    ("fastai.optimizer", "hypers"),
]


@pytest.mark.parametrize(("module", "name"), MONITORS)
def test_a_monitor_keeps_numbers(module: str, name: str) -> None:
    ramp = LinearRamp(0.5, 0.0, 8)
    opt = FusedAdam(make_params(SIZES, torch.float64), lr=SCHEDULE, betas=(ramp, 0.75), weight_decay=0.25 * ramp)
    read = in_module(module, READS.format(name=name))[name]
    history = []
    for t in range(4):
        history += read(opt)
        train(opt, range(t, t + 1))
    assert history == [(SCHEDULE(t), (ramp(t), 0.75), 0.25 * ramp(t)) for t in range(4)]
    assert {type(value) for lr, betas, decay in history for value in (lr, *betas, decay)} == {float}


@pytest.mark.parametrize("name", ["other", "_set_hyper"])
def test_everybody_else_gets_the_groups(name: str) -> None:
    opt = made("schedule")
    read = in_module("fastai.optimizer", f"def {name}(optimizer):\n    return optimizer.param_groups\n")[name]
    assert read(opt) is opt.param_groups


# ---- Lightning's averaging of weights, which makes a scheduler in the middle of a training

MAKES = """
def on_train_epoch_start(optimizer):
    return SWALR(optimizer, swa_lr=0.05, anneal_epochs=2)
"""


@pytest.mark.parametrize("module", ["lightning.pytorch", "pytorch_lightning"])
def test_lightnings_averaging_takes_the_place_of_a_schedule(module: str) -> None:
    opt = made("schedule")
    train(opt, range(2))
    namespace = in_module(f"{module}.callbacks.stochastic_weight_avg", MAKES, SWALR=SWALR)
    with pytest.warns(UserWarning, match=r"group\['lr'\] of group 0 had a Schedule.*InStepScheduler"):
        scheduler = namespace["on_train_epoch_start"](opt)
    assert opt.get_last_lr() == [SCHEDULE(2)]
    for t in (2, 3):
        train(opt, range(t, t + 1))
        scheduler.step()
    assert opt.get_last_lr() == [pytest.approx(0.05)]  # the cosine of pi is not -1 to the last place


# ---- unscaling

ASKS = """
def _optimizer_handles_unscaling(optimizer):
    return getattr(optimizer, "_step_supports_amp_scaling", False)

def {name}(optimizer):
    return _optimizer_handles_unscaling(optimizer)
"""


@pytest.mark.parametrize("name", ["clip_gradients", "unscale_gradients"])
def test_lightning_clips_scaled_gradients(name: str) -> None:
    """Only an optimizer that leaves unscaling to the scaler could be clipped there."""
    ask = in_module("lightning.fabric.plugins.precision.amp", ASKS.format(name=name))[name]
    with pytest.raises(RuntimeError, match=r"FusedSGD.*max_grad_norm"):
        ask(made("schedule"))


def test_lightning_takes_a_step() -> None:
    assert in_module("lightning.fabric.plugins.precision.amp", ASKS.format(name="optimizer_step"))["optimizer_step"](
        made("schedule")
    )


class Accelerated:
    """accelerate's way to find out whether a scaler has skipped a step: by the call of the step."""

    def __init__(self, optimizer: Any, scaler: Any) -> None:
        self.optimizer, self.scaler = optimizer, scaler
        self.called = False
        patched = "def patch(wrapper, method):\n    def patched(*args, **kwargs):\n        wrapper.called = True\n"
        patched += "        return method(*args, **kwargs)\n    return patched\n"
        self.original: Callable[..., Any] = optimizer.step
        self.patched = in_module("accelerate.optimizer", patched)["patch"](self, self.original)

    def step(self) -> bool:
        """Whether it was skipped."""
        self.called = False
        self.optimizer.step = self.patched
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.step = self.original
        return not self.called


@pytest.mark.parametrize("make", [torch.optim.SGD, functools.partial(FusedSGD, skip_nonfinite=True), FusedSGD])
def test_accelerate_hears_of_a_skipped_step(make: Any) -> None:
    params = make_params(SIZES, torch.float32)
    opt = make(params, lr=0.0625)
    wrapper = Accelerated(opt, torch.amp.GradScaler(DEVICE.type, init_scale=8.0))
    for t in range(5):
        opt.zero_grad()
        wrapper.scaler.scale(sum((p * (t + 1)).sum() for p in params)).backward()
        if t in (1, 3):
            params[1].grad[0] = float("inf")
        before = [bits(p) for p in params_of(opt)]
        skipped = wrapper.step()
        assert skipped == (t in (1, 3))
        assert skipped == (before == [bits(p) for p in params_of(opt)])
    if not isinstance(opt, torch.optim.SGD):
        assert int(opt.clock) == 3
        assert opt._step_supports_amp_scaling is type(opt)._step_supports_amp_scaling is True
        opt._step_supports_amp_scaling = False  # as torch's can be told
        assert opt._step_supports_amp_scaling is False
