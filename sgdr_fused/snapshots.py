"""Snapshot ensembles: the weights at the end of each cycle, kept in files, and the mean of what they predict."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._optimizer import FusedOptimizer

_AVERAGES = ("probabilities", "logits")


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

    With several processes, only one may have an ensemble.

    Args:
        model: whose parameters and buffers are saved; the model itself is left as it is by predictions.
        optimizer: a fused optimizer with a Schedule for ``lr``. None: only to predict from what is there.
        directory: made if it is not there.

    Raises:
        ModuleNotFoundError: without safetensors, saying what to install.
        ValueError: if the optimizer has no Schedule for ``lr``; from ``predict``, if there is no snapshot, or one does
            not fit the model.
        TypeError: from saving, if the state has entries that are not tensors.

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

    def __init__(self, model: nn.Module, optimizer: FusedOptimizer | None, directory: str | os.PathLike[str]) -> None:
        _safetensors()
        self.model = model
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob("*.tmp"):
            leftover.unlink()
        self._handle = None
        if optimizer is not None:
            self._handle = optimizer.register_cycle_end_hook(lambda opt, index: self.save(index, int(opt.clock)))

    @property
    def paths(self) -> list[Path]:
        """The snapshots' files, by cycle."""
        return sorted(self.directory.glob("cycle-*.safetensors"))

    def detach(self) -> None:
        """From here on no more snapshots are saved."""
        if self._handle is not None:
            self._handle.remove()

    def save(self, cycle: int, step: int) -> Path:
        """Saves the model as the snapshot of a cycle, which ended when ``step`` steps had been taken."""
        tensors = {}
        for name, value in self.model.state_dict().items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"a snapshot holds tensors alone, got {value!r} for {name!r} in the model's state_dict()"
                )
            tensors[name] = value.detach().cpu().contiguous().clone()  # tied weights share memory
        path = self.directory / f"cycle-{cycle:06d}.safetensors"
        content = _safetensors().save(tensors, metadata={"cycle": str(cycle), "step": str(step)})
        _write_whole(path, content)
        _write_whole(self.directory / "manifest.json", self._manifest())
        return path

    @torch.no_grad()
    def predict(self, *inputs: Any, average: str = "probabilities", dim: int = 1, **keywords: Any) -> Tensor:
        """The mean over all snapshots of what the model, in evaluation mode, makes of the inputs.

        Args:
            inputs, keywords: of the model, whose output is one tensor of logits.
            average: "probabilities" or "logits".
            dim: that of the classes in the output.
        """
        if average not in _AVERAGES:
            raise ValueError(f"average must be one of {_AVERAGES}, got {average!r}")
        if not self.paths:
            raise ValueError(f"no snapshot in {self.directory}: none is saved before the end of the first cycle")
        total = None
        with _evaluating(self.model):
            for path in self.paths:
                tensors = self._load(path)  # also tied ones under each of their names
                output = torch.func.functional_call(self.model, tensors, inputs, keywords, tie_weights=False)
                part = output.softmax(dim) if average == "probabilities" else output
                total = part if total is None else total + part
        assert total is not None  # there is a path
        return total / len(self.paths)

    def _load(self, path: Path) -> dict[str, Tensor]:
        """A snapshot's tensors, where the model has its own."""
        loaded = _safetensors().load_file(path)
        own = self.model.state_dict()
        if {k: v.shape for k, v in loaded.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError(f"{path} does not fit the model: its tensors have other names or shapes")
        return {name: value.to(own[name]) for name, value in loaded.items()}

    def _manifest(self) -> bytes:
        snapshots = []
        for path in self.paths:
            with _safetensors().safe_open(path, framework="pt") as file:
                metadata = file.metadata()
            snapshots.append({"file": path.name, "cycle": int(metadata["cycle"]), "step": int(metadata["step"])})
        return (json.dumps({"version": 1, "snapshots": snapshots}, indent=1) + "\n").encode()


def _write_whole(path: Path, content: bytes) -> None:
    """All of it under that name, or what was there before."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, has to survive a loss of power
    finally:
        os.close(folder)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "SnapshotEnsemble needs safetensors: pip install 'sgdr_fused[snapshots]', or pip install safetensors"
        ) from error
    return safetensors.torch
