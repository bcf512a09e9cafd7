"""Hugging Face's Trainer with a fused optimizer, beside the same Trainer with an optimizer and a scheduler of torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
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
)
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from sgdr_fused import FusedAdamW, FusedSGD, lr_find
from sgdr_fused.schedules import CosineWarmRestarts, WarmupStableDecay
from sgdr_fused.training import InStepScheduler

# A warning that a test does not expect is an error.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("error")]


class Regression(nn.Module):
    """A layer and its loss, in the form that the Trainer wants. The loss is multiplied by ``factor``."""

    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(4, 2, dtype=dtype)

    def forward(self, x: Tensor, y: Tensor, factor: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layer(x.to(self.layer.weight)) - y).square().mean() * factor.max()}


def examples(count: int = 8, infinite: tuple[int, ...] = ()) -> list[dict[str, Tensor]]:
    """A data set in memory. The loss of the examples numbered in `infinite` is infinite."""
    torch.manual_seed(1)
    factors = torch.tensor([math.inf if i in infinite else 1.0 for i in range(count)], dtype=torch.float64)
    return [{"x": torch.randn(4).double(), "y": torch.randn(2).double(), "factor": factor} for factor in factors]


class Recorder(transformers.TrainerCallback):
    """Keeps the parameters after each step, and whether the step was skipped."""

    def __init__(self) -> None:
        self.params: list[list[Tensor]] = []
        self.skipped: list[bool] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.params.append([param.detach().clone() for param in kwargs["model"].parameters()])
        self.skipped.append(kwargs["optimizer"].step_was_skipped)


def a_trainer(
    folder: Path,
    make: Maker = lambda model: (None, None),
    *,
    model: nn.Module | None = None,
    data: Any = None,
    cls: Any = transformers.Trainer,
    own: Any = None,
    **arguments: Any,
) -> tuple[Any, Recorder]:
    """A Trainer of three epochs in batches of two that logs every step. It makes its own optimizer from `own`."""
    model, data, recorder = model or Regression(), data or examples(), Recorder()
    defaults = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no"}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "log_level": "error"}
    trainer = cls(
        model,
        transformers.TrainingArguments(str(folder), **{**defaults, **quiet, **arguments}),
        train_dataset=data,
        eval_dataset=data,
        optimizers=make(model),
        optimizer_cls_and_kwargs=own,
        callbacks=[recorder],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer, recorder


def trained(*given: Any, **arguments: Any) -> tuple[Any, Recorder]:
    trainer, recorder = a_trainer(*given, **arguments)
    trainer.train()
    return trainer, recorder


def logged(trainer: Any, key: str = "learning_rate") -> list[Any]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize(("make", "other"), [(ours(), theirs), (our_adamw, their_adamw)], ids=["sgd", "adamw"])
def test_fit(tmp_path: Path, make: Maker, other: Maker) -> None:
    assert_same_steps(trained(tmp_path, make)[1], trained(tmp_path, other)[1])


def test_gradient_accumulation(tmp_path: Path) -> None:
    """Five batches an epoch, and so three steps, of which the last has one batch."""
    arguments = {"data": examples(10), "gradient_accumulation_steps": 2, "num_train_epochs": 4}
    assert_same_steps(trained(tmp_path, ours(), **arguments)[1], trained(tmp_path, theirs, **arguments)[1])


@pytest.mark.parametrize("lr", [SCHEDULE, 0.7], ids=["schedule", "number"])
def test_resume_mid_cycle(tmp_path: Path, lr: Any) -> None:
    """Bit for bit as without a stop, in the middle of an epoch too, whatever rate the new optimizer was made with."""
    whole, expected = trained(tmp_path, ours(), save_strategy="steps", save_steps=5)
    resumed, recorder = a_trainer(tmp_path, ours(lr), model=Regression(seed=7))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    torch.testing.assert_close(recorder.params, expected.params[5:], rtol=0.0, atol=0.0)
    assert logged(resumed) == logged(whole)  # the first five are in the checkpoint


def test_clip(tmp_path: Path) -> None:
    """The Trainer's clipping works, and ours does the same inside the step, with the Trainer's turned off."""
    like, expected = trained(tmp_path, theirs, max_grad_norm=1.0)
    assert_same_steps(trained(tmp_path, ours(), max_grad_norm=1.0)[1], expected)
    trainer, recorder = trained(tmp_path, ours(max_grad_norm=1.0), max_grad_norm=0.0)
    assert_same_steps(recorder, expected)
    norms = logged(like, "grad_norm")  # before clipping
    assert logged(trainer, "grad_norm") == pytest.approx(norms, rel=1e-12)
    assert min(norms) < 1.0 < max(norms)  # some were clipped, and others were not
    assert float(trainer.optimizer.optimizer.grad_norm) == pytest.approx(norms[-1], rel=1e-12)


def test_mixed_precision_bf16(tmp_path: Path) -> None:
    """Weights and inputs are rounded to bfloat16 in the forward pass."""
    _, plain = trained(tmp_path, ours(), model=Regression(torch.float32))
    _, recorder = trained(tmp_path, ours(), model=Regression(torch.float32), bf16=True)
    _, expected = trained(tmp_path, theirs, model=Regression(torch.float32), bf16=True)
    # The parameters are near 1. Where both differ by a unit in float32's last place, one may round to another bfloat16,
    # which is 2**-8 away. A step changes by that times a rate of 0.1 at most.
    assert_same_steps(recorder, expected, rtol=0.0, atol=0.1 * 2**-8)
    assert not torch.equal(recorder.params[0][0], plain.params[0][0])


def test_mixed_precision_fp16_on_the_cpu(tmp_path: Path) -> None:
    """There the Trainer takes ``fp16=True``, and neither rounds nor scales: it trains as without."""
    trainer, recorder = trained(tmp_path, ours(), model=Regression(torch.float32), fp16=True)
    assert trainer.accelerator.scaler is None
    _, expected = trained(tmp_path, ours(), model=Regression(torch.float32))
    assert_same_steps(recorder, expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_mixed_precision_with_a_scaler(tmp_path: Path, max_norm: float) -> None:
    """A step with an infinite gradient is skipped, as on a GPU. Neither parameters nor the clock move then."""
    arguments: dict[str, Any] = {"data": examples(infinite=(2, 5)), "fp16": True, "max_grad_norm": max_norm}
    trainer, actual = a_trainer(tmp_path, ours(), **arguments)
    like, expected = a_trainer(tmp_path, theirs, **arguments)
    for each in (trainer, like):  # what accelerate makes for fp16 on a GPU
        each.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)
        each.accelerator.native_amp = True
        each.train()
    assert 3 <= sum(expected.skipped) <= 6  # each of both examples once an epoch, sometimes in one batch
    assert actual.skipped == expected.skipped
    assert int(trainer.optimizer.optimizer.clock) == STEPS - sum(expected.skipped)
    assert_same_steps(actual, expected)


def test_logging(tmp_path: Path) -> None:
    """Floats, which go into JSON. The Trainer logs before it steps the scheduler: an entry has the rate of its step."""
    trainer, _ = trained(tmp_path, ours(), save_strategy="steps", save_steps=STEPS)
    rates = logged(trainer)
    assert all(type(each) is float for each in rates)
    # cos may be rounded otherwise, and torch's schedulers round otherwise.
    assert rates == pytest.approx([rate(t) for t in range(STEPS)], rel=1e-12)
    assert rates == pytest.approx(logged(trained(tmp_path, theirs)[0]), rel=1e-12)
    assert json.loads(json.dumps(trainer.state.log_history)) == trainer.state.log_history
    saved = json.loads((tmp_path / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    assert [entry["learning_rate"] for entry in saved["log_history"]] == rates


def test_schedule_in_epochs(tmp_path: Path) -> None:
    """Cycles of one, two and four epochs begin with an epoch: T_0 is the number of steps in one."""
    arguments: dict[str, Any] = {"data": examples(10), "gradient_accumulation_steps": 2, "num_train_epochs": 7}
    steps_per_epoch = math.ceil(len(a_trainer(tmp_path, **arguments)[0].get_train_dataloader()) / 2)
    schedule = CosineWarmRestarts(0.1, T_0=steps_per_epoch, T_mult=2)
    trainer, _ = trained(tmp_path, ours(schedule), **arguments)
    assert trainer.state.global_step == 7 * steps_per_epoch
    restarts = [entry["step"] for entry in trainer.state.log_history if entry.get("learning_rate") == 0.1]
    assert restarts == [1, 1 + 3, 1 + 9]  # the Trainer counts steps from 1


SCHEDULERS = {"linear": "LambdaLR", "reduce_lr_on_plateau": "ReduceLROnPlateau", "greedy": "GreedyLR"}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("given", ["optimizers", "optimizer_cls_and_kwargs"])
def test_scheduler_of_the_trainers_own_is_refused(tmp_path: Path, name: str, given: str) -> None:
    """Without a scheduler it makes one. The first step is refused, before it changes anything."""
    made: dict[str, Any] = {"own": (FusedAdamW, {"lr": SCHEDULE})}
    if given == "optimizers":
        made = {"make": lambda model: (FusedSGD(model.parameters(), lr=SCHEDULE), None)}
    trainer, recorder = a_trainer(tmp_path, lr_scheduler_type=name, eval_strategy="epoch", **made)
    before = [param.detach().clone() for param in trainer.model.parameters()]
    with pytest.raises(RuntimeError, match=f"{SCHEDULERS[name]}.*group 0.*CosineWarmRestarts.*InStepScheduler"):
        trainer.train()
    assert recorder.params == []
    assert all(torch.equal(param, old) for param, old in zip(trainer.model.parameters(), before, strict=True))
    assert int(trainer.optimizer.optimizer.clock) == 0  # that inside accelerate's
    for group in trainer.optimizer.param_groups:
        assert group["lr_schedule"] == SCHEDULE


class InStepTrainer(transformers.Trainer):
    """What to write where the Trainer makes the optimizer."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = InStepScheduler(self.optimizer)
        return self.lr_scheduler


def test_optimizer_of_the_trainers_own(tmp_path: Path) -> None:
    """It makes a group with weight decay and one without."""

    def grouped(model: Regression) -> tuple[Any, Any]:
        groups = [{"params": [model.layer.weight], "weight_decay": 0.1}, {"params": [model.layer.bias]}]
        optimizer = torch.optim.AdamW(groups, lr=1.0, weight_decay=0.0)
        return optimizer, LambdaLR(optimizer, rate)

    _, recorder = trained(tmp_path, cls=InStepTrainer, own=(FusedAdamW, {"lr": SCHEDULE}), weight_decay=0.1)
    assert_same_steps(recorder, trained(tmp_path, grouped)[1])


def test_number_with_the_trainers_own_scheduler(tmp_path: Path) -> None:
    """The default one: up along a line for three steps, and then down to 0 at the end."""
    trainer, recorder = trained(tmp_path, own=(FusedAdamW, {"lr": 0.1}), warmup_steps=3)
    like, expected = trained(tmp_path, own=(torch.optim.AdamW, {"lr": 0.1}), warmup_steps=3)
    assert_same_steps(recorder, expected)
    assert logged(trainer) == logged(like)
    assert logged(like) == pytest.approx([0.1 * min(t / 3, (STEPS - t) / 9) for t in range(STEPS)], rel=1e-12)


def test_checkpoint_of_torchs(tmp_path: Path) -> None:
    """Its scheduler's state is left aside, with a warning. Moments and the number of steps are taken."""
    _, expected = trained(tmp_path, their_adamw, save_strategy="steps", save_steps=5)
    assert torch.load(tmp_path / "checkpoint-5" / "scheduler.pt", weights_only=True)
    resumed, recorder = a_trainer(tmp_path, our_adamw)
    with pytest.warns(UserWarning, match="InStepScheduler"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    torch.testing.assert_close(recorder.params, expected.params[5:], **CLOSE)
    assert resumed.lr_scheduler.get_last_lr() == [SCHEDULE(STEPS)]


def test_lr_finder(tmp_path: Path) -> None:
    """The Trainer has none. Ours takes its batches, and the training afterwards is as without."""
    trainer, recorder = a_trainer(tmp_path, ours())
    loader = trainer.get_train_dataloader()
    arguments = {"num_steps": 20, "batch_to_loss": lambda model, batch: model(**batch)["loss"], "progress": False}
    assert 1e-7 < lr_find(trainer.model, trainer.optimizer, None, loader, **arguments).suggestion() < 10.0
    trainer.train()
    assert_same_steps(recorder, trained(tmp_path, ours())[1], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("decay_type", ["linear", "cosine"])
@pytest.mark.parametrize("warmup_type", ["linear", "cosine"])
def test_warmup_stable_decay_is_get_wsd_schedule(warmup_type: str, decay_type: str) -> None:
    """Each argument has Hugging Face's name, and each step its rate."""
    arguments: dict[str, Any] = {"num_warmup_steps": 7, "num_decay_steps": 20, "num_training_steps": 50}
    arguments |= {"warmup_type": warmup_type, "decay_type": decay_type, "min_lr_ratio": 0.1}
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, rates = transformers.get_wsd_schedule(optimizer, **arguments), []
    for _ in range(60):
        rates += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    assert WarmupStableDecay(0.3, **arguments).values(60).tolist() == pytest.approx(rates, rel=1e-12)
