"""Hugging Face's accelerate with a fused optimizer, beside the same loop with an optimizer and a scheduler of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from framework_trainings import (
    CLOSE,
    SCHEDULE,
    STEPS,
    Maker,
    assert_same_steps,
    our_adamw,
    ours,
    rate,
    their_adamw,
    theirs,
    with_scheduler,
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from sgdr_fused import FusedAdamW, lr_find

# A warning that a test does not expect is an error.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("error")]

Batch = tuple[Tensor, Tensor, float]


def examples(count: int = STEPS, infinite: tuple[int, ...] = ()) -> list[Batch]:
    """Inputs, targets and a factor of the loss, which is infinite in the examples numbered in `infinite`."""
    torch.manual_seed(1)
    factors = [math.inf if i in infinite else 1.0 for i in range(count)]
    return [(torch.randn(6, 4).double(), torch.randn(6, 2).double(), factor) for factor in factors]


class Training:
    """accelerate's training loop, which keeps what was there after each step of the optimizer."""

    def __init__(
        self,
        make: Maker,
        *,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        max_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        **arguments: Any,
    ) -> None:
        # Two Accelerators in one process share these, where they are not reset.
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()
        self.accelerator = accelerate.Accelerator(cpu=True, **arguments)
        if scaler is not None:  # what accelerate makes for fp16 on a GPU
            self.accelerator.scaler = scaler
            self.accelerator.native_amp = True
        torch.manual_seed(seed)
        model = nn.Linear(4, 2, dtype=dtype)
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(model, *make(model))
        self.max_norm = max_norm
        self.params: list[list[Tensor]] = []
        self.rates: list[float] = []
        self.skipped: list[bool] = []

    def run(self, batches: Iterable[Batch]) -> Training:
        model, optimizer = self.model, self.optimizer
        for inputs, targets, factor in batches:
            with self.accelerator.accumulate(model):
                loss = (model(inputs.to(model.weight)) - targets).square().mean() * factor
                self.accelerator.backward(loss)
                if self.max_norm is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(model.parameters(), self.max_norm)
                optimizer.step()
                if self.scheduler is not None:
                    self.scheduler.step()
                optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.params.append([param.detach().clone() for param in model.parameters()])
                self.rates += [] if self.scheduler is None else self.scheduler.get_last_lr()
                self.skipped.append(optimizer.step_was_skipped)
        return self


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (ours(), theirs),
        (ours(scheduled=False), theirs),
        (our_adamw, their_adamw),
        (with_scheduler(FusedAdamW), their_adamw),
    ],
    ids=["sgd", "without_scheduler", "adamw", "number"],
)
def test_fit(make: Maker, other: Maker) -> None:
    actual, expected = Training(make).run(examples()), Training(other).run(examples())
    assert_same_steps(actual, expected)
    following = float(actual.optimizer.param_groups[0]["lr"])
    assert following == pytest.approx(rate(STEPS), rel=1e-12)  # cos differs by a rounding


@pytest.mark.parametrize("max_norm", [None, 0.3])
def test_accumulate(max_norm: float | None) -> None:
    """Five batches an epoch, and so three steps, of which the last has one batch."""
    trainings = []
    for make in (ours(), theirs):
        training = Training(make, gradient_accumulation_steps=2, max_norm=max_norm)
        loader = training.accelerator.prepare(DataLoader(examples(5), batch_size=None))
        for _ in range(4):
            training.run(loader)
        trainings.append(training)
    assert_same_steps(*trainings)
    assert trainings[0].rates == pytest.approx(trainings[1].rates, rel=1e-12)  # torch goes from rate to rate


@pytest.mark.parametrize("lr", [SCHEDULE, 0.7], ids=["schedule", "number"])
@pytest.mark.parametrize("scheduled", [True, False], ids=["in_step_scheduler", "without"])
def test_resume_mid_cycle(tmp_path: Path, lr: Any, scheduled: bool) -> None:
    """Bit for bit as without a stop, whatever rate the new optimizer was made with."""
    whole = Training(ours(scheduled=scheduled)).run(examples()[:5])
    whole.accelerator.save_state(str(tmp_path))
    whole.run(examples()[5:])
    resumed = Training(ours(lr, scheduled), seed=7)
    resumed.accelerator.load_state(str(tmp_path))
    resumed.run(examples()[5:])
    torch.testing.assert_close(resumed.params, whole.params[5:], rtol=0.0, atol=0.0)
    assert resumed.rates == whole.rates[5:]
    assert resumed.optimizer.optimizer.get_last_lr() == whole.optimizer.optimizer.get_last_lr() == [SCHEDULE(STEPS)]


def test_checkpoint_of_torchs(tmp_path: Path) -> None:
    """Its scheduler's state is left aside, with a warning. Moments and the number of steps are taken."""
    whole = Training(their_adamw).run(examples()[:5])
    whole.accelerator.save_state(str(tmp_path))
    whole.run(examples()[5:])
    resumed = Training(our_adamw, seed=7)
    with pytest.warns(UserWarning, match="InStepScheduler"):
        resumed.accelerator.load_state(str(tmp_path))
    with pytest.warns(UserWarning, match="InStepScheduler"):  # once more at the next step, for frameworks that hide it
        resumed.run(examples()[5:])
    torch.testing.assert_close(resumed.params, whole.params[5:], **CLOSE)


def test_clip() -> None:
    """``clip_grad_norm_`` of accelerate, and ours inside the step."""
    expected = Training(theirs, max_norm=1.0).run(examples())
    assert_same_steps(Training(ours(), max_norm=1.0).run(examples()), expected)
    assert_same_steps(Training(ours(max_grad_norm=1.0)).run(examples()), expected)
    unclipped = Training(theirs).run(examples())
    assert not torch.allclose(unclipped.params[-1][0], expected.params[-1][0], rtol=1e-3)


def test_mixed_precision_bf16() -> None:
    """Weights and inputs are rounded to bfloat16 in the forward pass."""
    actual = Training(ours(), dtype=torch.float32, mixed_precision="bf16").run(examples())
    expected = Training(theirs, dtype=torch.float32, mixed_precision="bf16").run(examples())
    # The parameters are below 1. Where both differ by a unit in float32's last place, one may round to another
    # bfloat16, which is 2**-9 away. A step changes by that times a rate of 0.1, and by rates that add up later.
    assert_same_steps(actual, expected, rtol=0.0, atol=2**-9)
    plain = Training(ours(), dtype=torch.float32).run(examples())
    assert not torch.equal(actual.params[0][0], plain.params[0][0])


def test_mixed_precision_fp16_on_the_cpu() -> None:
    """There accelerate takes ``"fp16"``, and neither rounds nor scales: it trains as without."""
    training = Training(ours(), dtype=torch.float32, mixed_precision="fp16")
    assert training.accelerator.scaler is None
    like = Training(ours(), dtype=torch.float32)
    assert_same_steps(training.run(examples()), like.run(examples()), rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("max_norm", "own", "theirs_max_norm"),
    [(None, None, None), (1.0, None, 1.0), (None, 1.0, 1.0)],
    ids=["unclipped", "clipped", "clipped_in_step"],
)
def test_skipped_steps(max_norm: float | None, own: float | None, theirs_max_norm: float | None) -> None:
    """``step_was_skipped`` says so, the clock does not move, and the scale follows as with torch's optimizer."""
    trainings, scales = [], []
    for make, norm in ((ours(max_grad_norm=own), max_norm), (theirs, theirs_max_norm)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        training = Training(make, mixed_precision="fp16", scaler=scaler, max_norm=norm)
        trainings.append(training.run(examples(infinite=(2, 3, 7))))
        scales.append(scaler.get_scale())
    actual, expected = trainings
    assert actual.skipped == expected.skipped == [i in (2, 3, 7) for i in range(STEPS)]
    assert scales[0] == scales[1] != 2.0**8
    assert_same_steps(actual, expected)
    assert int(actual.optimizer.optimizer.clock) == STEPS - 3
    assert actual.rates == pytest.approx(expected.rates, rel=1e-12)  # torch goes from rate to rate


def test_overflow_in_float16() -> None:
    """Too large a scale overflows in float16's backward pass, until enough steps were skipped."""
    trainings = []
    for make in (ours(), theirs):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
        training = Training(make, dtype=torch.float32, mixed_precision="fp16", scaler=scaler)
        trainings.append(training.run(examples()))
    actual, expected = trainings
    assert actual.skipped == expected.skipped
    assert actual.skipped[0] and not actual.skipped[-1]
    # As with bfloat16, but float16's neighbours are 2**-12 away.
    assert_same_steps(actual, expected, rtol=0.0, atol=2**-12)


def test_logging() -> None:
    """A history of rates holds floats, each its own value, as with torch's scheduler; they go into JSON."""
    rates = Training(ours()).run(examples()).rates
    assert all(type(each) is float for each in rates)
    assert rates == [SCHEDULE(t) for t in range(1, STEPS + 1)]
    assert json.loads(json.dumps(rates)) == rates
    # cos may be rounded otherwise, and torch's schedulers round otherwise.
    assert rates == pytest.approx([rate(t) for t in range(1, STEPS + 1)], rel=1e-12)
    assert rates == pytest.approx(Training(theirs).run(examples()).rates, rel=1e-12)


@pytest.mark.parametrize("prepared", [False, True])
def test_scheduler_of_torchs_is_refused(prepared: bool) -> None:
    """At the first step, with nothing changed, also where ``prepare`` has loaded the optimizer's own state since."""

    def make(model: nn.Module) -> tuple[Any, Any]:
        optimizer, _ = ours(scheduled=False)(model)
        return optimizer, None if prepared else LambdaLR(optimizer, rate)

    training = Training(make)
    if prepared:
        LambdaLR(training.optimizer, rate)
    before = [param.detach().clone() for param in training.model.parameters()]
    with pytest.raises(RuntimeError, match=r"LambdaLR.*group 0.*CosineWarmRestarts.*InStepScheduler"):
        training.run(examples())
    assert all(torch.equal(param, old) for param, old in zip(training.model.parameters(), before, strict=True))
    assert int(training.optimizer.optimizer.clock) == 0
    training.optimizer.param_groups[0]["lr"], training.scheduler = SCHEDULE, None  # the remedy
    training.optimizer.zero_grad()
    assert_same_steps(training.run(examples()), Training(theirs).run(examples()))


def test_cycle_end_hook() -> None:
    """``prepare`` loads the optimizer's own state into it. Hooks stay."""
    ends: list[tuple[int, int]] = []

    def make(model: nn.Module) -> tuple[Any, Any]:
        optimizer, scheduler = ours()(model)
        optimizer.register_cycle_end_hook(lambda optimizer, index: ends.append((index, int(optimizer.clock))))
        return optimizer, scheduler

    Training(make).run(examples())
    assert ends == [(0, 3), (1, 9)]


def test_lr_finder() -> None:
    """accelerate has none. Ours takes the optimizer inside the prepared one, and the training is as without it."""
    training, like = Training(ours()), Training(ours())
    batches = [(inputs, targets) for inputs, targets, _ in examples()]
    arguments = {"criterion": nn.functional.mse_loss, "loader": batches, "num_steps": 20, "progress": False}
    with pytest.raises(
        TypeError, match="AcceleratedOptimizer; give the one inside this wrapper, its attribute optimizer"
    ):
        lr_find(training.model, training.optimizer, **arguments)
    assert 1e-7 < lr_find(training.model, training.optimizer.optimizer, **arguments).suggestion() < 10.0
    assert_same_steps(training.run(examples()), like.run(examples()), rtol=0.0, atol=0.0)
