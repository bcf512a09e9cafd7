"""Timings on a GPU: one step with its schedule, ours against torch's and apex's and against a copy of the same bytes.

    python benchmarks/gpu.py              what `make bench-gpu` runs
    python benchmarks/gpu.py --compiled   torch's compiled steps too: minutes more
    python benchmarks/gpu.py --smoke      tiny and short, to see that all of it runs

The implementations take turns, with a burst of steps each. A time is that between the CUDA events after one step and
after the next, with nothing that waits in between: it is the device's time, or Python's where the device waits for
Python. All implementations go through the same warm restarts. A step that is compiled, or captured in a graph, can do
so with a tensor or a Schedule.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import recipe
import torch
from implementations import LR, RESTARTS
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from workloads import WORKLOADS, Shapes

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

try:
    import pretend_gpu  # an emulator's

    EMULATED = bool(pretend_gpu.active())
except ImportError:
    EMULATED = False

Step = Callable[[], Any]
Params = list[nn.Parameter]
Make = Callable[[Params], Step]


class Rule(NamedTuple):
    theirs: Any
    ours: Any
    options: dict[str, Any]


SGD = Rule(torch.optim.SGD, FusedSGD, {"momentum": 0.9, "weight_decay": 1e-4})
ADAM = Rule(torch.optim.Adam, FusedAdam, {})


def copy(bytes_per_parameter: int, params: Params) -> Step:
    """A copy that reads and writes as many bytes as the update has to read and write."""
    moved = bytes_per_parameter * sum(p.numel() for p in params)
    source, target = (torch.zeros(moved // 2, dtype=torch.uint8, device="cuda") for _ in range(2))
    return lambda: target.copy_(source)


def ours(rule: Rule, params: Params) -> Step:
    opt = rule.ours(params, lr=CosineWarmRestarts(LR, **RESTARTS), **rule.options)
    assert opt.backend == "cuda", opt.backend
    return opt.step


def in_a_graph(make: Make, params: Params) -> Step:
    step = make(params)
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def replay(kept: Step = step) -> None:  # with the optimizer, which the graph does not keep alive
        graph.replay()

    return replay


def scheduled(opt: Any, update: Step | None = None) -> Step:
    scheduler = CosineAnnealingWarmRestarts(opt, **RESTARTS)
    update = update or opt.step

    def step() -> None:
        update()
        scheduler.step()

    return step


def of_torch(rule: Rule, params: Params, tensor_rate: bool = False, **form: Any) -> Step:
    lr = torch.tensor(LR, device="cuda") if tensor_rate else LR
    return scheduled(rule.theirs(params, lr=lr, **form, **rule.options))


def compiled(rule: Rule, params: Params) -> Step:
    """torch's compiled step. Its rate is a tensor: for a number, torch would compile anew at each step."""
    if EMULATED:
        raise RuntimeError("needs a real GPU")
    # Without capturable, Adam updates one parameter at a time if its rate is a tensor.
    options = {**rule.options, "capturable": True} if rule is ADAM else rule.options
    opt = rule.theirs(params, lr=torch.tensor(LR, device="cuda"), **options)
    return scheduled(opt, torch.compile(lambda: opt.step()))


def of_apex(rule: Rule, params: Params) -> Step:
    import apex.optimizers

    return scheduled(
        getattr(apex.optimizers, rule.ours.__name__)(params, lr=LR, **rule.options)
    )  # the classes have the same names


def implementations(rule: Rule) -> dict[str, Make]:
    mine = functools.partial(ours, rule)
    return {
        "sgdr_fused": mine,
        "sgdr_fused, CUDA graph": functools.partial(in_a_graph, mine),
        "torch fused": functools.partial(of_torch, rule, fused=True),
        "torch fused, tensor rate": functools.partial(of_torch, rule, fused=True, tensor_rate=True),
        "torch foreach": functools.partial(of_torch, rule, foreach=True),
        "torch compiled": functools.partial(compiled, rule),
        "apex": functools.partial(of_apex, rule),
    }


SCALE = 1.0  # the gradients have to stay as they are, and the steps write them back unscaled


def of_recipe(make: Callable[..., recipe.Recipe], *args: Any) -> Make:
    return lambda params: make(params, SCALE, *args).step


class Job(NamedTuple):
    bytes_per_parameter: int  # that have to be moved, in float32
    implementations: Mapping[str, Make]
    workloads: tuple[str, ...] = ("mlp", "500x64", "resnet50", "gpt2")


JOBS = {
    "sgd": Job(20, implementations(SGD)),
    "adam": Job(28, implementations(ADAM)),
    "recipe": Job(
        recipe.BYTES,
        {
            "sgdr_fused": of_recipe(recipe.by_us),
            "sgdr_fused, GradScaler.step": of_recipe(recipe.by_us, True),
            "sgdr_fused, CUDA graph": functools.partial(in_a_graph, of_recipe(recipe.by_us)),
            **{name: of_recipe(recipe.by_torch, form) for name, form in recipe.FORMS.items() if "loop" not in name},
        },
        ("resnet50", "gpt2"),
    ),
}
COPY = "copy of the same bytes"
OPTIONAL = ("torch compiled", "apex")
WARMUP = 5  # steps
SMOKE: Shapes = [(3, 5), (5,), (2000,)]


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


def measure(job: Job, shapes: Shapes, rounds: int, steps: int, left_out: set[str]) -> dict[str, list[float] | str]:
    """For each implementation the times of its steps, or the reason why there are none."""
    gradients = [torch.randn(shape, device="cuda") for shape in shapes]
    ready: dict[str, Step] = {}
    result: dict[str, Any] = {}
    of_job = {COPY: functools.partial(copy, job.bytes_per_parameter), **job.implementations}
    for name, make in of_job.items():
        if name in left_out:
            continue
        params = [nn.Parameter(torch.randn(shape, device="cuda")) for shape in shapes]
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        try:
            step = make(params)
            burst(step, WARMUP)
        except Exception as error:
            if name not in OPTIONAL:
                raise
            result[name] = f"not measured: {type(error).__name__}: {error}".splitlines()[0][:120]
        else:
            ready[name], result[name] = step, []
    for _ in range(rounds):
        for name, step in ready.items():
            result[name] += burst(step, steps)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", action="store_true", help="torch's compiled steps too: minutes more")
    parser.add_argument("--smoke", action="store_true", help="tiny and short, to see that all of it runs")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py needs a GPU, or an emulator in front of the command")
    if EMULATED:
        pretend_gpu.cpu_fallback()
    rounds, steps = (2, 2) if arguments.smoke else (20, 30)
    left_out = set() if arguments.compiled or arguments.smoke else {"torch compiled"}

    layout = "{:<8}{:<10}{:>8}{:>13}  {:<28}{:>9}{:>20}{:>8}{:>8}"
    titles = "job", "workload", "tensors", "parameters", "implementation", "µs/step", "80 % within", "/ ours", "GB/s"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    print(f"{torch.cuda.get_device_name()}; {versions}; medians of {rounds * steps} steps in {rounds} rounds")
    if EMULATED:
        print("EMULATED: THESE TIMES MEAN NOTHING")
    print(layout.format(*titles))
    for job_name, job in JOBS.items():
        workloads = {"3_tensors": SMOKE} if arguments.smoke else {w: WORKLOADS[w].shapes for w in job.workloads}
        for workload, shapes in workloads.items():
            measured = measure(job, shapes, rounds, steps, left_out)
            own = statistics.median(measured["sgdr_fused"])
            parameters = sum(map(math.prod, shapes))
            for name, times in measured.items():
                of_row = job_name, workload, len(shapes), f"{parameters:,}", name
                if isinstance(times, str):
                    print(layout.format(*of_row, "", times, "", "").rstrip(), flush=True)
                    continue
                deciles, middle = statistics.quantiles(times, n=10, method="inclusive"), statistics.median(times)
                within = f"{deciles[0]:.1f} - {deciles[-1]:.1f}"
                rate = f"{job.bytes_per_parameter * parameters / middle / 1e3:.0f}"
                print(layout.format(*of_row, f"{middle:.1f}", within, f"{middle / own:.2f}", rate), flush=True)


if __name__ == "__main__":
    main()
