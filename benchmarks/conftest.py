"""Where the timings are taken, and the table of ratios at the end.

SGDR_FUSED_TEST_DEVICE=cpu (default) or cuda.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from workloads import WORKLOADS

DEVICE = torch.device(os.environ.get("SGDR_FUSED_TEST_DEVICE", "cpu"))

Times = dict[str, list[float]]  # seconds per step, by implementation; the k-th of each are a pair
_measured: dict[tuple[str, str, str], list[Times]] = defaultdict(list)  # by algorithm, workload, backend

if DEVICE.type == "cuda" and not torch.cuda.is_available():
    raise pytest.UsageError("SGDR_FUSED_TEST_DEVICE=cuda needs a GPU, or an emulator in front of the command")


def machine() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name(DEVICE)
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def pytest_report_header() -> str:
    return f"sgdr_fused: {machine()}; torch {torch.__version__}, Python {platform.python_version()}"


@pytest.fixture
def device() -> torch.device:
    return DEVICE


@pytest.fixture
def record() -> Callable[..., None]:
    """Keeps the times of a test for the table, and their ratios with pytest-benchmark's record of it."""

    def keep(benchmark: Any, algorithm: str, workload: str, backend: str, times: Times) -> None:
        _measured[algorithm, workload, backend].append(times)
        low, middle, high = spread(ratios([times]))
        benchmark.extra_info.update(backend=backend, speed_ratio=middle, speed_ratio_p10=low, speed_ratio_p90=high)

    return keep


def ratios(runs: Sequence[Times]) -> list[float]:
    """How many times faster ours is, pair by pair."""
    return [a / b for times in runs for a, b in zip(times["torch"], times["sgdr_fused"], strict=True)]


def spread(values: list[float]) -> tuple[float, float, float]:
    """The 10th percentile, the median and the 90th percentile."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return deciles[0], statistics.median(values), deciles[-1]


def median_microseconds(runs: Sequence[Times], name: str) -> float:
    return 1e6 * statistics.median(t for times in runs for t in times[name])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _measured:
        return
    terminalreporter.section("one step and its schedule: torch's fused optimizer against sgdr_fused, pair by pair")
    terminalreporter.write_line(machine())
    layout = "{:<10}{:<9}{:>8}{:>12}  {:<10}{:>11}{:>15}{:>8}{:>16}{:>7}"
    titles = "algorithm workload tensors parameters backend torch/µs sgdr_fused/µs ratio 80%_within pairs"
    terminalreporter.write_line(layout.format(*titles.split()))
    for (algorithm, workload, backend), runs in _measured.items():
        shapes = WORKLOADS[workload]
        of_pairs = ratios(runs)
        low, middle, high = spread(of_pairs)
        row = layout.format(
            algorithm,
            workload,
            len(shapes),
            f"{sum(map(math.prod, shapes)):,}",
            backend,
            f"{median_microseconds(runs, 'torch'):.1f}",
            f"{median_microseconds(runs, 'sgdr_fused'):.1f}",
            f"{middle:.2f}",
            f"{low:.2f} - {high:.2f}",
            len(of_pairs),
        )
        terminalreporter.write_line(row)
