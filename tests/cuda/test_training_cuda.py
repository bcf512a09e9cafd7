"""Whole training loops on the GPU: the example's network on handwritten digits, under a GradScaler.

Some batches overflow, whose steps must not have been. In float32 the run is that of the same loop on the CPU; in low
precision, where two networks round differently, every single step is that of the CPU's optimizer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import ADAMW, DEVICE, PRETEND, SGD, Algorithm, assert_within, rate, ulp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sgdr_fused.schedules import CosineWarmRestarts

if DEVICE.type != "cuda":
    pytest.skip("trains on a GPU", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
digits = pytest.importorskip("digits", reason="the example needs scikit-learn, matplotlib and tqdm")

STEPS, BATCH = 40, 64
OVERFLOWS = (0, 5, 6, 20)  # the first step among them
OPTIONS: dict[str, tuple[Algorithm, float, dict[str, Any]]] = {
    "sgd": (SGD, digits.MAX_LR, digits.SGD),
    "adamw": (ADAMW, 2e-3, {}),
}


@pytest.fixture(autouse=True)
def plain_convolutions() -> Iterator[None]:
    """Without TF32, which has 10 bits. The pretend GPU has no cuDNN."""
    with torch.backends.cudnn.flags(enabled=not PRETEND, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    loaded = digits.load_digits()
    return torch.tensor(loaded.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(loaded.target)


class Loop:
    """A training on one device. Between backward() and step(), gradients may be looked at."""

    def __init__(self, algorithm: str, device: str, dtype: torch.dtype, autocast: torch.dtype | None) -> None:
        kind, lr, options = OPTIONS[algorithm]
        torch.manual_seed(0)
        self.device, self.dtype, self.autocast = device, dtype, autocast
        self.model: nn.Module = digits.network().to(device, dtype)
        self.params = list(self.model.parameters())
        self.schedule = CosineWarmRestarts(lr, T_0=10, T_mult=2, eta_min=1e-4)
        self.opt: Any = kind.fused(self.params, lr=self.schedule, **options)
        self.scaler = torch.amp.GradScaler(device, init_scale=1024.0, growth_interval=8)
        self.losses: list[float] = []

    def backward(self, t: int, data: tuple[Tensor, Tensor]) -> None:
        images, labels = (part[t * BATCH % 1024 :][:BATCH].to(self.device) for part in data)
        with nullcontext() if self.autocast is None else torch.autocast(self.device, dtype=self.autocast):
            loss = cross_entropy(self.model(images.to(self.dtype)).float(), labels)
        self.opt.zero_grad()
        self.scaler.scale(loss).backward()
        if t in OVERFLOWS:
            self.params[-1].grad[t % 10] = float("inf") if t % 2 else float("nan")
        self.losses.append(loss.item())

    def step(self) -> None:
        self.scaler.step(self.opt)
        self.scaler.update()

    def check_progress(self, taken: int) -> None:
        """The loss fell, and no skipped step was counted."""
        assert sum(self.losses[-5:]) < 0.5 * sum(self.losses[:5])
        assert self.opt.clock.item() == taken
        assert float(self.opt.param_groups[0]["lr"]) == pytest.approx(rate(self.schedule, taken), rel=1e-12)


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_loop_in_float32(algorithm: str, data: tuple[Tensor, Tensor]) -> None:
    on_gpu, on_cpu = (Loop(algorithm, device, torch.float32, None) for device in ("cuda", "cpu"))
    start = [p.detach().clone() for p in on_cpu.params]
    for t in range(STEPS):
        for loop in (on_gpu, on_cpu):
            loop.backward(t, data)
            loop.step()
        assert on_gpu.scaler.get_scale() == on_cpu.scaler.get_scale()
        assert on_gpu.losses[-1] == pytest.approx(on_cpu.losses[-1], abs=1e-4)
    on_gpu.check_progress(STEPS - len(OVERFLOWS))
    for param, expected, old in zip(on_gpu.params, on_cpu.params, start, strict=True):
        # A hundredth of the way at most; convolutions are summed in another order there, and some transform first.
        assert (expected - old).abs().max() > 1e-2
        torch.testing.assert_close(param.cpu(), expected, rtol=0, atol=1e-4)


LOW_PRECISION = {
    "autocast_float16": (torch.float32, torch.float16),
    "autocast_bfloat16": (torch.float32, torch.bfloat16),
    "float16_parameters": (torch.float16, None),
}


@pytest.mark.parametrize("mode", LOW_PRECISION)
@pytest.mark.parametrize("algorithm", OPTIONS)
def test_loop_in_low_precision(algorithm: str, mode: str, data: tuple[Tensor, Tensor]) -> None:
    loop = Loop(algorithm, "cuda", *LOW_PRECISION[mode])
    kind, _, options = OPTIONS[algorithm]
    twins = [nn.Parameter(p.detach().cpu()) for p in loop.params]
    on_cpu: Any = kind.fused(twins, lr=loop.schedule, **options)
    taken = 0
    for t in range(STEPS):
        loop.backward(t, data)
        for twin, param in zip(twins, loop.params, strict=True):
            twin.grad = param.grad.cpu()
        on_cpu.grad_scale = torch.tensor(loop.scaler.get_scale())
        on_cpu.found_inf = torch.tensor(float(not all(bool(p.grad.isfinite().all()) for p in twins)))
        taken += on_cpu.found_inf.item() == 0
        loop.step()
        on_cpu.step()
        assert loop.opt.clock.item() == taken
        for param, twin in zip(loop.params, twins, strict=True):
            wanted = twin.detach().double()
            # The same arithmetic, but for the last place of pow() and sin(), which may move a rounding at each step.
            assert_within(param, wanted, (t + 1) * ulp(wanted.clamp(min=1), twin.dtype), f"step {t}")
    assert 30 <= taken <= STEPS - len(OVERFLOWS)  # a growing scale may overflow by itself
    loop.check_progress(taken)
