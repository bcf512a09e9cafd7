"""`convert` reads the files of Lightning, whose states stand in lists, and writes such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import (
    OPTIMIZERS,
    converted,
    error_of,
    parameters,
    schedules_of,
    step_lr,
    train,
)
from torch.optim.lr_scheduler import LinearLR
from torch_schedulers import Make

from sgdr_fused.schedules import LinearRamp, Step

pytestmark = pytest.mark.once


def lightnings(file: Path, *trainings: tuple[torch.optim.Optimizer, Any]) -> Path:
    """A file with the layout of Lightning 2: a list of states for the optimizers, and one for the schedulers."""
    held = {
        "epoch": 1,
        "global_step": 7,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {"layer.weight": torch.arange(3.0)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict() for optimizer, _ in trainings],
        "lr_schedulers": [scheduler.state_dict() for _, scheduler in trainings if scheduler is not None],
        "hparams_name": "kwargs",
    }
    torch.save(held, file)
    return file


def trained(make: Make | None = step_lr, kind: str = "sgd") -> tuple[torch.optim.Optimizer, Any]:
    theirs_class, _, arguments = OPTIMIZERS[kind]
    optimizer = theirs_class(parameters(), **arguments)
    scheduler = None if make is None else make(optimizer)
    train(optimizer, scheduler, 0, 7)
    return optimizer, scheduler


@pytest.mark.parametrize("with_ours", [[], [{}]], ids=["nothing", "an InStepScheduler"])
def test_a_file_of_lightning(with_ours: list[Any], tmp_path: Path) -> None:
    """`with_ours`: what a training with our optimizer has in its list of schedulers."""
    source = lightnings(tmp_path / "a.pt", trained())
    original = torch.load(source)
    state = converted(source, tmp_path / "b.pt")
    assert list(state) == list(original)
    assert state["lr_schedulers"] == []
    (optimizer,) = state["optimizer_states"]
    assert schedules_of(optimizer)[0] == Step(0.1, 5, 0.5)
    assert int(optimizer["param_groups"][0]["clock"]) == 7
    torch.save({**state, "lr_schedulers": with_ours}, tmp_path / "b.pt")
    back = converted(tmp_path / "b.pt", tmp_path / "c.pt")
    assert list(back) == list(original)
    assert back["lr_schedulers"] == original["lr_schedulers"]
    assert back["optimizer_states"][0]["param_groups"] == original["optimizer_states"][0]["param_groups"]
    rest = {key for key in original if key not in ("optimizer_states", "lr_schedulers", "state_dict")}
    assert {key: back[key] for key in rest} == {key: original[key] for key in rest}


def test_a_file_of_lightning_with_two_optimizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other; the schedulers' states that are left keep their order."""
    source = lightnings(tmp_path / "a.pt", trained(), trained(lambda o: LinearLR(o, 0.5, 1.0, 20), "adamw"))
    original = torch.load(source)
    target = tmp_path / "b.pt"
    arguments = ("-o", target, "--optimizer-key", "optimizer_states[1]")
    assert error_of(capsys, source, "-o", target) == (
        "--optimizer-key must say which one is meant of ['optimizer_states[0]', 'optimizer_states[1]']"
    )
    assert error_of(capsys, source, *arguments) == (
        "--scheduler-key must say which one is meant of ['lr_schedulers[0]', 'lr_schedulers[1]']"
    )
    keys = ("--optimizer-key", "optimizer_states[1]", "--scheduler-key", "lr_schedulers[1]")
    state = converted(source, target, *keys)
    assert state["lr_schedulers"] == original["lr_schedulers"][:1]
    assert [type(each) for each in schedules_of(state["optimizer_states"][1])] == [LinearRamp] * 2
    assert state["optimizer_states"][0]["param_groups"] == original["optimizer_states"][0]["param_groups"]
    for wrong in ("scheduler", "lr_schedulers[2]"):
        error = error_of(capsys, target, "-o", tmp_path / "c.pt", *keys[:3], wrong)
        assert error.startswith(
            "--scheduler-key must be 'lr_schedulers[1]', since a file of Lightning has a list, got "
        )
    taken = error_of(capsys, target, "-o", tmp_path / "c.pt", *keys[:3], "lr_schedulers[0]")
    assert taken.startswith("the scheduler's state is written to 'lr_schedulers[0]', which has something else already")
    back = converted(target, tmp_path / "c.pt", *keys[:2])
    first, second = back["lr_schedulers"]
    assert first == original["lr_schedulers"][0]
    assert second["last_epoch"] == 7 and second["base_lrs"] == pytest.approx([0.1, 0.03])


def test_lists_that_are_not_lightnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optimizer, scheduler = trained()
    torch.save({"optimizer_states": [optimizer.state_dict()], "scheduler": scheduler.state_dict()}, tmp_path / "a.pt")
    error = error_of(capsys, tmp_path / "a.pt", "-o", tmp_path / "b.pt")
    assert error.endswith("under its keys, ['optimizer_states', 'scheduler']")
