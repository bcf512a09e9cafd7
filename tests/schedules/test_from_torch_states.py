"""schedules.from_torch where no step has led: rates set by hand, epochs set, checkpoints; and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch_schedulers import (
    CLOSED,
    STEPS,
    Make,
    assert_same,
    named,
    run,
    torch_optimizer,
)

from sgdr_fused.schedules import from_torch

pytestmark = pytest.mark.once

# ------------------------------------------------------- schedulers that stand where no step has led


@pytest.mark.parametrize("make", CLOSED)
def test_rates_that_were_set_by_hand(make: Make) -> None:
    """torch goes on from them, or forgets them at the next step; so do we."""
    for start in (0, 3, 10, 26, 125):
        scheduler = make(torch_optimizer(momentum=0.9))
        run(scheduler, start)
        for group in scheduler.optimizer.param_groups:
            group["lr"] = group["lr"] * 0.5 + 0.25  # above every minimum
        converted = from_torch(scheduler, num_steps=STEPS)
        assert_same(converted, run(scheduler, STEPS), f"from step {start}")


@pytest.mark.parametrize(
    "make",
    named(
        step=lambda o, **k: StepLR(o, 10, 0.5, **k),
        multi_step=lambda o, **k: MultiStepLR(o, [5, 20, 60], 0.5, **k),
        exponential=lambda o, **k: ExponentialLR(o, 0.97, **k),
        linear=lambda o, **k: LinearLR(o, 0.1, total_iters=60, **k),
        polynomial=lambda o, **k: PolynomialLR(o, 90, 2.0, **k),
        cosine=lambda o, **k: CosineAnnealingLR(o, 80, 0.001, **k),
        warm_restarts=lambda o, **k: CosineAnnealingWarmRestarts(o, 10, 2, 0.001, **k),
    ),
)
def test_made_with_a_last_epoch(make: Any) -> None:
    """Whatever torch makes of it: of warm restarts something wrong (#88791)."""
    for last in (4, 19, 50):
        scheduler = make(torch_optimizer(momentum=0.9))
        run(scheduler, last + 1)
        resumed = make(scheduler.optimizer, last_epoch=last)
        converted = from_torch(resumed)
        assert_same(converted, run(resumed, STEPS), f"after {last}")


@pytest.mark.parametrize("make", CLOSED[:28])
def test_loaded_from_a_checkpoint(make: Make) -> None:
    old = make(torch_optimizer(momentum=0.9))
    run(old, 47)
    new = make(torch_optimizer(momentum=0.9))
    new.optimizer.load_state_dict(old.optimizer.state_dict())
    new.load_state_dict(old.state_dict())
    assert from_torch(new) == from_torch(old)
    assert_same(from_torch(new), run(old, STEPS), "loaded")


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(("T_0", "T_mult"), [(10, 2), (1, 3), (7, 1), (3, 3)])
def test_warm_restarts_that_were_put_at_an_epoch(T_0: int, T_mult: int) -> None:
    """Also where torch puts them one cycle too low: T_0=1, T_mult=3, step 121."""
    for epoch in (0, 1, 9, 10, 11, 29, 30, 40, 120, 121, 122, 364):
        scheduler = CosineAnnealingWarmRestarts(torch_optimizer(), T_0, T_mult, 0.001)
        scheduler.optimizer.step()
        scheduler.step(epoch)
        assert_same(from_torch(scheduler), run(scheduler, STEPS), f"at {epoch}")


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_between_two_steps() -> None:
    """Fractions of an epoch have no whole step in front of them: tabulated."""
    scheduler = CosineAnnealingWarmRestarts(torch_optimizer(), 10, 2)
    scheduler.optimizer.step()
    scheduler.step(3.25)
    with pytest.warns(UserWarning, match=r"T_cur=3.25"):
        converted = from_torch(scheduler, num_steps=STEPS)
    assert_same(converted, run(scheduler, STEPS), "at 3.25")


def test_rates_in_tensors() -> None:
    opt = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.1, dtype=torch.float64))
    scheduler = SequentialLR(opt, [LinearLR(opt, 0.1, total_iters=10), CosineAnnealingLR(opt, 50)], [10])
    run(scheduler, 5)
    before = opt.param_groups[0]["lr"].clone()
    if scheduler._schedulers[0].base_lrs[0] is opt.param_groups[0]["lr"]:  # a fault of some releases of torch
        with pytest.raises(ValueError, match=r"base_lrs of its own, got .*number"):
            from_torch(scheduler)
        assert opt.param_groups[0]["lr"] == before
    else:
        converted = from_torch(scheduler)
        assert opt.param_groups[0]["lr"] == before
        assert_same(converted, run(scheduler, STEPS), "tensor")
    opt = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.1, dtype=torch.float64))
    multiplied = MultiplicativeLR(opt, lambda epoch: 0.9)
    with pytest.warns(UserWarning, match="tabulated"):
        assert from_torch(multiplied, num_steps=3)[0](2) == pytest.approx(0.81 * float(opt.param_groups[0]["lr"]))
    assert_same(from_torch(ExponentialLR(opt, 0.9)), run(ExponentialLR(opt, 0.9), 1), "tensor")


# ------------------------------------------------------------------------------------------- errors


def test_plateau_is_refused_with_the_reason() -> None:
    with pytest.raises(TypeError, match=r"ReduceLROnPlateau: its rate depends on the metric"):
        from_torch(ReduceLROnPlateau(torch_optimizer()))


class Halved(StepLR):
    def get_lr(self) -> list[Any]:
        return [rate / 2 for rate in super().get_lr()]


class Renamed(StepLR):
    """Nothing of its own."""


class Own(lr_scheduler.LRScheduler):
    def get_lr(self) -> list[Any]:
        return [0.1 for _ in self.base_lrs]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda o: Halved(o, 10), "Halved.*get_lr"),
        (lambda o: Own(o), "Own"),
        (lambda o: torch.optim.swa_utils.SWALR(o, 0.05), "SWALR"),
        (lambda o: SequentialLR(o, [Halved(o, 10), StepLR(o, 10)], [5]), "Halved.*get_lr"),
        (lambda o: ChainedScheduler([StepLR(o, 10), Own(o)]), "Own"),
        (lambda o: None, "None"),
        (lambda o: o, "SGD"),
    ],
    ids=["subclass", "own", "swa", "in_sequential", "in_chained", "none", "optimizer"],
)
def test_unknown_rules_are_refused(make: Make, named: str) -> None:
    with pytest.raises(TypeError, match=rf"(?s)scheduler must.*{named}"):
        from_torch(make(torch_optimizer()))


def test_a_scheduler_with_a_method_of_its_own_is_refused() -> None:
    scheduler = StepLR(torch_optimizer(), 10)
    scheduler.get_lr = lambda: [0.1, 0.1]
    with pytest.raises(TypeError, match="get_lr"):
        from_torch(scheduler)


def test_a_subclass_with_nothing_of_its_own() -> None:
    scheduler = Renamed(torch_optimizer(), 10)
    assert_same(from_torch(scheduler), run(scheduler, STEPS), "renamed")


def test_a_group_that_the_scheduler_does_not_know() -> None:
    scheduler = StepLR(torch_optimizer(), 10)
    scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match=r"scheduler must know all groups.*2 of 3"):
        from_torch(scheduler)


@pytest.mark.parametrize("name", ["weight_decay", "betas", "", None, 3], ids=repr)
def test_bad_hyperparameters(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"hyperparameter.*{name!r}"):
        from_torch(StepLR(torch_optimizer(), 10), hyperparameter=name)


@pytest.mark.parametrize("num_steps", [0, -1, 1.5, "3", None, True], ids=repr)
def test_bad_numbers_of_steps(num_steps: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"num_steps.*{re.escape(repr(num_steps))}"):
        from_torch(StepLR(torch_optimizer(), 10), num_steps=num_steps)


@pytest.mark.parametrize(
    "make",
    named(
        lambda_=lambda o: LambdaLR(o, lambda epoch: 1.0 - epoch / 5),
        cosine=lambda o: CosineAnnealingLR(o, 10, eta_min=-0.1),
        linear=lambda o: MultiplicativeLR(o, lambda epoch: -1.0),
    ),
)
def test_negative_rates_are_refused(make: Make) -> None:
    scheduler = make(torch_optimizer())
    with pytest.raises(ValueError, match=rf"scheduler cannot be converted: {type(scheduler).__name__}.*-0\.[0-9]+"):
        from_torch(scheduler, num_steps=20)
