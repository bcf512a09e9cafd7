"""Failures that users of other packages, or of this one, have reported: those of what is around a training.

Numbered as the others are in test_peer_failures.py; what is expected stands in each test.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE
from range_tests import Losses
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from sgdr_fused import (
    FusedSGD,
    GrowingBatchSampler,
    HessianFreeLR,
    SnapshotEnsemble,
    lr_find,
    refreshed_batch_norm,
)
from sgdr_fused.schedules import CosineWarmRestarts, Step
from sgdr_fused.training._range_result import divergence

pytestmark = pytest.mark.untracked

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
