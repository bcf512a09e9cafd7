"""The results of the benchmarks, as rows of a CSV file that also names the machine and the versions."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import importlib.util
import io
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from racing import LIMIT, OURS, Spread, Times, best_torch, ratio
from workloads import Workload

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One implementation of one job. Where `note` says why it was not measured, the row has no numbers."""

    question: str
    job: str
    workload: str
    tensors: int
    parameters: int
    groups: int
    implementation: str
    rounds: int = 0
    median_us: float | None = None
    p10_us: float | None = None
    p90_us: float | None = None
    ratio: float | None = None  # of its time to ours, taken round by round: the median
    ratio_p10: float | None = None
    ratio_p90: float | None = None
    best_torch: bool = False  # the fastest of torch's
    bytes_per_parameter: int | None = None  # that have to be read and written
    gb_per_s: float | None = None  # by those bytes
    share_of_limit: float | None = None  # the limit's time over its own
    note: str = ""

    @property
    def race(self) -> tuple[str, str, str]:
        return self.question, self.job, self.workload


class Subject(NamedTuple):
    """The subject of a race."""

    question: str
    job: str
    name: str
    workload: Workload
    bytes_per_parameter: int | None = None


def rows(subject: Subject, times: Times, missing: dict[str, str]) -> list[Row]:
    about: dict[str, Any] = {
        "question": subject.question,
        "job": subject.job,
        "workload": subject.name,
        "tensors": subject.workload.tensors,
        "parameters": subject.workload.parameters,
        "groups": len(subject.workload.groups),
    }
    best = best_torch(times)
    result = []
    for name, of_one in times.items():
        low, median, high = Spread.of(of_one)
        relative = ratio(times, name)
        moved = subject.bytes_per_parameter
        result.append(
            Row(
                **about,
                implementation=name,
                rounds=len(of_one),
                median_us=1e6 * median,
                p10_us=1e6 * low,
                p90_us=1e6 * high,
                ratio=relative.median,
                ratio_p10=relative.low,
                ratio_p90=relative.high,
                best_torch=name == best,
                bytes_per_parameter=moved,
                gb_per_s=None if moved is None else 1e-9 * moved * subject.workload.parameters / median,
                share_of_limit=ratio(times, LIMIT, to=name).median if LIMIT in times else None,
            )
        )
    return result + [Row(**about, implementation=name, note=why) for name, why in missing.items()]


def extra_info(row: Row) -> dict[str, Any]:
    """The row, for the record of pytest-benchmark."""
    return asdict(row)


# ---- the file

PACKAGES = ("pytest_benchmark", "deepspeed")  # some may not be installed


def conditions() -> dict[str, str]:
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), processor)
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    compiler = subprocess.run(["c++", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    return {
        "date": f"{datetime.date.today():%-d %B %Y}",
        "commit": subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown",
        "processor": processor,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}, c++ {compiler or 'unknown'}"
        + "".join(
            f", {name} {importlib.metadata.version(name)}" for name in PACKAGES if importlib.util.find_spec(name)
        ),
    }


def to_csv(rows: Iterable[Row], stamp: dict[str, str]) -> str:
    """The text of the file: the conditions as comments, and a line for each row."""
    file = io.StringIO()
    file.writelines(f"# {key}: {value}\n" for key, value in stamp.items())
    writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
        writer.writerow(cells)
    return file.getvalue()


def from_csv(text: str) -> tuple[list[Row], dict[str, str]]:
    lines = text.splitlines()
    comments = [line for line in lines if line.startswith("# ")]
    stamp = dict(line[2:].split(": ", 1) for line in comments)
    read = []
    for cells in csv.DictReader(lines[len(comments) :]):
        read.append(Row(**{field.name: _parsed(field.type, cells[field.name]) for field in fields(Row)}))
    return read, stamp


def _parsed(type_name: Any, cell: str) -> Any:
    if type_name == "str":
        return cell
    if type_name == "bool":
        return cell == "True"
    if cell == "":
        return None
    return int(cell) if type_name.startswith("int") else float(cell)


def ours_among(rows: Iterable[Row]) -> Row:
    return next(row for row in rows if row.implementation == OURS)


def best_among(rows: Iterable[Row]) -> Row:
    return next(row for row in rows if row.best_torch)


def by_race(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    races: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        races.setdefault(row.race, []).append(row)
    return races
