"""`convert`: a training of torch's goes on with our optimizer, and back, as if it had never stopped."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import (
    OPTIMIZERS,
    checkpoint,
    converted,
    error_of,
    flat,
    parameters,
    save,
    schedules_of,
    step_lr,
    train,
    with_params_of,
)
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LinearLR, OneCycleLR
from torch_features import DECOUPLED_ADAM
from torch_schedulers import CLOSED, Make

from sgdr_fused import EMA, FusedAdam, FusedSGD
from sgdr_fused.schedules import (
    CosineAnnealing,
    CosineWarmRestarts,
    LinearRamp,
    MultiStep,
    OneCycle,
    Schedule,
    Sequential,
    Step,
    Triangular,
    Warmup,
)

pytestmark = pytest.mark.once

STEPS = 41
# The momentum of this one moves in one of its parts alone, which is refused.
WITH_SCHEDULES = [case for case in CLOSED if case.id != "four_in_a_row"]


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("make", WITH_SCHEDULES)
def test_goes_on_as_torch_would(make: Make, kind: str, tmp_path: Path) -> None:
    """From four places of a scheduler, for all schedulers whose rates have closed forms, momentum included."""
    theirs_class, ours_class, arguments = OPTIMIZERS[kind]
    for start in (0, 1, 13, 130):
        theirs = theirs_class(parameters(), **arguments)
        scheduler = make(theirs)
        train(theirs, scheduler, 0, start)
        saved = save(tmp_path / "torch.pt", theirs, scheduler)
        ours = ours_class(with_params_of(parameters(), theirs), **arguments)
        state = converted(saved, tmp_path / "ours.pt", "--force")
        assert set(state) == {"optimizer"}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "step .* is past the end")  # some end while we go on
            warnings.filterwarnings("ignore", "The epoch parameter")  # some releases of torch warn of themselves
            ours.load_state_dict(state["optimizer"])
            assert int(ours.clock) == start
            assert all(group["lr_schedule"] is not None for group in ours.param_groups)
            train(theirs, scheduler, start, STEPS)
            train(ours, None, start, STEPS)
        torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-12, atol=1e-12)
        for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert float(group["lr"]) == pytest.approx(float(other["lr"]), rel=1e-9, abs=1e-13)


# Those of one formula, which one scheduler of torch's gives.
SINGLE = [case for case in CLOSED if not case.id.startswith(("warmed", "three", "four", "skipped", "chained"))]


@pytest.mark.filterwarnings("ignore:step .* is past the end")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("make", SINGLE)
def test_and_back(make: Make, kind: str, tmp_path: Path) -> None:
    """torch, then ours, then torch, against torch alone."""
    theirs_class, ours_class, arguments = OPTIMIZERS[kind]
    theirs = theirs_class(parameters(), **arguments)
    scheduler = make(theirs)
    train(theirs, scheduler, 0, 11)
    ours = ours_class(with_params_of(parameters(), theirs), **arguments)
    to_ours = converted(save(tmp_path / "a.pt", theirs, scheduler), tmp_path / "b.pt")
    ours.load_state_dict(to_ours["optimizer"])
    train(ours, None, 11, 12)
    back = converted(save(tmp_path / "c.pt", ours, None), tmp_path / "d.pt")

    again = theirs_class(with_params_of(parameters(), ours), **arguments)
    other = make(again)
    again.load_state_dict(back["optimizer"])
    if "scheduler" in back:
        other.load_state_dict(copy.deepcopy(back["scheduler"]))  # CyclicLR takes entries out of it
        assert back["scheduler"]["last_epoch"] == 23
        assert back["scheduler"].keys() == scheduler.state_dict().keys()
    train(theirs, scheduler, 11, 12 + STEPS)
    train(again, other if "scheduler" in back else None, 23, STEPS)
    torch.testing.assert_close(flat(again), flat(theirs), rtol=1e-12, atol=1e-12)
    own = {"params"} if DECOUPLED_ADAM else {"params", "decoupled_weight_decay"}
    entries = [group.keys() - own for group in again.param_groups]
    assert entries == [group.keys() - own for group in theirs.param_groups]


# ---- what the Schedules are, and what is left as it is


def test_the_schedule_is_the_one_from_the_start(tmp_path: Path) -> None:
    """A training without changes by hand gets the Schedule that a user would have written, and a clock."""
    for name, (make, expected) in {
        "step": (step_lr, Step(0.1, 5, 0.5)),
        "restarts": (lambda o: CosineAnnealingWarmRestarts(o, 3, 2, 0.01), CosineWarmRestarts(0.1, 3, 2, 0.01)),
        "linear": (lambda o: LinearLR(o, 0.5, 1.0, 20), LinearRamp(0.05, 0.1, 20)),
        "one_cycle": (lambda o: OneCycleLR(o, 0.5, 100, pct_start=0.25), OneCycle(0.5, 100, pct_start=0.25)),
    }.items():
        state = converted(checkpoint(tmp_path / f"{name}.pt", make), tmp_path / f"{name}_ours.pt")["optimizer"]
        schedule = schedules_of(state)[0]
        assert type(schedule) is type(expected)
        assert schedule.values(100).tolist() == pytest.approx(expected.values(100).tolist(), rel=1e-12)
        assert {int(group["clock"]) for group in state["param_groups"]} == {7}


def test_a_rate_that_was_set_by_hand(tmp_path: Path) -> None:
    """It goes on from there, as with torch, and the clock is that of the scheduler all the same."""

    def change(optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        optimizer.param_groups[1]["lr"] = 0.007

    state = converted(checkpoint(tmp_path / "a.pt", change=change), tmp_path / "b.pt")["optimizer"]
    first, second = schedules_of(state)
    assert first == Step(0.1, 5, 0.5)
    assert [second(7 + t) for t in (0, 2, 3, 8)] == pytest.approx([0.007, 0.007, 0.0035, 0.00175], rel=1e-12)
    assert [group["lr"] for group in state["param_groups"]] == pytest.approx([0.05, 0.007], rel=1e-15)


def test_everything_else_stays(tmp_path: Path) -> None:
    more = {"model": {"weight": torch.arange(3.0)}, "epoch": 3, "args": {"lr": 0.1}}
    source = checkpoint(tmp_path / "a.pt", **more)
    before = source.read_bytes()
    state = converted(source, tmp_path / "b.pt")
    assert source.read_bytes() == before
    assert list(state) == ["optimizer", *more]
    assert state["epoch"] == 3 and state["args"] == {"lr": 0.1} and state["model"]["weight"].tolist() == [0, 1, 2]
    original = torch.load(source)["optimizer"]
    for group, other in zip(state["optimizer"]["param_groups"], original["param_groups"], strict=True):
        ours = {"lr_schedule", "momentum_schedule", "betas_schedule", "weight_decay_schedule", "clock"}
        assert group.keys() - other.keys() == ours
        assert {key: group[key] for key in other} == other
    back = converted(tmp_path / "b.pt", tmp_path / "c.pt")
    assert list(back) == ["optimizer", *more, "scheduler"]
    assert back["optimizer"]["param_groups"] == original["param_groups"]
    assert back["scheduler"] == torch.load(source)["scheduler"]


def test_the_file_itself_may_be_the_state(tmp_path: Path) -> None:
    theirs = torch.optim.Adam(parameters())
    train(theirs, None, 0, 4)
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    state = converted(tmp_path / "a.pt", tmp_path / "b.pt")
    assert set(state) == {"state", "param_groups"}
    ours = FusedAdam(with_params_of(parameters(), theirs))
    ours.load_state_dict(state)
    assert int(ours.clock) == 4 and ours.get_last_lr() == [0.1, 0.03]
    assert set(converted(tmp_path / "b.pt", tmp_path / "c.pt")) == {"state", "param_groups"}
    ours.param_groups[0]["lr"] = ours.param_groups[1]["lr"] = Step(0.1, 3)
    torch.save(ours.state_dict(), tmp_path / "d.pt")
    assert set(converted(tmp_path / "d.pt", tmp_path / "e.pt")) == {"optimizer", "scheduler"}


def test_without_a_scheduler_rates_are_numbers(tmp_path: Path) -> None:
    """SGD counts no steps, so there is no clock; a Schedule of the optimizer that loads it gives way to the number."""
    theirs = torch.optim.SGD(parameters(), momentum=0.9)
    train(theirs, None, 0, 4)
    state = converted(save(tmp_path / "a.pt", theirs, None), tmp_path / "b.pt")["optimizer"]
    assert all("clock" not in group and group["lr_schedule"] == "" for group in state["param_groups"])
    ours = FusedSGD([{**group, "lr": Step(1.0, 3)} for group in with_params_of(parameters(), theirs)], momentum=0.9)
    with pytest.warns(UserWarning, match="takes the place of"):
        ours.load_state_dict(state)
    train(theirs, None, 4, 9)
    train(ours, None, 4, 9)
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=1e-12, atol=1e-12)


def test_lr_scale(tmp_path: Path) -> None:
    """Our optimizers multiply a Schedule by it, so the Schedule is divided by it, and back."""

    def change(optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        optimizer.param_groups[1]["lr_scale"] = 0.25

    source = checkpoint(tmp_path / "a.pt", change=change)
    state = converted(source, tmp_path / "b.pt")["optimizer"]
    assert [schedule(7) for schedule in schedules_of(state)] == pytest.approx([0.05, 0.06])
    ours = FusedSGD(with_params_of(parameters(), torch.optim.SGD(parameters())), momentum=0.9)
    ours.load_state_dict(state)
    assert ours.get_last_lr() == pytest.approx([0.05, 0.015])
    back = converted(tmp_path / "b.pt", tmp_path / "c.pt")
    assert back["scheduler"]["_last_lr"] == pytest.approx([0.05, 0.015])
    assert back["scheduler"]["base_lrs"] == pytest.approx([0.1, 0.03])


@pytest.mark.parametrize(
    ("schedule", "steps", "name", "base"),
    [
        (CosineWarmRestarts(0.1, T_0=3, T_mult=2).shifted(2), 5, "CosineAnnealingWarmRestarts", 0.1),
        (Warmup(CosineWarmRestarts(0.1, T_0=3, T_mult=2), 4), 9, "CosineAnnealingWarmRestarts", 0.1),
        (Sequential([(LinearRamp(0.0, 1.0, 3), 3), Step(0.1, 2)]), 6, "StepLR", 0.1),
        (2 * CosineAnnealing(0.1, 20, eta_min=0.01), 9, "CosineAnnealingLR", 0.2),
        (LinearRamp(0.0, 0.1, 20), 3, "LinearLR", 0.1),
        (LinearRamp(0.1, 0.0, 20), 25, "LinearLR", 0.1),
        (Triangular(0.01, 0.1, 4, 9, mode="triangular2").shifted(3), 11, "CyclicLR", 0.01),
        (MultiStep(0.1, [2, 9, 9, 20]), 7, "MultiStepLR", 0.1),
    ],
)
def test_what_a_user_writes_becomes_a_scheduler(
    schedule: Schedule, steps: int, name: str, base: float, tmp_path: Path
) -> None:
    """The scheduler steps on with the Schedule's rates, by which it is told whether it is right."""
    ours = FusedSGD(parameters()[0]["params"], lr=schedule, momentum=0.9)
    train(ours, None, 0, steps)
    back = converted(save(tmp_path / "a.pt", ours, None), tmp_path / "b.pt")
    theirs = torch.optim.SGD(parameters()[0]["params"], lr=1.0)
    makers = {"CyclicLR": (0.1, 0.2), "StepLR": (1,), "MultiStepLR": ([1],), "LinearLR": ()}
    scheduler = getattr(torch.optim.lr_scheduler, name)(theirs, *makers.get(name, (1,)))
    theirs.load_state_dict(back["optimizer"])
    scheduler.load_state_dict(back["scheduler"])
    assert scheduler.base_lrs == pytest.approx([base], rel=1e-14)
    for t in range(steps, steps + 60):
        assert theirs.param_groups[0]["lr"] == pytest.approx(schedule(t), rel=1e-9, abs=1e-14)
        theirs.step()
        scheduler.step()


def test_averages_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = FusedSGD(parameters(), lr=Step(0.1, 3), momentum=0.9, average=EMA(0.9))
    train(ours, None, 0, 3)
    back = converted(save(tmp_path / "a.pt", ours, None), tmp_path / "b.pt")
    assert all(set(state) == {"momentum_buffer"} for state in back["optimizer"]["state"].values())
    assert "left out, since torch's optimizers have no such states: average" in capsys.readouterr().out


def test_sgd_without_a_scheduler_comes_back(tmp_path: Path) -> None:
    """Its state counts no steps, and its rates are numbers, which need no clock."""
    theirs = torch.optim.SGD(parameters(), momentum=0.9)
    train(theirs, None, 0, 4)
    converted(save(tmp_path / "a.pt", theirs, None), tmp_path / "b.pt")
    back = converted(tmp_path / "b.pt", tmp_path / "c.pt")
    assert back["optimizer"]["param_groups"] == theirs.state_dict()["param_groups"]


def test_the_schedulers_key_of_a_file_that_is_the_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = FusedSGD(parameters()[0]["params"], lr=Step(0.1, 3), momentum=0.9)
    torch.save(ours.state_dict(), tmp_path / "a.pt")
    assert set(converted(tmp_path / "a.pt", tmp_path / "b.pt", "--scheduler-key", "lr")) == {"optimizer", "lr"}
    error = error_of(capsys, tmp_path / "a.pt", "-o", tmp_path / "c.pt", "--scheduler-key", "optimizer")
    assert "written to 'optimizer', which has something else already" in error
