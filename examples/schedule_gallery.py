"""Draws a picture of each schedule, and writes the gallery of docs/schedules.md.

    python examples/schedule_gallery.py    writes docs/schedules/*.svg and the part of the page between its marks

The lines are those of `Schedule.plot_many`, so a picture shows what the package computes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from sgdr_fused import schedules
from sgdr_fused.schedules import Schedule

DOCS = Path(__file__).resolve().parents[1] / "docs"
STEPS = 400
# Text stays text, and no name in a file is random: a file is small, and changes with its curve alone.
LOOKS = {"svg.fonttype": "none", "svg.hashsalt": "gallery", "font.sans-serif": ["DejaVu Sans", "sans-serif"]}
# Each class has an entry, with the expressions that its picture shows. The order is that of the page's table.
GALLERY: dict[str, list[str]] = {
    "Constant": ["Constant(0.1)"],
    "LinearRamp": ["LinearRamp(0.1, 0.01, steps=300)"],
    "ExponentialRamp": ["ExponentialRamp(0.1, 0.001, steps=300)"],
    "HalfCosine": ["HalfCosine(0.1, 0.01, steps=300)"],
    "Polynomial": ["Polynomial(0.1, 0.0, steps=300, power=2.0)"],
    "Exponential": ["Exponential(0.1, gamma=0.99)"],
    "Step": ["Step(0.1, step_size=100, gamma=0.5)"],
    "MultiStep": ["MultiStep(0.1, [50, 200, 300], gamma=0.5)"],
    "InverseTime": ["InverseTime(0.1, k=0.02)"],
    "CosineWarmRestarts": [
        "CosineWarmRestarts(0.1, T_0=50, T_mult=2)",
        "CosineWarmRestarts(0.1, T_0=100, eta_min=0.01, max_decay=0.7)",
    ],
    "CosineCycles": ["CosineCycles(0.1, [150, 50, 100])"],
    "CosineAnnealing": ["CosineAnnealing(0.1, T_max=100, eta_min=0.01)"],
    "Triangular": [
        "Triangular(0.01, 0.1, step_size_up=50)",
        'Triangular(0.01, 0.1, step_size_up=50, mode="triangular2")',
        'Triangular(0.01, 0.1, step_size_up=50, mode="exp_range", gamma=0.998)',
    ],
    "TriangularMomentum": ["TriangularMomentum(0.85, 0.95, step_size_up=50)"],
    "OneCycle": ["OneCycle(0.1, total_steps=400)", 'OneCycle(0.1, total_steps=400, anneal_strategy="linear")'],
    "WarmupStableDecay": [
        "WarmupStableDecay(0.1, num_warmup_steps=50, num_stable_steps=200, num_decay_steps=100)",
        'WarmupStableDecay(0.1, 50, num_decay_steps=200, num_training_steps=350, decay_type="linear")',
    ],
    "OneCycleMomentum": ["OneCycleMomentum(0.85, 0.95, total_steps=400)"],
    "Table": ["Table(lambda t: 0.1 * min(1, (t + 1) / 50) / (1 + t / 100) ** 0.5, num_steps=400)"],
    "Warmup": ["Warmup(CosineWarmRestarts(0.1, T_0=100), steps=50)"],
    "Sequential": ["Sequential([(LinearRamp(0.0, 0.1, 50), 150), 0.5 * Exponential(0.1, gamma=0.99)])"],
    "Product": ["CosineWarmRestarts(0.1, T_0=50) * Exponential(1.0, gamma=0.995)"],
    "Shifted": ["CosineWarmRestarts(0.1, T_0=50, T_mult=2).shifted(100)"],
}


def file_of(name: str) -> str:
    """CosineWarmRestarts: cosine_warm_restarts.svg."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() + ".svg"


def schedule_of(expression: str) -> Schedule:
    names: dict[str, Any] = {name: getattr(schedules, name) for name in schedules.__all__}
    return eval(expression, names)  # of the list above


def draw(expressions: list[str], path: Path) -> None:
    several = len(expressions) if len(expressions) > 1 else 0
    figure = Figure(figsize=(7, 2.2 + 0.2 * several), layout="constrained")
    ax = figure.subplots()
    Schedule.plot_many({expression: schedule_of(expression) for expression in expressions}, STEPS, ax)
    ax.get_legend().remove()
    values = [line.get_ydata() for line in ax.lines]
    low, high = min(map(min, values)), max(map(max, values))
    ax.set(xlim=(0, STEPS), ylim=(0 if low < high / 2 or low == high else None, None))
    for line, style in zip(ax.lines, ("-", "--", ":"), strict=False):  # told apart without colors too
        line.set(linestyle=style, linewidth=2)
    if several:
        labels = [re.sub(r"^\w+\((.*)\)$", r"\1", expression) for expression in expressions]
        figure.legend(ax.lines, labels, loc="outside upper center", fontsize="small", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def section(name: str, expressions: list[str]) -> str:
    code = "\n".join(expressions)
    return (
        f"### {name}\n\n```text\n{code}\n```\n\n![The value of {name} at steps 0 to {STEPS}](schedules/{file_of(name)})"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder; default: docs/")
    docs = parser.parse_args(arguments).docs
    (docs / "schedules").mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(LOOKS):
        for name, expressions in GALLERY.items():
            draw(expressions, docs / "schedules" / file_of(name))
    gallery = "\n\n".join(section(name, expressions) for name, expressions in GALLERY.items())
    page = (DOCS / "schedules.md").read_text()
    page = re.sub(
        r"(<!-- gallery -->\n).*(<!-- end -->)", lambda m: f"{m[1]}\n{gallery}\n\n{m[2]}", page, flags=re.DOTALL
    )
    (docs / "schedules.md").write_text(page)


if __name__ == "__main__":
    main()
