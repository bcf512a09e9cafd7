"""Draws a schedule, in the terminal or into a file.

SCHEDULE is written as in Python, with the names of sgdr_fused.schedules:

  sgdr-fused plot "CosineWarmRestarts(0.1, T_0=1000, T_mult=2)" --steps 7000
  sgdr-fused plot "Warmup(0.5 * Step(0.1, step_size=30), 5)" --steps 100 -o schedule.png

OneCycle has a rate and a momentum, and both are drawn.
"""

from __future__ import annotations

import argparse
import shutil
import textwrap
from typing import Any

from torch import Tensor

from .. import _plot
from .._messages import shown
from ..schedules import OneCycle, Schedule
from . import expression, text_plot
from .errors import CommandError

MAX_STEPS = 10_000_000  # whose values are 80 MB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("schedule", metavar="SCHEDULE", help="the schedule, an expression in quotation marks")
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="draw the steps 0 to N - 1")
    parser.add_argument("-o", "--output", metavar="FILE", help="a picture, such as x.png or x.svg; needs matplotlib")


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.steps <= MAX_STEPS:
        raise CommandError(f"--steps must be in [1, {MAX_STEPS:,}], got {args.steps}")
    schedule = expression.read(args.schedule)
    curves: dict[str, Schedule] = {"value": schedule}
    if isinstance(schedule, OneCycle):
        curves = {"lr": schedule, "momentum": schedule.momentum}
    values = {label: _finite(curve.values(args.steps)) for label, curve in curves.items()}
    if args.output is None:
        width = shutil.get_terminal_size().columns
        print(shown(schedule))
        for label, each in values.items():
            print(f"\n{label}\n{text_plot.draw(each, width)}")
    else:
        _write_picture(shown(schedule), curves, args.steps, args.output)
        print(f"{args.output}: {shown(schedule)}, steps 0 to {args.steps - 1}")
    return 0


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        first = int((~values.isfinite()).nonzero()[0])
        raise CommandError(f"--steps must be at most {first}, because the schedule is infinite at step {first}")
    return values


def _write_picture(title: str, curves: dict[str, Schedule], steps: int, file: str) -> None:
    """The curves above each other, since a rate and a momentum are of different sizes."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise CommandError(
            f"-o {file} needs matplotlib: pip install 'sgdr_fused[plot]', or pip install matplotlib. "
            "Without -o the picture is drawn in the terminal"
        ) from None
    figure = Figure(layout="constrained")
    figure.suptitle(textwrap.fill(title, 90), fontsize="small")
    axes: Any = figure.subplots(len(curves), squeeze=False)[:, 0]
    for (label, curve), ax in zip(curves.items(), axes, strict=True):
        _plot.schedules({label: curve}, steps, ax)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not know
        raise CommandError(f"-o {file} cannot be written: {error}") from None
