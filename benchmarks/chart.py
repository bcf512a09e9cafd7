"""The picture of docs/performance.md: how many times faster, and what one more tensor, group or element costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import tables
from racing import LIMIT, OURS
from results import best_among

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # once the backend is chosen

COLORS = {OURS: "C0", "torch fused": "C1", "torch foreach": "C2", LIMIT: "gray"}
STYLES = {"sgd": "-", "adam": "--"}
BAR = 0.38


def draw_ratios(axes: Any, races: tables.Races) -> None:
    places = {workload: -i for i, workload in enumerate([*tables.WORKLOADS, "recipe"])}
    bars = [(algorithm, workload, race, algorithm) for algorithm, workload, race in tables.steps_of(races, "cosine")]
    bars.append(("recipe", "resnet50", races["recipe", "adamw", "resnet50"], "adam"))
    for key, workload, race, algorithm in bars:
        best = best_among(race)
        y = places["recipe"] if key == "recipe" else places[workload] + (BAR / 2 if algorithm == "sgd" else -BAR / 2)
        spread = [[max(0.0, best.ratio - best.ratio_p10)], [max(0.0, best.ratio_p90 - best.ratio)]]
        axes.barh(y, best.ratio, BAR, color="C0" if algorithm == "sgd" else "C3", xerr=spread, ecolor="black")
        axes.plot([tables.TARGETS[key][workload]] * 2, [y - BAR / 2, y + BAR / 2], color="black", linewidth=2.5)
        axes.text(0.63, y, tables.number(best.ratio), color="white", va="center", fontsize=9)
    labels = [*tables.WORKLOADS.values(), "recipe (AdamW), ResNet-50"]
    axes.set_yticks(list(places.values()), labels)
    axes.set_xscale("log")
    ticks = [1, 2, 3, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.6, 150)
    axes.axvline(1, color="gray", linewidth=0.8)
    for color, name in (("C0", "SGD, momentum"), ("C3", "Adam")):
        axes.barh(0, 0, color=color, label=name)
    axes.plot([], [], color="black", linewidth=2.5, label="aim")
    axes.set_title("step and schedule: the best of torch's over ours")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3)


def draw_line(axes: Any, races: tables.Races, question: str) -> None:
    one, factor, unit = tables.LINES[question]
    for algorithm, style in STYLES.items():
        for implementation, color in COLORS.items():
            points = tables.line_of(races, question, algorithm, implementation)
            if points:
                slope = f"{factor * tables.slope(points):.3g} {unit} per {one}"
                label = f"{tables.ALGORITHMS[algorithm]}, {implementation}: {slope}"
                axes.plot(*zip(*points, strict=True), style, marker=".", color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel=question, ylabel="µs", title=f"{question} of a step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


def draw(races: tables.Races, path: Path) -> None:
    figure, ((ratios, tensors), (groups, elements)) = plt.subplots(2, 2, figsize=(13, 11), layout="constrained")
    draw_ratios(ratios, races)
    for axes, question in ((tensors, "tensors"), (groups, "groups"), (elements, "elements")):
        draw_line(axes, races, question)
    tensors.set_title("of 64 elements each, in one group")
    groups.set_title("256 tensors of 64 elements, in so many groups")
    elements.set_title("one tensor")
    figure.savefig(path, dpi=90)
    plt.close(figure)
