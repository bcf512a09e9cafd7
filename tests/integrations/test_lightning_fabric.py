"""Lightning's Fabric around our optimizers, against the same trainings in plain torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from framework_trainings import network
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from lightning_trainings import (
    BOTH,
    FLOAT16,
    MARKS,
    SCALES,
    SCHEDULE,
    SGD,
    Course,
    assert_goes_on,
    assert_same,
    batches,
    float16,
    near,
    plain_course,
    rate,
)
from torch.nn.functional import mse_loss

from sgdr_fused.training import InStepScheduler

pytestmark = MARKS


def fabric_course(fabric: Fabric, model: Any, optimizer: Any, steps: Iterable[int], clip: Any = None) -> Course:
    course, epoch = Course(), [*batches(next(model.parameters()).dtype)]
    for step in steps:
        course.rates.append(optimizer.get_last_lr())
        with fabric.init_tensor():  # else Fabric rounds what the model gives to float32
            outputs = model(epoch[step % 4][0])
        fabric.backward(mse_loss(outputs, epoch[step % 4][1]))
        if clip is not None:
            fabric.clip_gradients(model, optimizer, max_norm=clip)
        optimizer.step()
        optimizer.zero_grad()
        course.add(model)
    return course


@pytest.mark.parametrize("clip", [None, 0.1], ids=["unclipped", "clipped"])
@BOTH
def test_fabric_fit(theirs: Any, ours: Any, clip: float | None) -> None:
    fabric, model = Fabric(accelerator="cpu", precision="64-true"), network()
    optimizer = ours(model.parameters(), lr=SCHEDULE)
    model, wrapped, scheduler = fabric.setup(model, optimizer, scheduler=InStepScheduler(optimizer))
    assert_same(fabric_course(fabric, model, wrapped, range(12), clip), plain_course(theirs, max_norm=clip))
    assert scheduler.get_last_lr() == near([rate(11)])  # of the last step, until the scheduler is stepped
    scheduler.step()
    assert scheduler.get_last_lr() == near([rate(12)])


@BOTH
def test_fabric_resume_mid_cycle(theirs: Any, ours: Any, tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", precision="64-true")
    models = [network() for _ in range(3)]
    pairs = [fabric.setup(model, ours(model.parameters(), lr=SCHEDULE)) for model in models]
    whole, stopped, resumed = ({"model": model, "optimizer": optimizer} for model, optimizer in pairs)
    fabric_course(fabric, **stopped, steps=range(8))
    fabric.save(tmp_path / "last.ckpt", stopped)
    fabric.load(tmp_path / "last.ckpt", resumed)
    course = fabric_course(fabric, **resumed, steps=range(8, 12))
    assert_goes_on(course, fabric_course(fabric, **whole, steps=range(12)))


@SCALES
def test_fabric_mixed_precision_float16(scale: float) -> None:
    fabric, model = Fabric(accelerator="cpu", plugins=[float16(scale, MixedPrecision)]), network(torch.float32)
    model, optimizer = fabric.setup(model, SGD[1](model.parameters(), lr=SCHEDULE, max_grad_norm=0.1))
    course = fabric_course(fabric, model, optimizer, range(12))
    expected = plain_course(SGD[0], torch.float16, scale, max_norm=0.1)
    assert_same(course, expected, FLOAT16)
    assert (expected.steps < 12) == (scale > 2.0**8)
    assert int(optimizer.clock) == expected.steps
    with pytest.raises(RuntimeError, match="max_grad_norm"):
        fabric_course(fabric, model, optimizer, [12], clip=0.1)
