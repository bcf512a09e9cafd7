"""`convert`: what is refused, with the reason, and that nothing is written then."""

from __future__ import annotations

import collections
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import Refused, of_ours, of_torch, params, refusal
from torch.optim import lr_scheduler as torch_schedulers
from torch_schedulers import CLOSED, TABULATED

from sgdr_fused import FusedAdam
from sgdr_fused._cli import main, torch_states
from sgdr_fused.schedules import (
    Constant,
    CosineAnnealing,
    CosineCycles,
    CosineWarmRestarts,
    Exponential,
    InverseTime,
    OneCycle,
    Polynomial,
    Product,
    Schedule,
    Sequential,
    Step,
    Table,
    Triangular,
    TriangularMomentum,
    Warmup,
)

pytestmark = pytest.mark.once


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    return refusal(tmp_path, capsys)


# ---- to ours


@pytest.mark.parametrize("make", [*CLOSED, *TABULATED])
def test_classes_are_known_by_their_entries(make: Any) -> None:
    optimizer = torch.optim.SGD([{"params": params(), "lr": lr} for lr in (0.1, 0.03)], momentum=0.9)
    scheduler = make(optimizer)
    if isinstance(scheduler, (torch_schedulers.LambdaLR, torch_schedulers.MultiplicativeLR)):
        return
    assert torch_states.is_scheduler_state(scheduler.state_dict())
    assert torch_states.class_of(scheduler.state_dict(), None) is type(scheduler)
    older = {**scheduler.state_dict(), "verbose": False}  # an entry of torch 2.4
    assert torch_states.class_of(older, None) is type(scheduler)


def plateau(optimizer: torch.optim.Optimizer) -> Any:
    return torch_schedulers.ReduceLROnPlateau(optimizer)


def test_schedulers_without_a_schedule(refused: Refused) -> None:
    assert "ReduceLROnPlateau, whose rate depends on a metric" in refused(of_torch(plateau))
    for cls in (torch_schedulers.LambdaLR, torch_schedulers.MultiplicativeLR):
        assert "calls a function of yours" in refused(of_torch(lambda o, cls=cls: cls(o, lambda epoch: 0.5)))
    between = of_torch(lambda o: torch_schedulers.CyclicLR(o, 0.1, 1.0, 2.5, cycle_momentum=False))
    assert "CyclicLR turns between two steps" in refused(between)
    mixed = of_torch(
        lambda o: torch_schedulers.SequentialLR(
            o, [torch_schedulers.CyclicLR(o, 0.1, 1.0, 4), torch_schedulers.StepLR(o, 3)], [9]
        ),
        momentum=0.9,
    )
    assert "SequentialLR moves the momentum only at times" in refused(mixed)


def test_a_scale_fn_is_not_in_a_file(refused: Refused) -> None:
    """CyclicLR's state does not tell whether it has one; its rate does."""
    held = of_torch(
        lambda o: torch_schedulers.CyclicLR(o, 0.1, 1.0, 4, cycle_momentum=False, scale_fn=lambda cycle: 0.3), steps=2
    )
    assert "Perhaps it has a scale_fn, which a file does not hold" in refused(held)


def test_class_of_the_scheduler(refused: Refused, tmp_path: Path) -> None:
    held = of_torch()
    held["scheduler"]["own"] = 3  # a subclass may have entries of its own
    error = refused(held)
    assert error.startswith("the scheduler's class is not known by its entries, ['gamma', 'own', 'step_size']: name it")
    assert error.endswith("--scheduler, one of " + ", ".join(torch_states.CLASSES))
    assert refused(held, "--scheduler", "LinearLR") == (
        "--scheduler must fit the scheduler's state, got LinearLR, but the state lacks "
        "['end_factor', 'start_factor', 'total_iters']"
    )
    assert refused(held, "--scheduler", "StepL").startswith("--scheduler must be one of StepLR, MultiStepLR, ")
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "b.pt"), "--scheduler", "StepLR"]) == 0
    assert "Step" in torch.load(tmp_path / "b.pt")["optimizer"]["param_groups"][0]["lr_schedule"]


def test_a_scheduler_that_is_stepped_once_per_epoch(refused: Refused, tmp_path: Path) -> None:
    """Adam counts its steps, and the file tells of fewer steps of the scheduler."""
    held = of_torch(kind=torch.optim.Adam, steps=6)
    held["scheduler"]["last_epoch"] = 2
    assert refused(held).startswith("the optimizer has taken 6 steps and its scheduler 2. A Schedule counts ")
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "b.pt"), "--each-step"]) == 0
    assert int(torch.load(tmp_path / "b.pt")["optimizer"]["param_groups"][0]["clock"]) == 2
    held["scheduler"]["last_epoch"] = 9  # a GradScaler has skipped three, and the rates are those of 9
    torch.save(held, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "c.pt")]) == 0
    assert int(torch.load(tmp_path / "c.pt")["optimizer"]["param_groups"][0]["clock"]) == 9


def changed(part: str, key: str, value: Any) -> dict[str, Any]:
    held = of_torch()
    target = held["optimizer"]["param_groups"][0] if part == "group" else held["scheduler"]
    if value is None:
        del target[key]
    else:
        target[key] = value
    return held


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("scheduler", "last_epoch", -1, "last_epoch of the scheduler's state must be in [0, 2.30584e+18], got -1"),
        ("scheduler", "last_epoch", 1.5, "last_epoch of the scheduler's state must be a whole number, got 1.5"),
        ("scheduler", "last_epoch", "x", "last_epoch of the scheduler's state must be a number, got 'x'"),
        ("scheduler", "step_size", "x", "cannot be converted: "),
        ("scheduler", "step_size", 0, "cannot be converted: "),
        ("scheduler", "gamma", -0.5, "gamma must be finite and >= 0, got -0.5"),
        ("scheduler", "base_lrs", [0.1, 0.2], "got 2 rates for 1 groups"),
        ("group", "lr", None, "cannot be converted: it lacks 'lr'"),
        ("group", "lr", -0.1, "the value -0.1, and those of a Schedule are >= 0"),
        ("group", "lr", math.nan, "cannot be converted: "),
        ("group", "lr_scale", 0.0, "cannot be converted: "),
    ],
)
def test_states_that_no_training_has(part: str, key: str, value: Any, message: str, refused: Refused) -> None:
    assert message in refused(changed(part, key, value))


def test_a_rate_that_is_no_number_without_a_scheduler(refused: Refused) -> None:
    states = {"optimizer": of_torch()["optimizer"]}
    states["optimizer"]["param_groups"][0]["lr"] = None
    assert "cannot be converted: " in refused(states)
    del states["optimizer"]["param_groups"][0]["lr"]
    assert refused(states).endswith("cannot be converted: it lacks 'lr'")


def test_milestones_are_read(tmp_path: Path) -> None:
    """torch keeps them in a Counter."""
    held = of_torch(lambda o: torch_schedulers.MultiStepLR(o, [2, 2, 5], 0.5))
    assert isinstance(held["scheduler"]["milestones"], collections.Counter)
    torch.save(held, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "b.pt")]) == 0


# ---- to torch


def with_data(data: Any, key: str = "lr_schedule") -> dict[str, Any]:
    held = of_ours(Step(0.1, 3))
    held["optimizer"]["param_groups"][0][key] = data
    return held


@pytest.mark.filterwarnings("ignore:step .* is past the end")
def test_schedules_without_a_scheduler(refused: Refused) -> None:
    no_scheduler = {
        InverseTime(
            0.1, 0.5
        ): "torch has no scheduler for InverseTime(lr=0.1, k=0.5); it has some for Step, MultiStep,",
        Table([0.1, 0.2]): "torch has no scheduler for Table(",
        CosineCycles(0.1, (3, 4)): "torch has no scheduler for CosineCycles(",
        Polynomial(0.1, 0.05, 9): "torch's PolynomialLR ends at 0, got Polynomial(start=0.1, end=0.05",
        CosineWarmRestarts(0.1, 3, max_decay=0.5): "torch's CosineAnnealingWarmRestarts has no max_decay, got 0.5",
        CosineWarmRestarts(0.1, 3, min_decay=0.5): "torch's CosineAnnealingWarmRestarts has no min_decay, got 0.5",
        CosineWarmRestarts(0.1, 3, T_mult=1.5): "torch's CosineAnnealingWarmRestarts takes a whole T_mult, got 1.5",
        Warmup(Step(0.1, 3), 5): "has no scheduler in torch that has one formula from step 3 on",
        Sequential([(Step(0.1, 3), 5), Constant(0.1)]): "has no scheduler in torch that has one formula from step 3 on",
        Product([Step(0.1, 3), Exponential(1.0, 0.5)]): "has no scheduler in torch that has one formula",
        OneCycle(0.1, 3): "torch's OneCycleLR takes no step after its total_steps, got OneCycle(",
    }
    for schedule, message in no_scheduler.items():
        assert message in refused(of_ours(schedule))
    assert "torch's LinearLR cannot stand for" in refused(of_ours(LINEAR_FROM_0, steps=0))


LINEAR_FROM_0 = Schedule.from_dict({"kind": "LinearRamp", "start": 0.0, "end": 0.1, "steps": 9})  # torch divides by it


def test_groups_that_one_scheduler_cannot_serve(refused: Refused) -> None:
    assert refused(of_ours([Step(0.1, 3), 0.1])) == (
        "a scheduler of torch's moves the lr of all groups, got numbers in the groups [1] and Schedules in others"
    )
    assert refused(of_ours([Step(0.1, 3), Exponential(0.1, 0.5)])) == (
        "one scheduler of torch's must serve all groups, got the Schedules Exponential, Step"
    )
    error = refused(of_ours([Step(0.1, 3), Step(0.1, 4)]))
    assert error == "a scheduler of torch's has one step_size for all groups, got [3, 4]"
    error = refused(of_ours([CosineAnnealing(0.1, 9, 0.01), CosineAnnealing(0.1, 9, 0.02)]))
    assert error == "a scheduler of torch's has one eta_min for all groups, got [0.01, 0.02]"
    error = refused(of_ours([Step(0.1, 3), Step(0.1, 3).shifted(1)]))
    assert error == "the Schedules of all groups must stand at the same step, got the steps [3, 4]"


def test_momenta_and_decays(refused: Refused) -> None:
    triangle = Triangular(0.01, 0.1, 4)
    momentum = TriangularMomentum(0.5, 0.9, 5)
    assert refused(of_ours(triangle, momentum=momentum)).startswith("the momentum must move with Triangular(")
    lr, other = OneCycle(0.1, 20)
    assert refused(of_ours(triangle, kind=FusedAdam, betas=(other, 0.9))).startswith("the momentum must move with Tri")
    beside = "torch has no scheduler for the momentum TriangularMomentum("
    assert refused(of_ours(Step(0.1, 3), momentum=momentum)).startswith(beside)
    assert refused(of_ours(0.1, momentum=momentum)).startswith(beside)
    assert refused(of_ours(lr, weight_decay=Step(0.1, 3))).startswith("torch has no scheduler for the weight_decay of ")
    classical = of_ours(triangle, momentum=0.9, momentum_form="classical")
    assert refused(classical).startswith("group 0 has momentum_form='classical', whose buffers hold the rate")


def test_states_that_ours_never_are(refused: Refused) -> None:
    no_schedule = "lr_schedule of group 0 is no Schedule: "
    for data in ("{", '{"kind": "Foo"}', "[" * 100_000, {"kind": "Step", "lr": -1, "step_size": 3}, [1]):
        assert refused(with_data(data)).startswith(no_schedule)
    assert refused(with_data(torch.tensor(7.5), "clock")).endswith(
        "clock of the state_dict must be a whole number, got 7.5"
    )
    held = of_ours([Step(0.1, 3), Step(0.1, 3)])
    held["optimizer"]["param_groups"][1]["clock"] = torch.tensor(4)
    assert refused(held) == "the groups must have one clock, got [3, 4]"
    del held["optimizer"]["param_groups"][0]["clock"], held["optimizer"]["param_groups"][1]["clock"]
    assert refused(held) == "the groups must have one clock, got []"


def test_a_scheduler_that_differs_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial notices a rate that is not the Schedule's: here of a torch with another StepLR."""
    monkeypatch.setattr(torch_schedulers.StepLR, "get_lr", lambda self: [g["lr"] for g in self.optimizer.param_groups])
    error = refused(of_ours(Step(0.1, 4)))
    assert error.startswith(
        "torch's StepLR cannot stand for Step(lr=0.1, step_size=4, gamma=0.1): 1 steps from now its lr"
    )
