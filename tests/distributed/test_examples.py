"""The examples for several processes: each trains as one process with torch's optimizer and scheduler does."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from installs import ROOT
from torch import Tensor

EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))
characters = pytest.importorskip("characters", reason="the examples need tqdm")
demo = pytest.importorskip("distributed_demo", reason="the demo needs matplotlib")

pytestmark = pytest.mark.once

BOUND, Row = demo.BOUND, demo.Row
MAX_NORM = 0.3  # of the examples
STEPS = 30  # a restart after 20, and the middle of a cycle at the end
Change = Callable[[int, torch.nn.Module, torch.optim.Optimizer], None]


def rate(step: int) -> float:
    """The rate of the examples by the formula of the paper, for the first two cycles, of 20 and 40 steps."""
    position, length = (step, 20) if step < 20 else (step - 20, 40)
    return 1e-5 + (3e-3 - 1e-5) * (1 + math.cos(math.pi * position / length)) / 2


def trained(change: Change = lambda *_: None, max_norm: float = MAX_NORM, is_reversed: bool = False) -> Tensor:
    """The losses and norms of the same training in this process by torch alone. `change` is called before each step."""
    text, model = characters.load_text(), characters.Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    rows = []
    for step in range(STEPS):
        inputs, targets = characters.batch(text, step, 0, 1)
        if is_reversed:
            inputs, targets = inputs.flip(0), targets.flip(0)
        optimizer.zero_grad()
        loss = model(inputs, targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.param_groups[0]["lr"] = rate(step)
        change(step, model, optimizer)
        optimizer.step()
        rows.append([loss.item(), norm.item()])
    return torch.tensor(rows, dtype=torch.float64).T


@cache
def expected() -> Tensor:
    return trained()


def largest_difference(trained_otherwise: Tensor) -> float:
    """Of the losses; NaN where one of them is."""
    return (trained_otherwise[0] - expected()[0]).abs().max().item()


def assert_trained_as_one(file: Path, processes: list[int]) -> None:
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == list(range(STEPS))
    assert [int(row["processes"]) for row in rows] == processes
    # Both are closed forms in float64, written differently.
    assert [float(row["lr"]) for row in rows] == pytest.approx([rate(step) for step in range(STEPS)], rel=1e-12)
    losses, norms = torch.tensor([[float(row["loss"]), float(row["grad_norm"])] for row in rows]).double().T
    torch.testing.assert_close(losses, expected()[0], rtol=0, atol=BOUND)
    # Norms are below 2, where the spacing is a quarter of that of the losses, which the bound is made for.
    torch.testing.assert_close(norms, expected()[1], rtol=0, atol=BOUND)


def left_behind(folder: Path) -> list[str]:
    """The processes that have a file of this folder among their arguments."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(folder) in command:  # that of one which has ended, but was not waited for, is empty
            found.append(command)
    return found


@pytest.fixture(autouse=True)
def package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def test_processes_share_a_batch() -> None:
    text = characters.load_text()
    for step in (0, 7):
        inputs, targets = characters.batch(text, step, 0, 1)
        assert inputs.shape == targets.shape == (characters.BATCH, characters.CONTEXT)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        for processes in (2, 4, 32):
            parts = [characters.batch(text, step, rank, processes) for rank in range(processes)]
            assert sorted(torch.cat([part[0] for part in parts]).tolist()) == sorted(inputs.tolist())
            assert sorted(torch.cat([part[1] for part in parts]).tolist()) == sorted(targets.tolist())
    first, second = (characters.batch(text, step, 0, 1)[0] for step in (0, 1))
    assert not torch.equal(first, second)
    with pytest.raises(ValueError, match="32 sequences cannot be divided evenly among 3 processes"):
        characters.batch(text, 0, 0, 3)


def test_bound_is_what_the_order_of_additions_explains() -> None:
    """The bound is 20 spacings; other machines may add in other orders, so a quarter of it may be used here."""
    assert 0 < largest_difference(trained(is_reversed=True)) <= BOUND / 4


def forget_states(step: int, _: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if step == 16:
        optimizer.state.clear()


def forget_count(step: int, _: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if step == 16:
        for state in optimizer.state.values():
            state["step"].fill_(0)


def late_rate(step: int, _: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if step >= 16:
        optimizer.param_groups[0]["lr"] = rate(step - 1)


def half_a_batch(step: int, model: torch.nn.Module, _: torch.optim.Optimizer) -> None:
    """What a process does that does not hear of the others' gradients, in one step."""
    if step == 16:
        model.zero_grad()
        model(*characters.batch(characters.load_text(), step, 0, 2)).backward()


@pytest.mark.parametrize("change", [forget_states, forget_count, late_rate, half_a_batch])
def test_bound_shows_what_is_wrong(change: Change) -> None:
    assert largest_difference(trained(change)) > 10 * BOUND


@pytest.mark.parametrize("factor", [math.sqrt(2), math.inf])
def test_bound_shows_how_gradients_are_clipped(factor: float) -> None:
    """A process that knew half of the sum of squares would clip at a norm that is larger by the root of 2."""
    assert largest_difference(trained(max_norm=factor * MAX_NORM)) > 10 * BOUND


def test_demo_tells_another_curve(capsys: pytest.CaptureFixture[str]) -> None:
    alone = [Row(step, 1, 3.0, rate(step)) for step in range(STEPS)]
    resumed = [Row(step, 2 if step < 16 else 4, 3.0 + BOUND / 2, rate(step)) for step in range(STEPS)]
    assert demo.is_same(alone, resumed, 16, STEPS)
    assert "4.8e-06; bound: 9.5e-06" in capsys.readouterr().out
    for step in (0, 17, STEPS - 1):
        for changed in ({"loss": 3.0 + 2 * BOUND}, {"loss": 3.0 - 2 * BOUND}, {"loss": math.nan}, {"lr": 1e-3}):
            other = [row._replace(**changed) if row.step == step else row for row in resumed]
            assert not demo.is_same(alone, other, 16, STEPS), (step, changed)
    with pytest.raises(RuntimeError, match="did not go on where the two had saved"):
        demo.is_same(alone, resumed, 8, STEPS)
    for one, other in ((alone[:-1], resumed), (alone, resumed[1:])):
        with pytest.raises(RuntimeError, match="steps were written, and not 30"):
            demo.is_same(one, other, 16, STEPS)


@pytest.mark.slow
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process, and two that are killed and go on as four."""
    arguments = ["--steps", str(STEPS), "--save-every", "8", "--kill-after", "20", "--out", str(tmp_path)]
    assert demo.main(arguments) == 0
    assert left_behind(tmp_path) == []
    printed = capsys.readouterr().out
    assert "the same curve" in printed
    saved = int(printed.split("four processes go on from the checkpoint of ")[1].split()[0])
    assert saved in (16, 24)  # 24 where the machine is slow to kill
    assert_trained_as_one(tmp_path / "distributed" / "alone.csv", [1] * STEPS)
    assert_trained_as_one(tmp_path / "distributed" / "resumed.csv", [2] * saved + [4] * (STEPS - saved))
    assert (tmp_path / "distributed.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_ddp(tmp_path: Path) -> None:
    """Two processes stop, and one goes on."""
    file = tmp_path / "losses.csv"
    arguments = ["--steps", str(STEPS), "--checkpoint", str(tmp_path / "ddp.pt"), "--out", str(file)]
    demo.train(EXAMPLES / "ddp.py", 2, [*arguments, "--stop-after", "13"])
    assert [row.step for row in demo.read(file)] == list(range(13))
    demo.train(EXAMPLES / "ddp.py", 1, arguments)
    assert left_behind(tmp_path) == []
    assert_trained_as_one(file, [2] * 13 + [1] * (STEPS - 13))


# Kills the process while it saves the checkpoint of step 24: before its last file is written, or before it is renamed.
KILLED = """
import os, signal, sys
from pathlib import Path
import fsdp2
from torch.distributed.checkpoint import FileSystemWriter
finish, rename = FileSystemWriter.finish, Path.rename
def finish_or_die(writer, *args, **named):
    if sys.argv[1] == "writing" and Path(writer.path).name == "partial-00000024":
        os.kill(os.getpid(), signal.SIGKILL)
    return finish(writer, *args, **named)
def rename_or_die(path, target):
    if sys.argv[1] == "renaming" and path.name == "partial-00000024":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
FileSystemWriter.finish, Path.rename = finish_or_die, rename_or_die
fsdp2.main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_killed_while_saving(tmp_path: Path, moment: str) -> None:
    file, folder = tmp_path / "losses.csv", tmp_path / "checkpoint"
    arguments = ["--steps", str(STEPS), "--checkpoint", str(folder), "--save-every", "12", "--out", str(file)]
    path = os.pathsep.join([str(EXAMPLES), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, moment, *arguments]
    killed = subprocess.run(command, env=environment, check=False, timeout=demo.LIMIT)
    assert killed.returncode == -9
    assert sorted(path.name for path in folder.iterdir()) == ["partial-00000024", "step-00000012"]
    assert (folder / "partial-00000024" / ".metadata").exists() == (moment == "renaming")
    assert len(demo.read(file)) == 24
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:13]))  # so that what follows is new
    demo.train(EXAMPLES / "fsdp2.py", 1, arguments)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000030"]
    assert_trained_as_one(file, [1] * STEPS)
