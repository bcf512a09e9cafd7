"""The picture of README.md and of the documentation's first page: the rate, the loss, and the time of a step.

    python benchmarks/overview.py    trains on the digits, as `make demo` does, writes docs/digits.csv, and draws

The losses are kept in docs/digits.csv. So report.py draws the picture anew with other speeds, and trains nothing.
"""

from __future__ import annotations

import copy
import csv
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
import tables
from results import ROOT, best_among, by_race, from_csv

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # once the backend is chosen

COLUMNS = ("torch", "sgdr_fused")
STYLES = [{"color": "#f0a35e", "linewidth": 5}, {"color": "#1f3b73", "linewidth": 1.4, "linestyle": (0, (4, 2))}]
LABELS = ["torch's fused SGD and scheduler", "FusedSGD"]
STEPS_PER_EPOCH = 23  # 1,437 images in batches of 64
TITLE = "A step with its schedule, on a CPU:\nthe best of torch's takes so many times as long"
BAR = 0.38


def trained() -> list[tuple[float, ...]]:
    """(rate, loss, rate, loss) of each step, with torch's optimizer and with ours, from the example's training."""
    sys.path.insert(0, str(ROOT / "examples"))
    import digits  # with scikit-learn, which nothing else here needs
    import torch

    images, labels = digits.load_digits(return_X_y=True)
    data = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)
    split = digits.train_test_split(*data, test_size=0.2, random_state=0, stratify=labels)
    torch.manual_seed(0)
    model = digits.network()
    runs = [
        digits.torch_run(copy.deepcopy(model), STEPS_PER_EPOCH),
        digits.fused_run(copy.deepcopy(model), STEPS_PER_EPOCH)[0],
    ]
    digits.train(runs, split[0], split[2], digits.EPOCHS)
    return list(zip(*(values for run in runs for values in (run.rates, run.losses)), strict=True))


def write_losses(rows: list[tuple[float, ...]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f"{name} {what}" for name in COLUMNS for what in ("rate", "loss")])
        writer.writerows([f"{value:.5g}" for value in row] for row in rows)


def read_losses(path: Path) -> list[list[float]]:
    """The columns."""
    with path.open(newline="") as file:
        _, *rows = csv.reader(file)
    return [[float(cell) for cell in column] for column in zip(*rows, strict=True)]


def smoothed(values: list[float]) -> list[float]:
    """The mean over the epoch that ends with each step."""
    return [statistics.fmean(values[max(0, i + 1 - STEPS_PER_EPOCH) : i + 1]) for i in range(len(values))]


def draw_ratios(axes: Any, races: tables.Races) -> None:
    entries = tables.steps_of(races, "cosine")
    workloads = list(dict.fromkeys(workload for _, workload, _ in entries))
    for algorithm, workload, race in entries:
        ratio = best_among(race).ratio
        y = -workloads.index(workload) + (BAR / 2 if algorithm == "sgd" else -BAR / 2)
        axes.barh(y, ratio, BAR, color="#1f3b73" if algorithm == "sgd" else "#7d9bd1")
        axes.annotate(
            f"{tables.ALGORITHMS[algorithm]}  {tables.number(ratio)}",
            (ratio, y),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    names = [tables.WORKLOADS[workload].replace(", ", ",\n") for workload in workloads]
    axes.set_yticks([-i for i in range(len(workloads))], names)
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set(
        xscale="log",
        xlim=(0.7, 100),
        title="A step with its schedule, on a CPU:\nthe best of torch's takes so many times as long",
    )
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_xticks([], minor=True)


def draw(races: tables.Races, losses: Path, path: Path) -> None:
    columns = read_losses(losses)
    figure = plt.figure(figsize=(12, 5.5), layout="constrained")
    axes = figure.subplot_mosaic([["rate", "ratios"], ["loss", "ratios"]], width_ratios=[3, 2], height_ratios=[2, 3])
    epochs = [i / STEPS_PER_EPOCH for i in range(len(columns[0]))]
    # The curves lie on each other, so one is a wide light line and the other a narrow dashed line on top of it.
    for i, (style, label) in enumerate(zip(STYLES, LABELS, strict=True)):
        axes["rate"].plot(epochs, columns[2 * i], label=label, **style)
        axes["loss"].plot(epochs, smoothed(columns[2 * i + 1]), label=label, **style)
    axes["rate"].set(title="Learning rate: cosine annealing with warm restarts", xlim=(0, epochs[-1]))
    axes["loss"].set(title="Training loss on handwritten digits", xlabel="epochs", yscale="log", xlim=(0, epochs[-1]))
    axes["loss"].legend()
    for name in ("rate", "loss"):
        axes[name].grid(alpha=0.3)
    draw_ratios(axes["ratios"], races)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    docs = ROOT / "docs"
    write_losses(trained(), docs / "digits.csv")
    draw(by_race(from_csv((docs / "performance.csv").read_text())[0]), docs / "digits.csv", docs / "overview.png")
