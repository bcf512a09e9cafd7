"""Steps of torch's optimizers and of ours on the same parameters, timed in turns."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from .. import FusedAdam, FusedSGD
from ..schedules import CosineWarmRestarts

OURS = "sgdr_fused"
FORMS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
RATE = 1e-3
RESTARTS: dict[str, Any] = {"T_0": 100, "T_mult": 2, "eta_min": 1e-6}
MIN_ROUNDS, MAX_ROUNDS, WARMUP = 5, 1000, 3
TURN_ON_GPU = 10  # steps from one wait for a GPU to the next

Shapes = list[tuple[int, ...]]


def _layers(widths: tuple[int, ...]) -> Shapes:
    return [shape for a, b in zip(widths, widths[1:], strict=False) for shape in ((b, a), (b,))]


MODELS: dict[str, Shapes] = {
    "MLP": _layers((64, 128, 128, 10)),
    "500 x 64": [(64,)] * 500,
    "12 wide layers": _layers((1024,) * 13),
}


class Job(NamedTuple):
    """An algorithm: torch's class, ours, and the arguments of both."""

    theirs: Any
    ours: Any
    arguments: dict[str, Any]


JOBS = {
    "SGD": Job(torch.optim.SGD, FusedSGD, {"momentum": 0.9, "weight_decay": 1e-4}),
    "Adam": Job(torch.optim.Adam, FusedAdam, {}),
}


class Row(NamedTuple):
    """Seconds of a step: medians, by implementation; None where this torch has no such form on this device."""

    algorithm: str
    model: str
    tensors: int
    parameters: int
    backend: str  # of ours
    seconds: dict[str, float | None]
    best: str  # the fastest of torch's forms
    ratio: float  # of its time to ours, the median over the rounds


def measure(algorithm: str, model: str, device: torch.device, seconds: float) -> Row:
    """One row. Each round times each implementation once, in another order, and with gradients elsewhere in memory."""
    start = time.perf_counter()
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in MODELS[model]]
    gradients = [torch.randn_like(param) for param in params]
    _renew(params, gradients)
    ours = JOBS[algorithm].ours(params, lr=CosineWarmRestarts(RATE, **RESTARTS), **JOBS[algorithm].arguments)
    steps: dict[str, Callable[[], Any] | None] = {
        name: _of_torch(JOBS[algorithm], params, form) for name, form in FORMS.items()
    }
    steps[OURS] = ours.step
    times = _race({k: v for k, v in steps.items() if v is not None}, params, gradients, start + seconds)
    medians = {name: statistics.median(times[name]) if name in times else None for name in steps}
    best = min((name for name in times if name != OURS), key=lambda name: statistics.median(times[name]))
    ratio = statistics.median(a / b for a, b in zip(times[best], times[OURS], strict=True))
    return Row(
        algorithm, model, len(params), sum(math.prod(s) for s in MODELS[model]), ours.backend, medians, best, ratio
    )


def _of_torch(job: Job, params: list[Any], form: dict[str, bool]) -> Callable[[], None] | None:
    """A step of torch's optimizer and its scheduler; None if this torch cannot take it on this device."""
    try:
        optimizer = job.theirs(params, lr=RATE, **job.arguments, **form)
        optimizer.step()
    except (RuntimeError, TypeError, ValueError):
        return None
    scheduler = CosineAnnealingWarmRestarts(optimizer, **RESTARTS)

    def step() -> None:
        optimizer.step()
        scheduler.step()

    return step


def _renew(params: list[Any], gradients: list[Any]) -> None:
    """New gradients at other addresses, as backward() makes them after zero_grad()."""
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = gradient.clone()  # the old one is freed after the new one was made


def _race(
    steps: dict[str, Callable[[], Any]], params: list[Any], gradients: list[Any], end: float
) -> dict[str, list[float]]:
    """Seconds of a step, by implementation; the k-th ones of all belong to one round."""
    on_gpu, names = params[0].is_cuda, list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(-WARMUP, MAX_ROUNDS):
            if number >= MIN_ROUNDS and time.perf_counter() >= end:
                break
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                _renew(params, gradients)
                seconds = _timed(steps[name], on_gpu)
                if number >= 0:
                    times[name].append(seconds)
    finally:
        gc.enable()
    return times


def _timed(step: Callable[[], Any], on_gpu: bool) -> float:
    if not on_gpu:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(TURN_ON_GPU):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / TURN_ON_GPU
