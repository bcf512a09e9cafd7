"""Lightning's monitor, finder and tuner, and torch's schedulers in its Trainer, over a Schedule and over numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from framework_trainings import REPLACED, network, replacements
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from lightning_trainings import (
    EXACT,
    FORMS,
    MARKS,
    QUIET,
    SCHEDULE,
    Module,
    assert_same,
    batches,
    fitted,
    near,
    ours,
    rate,
    theirs,
)
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import LinearRamp

pytestmark = MARKS


def logged(folder: Path, configured: Callable[[Any], Any]) -> tuple[LearningRateMonitor, dict[str, list[float]]]:
    """LearningRateMonitor after twelve steps, and the columns of the file that was written."""
    monitor = LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
    logger = CSVLogger(folder, name="logs", version=0)
    fitted(Module(configured), monitor, logger=logger, log_every_n_steps=1)
    with (folder / "logs" / "version_0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return monitor, {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


@FORMS
def test_logging(form: Any, tmp_path: Path) -> None:
    hypers = {"lr": SCHEDULE, "momentum": LinearRamp(0.5, 0.9, 10), "weight_decay": LinearRamp(0.0, 0.01, 10)}
    monitor, columns = logged(tmp_path, lambda params: form(FusedSGD(params, **hypers)))
    rates = monitor.lrs["lr-FusedSGD"]
    assert {type(value) for value in rates} == {float}
    assert rates == columns["lr-FusedSGD"] == near(map(rate, range(12)))
    ramp = [min(step, 10) / 10 for step in range(12)]
    assert columns["lr-FusedSGD-momentum"] == near(0.5 + 0.4 * part for part in ramp)
    assert columns["lr-FusedSGD-weight_decay"] == near(0.01 * part for part in ramp)
    last = [*monitor.last_momentum_values.values(), *monitor.last_weight_decay_values.values()]
    assert [type(value) for value in last] == [float, float]
    assert last == near([0.9, 0.01])


@FORMS
def test_logging_of_groups(form: Any, tmp_path: Path) -> None:
    """A Schedule each, a number among them, and a Schedule in ``betas``."""
    hypers = {"lr": SCHEDULE, "betas": (LinearRamp(0.5, 0.9, 10), 0.99)}
    rates = [{}, {"lr": 0.5 * SCHEDULE}, {"lr": 0.5}, {}]

    def configured(params: Any) -> Any:
        return form(FusedAdamW([{"params": [p], **lr} for p, lr in zip(params, rates, strict=True)], **hypers))

    monitor, columns = logged(tmp_path, configured)
    scheduled = [rate(step) for step in range(12)]
    for i, expected in enumerate([scheduled, [0.5 * value for value in scheduled], [0.5] * 12, scheduled], start=1):
        name = f"lr-FusedAdamW/pg{i}"
        assert monitor.lrs[name] == columns[name] == near(expected)
        assert {type(value) for value in monitor.lrs[name]} == {float}
        assert columns[f"{name}-momentum"] == near(0.5 + 0.04 * min(step, 10) for step in range(12))


class FinderAtEpoch(LearningRateFinder):
    """A range test at the start of an epoch, in the middle of a training."""

    def __init__(self, epoch: int, steps: int, **options: Any) -> None:
        super().__init__(1e-4, 1.0, steps, early_stop_threshold=None, **options)
        self.epoch = epoch

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            self.lr_find(trainer, pl_module)


@FORMS
@pytest.mark.parametrize("epoch", [0, 2])
def test_lr_finder(form: Any, epoch: int, tmp_path: Path) -> None:
    """It finds what it finds with torch's optimizer, warns, and brings Schedule and clock back."""
    finder, like = (FinderAtEpoch(epoch, 8, update_attr=False) for _ in range(2))
    with pytest.warns(UserWarning, match=REPLACED) as warned:
        course = fitted(ours(form), finder, epochs=5, default_root_dir=tmp_path)
    assert replacements(warned) == 1
    fitted(theirs(), like, epochs=5, default_root_dir=tmp_path)
    assert len(like.optimal_lr.results["lr"]) == 8
    torch.testing.assert_close(finder.optimal_lr.results, like.optimal_lr.results, rtol=EXACT, atol=0.0)
    assert_same(course, fitted(ours(), epochs=5), 0.0)


@pytest.mark.parametrize("epoch", [0, 2])
def test_lr_finder_sets_its_suggestion(epoch: int, tmp_path: Path) -> None:
    """Its default: the number that it suggests takes the place of the Schedule, and a second warning says so."""
    finder, module = FinderAtEpoch(epoch, 16), ours()
    with pytest.warns(UserWarning, match=REPLACED) as warned:
        course = fitted(module, finder, epochs=7, default_root_dir=tmp_path)
    assert replacements(warned) == 2
    assert module.lr == finder.optimal_lr.suggestion()
    before = 4 * epoch
    assert course.rates == [near([rate(step)]) for step in range(before)] + [[module.lr]] * (28 - before)


@FORMS
def test_tuner(form: Any, tmp_path: Path) -> None:
    """It leaves the optimizer as it was. A training makes another anyway."""
    module, trainer = ours(form), Trainer(accelerator="cpu", max_epochs=3, default_root_dir=tmp_path, **QUIET)
    with pytest.warns(UserWarning, match=REPLACED) as warned:
        Tuner(trainer).lr_find(module, batches(), num_training=8, update_attr=False)
    assert replacements(warned) == 1
    optimizer = trainer.optimizers[0]
    assert optimizer.param_groups[0]["lr_schedule"] == SCHEDULE
    assert (optimizer.get_last_lr(), int(optimizer.clock)) == ([0.1], 0)
    assert_same(fitted(module), fitted(ours()), 0.0)


OVER_NUMBERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "each step": (partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3, T_mult=2), {"interval": "step"}),
    "each epoch": (partial(lr_scheduler.StepLR, step_size=1, gamma=0.5), {"interval": "epoch"}),
    # With this threshold no loss is an improvement.
    "plateau": (partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1.0), {"monitor": "loss"}),
}


@pytest.mark.parametrize(("scheduler", "config"), OVER_NUMBERS.values(), ids=OVER_NUMBERS.keys())
def test_torchs_scheduler_over_a_number(scheduler: Any, config: dict[str, Any]) -> None:
    def configured(make: Any, params: Any) -> dict[str, Any]:
        optimizer = make(params, lr=0.1, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler(optimizer), **config}}

    course, expected = (fitted(Module(partial(configured, make))) for make in (FusedSGD, torch.optim.SGD))
    assert course.rates == expected.rates
    assert len({rate for (rate,) in course.rates}) >= 3
    assert_same(course, expected)


OVER_A_SCHEDULE: dict[str, Any] = {
    "StepLR": partial(lr_scheduler.StepLR, step_size=1),
    "CosineAnnealingWarmRestarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3),
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=12),
    "LambdaLR": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
    "ReduceLROnPlateau": lr_scheduler.ReduceLROnPlateau,
    "SWALR": partial(SWALR, swa_lr=0.05),
}


@pytest.mark.parametrize("name", OVER_A_SCHEDULE)
def test_torchs_scheduler_over_a_schedule_is_refused(name: str) -> None:
    """At the first step, with nothing changed."""
    optimizer = FusedSGD(network().parameters(), lr=SCHEDULE)
    monitored = {"monitor": "loss"} if name == "ReduceLROnPlateau" else {}
    module = Module(
        lambda params: {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": OVER_A_SCHEDULE[name](optimizer), "interval": "step", **monitored},
        }
    )
    with pytest.raises(RuntimeError, match=rf"{name} .*group 0.*CosineWarmRestarts\(.*InStepScheduler"):
        fitted(module)
    assert optimizer.param_groups[0]["lr_schedule"] == SCHEDULE
    assert int(optimizer.clock) == 0
    assert all(map(torch.equal, optimizer.param_groups[0]["params"], network().parameters()))
