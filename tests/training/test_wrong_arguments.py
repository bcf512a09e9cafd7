"""Wrong arguments of the training tools: one sentence, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE
from torch import nn
from torch.nn.functional import mse_loss

from sgdr_fused import (
    FusedSGD,
    GrowingBatchSampler,
    HessianFreeLR,
    SnapshotEnsemble,
    hessian_free_lr,
    lr_find,
    refreshed_batch_norm,
)
from sgdr_fused.schedules import CosineWarmRestarts, Step

pytestmark = pytest.mark.host

pytest.importorskip("safetensors", reason="snapshots are safetensors files")


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))).to(DEVICE)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, device=DEVICE))


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda m, d: (m, torch.optim.SGD(m.parameters(), lr=0.1), d), r"optimizer must be one of sgdr_fused.*SGD"),
        (lambda m, d: (m, CosineWarmRestarts(0.1, T_0=2), d), r"CosineWarmRestarts.*the optimizer that has this Sche"),
        (lambda m, d: (m, str(d)), r"optimizer.*the directory comes third: SnapshotEnsemble\(model, None, directory\)"),
        (lambda m, d: (m, d, None), r"optimizer.*the directory comes third"),
        (lambda m, d: (m.parameters(), None, d), r"model must be a torch\.nn\.Module, got <generator"),
        (lambda m, d: (FusedSGD(m.parameters()), m, d), r"model must be a torch\.nn\.Module, got FusedSGD"),
        (lambda m, d: (m, FusedSGD(m.parameters(), lr=CosineWarmRestarts(0.1, T_0=2))), "directory must be a path"),
        (lambda m, d: (m, None, 3), "directory must be a path, got 3"),
    ],
)
def test_wrong_arguments_of_snapshots(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message) as raised:
        SnapshotEnsemble(*arguments(nn.Linear(2, 2), tmp_path / "new"))
    assert "\n" not in str(raised.value) or "FusedSGD" in str(raised.value)
    assert len(str(raised.value)) < 400
    assert not (tmp_path / "new").exists()


@pytest.mark.once
def test_a_refused_hook_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hook is left if the optimizer has no cycles, or if the folder cannot be made."""
    model = nn.Linear(2, 2).to(DEVICE)
    optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=1))
    with monkeypatch.context() as patched:
        patched.setattr(FusedSGD, "register_cycle_end_hook", lambda *_: (_ for _ in ()).throw(ValueError("no cycle")))
        with pytest.raises(ValueError, match="no cycle"):
            SnapshotEnsemble(model, optimizer, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        SnapshotEnsemble(model, optimizer, tmp_path / "file")
    optimizer.step()  # would fail in the hook
    with pytest.raises(ValueError, match=r"on_error must be .* got 'ignore'"):
        SnapshotEnsemble(model, optimizer, tmp_path / "new", on_error="ignore")
    assert not (tmp_path / "new").exists()


class Huge:
    """An object whose repr would fill a screen."""

    def __repr__(self) -> str:
        return "x" * 10**6


def find(**changed: Any) -> Any:
    model = nn.Linear(2, 2).to(DEVICE)
    given = {"model": model, "optimizer": FusedSGD(model.parameters()), "criterion": mse_loss}
    return lr_find(**{**given, "loader": [(torch.ones(1, 2), torch.ones(1, 2))], "num_steps": 2, **changed})


@pytest.mark.once
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: find(optimizer=torch.optim.SGD([weight()])),
            TypeError,
            "optimizer must be one of sgdr_fused.*got SGD",
        ),
        (lambda: find(optimizer=nn.Linear(1, 1)), TypeError, "optimizer must be one of sgdr_fused.*got Linear"),
        (lambda: find(model=FusedSGD([weight()])), TypeError, "model must be a torch.nn.Module"),
        (lambda: find(criterion=nn.MSELoss), TypeError, "criterion must be a function or a module, not a class"),
        (lambda: find(criterion="mse"), TypeError, "criterion must be a function.*'mse'"),
        (lambda: find(criterion=None, batch_to_loss=3), TypeError, "batch_to_loss must be a function.*3"),
        (lambda: find(loader=None), TypeError, "loader must be an iterable of batches.*None"),
        (lambda: find(loader=7), TypeError, "loader must be an iterable of batches.*7"),
        (lambda: find(loader=nn.Sequential()), TypeError, "loader must be an iterable of batches"),
        (lambda: find(val_loader=7), TypeError, "val_loader must be an iterable of batches.*7"),
        (lambda: find(mode=[1]), ValueError, r"mode must be one of.*\[1\]"),
        (lambda: find(model=nn.LazyLinear(2)), ValueError, "'weight' has no shape yet: run it on one batch first"),
        (lambda: find(scaler=Huge()), TypeError, "scaler must be"),
        (lambda: find(loader=[Huge()]), TypeError, "a batch must be"),
        (
            lambda: GrowingBatchSampler(3, 1, Step(0.1, 2), 2),
            TypeError,
            "sampler must be an iterable of indices.*got 3",
        ),
        (
            lambda: GrowingBatchSampler(torch.utils.data.DataLoader(range(3)), 1, Step(0.1, 2), 2),  # type: ignore
            TypeError,
            "got <torch.*DataLoader.*: give its sampler",
        ),
        (
            lambda: GrowingBatchSampler(torch.utils.data.BatchSampler(range(3), 2, False), 1, Step(0.1, 2), 2),
            TypeError,
            "sampler must be an iterable of indices.*BatchSampler",
        ),
        (lambda: GrowingBatchSampler(iter([1]), 1, Step(0.1, 2), 2), TypeError, "start anew.*the iterator <list_iter"),
        (lambda: GrowingBatchSampler([1], 1, 0.1, 2), TypeError, r"schedule must be a Schedule, got 0\.1"),
        (lambda: GrowingBatchSampler([1], 1, Step, 2), TypeError, "schedule must be a Schedule, got <class"),
        (lambda: HessianFreeLR(nn.Linear(1, 1)), TypeError, r"params must be tensors.*as model\.parameters\(\)"),
        (lambda: HessianFreeLR(nn.Linear(1, 1).named_parameters()), TypeError, "params must be real tensors"),
        (lambda: HessianFreeLR(3), TypeError, "params must be tensors, got 3"),
        (lambda: HessianFreeLR(iter([])), TypeError, "at least one, got \\[\\]"),
        (lambda: HessianFreeLR([torch.ones(1, dtype=torch.complex64)]), TypeError, "params must be real tensors"),
        (lambda: HessianFreeLR([weight()]).update(Step(0.1, 2)), TypeError, r"lr must be a rate.*schedule\(t\)"),
        (lambda: HessianFreeLR([weight()]).update("0.1"), TypeError, "lr must be a number, got '0.1'"),
        (lambda: hessian_free_lr(1, 2, 3, 0.1), TypeError, "w0 must be tensors, got 1"),
        (lambda: hessian_free_lr(*[[1.0]] * 3, 0.1), TypeError, r"w0 must be real tensors, got \[1\.0\]"),
        (lambda: hessian_free_lr(*[torch.ones(1)] * 3, (0.1, 0.1, 0.1)), ValueError, "lr must be a rate or a pair"),
        (lambda: enter(refreshed_batch_norm(FusedSGD([weight()]), [])), TypeError, "model must be a torch.nn.Module"),
        (lambda: enter(refreshed_batch_norm(small(), 3)), TypeError, "loader must be an iterable of batches, got 3"),
        (lambda: enter(refreshed_batch_norm(small(), [])), ValueError, r"loader must have batches, got none from \[\]"),
    ],
)
def test_wrong_arguments(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert len(str(raised.value)) < 500


def enter(context: Any) -> None:
    with context:
        raise AssertionError("entered")


@pytest.mark.once
@pytest.mark.parametrize("key", ["step", "order", "generator"])
def test_a_state_of_another_kind_changes_nothing(key: str) -> None:
    generator = torch.Generator().manual_seed(1)
    sampler = torch.utils.data.RandomSampler(range(9), generator=generator)
    batches = GrowingBatchSampler(sampler, 2, Step(0.1, 2), 4)
    next(iter(batches))
    good = batches.state_dict()
    generator.manual_seed(2)
    before = batches.step, bits(generator.get_state())
    with pytest.raises((ValueError, TypeError), match=key):
        batches.load_state_dict({**good, key: 2.5})
    assert (batches.step, bits(generator.get_state())) == before
