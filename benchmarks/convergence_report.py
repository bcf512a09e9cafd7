"""The table and the picture of docs/convergence.md, from what convergence.py has kept in out/convergence.json.

python benchmarks/convergence_report.py    makes them anew, without a training
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import matplotlib
import torch
from convergence_runs import AVERAGE, DATASETS, ENSEMBLE, REFERENCE, Errors

from sgdr_fused import FusedSGD

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # once the backend is chosen

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "out" / "convergence.json"
PAGE = ROOT / "docs" / "convergence.md"
PICTURE = ROOT / "docs" / "convergence.png"


PANELS = {
    "the rate falls, or stays": ("constant", REFERENCE, "cosine, no restarts", "one-cycle", "growing batch"),
    "the rate comes back": (REFERENCE, "SGDR, T_mult 1", "SGDR, T_mult 2", "triangular", ENSEMBLE, AVERAGE),
}


class Row(NamedTuple):
    dataset: str
    name: str
    rate: float
    validation: list[tuple[float, float]]  # each rate that was tried, and the mean error it was judged by
    errors: list[Errors]  # by seed


def spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def final(row: Row) -> list[float]:
    return [error for errors in row.errors if (error := errors[-1]) is not None]


def target(rows: Sequence[Row], dataset: str) -> float:
    """The error to be reached: what step decay ends with, mean plus standard deviation over the seeds."""
    (reference,) = (row for row in rows if (row.dataset, row.name) == (dataset, REFERENCE))
    return mean(final(reference)) + spread(final(reference))


class Reached(NamedTuple):
    epochs: list[int]  # by seed: after this many the error was first at most the target; all epochs where it never was
    seeds: int  # that reached it

    def __str__(self) -> str:
        at_least = "≥ " if self.seeds < len(self.epochs) else ""
        return f"{at_least}{mean(self.epochs):.1f} ± {spread(self.epochs):.1f}"


def reached(row: Row, target: float) -> Reached:
    epochs, seeds = [], 0
    for errors in row.errors:
        first = next((epoch for epoch, error in enumerate(errors, 1) if error is not None and error <= target), None)
        epochs.append(len(errors) if first is None else first)
        seeds += first is not None
    return Reached(epochs, seeds)


def ratio(reference: Reached, other: Reached) -> str:
    """How many times fewer epochs the other needs; this is a bound where some seeds did not reach the target."""
    all_of_reference, all_of_other = (one.seeds == len(one.epochs) for one in (reference, other))
    if not all_of_reference and not all_of_other:
        return "unknown"
    bound = "" if all_of_reference and all_of_other else "≤ " if all_of_reference else "≥ "
    return f"{bound}{mean(reference.epochs) / mean(other.epochs):.2f}"


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| data | schedule | peak rate | epochs to the target | seeds that reach it | times fewer | final error, % |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for dataset in DATASETS:
        by_name = {row.name: row for row in rows if row.dataset == dataset}
        level = target(rows, dataset)
        reference = reached(by_name[REFERENCE], level)
        for row in by_name.values():
            ours = reached(row, level)
            cells = (
                f"{dataset}, target {level:.2f} %",
                row.name,
                f"{row.rate:g}",
                ours,
                f"{ours.seeds} of {len(ours.epochs)}",
                "1" if row.name == REFERENCE else ratio(reference, ours),
                f"{mean(final(row)):.2f} ± {spread(final(row)):.2f}",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def conditions() -> str:
    """The machine, the versions and the command, in sentences."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), processor)
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "scikit-learn", "mlxtend")]
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    backend = FusedSGD([torch.nn.Parameter(torch.ones(1))], lr=0.1).backend
    return (
        f"Command: `make convergence`, commit {commit}, {datetime.date.today():%-d %B %Y}. Machine: {processor}, "
        f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, {platform.system()}; load average before: "
        f"{os.getloadavg()[0]:.1f}. Versions: Python {platform.python_version()}, {', '.join(packages)}. "
        f"Backend: {backend}."
    )


def rates_table(rows: Sequence[Row]) -> str:
    rates = [rate for rate, _ in rows[0].validation]
    lines = [f"| data | schedule | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---|---|" + "---:|" * len(rates)]
    for row in sorted(rows, key=lambda row: list(DATASETS).index(row.dataset)):
        if row.name not in (ENSEMBLE, AVERAGE):
            cells = (f"**{error:.2f}**" if rate == row.rate else f"{error:.2f}" for rate, error in row.validation)
            lines.append(f"| {row.dataset} | {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The mean test error over the seeds after each epoch: a column per data set, two rows to keep the lines apart."""
    figure, panels = plt.subplots(
        len(PANELS), len(DATASETS), sharex=True, sharey="col", figsize=(12, 9), layout="constrained"
    )
    for column, dataset in zip(panels.T, DATASETS, strict=True):
        level = target(rows, dataset)
        by_name = {row.name: row for row in rows if row.dataset == dataset}
        for axes, (title, names) in zip(column, PANELS.items(), strict=True):
            for name in names:
                means = [
                    mean(after) if None not in after else None for after in zip(*by_name[name].errors, strict=True)
                ]
                epochs = [epoch for epoch, error in enumerate(means, 1) if error is not None]
                style = {"color": "black"} if name == REFERENCE else {}
                if name in (ENSEMBLE, AVERAGE):
                    style |= {"linestyle": "none", "marker": "o" if name == ENSEMBLE else "D"}
                axes.plot(epochs, [means[epoch - 1] for epoch in epochs], label=name, linewidth=1.2, **style)
            axes.axhline(level, color="gray", linestyle=":", label=f"target: {level:.2f} %")
            axes.set(title=f"{dataset}: {title}", yscale="log", ylim=(0.6 * level, 8 * level))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.grid(which="both", alpha=0.3)
            axes.legend(fontsize="small")
        column[-1].set_xlabel("epochs")
    for axes in panels[:, 0]:
        axes.set_ylabel("test error, %")
    figure.suptitle(f"Mean test error over {len(rows[0].errors)} seeds, after each epoch")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def keep(rows: Sequence[Row], conditions: str) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps({"rows": rows, "conditions": conditions}))


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between <!-- name --> and <!-- end -->."""
    changed, places = re.subn(f"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{text}\n\g<2>", page, flags=re.DOTALL)
    assert places == 1, name
    return changed


def write() -> None:
    kept = json.loads(KEPT.read_text())
    rows = [Row(*row) for row in kept["rows"]]
    page = PAGE.read_text()
    for name, text in (("table", table(rows)), ("rates", rates_table(rows)), ("conditions", kept["conditions"])):
        page = put(page, name, text)
    PAGE.write_text(page)
    draw(rows, PICTURE)


if __name__ == "__main__":
    write()
