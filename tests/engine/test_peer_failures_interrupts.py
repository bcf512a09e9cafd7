"""No. 39 of test_peer_failures.py in the training tools: an interrupt at any line leaves what was there."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import DEVICE
from torch import nn
from torch.nn.functional import mse_loss

from sgdr_fused import (
    FusedSGD,
    SnapshotEnsemble,
    lr_find,
    refreshed_batch_norm,
    snapshots,
)
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.untracked

pytest.importorskip("safetensors", reason="snapshots are safetensors files")


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))).to(DEVICE)


# ---- 39: an interrupt at any line


@contextlib.contextmanager
def interrupted(files: tuple[str, ...], functions: set[str], at: int) -> Iterator[list[int]]:
    """A KeyboardInterrupt at the `at`-th line that runs of these functions; the list holds how many lines did."""
    lines = [0]

    def trace(frame: Any, event: str, argument: Any) -> Any:
        code = frame.f_code
        if os.path.basename(code.co_filename) not in files or not functions & {*code.co_qualname.split(".")}:
            return None if event == "call" else trace
        if event in ("call", "line"):
            lines[0] += 1
            if lines[0] == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def at_every_line(files: tuple[str, ...], functions: set[str], run: Callable[[], Any], check: Callable[[], Any]) -> int:
    """Interrupts `run` at each line in turn, and checks what it has left; how many lines there were."""
    at = 0
    while True:
        at += 1
        try:
            with interrupted(files, functions, at) as lines:
                run()
        except KeyboardInterrupt:
            pass
        check()
        if lines[0] < at:
            return at - 1


@pytest.mark.once
@pytest.mark.skipif(sys.version_info < (3, 11), reason="qualified names of code are new in Python 3.11")
@pytest.mark.parametrize("where", ["restoring", "body"])
def test_peer_39_range_test(where: str) -> None:
    """The trial has few tensors to loop over, so that each part runs through some hundred lines."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(DEVICE)
    loader = [(torch.randn(4, 2), torch.randn(4, 2)) for _ in range(2)]
    optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=3), momentum=0.9)
    mse_loss(model(loader[0][0].to(DEVICE)), loader[0][1].to(DEVICE)).backward()
    optimizer.step()
    model[1].eval()

    def everything() -> Any:
        return (
            snapshot(optimizer),
            [bits(buffer) for buffer in model.buffers()],
            [module.training for module in model.modules()],
            [group["lr_schedule"] for group in optimizer.param_groups],
            bits(torch.get_rng_state()),
            random.getstate(),
        )

    before = everything()
    graph = {"restoring": {"restore", "undo", "refill", "_carried"}, "body": {"lr_find", "begin", "blocks", "_step"}}

    def check() -> None:
        assert everything() == before

    def run() -> None:
        lr_find(model, optimizer, mse_loss, loader, 1e-4, 1e-1, 2, progress=False, read_every=1)

    files = ("range_test.py", "_restore.py", "_objects.py", "_trial.py")
    assert at_every_line(files, graph[where], run, check) > 30
    optimizer.step()


@pytest.mark.once
@pytest.mark.skipif(sys.version_info < (3, 11), reason="qualified names of code are new in Python 3.11")
def test_peer_39_batch_norm() -> None:
    model = small()
    model[1].eval()
    data = [torch.randn(6, 4).to(DEVICE)]
    before = (
        [bits(buffer) for buffer in model.buffers()],
        [(m.training, getattr(m, "momentum", 0)) for m in model.modules()],
    )

    def run() -> None:
        with refreshed_batch_norm(model, data):
            pass

    def check() -> None:
        after = [(m.training, getattr(m, "momentum", 0)) for m in model.modules()]
        assert ([bits(buffer) for buffer in model.buffers()], after) == before

    assert (
        at_every_line(("averages.py", "swa_utils.py"), {"refreshed_batch_norm", "update_bn", "_some"}, run, check) > 40
    )


@pytest.mark.once
@pytest.mark.skipif(sys.version_info < (3, 11), reason="qualified names of code are new in Python 3.11")
def test_peer_39_predictions(tmp_path: Path) -> None:
    model = small()
    model[1].eval()
    ensemble = SnapshotEnsemble(model, None, tmp_path)
    ensemble.save(0, 1)
    with torch.no_grad():
        model[0].weight += 1
    before = [bits(value) for value in model.state_dict().values()], [module.training for module in model.modules()]

    def check() -> None:
        assert ([bits(v) for v in model.state_dict().values()], [m.training for m in model.modules()]) == before

    x = torch.ones(2, 4, device=DEVICE)
    functions = {"predict", "_evaluating", "_loaded", "fitted", "bare"}
    assert at_every_line(("snapshots.py", "_wrapped.py"), functions, lambda: ensemble.predict(x), check) > 30


@pytest.mark.once
@pytest.mark.skipif(sys.version_info < (3, 11), reason="qualified names of code are new in Python 3.11")
def test_peer_39_writing(tmp_path: Path) -> None:
    """What is there is whole, old or new, and nothing half-written is beside it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = set()

    def check() -> None:
        assert [each.name for each in tmp_path.iterdir()] == ["file"]
        seen.add(path.read_bytes())
        path.write_bytes(b"old")

    def run() -> None:
        snapshots._write_whole(path, b"new")

    assert at_every_line(("snapshots.py",), {"_write_whole", "_remove"}, run, check) > 10
    assert seen == {b"old", b"new"}
