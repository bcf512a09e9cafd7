"""Times a step with its schedule on this machine, against torch's optimizers and their scheduler.

The times are medians of steps that the implementations take in turns, on the same parameters. The ratio is the time of
the fastest of torch's forms over that of sgdr_fused: the median over all rounds. With a GPU it is that of the GPU.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import torch

from .._native import backends
from . import timing
from .errors import CommandError

LONGEST = 60  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="how long, up to 60; default: 20")


def run(args: argparse.Namespace) -> int:
    if not 0 < args.seconds <= LONGEST:
        raise CommandError(f"--seconds must be in (0, {LONGEST}], got {args.seconds:g}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    jobs = [(algorithm, model) for algorithm in timing.JOBS for model in timing.MODELS]
    rows = [timing.measure(algorithm, model, device, args.seconds / len(jobs)) for algorithm, model in jobs]
    print(table(rows))
    print(f"\n{conditions(device, rows[0].backend)}")
    return 0


def table(rows: list[timing.Row]) -> str:
    """The rows in Markdown, as in docs/performance.md, with columns of equal widths."""
    forms = list(rows[0].seconds)
    lines = [
        ["", "tensors", "parameters", *[form if form == timing.OURS else f"torch {form}" for form in forms], "ratio"]
    ]
    for row in rows:
        times = [_duration(row.seconds[form]) for form in forms]
        lines.append(
            [f"{row.algorithm}, {row.model}", str(row.tensors), f"{row.parameters:,}", *times, f"{row.ratio:.3g}"]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
    padded = [
        [line[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]]
        for line in [lines[0], rule, *lines[1:]]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    unit, factor = next((u, f) for u, f in (("us", 1e6), ("ms", 1e3), ("s", 1.0)) if seconds * f < 1000 or u == "s")
    return f"{seconds * factor:#.3g}".rstrip(".") + f" {unit}"


def conditions(device: torch.device, backend: str) -> str:
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"
    computed = f"sgdr_fused computes by the backend {backend}"
    if backend == "reference":
        computed += f", which is slow: {backends.choice_for(device).why}"
    return f"{machine}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads{load}. {versions}. {computed}."


def _processor() -> str:
    """The processor's name; Linux tells it in a file."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
