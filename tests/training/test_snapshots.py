"""SnapshotEnsemble: what is saved, when, how safely, and what is predicted from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, Dropout, values
from torch import Tensor, nn

from sgdr_fused import FusedSGD, SnapshotEnsemble
from sgdr_fused.schedules import CosineWarmRestarts

safetensors = pytest.importorskip("safetensors.torch", reason="snapshots are safetensors files")

GROWING = CosineWarmRestarts(0.1, T_0=2, T_mult=2)
ENDS = (2, 6, 14)


class Network(nn.Module):
    """A network with all that a state_dict may hold: tied weights, buffers, integers, a narrow dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("narrow", torch.arange(3, dtype=torch.bfloat16))
        self.dropout = Dropout()

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.dropout(self.norm(self.tied(torch.relu(self.first(x))))) * scale


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network().to(DEVICE)


def train(model: nn.Module, opt: Any, steps: int) -> list[dict[str, Any]]:
    """The bits of the model's state after each step."""
    states = []
    for t in range(steps):
        model(values((8, 4), t, torch.float32).to(DEVICE)).square().mean().backward()
        opt.step()
        opt.zero_grad()
        states.append({name: bits(value) for name, value in model.state_dict().items()})
    return states


def saved(path: Path) -> dict[str, Any]:
    return {name: bits(value) for name, value in safetensors.load_file(path).items()}


def test_saves_the_state_at_the_end_of_each_cycle(tmp_path: Path) -> None:
    model = network()
    opt = FusedSGD(model.parameters(), lr=GROWING, momentum=0.9)
    ensemble = SnapshotEnsemble(model, opt, tmp_path / "new" / "folder")
    states = train(model, opt, 16)
    assert [path.name for path in ensemble.paths] == [f"cycle-{i:06d}.safetensors" for i in range(3)]
    assert [saved(path) for path in ensemble.paths] == [states[end - 1] for end in ENDS]
    manifest = json.loads((ensemble.directory / "manifest.json").read_text())
    assert manifest["snapshots"] == [
        {"file": f"cycle-{i:06d}.safetensors", "cycle": i, "step": end} for i, end in enumerate(ENDS)
    ]
    assert {path.name for path in ensemble.directory.iterdir()} == {"manifest.json", *(p.name for p in ensemble.paths)}


def test_goes_on_in_a_folder(tmp_path: Path) -> None:
    """After a checkpoint inside cycle 1 its snapshot is replaced, the others stay, and leftovers go."""
    model = network()
    opt = FusedSGD(model.parameters(), lr=GROWING)
    ensemble = SnapshotEnsemble(model, opt, tmp_path)
    train(model, opt, 3)
    checkpoint = opt.state_dict()
    train(model, opt, 3)
    ensemble.detach()
    train(model, opt, 8)
    first, second = (saved(path) for path in ensemble.paths)  # not the third
    (tmp_path / "cycle-000001.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "manifest.json.tmp").write_bytes(b"{")

    other = network(seed=1)
    opt = FusedSGD(other.parameters(), lr=GROWING)
    opt.load_state_dict(checkpoint)
    ensemble = SnapshotEnsemble(other, opt, tmp_path)
    assert list(tmp_path.glob("*.tmp")) == []
    assert [saved(path) for path in ensemble.paths] == [first, second]
    states = train(other, opt, 11)
    assert [saved(path) for path in ensemble.paths] == [first, states[2], states[10]]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["step"] for entry in manifest["snapshots"]] == list(ENDS)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_prediction_is_the_mean_of_the_snapshots(average: str, tmp_path: Path) -> None:
    model = network()
    opt = FusedSGD(model.parameters(), lr=GROWING, momentum=0.9)
    ensemble = SnapshotEnsemble(model, opt, tmp_path)
    train(model, opt, 8)
    model.first.eval()  # each module's own mode is to be as it was
    before = {name: bits(value) for name, value in model.state_dict().items()}
    x = values((5, 4), 99, torch.float32).to(DEVICE)
    predicted = SnapshotEnsemble(model, None, tmp_path).predict(x, average=average, scale=3.0)

    outputs = []
    for path in ensemble.paths:
        other = network(seed=2)
        other.load_state_dict(safetensors.load_file(path))
        output = other.eval()(x, scale=3.0).detach().cpu().double()
        outputs.append(output.softmax(1) if average == "probabilities" else output)
    assert len(outputs) == 2
    torch.testing.assert_close(predicted.cpu().double(), torch.stack(outputs).mean(0), rtol=1e-6, atol=1e-6)
    assert not predicted.requires_grad
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3  # or the mean would show nothing
    assert {name: bits(value) for name, value in model.state_dict().items()} == before
    assert model.training and model.norm.training and not model.first.training


def test_classes_in_another_dimension(tmp_path: Path) -> None:
    model = nn.Identity()
    ensemble = SnapshotEnsemble(model, None, tmp_path)
    ensemble.save(0, 1)
    x = values((2, 3), 0)
    assert torch.equal(ensemble.predict(x, dim=0), x.softmax(0))


class WithExtraState(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


def test_errors(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"needs a Schedule for lr, got 0\.1"):
        SnapshotEnsemble(model, FusedSGD(model.parameters(), lr=0.1), tmp_path)
    ensemble = SnapshotEnsemble(model, None, tmp_path)
    with pytest.raises(ValueError, match="no snapshot in"):
        ensemble.predict(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"average must be one of .* got 'median'"):
        ensemble.predict(torch.ones(1, 4), average="median")
    ensemble.save(0, 1)
    with pytest.raises(ValueError, match=r"cycle-000000.safetensors does not fit the model"):
        SnapshotEnsemble(nn.Linear(4, 4), None, tmp_path).predict(torch.ones(1, 4))
    with pytest.raises(TypeError, match=r"tensors alone, got .* for '_extra_state'"):
        SnapshotEnsemble(WithExtraState(2, 2), None, tmp_path).save(1, 2)
    assert [path.name for path in ensemble.paths] == ["cycle-000000.safetensors"]


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ModuleNotFoundError, match="pip install safetensors"):
        SnapshotEnsemble(nn.Linear(1, 1), None, tmp_path / "none")
    assert not (tmp_path / "none").exists()


# A process of its own, which forks: this one has threads.
KILL = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from sgdr_fused import SnapshotEnsemble

torch.set_num_threads(1)
folder, generator = Path(sys.argv[1]), random.Random(1)
model = torch.nn.Linear(128, 128)
start = time.perf_counter()
SnapshotEnsemble(model, None, sys.argv[2]).save(0, 1)
took = time.perf_counter() - start  # on this machine, as busy as it is
acknowledged = leftovers = 0
for attempt in range(200):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        ensemble = SnapshotEnsemble(model, None, folder)
        for cycle in range(acknowledged, 10**6):
            for p in model.parameters():
                p.data.fill_(cycle)
            os.write(write, b"-")
            ensemble.save(cycle, cycle + 1)
            os.write(write, b"+")
    os.close(write)
    os.read(read, 1)  # it has begun
    time.sleep(generator.uniform(0, 3 * took))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged += os.read(read, 10**6).count(b"+")
    os.close(read)
    leftovers += len(list(folder.glob("*.tmp")))
    found = SnapshotEnsemble(model, None, folder).paths
    assert [p.name for p in found[:acknowledged]] == [f"cycle-{i:06d}.safetensors" for i in range(acknowledged)]
    for path in found[-5:]:
        cycle = int(path.stem.split("-")[1])
        assert all(bool((value == cycle).all()) for value in load_file(path).values()), path
print(acknowledged, leftovers)
"""


@pytest.mark.once
def test_killed_at_200_random_moments(tmp_path: Path) -> None:
    """Each time, every snapshot that was reported is there and whole."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILL, str(tmp_path / "killed"), str(tmp_path / "timed")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged, leftovers = map(int, done.stdout.split())
    assert acknowledged > 0 and leftovers > 0  # some kills fell into the writing
