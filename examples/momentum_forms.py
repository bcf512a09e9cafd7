"""Draws what a warm restart does to the two forms of momentum, with the rate outside the buffer (torch) or inside.

The left diagram has the length of each step along a slope, where every gradient is 1. The right one has the height in a
bowl, x**2 / 2, whose gradients have noise of variance 1: the mean over many independent runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sgdr_fused import FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

FORMS = ("torch", "classical")
MOMENTUM = 0.9
CYCLE = 60  # steps
RATE = CosineWarmRestarts(0.1, T_0=CYCLE, eta_min=0.001)


def optimizer_of(param: Tensor, form: str) -> FusedSGD:
    return FusedSGD([param], lr=RATE, momentum=MOMENTUM, momentum_form=form)


def lengths_on_a_slope(form: str, steps: int) -> Tensor:
    point = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    point.grad = torch.ones_like(point)
    optimizer = optimizer_of(point, form)
    points = [0.0]
    for _ in range(steps):
        optimizer.step()
        points.append(point.item())
    return -torch.tensor(points, dtype=torch.float64).diff()


def heights_of_a_bowl(form: str, steps: int, runs: int) -> Tensor:
    """The mean height after each step, over `runs` elements of one parameter; every form gets the same noise."""
    noise = torch.Generator().manual_seed(0)
    points = torch.nn.Parameter(torch.ones(runs, dtype=torch.float64))
    optimizer = optimizer_of(points, form)
    heights = []
    for _ in range(steps):
        points.grad = points.detach() + torch.randn(runs, generator=noise, dtype=torch.float64)
        optimizer.step()
        heights.append((points.detach() ** 2 / 2).mean())
    return torch.stack(heights)


def draw(lengths: dict[str, Tensor], heights: dict[str, Tensor]) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    slope, bowl = figure.subplots(1, 2)
    steps = len(lengths[FORMS[0]])
    full = RATE.values(steps) / (1 - MOMENTUM)
    slope.plot(full, color="0.7", linestyle="--", label="rate / (1 - momentum)")
    for i, form in enumerate(FORMS):
        slope.plot(lengths[form], color=f"C{i}", label=form)
        bowl.plot(heights[form], color=f"C{i}", label=form)
    slope.set(title="length of a step along a slope", xlabel="step")
    bowl.set(title="height of a noisy bowl", xlabel="step", yscale="log")
    figure.legend(*slope.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=3, help=f"of {CYCLE} steps; default: %(default)s")
    parser.add_argument("--runs", type=int, default=20_000, help="through the bowl; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder; default: %(default)s")
    options = parser.parse_args(arguments)

    steps = options.cycles * CYCLE
    lengths = {form: lengths_on_a_slope(form, steps) for form in FORMS}
    heights = {form: heights_of_a_bowl(form, steps, options.runs) for form in FORMS}
    restart = steps - CYCLE  # the last one
    print(f"{'steps after a restart':<24}{'length on a slope':>28}{'height of a noisy bowl':>28}")
    print(f"{'':<24}" + f"{FORMS[0]:>14}{FORMS[1]:>14}" * 2)
    for after in (0, 1, 2, 5, 10, 20, 40):
        numbers = [series[form][restart + after - 1].item() for series in (lengths, heights) for form in FORMS]
        print(f"{after:<24}" + "".join(f"{number:>14.4f}" for number in numbers))

    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "momentum.png"
    draw(lengths, heights).savefig(file, dpi=110)
    print(f"\n{file}")


if __name__ == "__main__":
    main()
