"""`convert`: which files and keys it reads and writes, and that it never leaves half a file."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import Refused, of_ours, of_torch, refusal
from torch.optim import lr_scheduler as torch_schedulers

from sgdr_fused._cli import convert, main
from sgdr_fused.schedules import Step

pytestmark = pytest.mark.once


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    return refusal(tmp_path, capsys)


def test_output(tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.pt"
    out.write_text("precious")
    assert refused(of_torch()) == f"-o {out} exists; --force overwrites it"
    assert out.read_text() == "precious"
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(out), "--force"]) == 0
    assert "lr_schedule" in torch.load(out)["optimizer"]["param_groups"][0]
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path), "--force"]) == 2
    assert f"-o must be a file, got the folder {tmp_path}" in capsys.readouterr().err
    missing = tmp_path / "missing" / "out.pt"
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(missing)]) == 2
    assert f"-o {missing} cannot be written: " in capsys.readouterr().err
    assert not missing.parent.exists()
    with pytest.raises(SystemExit, match="2"):
        main(["convert", str(tmp_path / "a.pt")])


def test_a_file_may_be_converted_in_place(tmp_path: Path) -> None:
    torch.save(of_torch(), tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "a.pt"), "--force"]) == 0
    assert set(torch.load(tmp_path / "a.pt")) == {"optimizer"}


def test_never_half_a_file(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full while torch writes, and a process that is interrupted then."""
    out = tmp_path / "out.pt"

    def half(held: Any, file: Path) -> None:
        Path(file).write_text("half")
        raise failure

    failure: BaseException = OSError(28, "No space left on device")
    states = of_torch()
    torch.save(states, tmp_path / "b.pt")
    monkeypatch.setattr(convert.torch, "save", half)
    assert "No space left on device" in refused(tmp_path / "b.pt")
    failure = KeyboardInterrupt()
    out.write_text("precious")
    with pytest.raises(KeyboardInterrupt):
        main(["convert", str(tmp_path / "b.pt"), "-o", str(out), "--force"])
    assert out.read_text() == "precious" and {p.name for p in tmp_path.iterdir()} == {"b.pt", "out.pt"}


class Evil:
    """A pickle of it would call a function."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_files_that_cannot_be_read(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "No such file" in refused(tmp_path / "nothing.pt")
    assert refused(tmp_path).startswith("CHECKPOINT cannot be read: ")
    for name, content in {"text": b"no checkpoint", "empty": b"", "pickle": pickle.dumps(Evil())}.items():
        (tmp_path / name).write_bytes(content)
        assert "cannot be read with weights_only=True, which runs no code of a file" in refused(tmp_path / name)
    torch.save({"optimizer": Evil()}, tmp_path / "evil.pt")
    assert "weights_only=True" in refused(tmp_path / "evil.pt")
    assert not (tmp_path / "evil").exists()
    assert refused([1, 2]).startswith("CHECKPOINT must hold a dict, got <class 'list'>")


# In the place of the pickle in a file of torch.save: a text without its end, and an append to no list.
@pytest.mark.parametrize("damaged", [b"\x80\x02X\x01", b"\x80\x02a."], ids=["struct.error", "IndexError"])
def test_damaged_files(damaged: bytes, tmp_path: Path, refused: Refused) -> None:
    """torch's reader raises whatever it runs into."""
    torch.save(of_torch(), tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "damaged.pt", "w") as file:
        for name in whole.namelist():
            file.writestr(name, damaged if name.endswith("data.pkl") else whole.read(name))
    assert "damaged.pt cannot be read with weights_only=True" in refused(tmp_path / "damaged.pt")


def test_keys(refused: Refused) -> None:
    states = of_torch()
    shape = "CHECKPOINT holds nothing with the shape of an optimizer's state_dict under its keys, "
    assert refused({"model": {}, "epoch": 3}) == f"{shape}['model', 'epoch']"
    assert refused({"optimizer": {"state": {}, "param_groups": []}}).startswith(shape)
    assert refused({"optimizer": {"state": {}, "param_groups": [3]}}).startswith(shape)
    two = {**states, "other": states["optimizer"], "schedule": states["scheduler"]}
    assert refused(two) == "--optimizer-key must say which one is meant of ['optimizer', 'other']"
    assert refused(two, "--optimizer-key", "opt").startswith(
        "--optimizer-key must be one of ['optimizer', 'scheduler',"
    )
    error = refused(two, "--optimizer-key", "scheduler")
    assert error == "--optimizer-key 'scheduler' does not hold such a state; those that do are ['optimizer', 'other']"
    other = ("--optimizer-key", "other")
    assert refused(two, *other) == "--scheduler-key must say which one is meant of ['scheduler', 'schedule']"
    assert "--scheduler-key must be one of" in refused(two, *other, "--scheduler-key", "sched")
    assert "does not hold such a state" in refused(two, *other, "--scheduler-key", "optimizer")
    itself = states["optimizer"]
    error = refused(itself, "--scheduler-key", "scheduler")
    assert error == "--scheduler-key must be a key of the file, got 'scheduler': it has no keys"
    without = {"optimizer": itself}
    for option in (["--scheduler", "StepLR"], ["--each-step"]):
        assert refused(without, *option).startswith(f"{option[0]} is about a scheduler's state, and ")
        assert refused(of_ours(Step(0.1, 3)), *option) == (
            f"{option[0]} is about a scheduler of torch's that is converted to ours"
        )
    assert refused(states, "--to", "torch").startswith("--to must not be torch: the optimizer's state in ")
    assert refused(of_ours(0.1), "--to", "ours").startswith("--to must not be ours: ")
    taken = {**of_ours(Step(0.1, 3)), "scheduler": [1]}
    assert refused(taken).startswith("the scheduler's state is written to 'scheduler', which ")


def test_chosen_keys(tmp_path: Path) -> None:
    states, others = of_torch(), of_torch(lambda o: torch_schedulers.ExponentialLR(o, 0.5), steps=4)
    held = {"a": states["optimizer"], "b": states["scheduler"], "c": others["optimizer"], "d": others["scheduler"]}
    torch.save(held, tmp_path / "a.pt")
    keys = ["--optimizer-key", "c", "--scheduler-key"]
    assert main(["convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "b.pt"), *keys, "d", "--to", "ours"]) == 0
    found = torch.load(tmp_path / "b.pt")
    assert set(found) == {"a", "b", "c"}
    assert found["b"] == held["b"]
    assert "Exponential" in found["c"]["param_groups"][0]["lr_schedule"]
    assert main(["convert", str(tmp_path / "b.pt"), "-o", str(tmp_path / "c.pt"), *keys, "e"]) == 0
    assert torch.load(tmp_path / "c.pt")["e"] == held["d"]
