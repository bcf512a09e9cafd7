"""Failures of training tools that write files or are given the wrong things; numbered as in test_peer_failures.py."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import DEVICE
from torch import nn

from sgdr_fused import (
    FusedSGD,
    SnapshotEnsemble,
)
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.host

pytest.importorskip("safetensors", reason="snapshots are safetensors files")


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))).to(DEVICE)


# ---- 43: folders with other things in them, disks that are full


def ensemble_of(folder: Path, **options: Any) -> tuple[Any, SnapshotEnsemble]:
    """An ensemble whose cycles end after each second step."""
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
