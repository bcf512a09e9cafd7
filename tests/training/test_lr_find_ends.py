"""lr_find: when it stops, how often it reads, several processes, and its bar."""

from __future__ import annotations

import builtins
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import DEVICE, expected_backend
from range_tests import END, START, Losses, batches, network
from torch.nn.functional import mse_loss
from torch.overrides import TorchFunctionMode

from sgdr_fused import FusedSGD, lr_find

pytestmark = pytest.mark.untracked


@pytest.mark.parametrize("read_every", [1, 16, 40])
@pytest.mark.parametrize(
    ("losses", "factor", "first_bad"),
    [
        (lambda t: 1.0 if t < 30 else 4.001, 4.0, 30),
        (lambda t: 1.0 if t < 30 else 3.999, 4.0, None),
        (lambda t: 1.0 if t < 30 else 3.999, 3.0, 30),
        (lambda t: -1.0 if t < 30 else 1.999, 4.0, None),  # -1 + 3 * 1
        (lambda t: -1.0 if t < 30 else 2.001, 4.0, 30),
        (lambda t: -float(t), 4.0, None),  # falls and falls, below 0
        (lambda t: 2.0 if t < 30 else math.inf, 4.0, 30),
        (lambda t: 2.0 if t != 31 else math.nan, 4.0, 31),
        (lambda t: math.nan, 4.0, 0),
        (lambda t: 1.0 + t % 2 if t < 95 else 100.0, 4.0, 95),
    ],
)
def test_divergence(losses: Callable[[int], float], factor: float, first_bad: int | None, read_every: int) -> None:
    """It is the last that is kept, or none of it if it is not finite. It is noticed at the end of a block: its own if
    it is not finite, else that in which it has lasted for five points.
    """
    model = Losses(losses)
    result = model.find(diverge_factor=factor, smoothing=0.0, read_every=read_every)
    kept, asked = 100, 100
    if first_bad is not None:
        finite = math.isfinite(losses(first_bad))
        kept = first_bad + finite
        asked = min(((first_bad + 4 * finite) // read_every + 1) * read_every, 100)
    assert result.losses.tolist() == [losses(t) for t in range(kept)]
    assert len(result.lrs) == kept
    assert result.diverged == (first_bad is not None)
    assert model.asked == asked


def test_divergence_looks_at_smoothed_losses() -> None:
    """Five losses of 10 among losses of 1 move the mean by less than (10 - 1) * (1 - 0.95**5) / 0.72 = 2.9."""
    outliers: Callable[[int], float] = lambda t: 10.0 if 20 <= t < 25 else 1.0  # noqa: E731
    assert not Losses(outliers).find(smoothing=0.95).diverged
    assert Losses(outliers).find(smoothing=0.0).diverged


def test_smoothed() -> None:
    """Against the weights written out: of each loss smoothing**age, over their sum."""
    result = Losses(lambda t: math.sin(t) + 2).find(smoothing=0.8, diverge_factor=1e9)
    for i, value in enumerate(result.smoothed.tolist()):
        weights = [0.8 ** (i - k) for k in range(i + 1)]
        mean = math.fsum(w * (math.sin(k) + 2) for k, w in enumerate(weights)) / math.fsum(weights)
        assert value == pytest.approx(mean, rel=1e-12)


class Reads(TorchFunctionMode):
    """Counts what makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reading = ("item", "tolist", "__int__", "__float__", "__bool__", "__index__", "cpu", "numpy")
        self.count += getattr(func, "__name__", "") in reading
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(expected_backend() == "reference", reason="the reference's own step reads the clock")
@pytest.mark.parametrize("read_every", [1, 10, 40])
def test_losses_are_read_in_blocks(read_every: int) -> None:
    model, loader = network(), [(x.to(DEVICE), y.to(DEVICE)) for x, y in batches(4)]
    optimizer = FusedSGD(model.parameters(), lr=0.1, momentum=0.9)
    reads = Reads()
    with reads:
        lr_find(model, optimizer, mse_loss, loader, START, END, 40, read_every=read_every, progress=False)
    counted, reads.count = reads.count, 0
    with reads:
        lr_find(model, optimizer, mse_loss, loader, START, END, 80, read_every=2 * read_every, progress=False)
    assert counted == reads.count  # of the number of blocks, not of steps
    assert counted >= 2 * 40 // read_every


DISTRIBUTED = """
import sys, torch
from torch import nn
from sgdr_fused import FusedSGD, lr_find
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(3, 1))
model = {"alone": lambda m: m, "inside": nn.Sequential}[sys.argv[3]](model)
inputs = torch.arange(24.0).reshape(8, 3) / 8 * (rank + 1)  # which diverge at another rate alone
loader = [(inputs, inputs.sum(dim=1, keepdim=True) + torch.randn(8, 1) / 9)]
optimizer = FusedSGD(model.parameters(), lr=0.1)
result = lr_find(model, optimizer, nn.functional.mse_loss, loader, 1e-4, 1e3, 60, read_every=4, smoothing=0.5)
assert result.diverged
print(result.losses.tolist())
torch.distributed.destroy_process_group()
"""


@pytest.mark.once
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
@pytest.mark.parametrize("wrapper", ["alone", "inside"])
def test_processes_stop_together(tmp_path: Path, wrapper: str) -> None:
    """Else one would wait for the other's gradients for ever. The wrapped model may be inside another."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    environment["SGDR_FUSED_BACKEND"] = "reference"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DISTRIBUTED, str(rank), str(tmp_path / "store"), wrapper],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        first, second = (process.communicate(timeout=120)[0] for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert first == second
    assert first.count(",") > 10


# ---- the bar


class FakeBar:
    made: list[FakeBar]

    def __init__(self, total: int, desc: str, unit: str) -> None:
        self.total, self.updates, self.closed = total, [], False
        FakeBar.made.append(self)

    def __enter__(self) -> FakeBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def update(self, steps: int) -> None:
        self.updates.append(steps)


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeBar]]:
    FakeBar.made = []
    module = types.ModuleType("tqdm")
    module.tqdm = FakeBar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm", module)
    return FakeBar.made


def test_progress_bar(bars: list[FakeBar]) -> None:
    Losses(lambda t: 1.0).find(read_every=40)
    assert [(bar.total, bar.updates, bar.closed) for bar in bars] == [(100, [40, 40, 20], True)]
    Losses(lambda t: 1.0).find(progress=False)
    assert len(bars) == 1


def test_no_bar_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_tqdm(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "tqdm":
            raise ModuleNotFoundError("No module named 'tqdm'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    assert len(Losses(lambda t: 1.0).find().losses) == 100
