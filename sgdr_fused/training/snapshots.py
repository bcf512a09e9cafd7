"""Snapshot ensembles: the weights at the end of each cycle, kept in files, and the mean of what they predict."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel.scatter_gather import scatter_kwargs

from .. import _checks
from .._messages import shown, warn
from ..optimizers._base import FusedOptimizer
from ..schedules import Schedule
from ._wrapped import bare, fitted

_AVERAGES = ("probabilities", "logits")
_NAME = re.compile(r"cycle-(\d{6,})\.safetensors")


class _Snapshot(NamedTuple):
    cycle: int
    step: int
    path: Path


class SnapshotEnsemble:
    r"""Saves the model at the last step of every cycle, and predicts with all that were saved.

    ``predict`` gives, over the ``n`` snapshots, with the model's outputs as logits ``z_i``::

        average="probabilities":  mean_i softmax(z_i)
        average="logits":         mean_i z_i

    While it is attached, a hook of the optimizer saves ``model.state_dict()`` just before each restart, to
    ``directory/cycle-000000.safetensors`` and so on. A file is written under a name that ends in ``.tmp``, synced
    and renamed, so each ``.safetensors`` file is whole at any moment, whatever happens to the process; the next start
    removes what is left over. ``manifest.json`` lists cycle, step and file of each. Training that goes on in the same
    directory adds to what is there; a cycle that is run through again replaces its file. Loading executes no code.
    A file that has the name of a snapshot and is none is left out, with a warning.

    The model may be wrapped, by ``torch.compile``, ``DistributedDataParallel`` and the like, when it is saved, when it
    predicts, or both. Predictions are the bare model's, without the wrapper around it, on its device.

    With several processes, only one may have an ensemble.

    Args:
        model: its parameters and buffers are saved. Predictions leave the model as it is.
        optimizer: a fused optimizer with a Schedule for ``lr`` that has cycles. With None the ensemble only predicts,
            from the snapshots that are there.
        directory: the folder of the snapshots, which is made if it is not there.
        on_error: what happens if a snapshot cannot be written, because the disk is full, say. With "raise" the OSError
            comes out of ``optimizer.step()``, whose step has been taken. With "warn" there is a warning, and the
            training goes on.

    Raises:
        ModuleNotFoundError: without safetensors, saying what to install.
        ValueError: if the optimizer has no Schedule with cycles for ``lr``; from ``predict``, if there is no snapshot,
            or one does not fit the model.
        TypeError: naming an argument of the wrong kind; from saving, if the state has entries that are not tensors.
        OSError: with the path, if it cannot be written. What was there stays, and no ``.tmp`` is left.

    Example:
        >>> import tempfile, torch
        >>> from sgdr_fused import FusedSGD, SnapshotEnsemble
        >>> from sgdr_fused.schedules import CosineWarmRestarts
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=2))
        >>> ensemble = SnapshotEnsemble(model, optimizer, tempfile.mkdtemp())
        >>> for _ in range(6):
        ...     model(torch.ones(5, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> [path.name for path in ensemble.paths][-1], ensemble.predict(torch.ones(5, 4)).shape
        ('cycle-000002.safetensors', torch.Size([5, 3]))

    Source: Huang et al., "Snapshot Ensembles: Train 1, Get M for Free" (2017).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: FusedOptimizer | None,
        directory: str | os.PathLike[str] | None = None,
        *,
        on_error: str = "raise",
    ) -> None:
        _check(model, optimizer, directory, on_error)
        _safetensors()
        self.model = model
        self.directory = Path(directory)  # type: ignore[arg-type]  # it was checked
        self.on_error = on_error
        self._foreign: set[Path] = set()  # files that a warning has named
        self._handle = None
        if optimizer is not None:
            self._handle = optimizer.register_cycle_end_hook(self._cycle_ended)
        try:
            self._open()
        except BaseException:
            self.detach()
            raise

    def _open(self) -> None:
        """Makes the folder, and removes what a process that died has left there."""
        if self.directory.exists() and not self.directory.is_dir():
            raise NotADirectoryError(f"directory must be a folder, got {shown(str(self.directory))}, which is a file")
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob("*.tmp"):
            name = leftover.name.removesuffix(".tmp")
            if (name == "manifest.json" or _NAME.fullmatch(name)) and leftover.is_file():
                with contextlib.suppress(OSError):  # the folder may be read-only: predictions need not write
                    leftover.unlink()
        self._snapshots()  # warns of files that are no snapshots

    @property
    def paths(self) -> list[Path]:
        """The files of the snapshots, in the order of their cycles."""
        return [snapshot.path for snapshot in self._snapshots()]

    def detach(self) -> None:
        """Stops saving snapshots."""
        if self._handle is not None:
            self._handle.remove()

    def _cycle_ended(self, optimizer: FusedOptimizer, cycle: int) -> None:
        try:
            self.save(cycle, int(optimizer.clock))
        except OSError as error:
            if self.on_error == "raise":
                raise
            warn(f"the snapshot of cycle {cycle} is missing, and the training goes on: {error}")

    def save(self, cycle: int, step: int) -> Path:
        """Saves the model as the snapshot of a cycle, which ended when ``step`` steps had been taken."""
        cycle, step = _checks.integer("cycle", cycle, 0), _checks.integer("step", step, 0)
        tensors = {}
        for name, value in self.model.state_dict().items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"a snapshot holds tensors alone, got {shown(value)} for {name!r} in the model's state_dict()"
                )
            tensors[name] = value.detach().cpu().contiguous().clone()  # tied weights share memory
        path = self.directory / f"cycle-{cycle:06d}.safetensors"
        content = _safetensors().save(tensors, metadata={"cycle": str(cycle), "step": str(step)})
        _write_whole(path, content)
        _write_whole(self.directory / "manifest.json", self._manifest())
        return path

    @torch.no_grad()
    def predict(self, *inputs: Any, average: str = "probabilities", dim: int = 1, **keywords: Any) -> Tensor:
        """The mean over all snapshots of what the model, in evaluation mode, predicts for the inputs.

        Args:
            inputs, keywords: the arguments of the model, whose output is one tensor of logits.
            average: "probabilities" or "logits".
            dim: the dimension of the classes in the output.
        """
        if average not in _AVERAGES:
            raise ValueError(f"average must be one of {_AVERAGES}, got {shown(average)}")
        paths = self.paths
        if not paths:
            raise ValueError(f"no snapshot in {self.directory}: none is saved before the end of the first cycle")
        devices = getattr(self.model, "device_ids", None)
        if devices:  # a data parallel wrapper brings the inputs to its devices
            (inputs, *_), (keywords, *_) = scatter_kwargs(inputs, keywords, devices[:1])
        total, model = None, bare(self.model)
        with _evaluating(model):
            for path in paths:
                tensors = _loaded(path, model)  # also tied ones under each of their names
                output = torch.func.functional_call(model, tensors, inputs, keywords, tie_weights=False)
                if not isinstance(output, Tensor):
                    raise TypeError(f"the model's output must be one tensor of logits, got {shown(output)}")
                part = output.softmax(dim) if average == "probabilities" else output
                total = part if total is None else total + part
        assert total is not None  # there is a path
        return total / len(paths)

    def _snapshots(self) -> list[_Snapshot]:
        """The snapshots in the folder, by cycle. Warns once of each file that only has the name of a snapshot."""
        found = []
        for path in self.directory.glob("cycle-*.safetensors"):
            try:
                name = _NAME.fullmatch(path.name)
                with _safetensors().safe_open(path, framework="pt") as file:
                    metadata = file.metadata() or {}
                snapshot = _Snapshot(int(metadata["cycle"]), int(metadata["step"]), path)
                if name is None or int(name[1]) != snapshot.cycle:
                    raise ValueError(f"it is of cycle {snapshot.cycle}")
                found.append(snapshot)
            except FileNotFoundError:  # it was removed meanwhile
                continue
            except Exception as error:  # safetensors has errors of its own, and metadata may be anything
                if path not in self._foreign:
                    self._foreign.add(path)
                    warn(f"{path} is left out, for it is no snapshot: {type(error).__name__}: {shown(str(error))}")
        return sorted(found)

    def _manifest(self) -> bytes:
        snapshots = [{"file": path.name, "cycle": cycle, "step": step} for cycle, step, path in self._snapshots()]
        return (json.dumps({"version": 1, "snapshots": snapshots}, indent=1) + "\n").encode()


def _check(model: Any, optimizer: Any, directory: Any, on_error: Any) -> None:
    """Raises for an argument of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {shown(model)}")
    if optimizer is not None and not isinstance(optimizer, FusedOptimizer):
        got = type(optimizer).__name__ if isinstance(optimizer, torch.optim.Optimizer) else shown(optimizer)
        hint = "it knows when a cycle ends"
        if isinstance(optimizer, (str, os.PathLike)):
            hint = "the directory comes third: SnapshotEnsemble(model, None, directory) predicts only"
        elif isinstance(optimizer, Schedule):
            hint = "give the optimizer that has this Schedule as its lr"
        raise TypeError(f"optimizer must be one of sgdr_fused, or None, got {got}; {hint}")
    if not isinstance(directory, (str, os.PathLike)):
        raise TypeError(f"directory must be a path, got {shown(directory)}")
    if on_error not in ("raise", "warn"):
        raise ValueError(f'on_error must be "raise" or "warn", got {shown(on_error)}')


def _loaded(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a snapshot, on the devices where the model has its own."""
    own = model.state_dict()
    tensors = fitted(_safetensors().load_file(path), own, str(path))
    return {name: value.to(own[name]) for name, value in tensors.items()}


def _write_whole(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all: else what was there before stays.

    Raises:
        OSError: with the path.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name has to survive a loss of power, too
            finally:
                os.close(folder)
        except OSError as error:
            raise OSError(error.errno, f"could not write the snapshot: {error.strerror}", str(path)) from error
        finally:
            _remove(temporary)
    finally:
        _remove(temporary)  # an interrupt may have come in between


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # mostly there is none
        temporary.unlink()


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; after it each module has its own mode again, even if an interrupt hits the restoring."""
    modes = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        for module, training in modes:
            module.training = training

    try:
        try:
            model.eval()
            yield
        finally:
            restore()
    finally:
        restore()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "SnapshotEnsemble needs safetensors: pip install 'sgdr_fused[snapshots]', or pip install safetensors"
        ) from error
    return safetensors.torch
