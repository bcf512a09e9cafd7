"""Draws the paths that optimizers take on a saddle and on a surface with a local minimum: an animation and a still.

All optimizers start from the same points and follow exact gradients. Those with restarts have the rate of
CosineWarmRestarts, and the others have a constant rate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure
from torch import Tensor

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

STEPS = 120
CYCLE = 30  # steps


class Surface(NamedTuple):
    name: str
    height: Callable[[Tensor, Tensor], Tensor]
    start: tuple[float, float]
    x: tuple[float, float]  # what is drawn
    y: tuple[float, float]


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """A surface that is flat at the origin and falls along y; it is bounded below, so that every path ends."""
    return x**2 / 2 - y**2 / 2 + y**4 / 8


def two_wells(x: Tensor, y: Tensor) -> Tensor:
    """A surface with a shallow well near x = -1.1, a deeper one near x = 1.3, and a ridge between them."""
    return x**4 / 4 - 0.7 * x**2 - 0.25 * x + y**2 / 2 + 0.2 * x * y


SURFACES = (
    Surface("saddle", saddle, (-1.6, 0.01), (-2.0, 2.0), (-2.2, 2.2)),
    Surface("local minimum", two_wells, (-2.0, 1.4), (-2.3, 2.3), (-1.8, 1.8)),
)


def restarts(max_lr: float) -> CosineWarmRestarts:
    return CosineWarmRestarts(max_lr, T_0=CYCLE, eta_min=max_lr / 100)


OPTIMIZERS: dict[str, Callable[[list[Tensor]], Any]] = {
    "SGD": lambda params: FusedSGD(params, lr=0.05),
    "momentum": lambda params: FusedSGD(params, lr=0.05, momentum=0.9),
    "Nesterov": lambda params: FusedSGD(params, lr=0.05, momentum=0.9, nesterov=True),
    "Nesterov, restarts": lambda params: FusedSGD(params, lr=restarts(0.15), momentum=0.9, nesterov=True),
    "Adam": lambda params: FusedAdam(params, lr=0.05),
    "Adam, restarts": lambda params: FusedAdam(params, lr=restarts(0.15)),
}


def path(surface: Surface, make: Callable[[list[Tensor]], Any], steps: int) -> Tensor:
    """The points from the start on: float64, of shape (steps + 1, 2)."""
    point = torch.nn.Parameter(torch.tensor(surface.start, dtype=torch.float64))
    optimizer = make([point])
    points = [point.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        surface.height(point[0], point[1]).backward()
        optimizer.step()
        points.append(point.detach().clone())
    return torch.stack(points)


Paths = dict[str, dict[str, Tensor]]  # by surface, then by optimizer


def draw(paths: Paths, size: tuple[float, float]) -> tuple[Figure, list[tuple[Any, Any, Tensor]]]:
    """The figure, in which the paths are drawn in full, and for each path its line, its dot and its points."""
    figure = Figure(figsize=size, layout="constrained")
    drawn = []
    for surface, axes in zip(SURFACES, figure.subplots(1, len(SURFACES)), strict=True):
        xs, ys = torch.linspace(*surface.x, 120), torch.linspace(*surface.y, 120)
        heights = surface.height(*torch.meshgrid(xs, ys, indexing="xy"))
        axes.contour(xs, ys, heights, levels=25, colors="0.8", linewidths=0.7)
        for i, (name, points) in enumerate(paths[surface.name].items()):
            color = f"C{i}"
            (line,) = axes.plot(*points.T, color=color, linewidth=1.4, label=name)
            (dot,) = axes.plot(*points[-1:].T, color=color, marker="o", markersize=6, linestyle="none")
            drawn.append((line, dot, points))
        axes.set(title=surface.name, xlim=surface.x, ylim=surface.y)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(OPTIMIZERS))
    return figure, drawn


def animate(paths: Paths, frames: int, file: Path) -> None:
    steps = len(next(iter(paths[SURFACES[0].name].values()))) - 1
    figure, drawn = draw(paths, (8, 4))

    def show(frame: int) -> list[Any]:
        now = round(frame * steps / max(frames - 1, 1))
        for line, dot, points in drawn:
            line.set_data(*points[: now + 1].T)
            dot.set_data(*points[now : now + 1].T)
        figure.suptitle(f"step {now}")
        return []

    FuncAnimation(figure, show, frames=frames).save(file, writer=PillowWriter(fps=15), dpi=80)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of each path; default: %(default)s")
    parser.add_argument("--frames", type=int, default=61, help="of the animation; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder; default: %(default)s")
    options = parser.parse_args(arguments)

    paths = {
        surface.name: {name: path(surface, make, options.steps) for name, make in OPTIMIZERS.items()}
        for surface in SURFACES
    }
    print(f"{'height at the end':<22}" + "".join(f"{surface.name:>16}" for surface in SURFACES))
    for name in OPTIMIZERS:
        ends = [surface.height(*paths[surface.name][name][-1]).item() for surface in SURFACES]
        print(f"{name:<22}" + "".join(f"{end:>16.4f}" for end in ends))

    options.out.mkdir(parents=True, exist_ok=True)
    still, animation = options.out / "paths.png", options.out / "paths.gif"
    figure, _ = draw(paths, (11, 5.5))
    figure.savefig(still, dpi=120)
    animate(paths, options.frames, animation)
    print(f"\n{still}, {animation}")


if __name__ == "__main__":
    main()
