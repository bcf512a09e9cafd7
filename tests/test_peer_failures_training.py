"""Failures that users of other packages, or of this one, have reported: those of what is around a training.

Numbered as the others are in test_peer_failures.py; what is expected stands in each test.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import DEVICE
from range_tests import Losses
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from sgdr_fused import (
    FusedSGD,
    GrowingBatchSampler,
    HessianFreeLR,
    SnapshotEnsemble,
    hessian_free_lr,
    lr_find,
    refreshed_batch_norm,
    snapshots,
)
from sgdr_fused._range_result import divergence
from sgdr_fused.schedules import CosineWarmRestarts, Step

pytest.importorskip("safetensors", reason="snapshots are safetensors files")

# ---- 30: the range test of a trained model, one sample at a time


def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A classifier that is sure of most samples, so that losses differ by orders of magnitude."""
    torch.manual_seed(0)
    targets = torch.randint(0, 4, (200,))
    inputs = 2 * torch.eye(4)[targets] + 0.7 * torch.randn(200, 4)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model, inputs, targets


def spoiled(losses: list[float], smoothing: float) -> bool:
    """The rule that was at fault: any smoothed loss above four times the smallest before."""
    mean, best = 0.0, math.inf
    for i, loss in enumerate(losses):
        mean = smoothing * mean + (1 - smoothing) * loss
        value = mean / (1 - smoothing ** (i + 1))
        if value > 4 * best:
            return True
        best = min(best, value)
    return False


@pytest.mark.once
def test_peer_30_single_samples_of_a_trained_model() -> None:
    """No rate up to 1e-9 moves anything, so none of 40 orders of the samples may diverge."""
    model, inputs, targets = trained()
    at_fault = 0
    for seed in range(40):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        loader = [(inputs[i : i + 1], targets[i : i + 1]) for i in order.tolist()]
        optimizer = FusedSGD(model.parameters(), lr=0.1)
        result = lr_find(model, optimizer, cross_entropy, loader, 1e-12, 1e-9, progress=False)
        assert not result.diverged, seed
        assert len(result.losses) == 100
        at_fault += spoiled(result.losses.tolist(), 0.95)
    assert at_fault >= 10  # or the losses would show nothing


NOISE: dict[str, Callable[[random.Random], float]] = {
    "log-normal": lambda r: math.exp(r.gauss(0, 2)),
    "few large ones": lambda r: 3 * r.random() if r.random() < 0.1 else 1e-3 * r.random(),
    "around 0": lambda r: r.gauss(0, 1),
    "negative": lambda r: -math.exp(r.gauss(0, 2)),
    "next to nothing": lambda r: 1e-300 * math.exp(r.gauss(0, 2)),
}


@pytest.mark.once
@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.95, 0.98])
@pytest.mark.parametrize("kind", NOISE)
def test_peer_30_losses_that_only_differ(kind: str, smoothing: float) -> None:
    """At most 3 of 100 runs of losses that have nothing to do with the rate; all five kinds had 27 to 100."""
    generator = random.Random(0)
    stopped = 0
    for _ in range(100):
        losses = [NOISE[kind](generator) for _ in range(100)]
        stopped += divergence(losses, smoothing, 4.0) is not None
    assert stopped <= 3


@pytest.mark.once
@pytest.mark.parametrize("smoothing", [0.0, 0.95])
@pytest.mark.parametrize("lucky", [[0], [1], [2], [0, 1, 2], [0, 1, 2, 3], [7], [50, 51]], ids=str)
@pytest.mark.parametrize("level", [1.0, -1.0, 1e-30])
def test_peer_30_lucky_points(lucky: list[int], smoothing: float, level: float) -> None:
    """Losses of one size but for a few that are next to 0, or, below 0, far lower."""
    low = -1e6 if level < 0 else level * 1e-6
    losses = [low if t in lucky else level * (1 + 0.1 * math.sin(t)) for t in range(100)]
    assert divergence(losses, smoothing, 4.0) is None


@pytest.mark.once
@pytest.mark.parametrize("level", [0.0, -0.0, 1.0, -1.0, 1e-300, 1e300])
def test_peer_30_losses_that_are_all_equal(level: float) -> None:
    for smoothing in (0.0, 0.95):
        assert not Losses(lambda t: level).find(smoothing=smoothing, num_steps=30).diverged


@pytest.mark.once
@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("at", [5, 6, 9, 20, 50, 90])
@pytest.mark.parametrize("growth", ["at once", "exponential", "not finite"])
@pytest.mark.parametrize("level", [1.0, 1e-8, -1.0])
def test_peer_30_real_divergence_still_ends_the_test(level: float, growth: str, at: int, smoothing: float) -> None:
    """Noise of a tenth, then the loss goes off. It takes as long as the smoothed loss takes, and 4 points."""

    def loss(t: int) -> float:
        noisy = level * (1 + 0.1 * math.sin(7 * t))
        if t < at:
            return noisy
        if growth == "not finite":
            return math.nan if t % 2 else math.inf
        return noisy + abs(level) * (1000 if growth == "at once" else math.expm1(2.0 * (t - at + 1)))

    losses = [loss(t) for t in range(100)]
    needed = next(n for n in range(101) if divergence(losses[:n], smoothing, 4.0) is not None)
    assert needed <= at + (1 if growth == "not finite" else 10)
    kept = divergence(losses, smoothing, 4.0)
    assert kept is not None and at <= kept <= at + 6


@pytest.mark.once
def test_peer_30_a_loss_that_has_fallen_and_comes_back_up() -> None:
    """It is no higher than at the start, and far above what it came down to."""
    result = Losses(lambda t: 2.3 * math.exp(-min(t, 60) / 15) if t < 70 else 2.0).find(smoothing=0.5)
    assert result.diverged
    assert 70 < len(result.losses) <= 75


# ---- 31: snapshots of wrapped models


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))).to(DEVICE)


class Prefixed(nn.Module):
    """What a wrapper does to names, which may not be importable here."""

    def __init__(self, inside: str, module: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.add_module(inside, module)

    def forward(self, *inputs: Any) -> Any:
        return getattr(self, self.inside)(*inputs)


def in_the_middle(inside: str) -> nn.Module:
    model = small()
    model[2] = Prefixed(inside, model[2])
    return model


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "bare": small,
    "DataParallel": lambda: nn.DataParallel(small(), device_ids=[DEVICE] if DEVICE.type == "cuda" else None),
    "compiled": lambda: torch.compile(small(), backend="eager"),  # type: ignore[dict-item]
    "compiled DataParallel": lambda: torch.compile(nn.DataParallel(small()), backend="eager"),  # type: ignore[dict-item]
    "DataParallel of compiled": lambda: nn.DataParallel(torch.compile(small(), backend="eager")),  # type: ignore
    "fsdp": lambda: Prefixed("_fsdp_wrapped_module", small()),
    "checkpoint in the middle": lambda: in_the_middle("_checkpoint_wrapped_module"),
    "module in the middle": lambda: Prefixed("module", in_the_middle("_orig_mod")),
}


@pytest.mark.once
@pytest.mark.parametrize("read_by", WRAPPED)
@pytest.mark.parametrize("saved_by", WRAPPED)
def test_peer_31_snapshots_fit_whatever_is_around_the_model(saved_by: str, read_by: str, tmp_path: Path) -> None:
    expected = []
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    writer = WRAPPED[saved_by]()
    ensemble = SnapshotEnsemble(writer, None, tmp_path)
    for cycle in range(2):
        with torch.no_grad():
            for parameter in writer.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(cycle))
        ensemble.save(cycle, cycle + 1)
        model = small()
        for mine, theirs in zip(model.parameters(), writer.parameters(), strict=True):
            mine.data.copy_(theirs.data)
        expected.append(model.eval()(x).softmax(1).detach())
    reader = WRAPPED[read_by]()
    before = [bits(parameter) for parameter in reader.parameters()]
    torch.testing.assert_close(SnapshotEnsemble(reader, None, tmp_path).predict(x), sum(expected) / 2)
    assert [bits(parameter) for parameter in reader.parameters()] == before
    assert reader.training


@pytest.mark.once
def test_peer_31_a_submodule_that_is_named_as_in_a_wrapper(tmp_path: Path) -> None:
    """Names that are one without "module" must not be taken for each other."""
    model = Prefixed("module", nn.Linear(2, 2))
    model.weight = nn.Parameter(torch.full((2, 2), 7.0))
    model.to(DEVICE)
    ensemble = SnapshotEnsemble(model, None, tmp_path)
    ensemble.save(0, 1)
    x = torch.ones(1, 2, device=DEVICE)
    torch.testing.assert_close(ensemble.predict(x, average="logits"), model(x).detach())
    with pytest.raises(ValueError, match=r"unexpected: module\.bias, module\.weight|missing: bias"):
        SnapshotEnsemble(nn.Linear(2, 2).to(DEVICE), None, tmp_path).predict(x)


@pytest.mark.once
def test_peer_31_what_does_not_fit_is_named(tmp_path: Path) -> None:
    SnapshotEnsemble(nn.DataParallel(small()), None, tmp_path).save(0, 1)
    other = small()
    other[2][1] = nn.Linear(5, 8)
    other.add_module("more", nn.Linear(1, 1))
    other[1] = nn.Identity()
    with pytest.raises(ValueError, match="does not fit the model") as raised:
        SnapshotEnsemble(other, None, tmp_path).predict(torch.ones(1, 4))
    message = str(raised.value)
    assert "cycle-000000.safetensors" in message
    assert "missing: more.weight, more.bias" in message
    assert "unexpected: module.1.bias, module.1.num_batches_tracked, module.1.running_mean and 2 more" in message
    assert "of another shape: 2.1.weight (3, 5) for (8, 5), 2.1.bias (3,) for (8,)" in message


@pytest.mark.once
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_peer_31_batch_norm_and_the_range_test_of_wrapped_models(wrapped: str) -> None:
    model = WRAPPED[wrapped]()
    loader = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)).to(DEVICE) for i in range(3)]
    plain = small()
    with refreshed_batch_norm(plain, loader):
        expected = [value.clone() for value in plain.buffers()]
    before = {name: bits(value) for name, value in model.state_dict().items()}
    with refreshed_batch_norm(model, loader):
        torch.testing.assert_close([*model.buffers()], expected)
    assert {name: bits(value) for name, value in model.state_dict().items()} == before

    optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=3))
    result = lr_find(model, optimizer, mse_loss, [(x, x[:, :3]) for x in loader], 1e-4, 1e-1, 6, progress=False)
    other = small()
    expected_result = lr_find(
        other, FusedSGD(other.parameters()), mse_loss, [(x, x[:, :3]) for x in loader], 1e-4, 1e-1, 6, progress=False
    )
    torch.testing.assert_close(result.losses, expected_result.losses)
    assert {name: bits(value) for name, value in model.state_dict().items()} == before
    assert (model.training, optimizer.clock.item()) == (True, 0)


# ---- 43: folders with other things in them, disks that are full


def ensemble_of(folder: Path, **options: Any) -> tuple[Any, SnapshotEnsemble]:
    """Whose cycles end after each second step."""
    model = nn.Linear(2, 2).to(DEVICE)
    optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return optimizer, SnapshotEnsemble(model, optimizer, folder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def put_garbage(path: Path) -> None:
    path.write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")


def put_other_metadata(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(1)}, path, metadata={"format": "pt"})


def put_no_metadata(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(1)}, path)


FOREIGN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "garbage": ("cycle-000007.safetensors", put_garbage),
    "empty": ("cycle-000007.safetensors", Path.touch),
    "folder": ("cycle-000007.safetensors", Path.mkdir),
    "other metadata": ("cycle-000007.safetensors", put_other_metadata),
    "no metadata": ("cycle-000007.safetensors", put_no_metadata),
    "no number": ("cycle-best.safetensors", put_garbage),
    "dangling link": ("cycle-000007.safetensors", lambda path: path.symlink_to(path.with_name("nowhere"))),
}


@pytest.mark.once
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_peer_43_foreign_files_in_the_folder(kind: str, when: str, tmp_path: Path) -> None:
    """They are left out and left alone; one warning names each, but for a link to nothing."""
    name, put = FOREIGN[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if when == "before":
            put(tmp_path / name)
        optimizer, ensemble = ensemble_of(tmp_path)
        if when == "meanwhile":
            put(tmp_path / name)
        for _ in range(6):
            optimizer.step()
        assert [path.name for path in ensemble.paths] == [f"cycle-{i:06d}.safetensors" for i in range(3)]
        ensemble.predict(torch.ones(1, 2, device=DEVICE))
    assert [name in str(warning.message) for warning in caught] == [True] * (kind != "dangling link")
    assert all(warning.filename == __file__ for warning in caught)
    assert '"cycle-000002.safetensors"' in (tmp_path / "manifest.json").read_text()
    assert name not in (tmp_path / "manifest.json").read_text()
    assert (tmp_path / name).exists() or (tmp_path / name).is_symlink()


@pytest.mark.once
def test_peer_43_a_renamed_snapshot_is_foreign(tmp_path: Path) -> None:
    _, ensemble = ensemble_of(tmp_path)
    ensemble.save(0, 2).rename(tmp_path / "cycle-000005.safetensors")
    with pytest.warns(UserWarning, match=r"cycle-000005.*it is of cycle 0"):
        assert ensemble.paths == []


@pytest.mark.once
def test_peer_43_a_million_cycles_stay_in_order(tmp_path: Path) -> None:
    _, ensemble = ensemble_of(tmp_path)
    paths = [ensemble.save(cycle, 2 * cycle) for cycle in (1_000_000, 999_999, 3)]
    assert ensemble.paths == paths[::-1]


@pytest.mark.once
def test_peer_43_only_our_leftovers_are_removed(tmp_path: Path) -> None:
    for name in ("cycle-000001.safetensors.tmp", "manifest.json.tmp", "notes.tmp", "cycle-best.safetensors.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "cycle-000002.safetensors.tmp").mkdir()
    ensemble_of(tmp_path)
    left = {"notes.tmp", "cycle-best.safetensors.tmp", "cycle-000002.safetensors.tmp"}
    assert {path.name for path in tmp_path.iterdir()} == left


def full_disk(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def full_disk_for_the_manifest(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = Path.open

    def opened(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if "manifest" in path.name:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", opened)


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def replace(path: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "replace", replace)


def folder_in_the_place_of_the_file(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "cycle-000001.safetensors").mkdir()


TROUBLES = {
    full_disk: errno.ENOSPC,
    full_disk_for_the_manifest: errno.EDQUOT,
    read_only: errno.EACCES,
    folder_in_the_place_of_the_file: errno.EISDIR,
}


@pytest.mark.once
@pytest.mark.parametrize("on_error", ["raise", "warn"])
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
@pytest.mark.filterwarnings("ignore:.*is left out, for it is no snapshot")
def test_peer_43_snapshots_that_cannot_be_written(
    trouble: Callable[..., None], on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is named, no .tmp is left, what was there stays, and the training can go on."""
    optimizer, ensemble = ensemble_of(tmp_path, on_error=on_error)
    for _ in range(3):
        optimizer.step()
    before = contents(tmp_path)
    named = "manifest.json" if trouble is full_disk_for_the_manifest else "cycle-000001.safetensors"
    with monkeypatch.context() as patched:
        trouble(patched, tmp_path)
        if on_error == "raise":
            with pytest.raises(OSError, match=named) as raised:
                optimizer.step()
            assert raised.value.errno == TROUBLES[trouble]
            assert raised.value.filename == str(tmp_path / named)
        else:
            with pytest.warns(UserWarning, match=rf"snapshot of cycle 1 is missing.*{named}") as caught:
                optimizer.step()
            assert [each.filename for each in caught] == [__file__]
    after = contents(tmp_path)
    if trouble is full_disk_for_the_manifest:
        after.pop("cycle-000001.safetensors")
    assert after == before
    assert optimizer.clock.item() == 4
    if trouble is folder_in_the_place_of_the_file:
        (tmp_path / "cycle-000001.safetensors").rmdir()
    for _ in range(2):
        optimizer.step()
    assert ensemble.paths[-1].name == "cycle-000002.safetensors"
    manifest = (tmp_path / "manifest.json").read_text()
    assert [path.name in manifest for path in ensemble.paths] == [True] * len(ensemble.paths)


@pytest.mark.once
def test_peer_43_a_folder_that_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    optimizer, _ = ensemble_of(folder)
    optimizer.step()
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match=r"gone/cycle-000000\.safetensors"):
        optimizer.step()
    assert not folder.exists()


@pytest.mark.once
def test_peer_43_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"directory must be a folder.*file"):
        ensemble_of(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        ensemble_of(tmp_path / "file" / "below")


# ---- the wrong arguments: one sentence, and nothing is left behind


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
    """Where the optimizer has no cycles to speak of; and where the folder cannot be made, no hook is left."""
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
    """Whose repr would fill a screen."""

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


# ---- 32: a default device


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.once
@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_peer_32_range_test_under_a_default_device(smoothing: float) -> None:
    def run(device: str | None) -> Any:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        loader = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(3)]
        optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=3), momentum=0.9)
        with contextlib.nullcontext() if device is None else default_device(device):
            result = lr_find(
                model,
                optimizer,
                mse_loss,
                loader,
                1e-4,
                1.0,
                24,
                val_loader=loader,
                smoothing=smoothing,
                progress=False,
            )
            suggested = result.suggestion(skip_start=0, skip_end=0)
            devices = {each.device.type for each in (result.lrs, result.losses, result.smoothed, result.group_lrs)}
        assert devices == {"cpu"}
        return result.losses.tolist(), suggested, bits(model.weight), bits(optimizer.clock)

    assert run("meta") == run(None)


@pytest.mark.once
def test_peer_32_other_tools_under_a_default_device(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    def run(device: str | None, folder: Path) -> Any:
        torch.manual_seed(0)
        model, x = small().cpu(), torch.randn(6, 4)
        sampler = torch.utils.data.RandomSampler(range(9), generator=torch.Generator().manual_seed(1))
        optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=1))
        with contextlib.nullcontext() if device is None else default_device(device):
            ensemble = SnapshotEnsemble(model, optimizer, folder)
            estimate = HessianFreeLR(model.parameters())
            for _ in range(3):
                model(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                estimate.update(0.1)
            predicted = ensemble.predict(x)
            with refreshed_batch_norm(model, [x]):
                statistics = bits(model[1].running_mean)
            batches = GrowingBatchSampler(range(9), 2, Step(0.1, 2), 4)
            next(iter(batches))
            state = batches.state_dict()
            batches.load_state_dict(state)
            GrowingBatchSampler(sampler, 2, Step(0.1, 2), 4).state_dict()
            rest = list(batches)
        return bits(predicted), statistics, bits(estimate.value), rest, bits(state["order"])

    assert run("meta", tmp_path / "meta") == run(None, tmp_path / "cpu")


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
    """Of the loops over tensors it takes part in few, so that the lines of each are some hundred."""
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
