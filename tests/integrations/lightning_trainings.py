"""What the tests of Lightning share: a module, its data, trainings by the Trainer, and the same in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from framework_trainings import network
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import DataLoader, TensorDataset
from warm_restarts import sgdr

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts
from sgdr_fused.training import InStepScheduler

MARKS = [
    pytest.mark.once,
    # Every warning that a test does not expect is an error, except those of Lightning about torch and our data.
    pytest.mark.filterwarnings("error", "ignore:.*LeafSpec", "ignore:.*does not have many workers"),
]
QUIET = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
SCHEDULE = CosineWarmRestarts(0.1, T_0=3, T_mult=2, eta_min=0.001)
rate = sgdr(0.1, T_0=3, eta_min=0.001)
SGD = partial(torch.optim.SGD, momentum=0.9, nesterov=True), partial(FusedSGD, momentum=0.9, nesterov=True)
BOTH = pytest.mark.parametrize(("theirs", "ours"), [SGD, (torch.optim.AdamW, FusedAdamW)], ids=["sgd", "adamw"])
# Both go from rate to rate in float64, by formulas that round differently.
EXACT = 1e-12
# The weights are float32 and differ in their last bits, and more where one is rounded to another half precision number.
# Without autocast they would end 2e-4 (float16) or 1.6e-3 (bfloat16) away, and with rates one step late 7e-3.
FLOAT16, BFLOAT16 = 1e-4, 1e-3
SCALES = pytest.mark.parametrize("scale", [2.0**8, 2.0**19], ids=["no skips", "skips"])


def float16(scale: float, plugin: Any = MixedPrecision) -> Any:
    """16-mixed on the CPU. At the larger of the SCALES the first steps overflow and are skipped."""
    return plugin("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))


def near(values: Any) -> list[Any]:
    return [pytest.approx(value, rel=EXACT) for value in values]


def batches(dtype: torch.dtype = torch.float64) -> DataLoader[Any]:
    """One epoch: four batches."""
    generator = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randn(32, size, generator=generator).to(dtype) for size in (4, 2))
    return DataLoader(TensorDataset(inputs, targets), batch_size=8)


class Course(Callback):
    """What a training does: the rates before each batch, and all weights after it."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.weights: list[list[Tensor]] = []
        self.optimizer: Any = None
        self.steps = 0

    def add(self, model: nn.Module) -> None:
        self.weights.append([param.detach().clone() for param in model.parameters()])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.optimizer = trainer.optimizers[0]
        self.rates.append([float(group["lr"]) for group in self.optimizer.param_groups])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.add(pl_module)


class Module(LightningModule):
    """A module whose ``configure_optimizers`` returns what `configured` makes of the parameters."""

    def __init__(self, configured: Callable[..., Any], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.network = network(dtype)
        self.lr = 0.0  # where a range test puts what it suggests
        self.configured = configured

    def training_step(self, batch: Any, index: int) -> Tensor | None:
        loss = mse_loss(self.network(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.configured(self.network.parameters())


def fitted(
    module: Module,
    *callbacks: Callback,
    epochs: int = 3,
    saved: Path | None = None,
    resumed: Path | None = None,
    data: Any = None,
    **options: Any,
) -> Course:
    course = Course()
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks, course], **{**QUIET, **options})
    trainer.fit(module, batches(module.network[0].weight.dtype), data, ckpt_path=resumed, weights_only=True)
    if saved is not None:
        trainer.save_checkpoint(saved)
    return course


def plain_course(make: Any, cast: Any = None, scale: Any = None, max_norm: Any = None, accumulated: int = 1) -> Course:
    """Three epochs with torch's optimizer and scheduler. A skipped step leaves the rate where it is."""
    dtype = torch.float32 if cast else torch.float64
    model, course = network(dtype), Course()
    optimizer = make(model.parameters(), lr=0.1)
    scheduler = torchs_scheduler(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for index, (inputs, targets) in enumerate([*batches(dtype)] * 3):
        course.rates.append(scheduler.get_last_lr())
        with torch.autocast("cpu", dtype=cast or torch.bfloat16, enabled=cast is not None):
            loss = mse_loss(model(inputs), targets) / accumulated
        scaler.scale(loss).backward()
        if (index + 1) % accumulated == 0:
            scaler.unscale_(optimizer)
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() >= before:
                scheduler.step()
                course.steps += 1
            optimizer.zero_grad()
        course.add(model)
    return course


# ---- what configure_optimizers returns


def torchs_scheduler(optimizer: Any) -> CosineAnnealingWarmRestarts:
    """The Schedule's rates."""
    return CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2, eta_min=0.001)


def alone(optimizer: Any) -> Any:
    return optimizer


def in_dict(optimizer: Any, scheduler: Any = InStepScheduler) -> dict[str, Any]:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler(optimizer), "interval": "step"}}


FORMS = pytest.mark.parametrize("form", [alone, in_dict])


def ours(form: Any = alone) -> Module:
    return Module(lambda params: form(FusedSGD(params, lr=SCHEDULE, momentum=0.9)))


def theirs() -> Module:
    """The same rates with torch's optimizer and scheduler."""
    return Module(lambda params: in_dict(torch.optim.SGD(params, lr=0.1, momentum=0.9), torchs_scheduler))


# ---- comparisons


def assert_same(course: Course, expected: Course, tolerance: float = EXACT) -> None:
    """The rates are in float64 whatever the weights are in."""
    torch.testing.assert_close(course.rates, expected.rates, rtol=min(tolerance, EXACT), atol=0.0)
    torch.testing.assert_close(course.weights, expected.weights, rtol=tolerance, atol=tolerance)


def assert_goes_on(resumed: Course, whole: Course) -> None:
    """From step 8 on, bit for bit what it would have been without a stop."""
    assert resumed.rates == whole.rates[8:]
    for weights, expected in zip(resumed.weights, whole.weights[8:], strict=True):
        assert all(map(torch.equal, weights, expected))
