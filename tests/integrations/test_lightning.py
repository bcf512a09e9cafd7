"""Lightning's Trainer around our optimizers, against the same trainings in plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from framework_trainings import network
from lightning_trainings import (
    BFLOAT16,
    BOTH,
    FLOAT16,
    MARKS,
    SCALES,
    SCHEDULE,
    SGD,
    Course,
    Module,
    assert_goes_on,
    assert_same,
    batches,
    fitted,
    float16,
    in_dict,
    near,
    plain_course,
    rate,
    torchs_scheduler,
)
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts
from sgdr_fused.training import InStepScheduler

pytestmark = MARKS

FORMS = [lambda optimizer: optimizer, lambda optimizer: ([optimizer], [InStepScheduler(optimizer)]), in_dict]
EVERY_FORM = pytest.mark.parametrize("form", FORMS, ids=["optimizer", "lists", "dict"])


@EVERY_FORM
@BOTH
def test_fit(theirs: Any, ours: Any, form: Any) -> None:
    course = fitted(Module(lambda params: form(ours(params, lr=SCHEDULE))))
    assert_same(course, plain_course(theirs))
    assert course.rates == [near([rate(step)]) for step in range(12)]


@EVERY_FORM
@BOTH
def test_resume_mid_cycle(theirs: Any, ours: Any, form: Any, tmp_path: Path) -> None:
    """Eight steps end in the second cycle. A new module, optimizer and trainer take the other four."""
    stopped, resumed, whole = (Module(lambda params: form(ours(params, lr=SCHEDULE))) for _ in range(3))
    fitted(stopped, epochs=2, saved=tmp_path / "last.ckpt")
    assert_goes_on(fitted(resumed, resumed=tmp_path / "last.ckpt"), fitted(whole))


def test_resume_from_torchs_optimizer(tmp_path: Path) -> None:
    """Lightning's checkpoint of torch's AdamW and its scheduler goes on at the same step of the Schedule."""
    torchs = Module(lambda params: in_dict(torch.optim.AdamW(params, lr=0.1), torchs_scheduler))
    fitted(torchs, epochs=2, saved=tmp_path / "last.ckpt")
    module = Module(lambda params: in_dict(FusedAdamW(params, lr=SCHEDULE)))
    with pytest.warns(UserWarning, match="InStepScheduler takes nothing from the state of another scheduler"):
        course = fitted(module, resumed=tmp_path / "last.ckpt")
    expected = plain_course(torch.optim.AdamW)
    expected.rates, expected.weights = expected.rates[8:], expected.weights[8:]
    assert_same(course, expected)


def test_accumulated_gradients() -> None:
    course = fitted(Module(lambda params: in_dict(SGD[1](params, lr=SCHEDULE))), accumulate_grad_batches=2)
    assert_same(course, plain_course(SGD[0], accumulated=2))
    assert course.rates[-1] == near([rate(5)])  # the sixth step in twelve batches


class TwoParts(Module):
    """Steps by hand, of two optimizers with a part of the network each; the second steps at every other batch."""

    def training_step(self, batch: Any, index: int) -> None:
        first, second = self.optimizers()
        self.manual_backward(mse_loss(self.network(batch[0]), batch[1]))
        for optimizer in (first, second) if index % 2 else (first,):
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return self.configured(self.network[0].parameters(), self.network[2].parameters())


def test_manual_optimization() -> None:
    other = CosineWarmRestarts(0.02, T_0=2)
    module = TwoParts(lambda first, second: [FusedAdamW(first, lr=SCHEDULE), FusedSGD(second, lr=other)])
    module.automatic_optimization = False
    course = fitted(module)
    model, expected = network(), Course()
    pair = torch.optim.AdamW(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.02)
    schedulers = torchs_scheduler(pair[0]), CosineAnnealingWarmRestarts(pair[1], 2)
    for index, (inputs, targets) in enumerate([*batches()] * 3):
        expected.rates.append(schedulers[0].get_last_lr())
        mse_loss(model(inputs), targets).backward()
        for optimizer, scheduler in list(zip(pair, schedulers, strict=True))[: 1 + index % 2]:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        expected.add(model)
    assert_same(course, expected)


@pytest.mark.parametrize("by", ["lightning", "own"])
def test_clip(by: str) -> None:
    module = Module(lambda params: SGD[1](params, lr=SCHEDULE, max_grad_norm=0.1 if by == "own" else None))
    course = fitted(module, gradient_clip_val=0.1 if by == "lightning" else None)
    assert_same(course, plain_course(SGD[0], max_norm=0.1))


@SCALES
@pytest.mark.parametrize("max_norm", [None, 0.1], ids=["unclipped", "clipped"])
def test_mixed_precision_float16(max_norm: float | None, scale: float) -> None:
    module = Module(lambda params: in_dict(SGD[1](params, lr=SCHEDULE, max_grad_norm=max_norm)), torch.float32)
    course = fitted(module, plugins=[float16(scale)])
    expected = plain_course(SGD[0], torch.float16, scale, max_norm)
    assert_same(course, expected, FLOAT16)
    assert (expected.steps < 12) == (scale > 2.0**8)
    assert int(course.optimizer.clock) == expected.steps


def test_clip_with_float16_is_refused() -> None:
    """What Lightning would clip is still multiplied by the scale."""
    module = Module(lambda params: FusedSGD(params, lr=SCHEDULE), torch.float32)
    with pytest.raises(RuntimeError, match="max_grad_norm"):
        fitted(module, plugins=[float16(2.0**8)], gradient_clip_val=0.1)
    assert all(map(torch.equal, module.parameters(), network(torch.float32).parameters()))


def test_mixed_precision_bfloat16() -> None:
    course = fitted(Module(lambda params: SGD[1](params, lr=SCHEDULE), torch.float32), precision="bf16-mixed")
    assert_same(course, plain_course(SGD[0], cast=torch.bfloat16), BFLOAT16)
