"""One optimizer step with its schedule: torch's fused optimizer and CosineAnnealingWarmRestarts against ours.

Every test steps both, in turns, and hands the times of one of them to pytest-benchmark; in the other's test they swap
places, so either goes first in half of the pairs. Nothing here passes or fails on a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from workloads import WORKLOADS, Shapes

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

SECONDS = 8.0  # of pairs per test
MIN_PAIRS, MAX_PAIRS = 20, 2000
WARMUP = 5

ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, FusedSGD, {"momentum": 0.9, "weight_decay": 1e-4}),
    "adam": (torch.optim.Adam, FusedAdam, {}),
}


class Side:
    """One of the two implementations, with parameters of its own."""

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in shapes]
        self.gradients = [torch.randn(s, generator=generator).to(device) for s in shapes]
        self.wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self.update: Callable[[], None]

    def new_gradients(self) -> None:
        """Gradients in other memory than before, as backward() leaves them after zero_grad()."""
        for param, gradient in zip(self.params, self.gradients, strict=True):
            param.grad = gradient.clone()  # the old one is freed after this: the address differs
        self.wait()

    def step(self) -> None:
        """What is timed; until the device is done."""
        self.update()
        self.wait()

    def timed_step(self) -> float:
        start = time.perf_counter()
        self.step()
        return time.perf_counter() - start


def both(algorithm: str, workload: str, device: torch.device) -> tuple[dict[str, Side], str]:
    """The two sides, and the backend of ours."""
    shapes = WORKLOADS[workload]
    torch_class, fused_class, options = ALGORITHMS[algorithm]
    sides = {name: Side(shapes, device) for name in ("torch", "sgdr_fused")}

    theirs = torch_class(sides["torch"].params, lr=1e-3, fused=True, **options)
    scheduler = CosineAnnealingWarmRestarts(theirs, T_0=100, T_mult=2, eta_min=1e-5)

    def step_and_schedule() -> None:
        theirs.step()
        scheduler.step()

    schedule = CosineWarmRestarts(1e-3, T_0=100, T_mult=2, eta_min=1e-5)
    ours = fused_class(sides["sgdr_fused"].params, lr=schedule, **options)
    sides["torch"].update, sides["sgdr_fused"].update = step_and_schedule, ours.step
    return sides, ours.backend


def pairs_within(seconds: float, pair: Callable[[], None]) -> int:
    """How many pairs take so long, from a few that also warm both sides up."""
    for _ in range(WARMUP):
        pair()
    start = time.perf_counter()
    for _ in range(WARMUP):
        pair()
    return max(MIN_PAIRS, min(MAX_PAIRS, int(seconds * WARMUP / (time.perf_counter() - start))))


@pytest.mark.parametrize("implementation", ["torch", "sgdr_fused"])
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_step(
    benchmark: Any, device: torch.device, record: Any, algorithm: str, workload: str, implementation: str
) -> None:
    sides, backend = both(algorithm, workload, device)
    own = sides.pop(implementation)
    ((rival_name, rival),) = sides.items()
    rival_times: list[float] = []

    def rival_first() -> None:
        rival.new_gradients()
        rival_times.append(rival.timed_step())
        own.new_gradients()

    pairs = pairs_within(SECONDS, lambda: (rival_first(), own.step()))
    rival_times.clear()
    benchmark.group = f"{algorithm} {workload}"
    benchmark.pedantic(own.step, setup=rival_first, rounds=pairs)
    if benchmark.stats is not None:  # None with --benchmark-disable
        times = {implementation: list(benchmark.stats.stats.data), rival_name: rival_times}
        record(benchmark, algorithm, workload, backend, times)
