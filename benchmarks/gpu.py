"""Timings on a GPU: one step with its schedule, ours against torch's and apex's and against a copy of the same bytes.

    python benchmarks/gpu.py            what `make bench-gpu` runs
    python benchmarks/gpu.py --smoke    tiny and short, to see that all of it runs

The implementations take turns, a burst of steps each. A time is that between the CUDA events after one step and after
the next, with nothing that waits in between: the device's, or Python's where the device waits for that. All walk
through the same warm restarts; what is compiled and what is captured in a graph can do so with a tensor or a Schedule.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from workloads import WORKLOADS, Shapes

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

try:
    import pretend_gpu  # an emulator's

    EMULATED = bool(pretend_gpu.active())
except ImportError:
    EMULATED = False

LR, RESTARTS = 1e-3, {"T_0": 100, "T_mult": 2, "eta_min": 1e-5}
# torch's class, ours and its options; the bytes per float32 parameter that an update has to move.
ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "sgd": (torch.optim.SGD, FusedSGD, {"momentum": 0.9, "weight_decay": 1e-4}, 20),
    "adam": (torch.optim.Adam, FusedAdam, {}, 28),
}
WARMUP = 5  # steps
MODELS = {name: WORKLOADS[name].shapes for name in ("mlp", "500x64", "resnet50")}
SMOKE = {"3_tensors": [(3, 5), (5,), (2000,)]}

Step = Callable[[], Any]


def scheduled(opt: Any, update: Step | None = None) -> Step:
    scheduler = CosineAnnealingWarmRestarts(opt, **RESTARTS)
    update = update or opt.step

    def step() -> None:
        update()
        scheduler.step()

    return step


def copy(algorithm: str, params: list[Tensor]) -> Step:
    """As many bytes read and written as the update has to read and write."""
    moved = ALGORITHMS[algorithm][3] * sum(p.numel() for p in params)
    source, target = (torch.zeros(moved // 2, dtype=torch.uint8, device="cuda") for _ in range(2))
    return lambda: target.copy_(source)


def ours(algorithm: str, params: list[Tensor]) -> Step:
    _, fused, options, _ = ALGORITHMS[algorithm]
    opt = fused(params, lr=CosineWarmRestarts(LR, **RESTARTS), **options)
    assert opt.backend == "cuda", opt.backend
    return opt.step


def ours_in_a_graph(algorithm: str, params: list[Tensor]) -> Step:
    step = ours(algorithm, params)
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept: Step = step) -> None:  # with the optimizer, which the graph does not keep alive
        graph.replay()

    return replay


def of_torch(tensor_rate: bool = False, **form: Any) -> Callable[[str, list[Tensor]], Step]:
    def make(algorithm: str, params: list[Tensor]) -> Step:
        theirs, _, options, _ = ALGORITHMS[algorithm]
        lr = torch.tensor(LR, device="cuda") if tensor_rate else LR
        return scheduled(theirs(params, lr=lr, **form, **options))

    return make


def compiled(algorithm: str, params: list[Tensor]) -> Step:
    """Its rate a tensor: a number would be compiled anew at each step."""
    if EMULATED:
        raise RuntimeError("needs a real GPU")
    theirs, _, options, _ = ALGORITHMS[algorithm]
    if algorithm == "adam":
        options = {**options, "capturable": True}  # else one parameter at a time, with a tensor for a rate
    opt = theirs(params, lr=torch.tensor(LR, device="cuda"), **options)
    return scheduled(opt, torch.compile(lambda: opt.step()))


def of_apex(algorithm: str, params: list[Tensor]) -> Step:
    import apex.optimizers

    _, fused, options, _ = ALGORITHMS[algorithm]
    return scheduled(getattr(apex.optimizers, fused.__name__)(params, lr=LR, **options))  # of the same names


IMPLEMENTATIONS: dict[str, Callable[[str, list[Tensor]], Step]] = {
    "copy of the same bytes": copy,
    "sgdr_fused": ours,
    "sgdr_fused, CUDA graph": ours_in_a_graph,
    "torch fused": of_torch(fused=True),
    "torch fused, tensor rate": of_torch(fused=True, tensor_rate=True),
    "torch foreach": of_torch(foreach=True),
    "torch compiled": compiled,
    "apex": of_apex,
}
OPTIONAL = ("torch compiled", "apex")


def burst(step: Step, steps: int) -> list[float]:
    """Microseconds of each step."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [1e3 * before.elapsed_time(after) for before, after in zip(events, events[1:], strict=False)]


def measure(algorithm: str, shapes: Shapes, rounds: int, steps: int) -> dict[str, list[float] | str]:
    """Per implementation the times of its steps, or why there are none."""
    gradients = [torch.randn(shape, device="cuda") for shape in shapes]
    ready: dict[str, Step] = {}
    result: dict[str, Any] = {}
    for name, make in IMPLEMENTATIONS.items():
        params = [torch.nn.Parameter(torch.randn(shape, device="cuda")) for shape in shapes]
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        try:
            step = make(algorithm, params)
            burst(step, WARMUP)
        except Exception as error:
            if name not in OPTIONAL:
                raise
            result[name] = f"  not measured: {type(error).__name__}: {error}".splitlines()[0][:120]
        else:
            ready[name], result[name] = step, []
    for _ in range(rounds):
        for name, step in ready.items():
            result[name] += burst(step, steps)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny and short, to see that all of it runs")
    smoke = parser.parse_args().smoke
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a GPU, or an emulator in front of the command")
    if EMULATED:
        pretend_gpu.cpu_fallback()
    workloads, rounds, steps = (SMOKE, 2, 2) if smoke else (MODELS, 20, 50)

    layout = "{:<10}{:<11}{:>8}{:>12}  {:<26}{:>9}{:>20}{:>8}"
    titles = "algorithm", "workload", "tensors", "parameters", "implementation", "µs/step", "80 % within", "/ ours"
    lines = [layout.format(*titles)]
    for algorithm in ALGORITHMS:
        for workload, shapes in workloads.items():
            measured = measure(algorithm, shapes, rounds, steps)
            own = statistics.median(measured["sgdr_fused"])
            for name, times in measured.items():
                if isinstance(times, str):
                    numbers = times, "", ""
                else:
                    deciles, middle = statistics.quantiles(times, n=10, method="inclusive"), statistics.median(times)
                    numbers = f"{middle:.1f}", f"{deciles[0]:.1f} - {deciles[-1]:.1f}", f"{middle / own:.2f}"
                of_model = algorithm, workload, len(shapes), f"{sum(map(math.prod, shapes)):,}"
                lines.append(layout.format(*of_model, name, *numbers).rstrip())
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    print(f"\n{torch.cuda.get_device_name()}; {versions}; medians of {rounds * steps} steps in {rounds} rounds")
    if EMULATED:
        print("EMULATED: THESE TIMES MEAN NOTHING")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
