"""Writes docs/support.md: what was tested with which torch, from docs/support.csv, and what a new user waits for.

python benchmarks/support_page.py    writes the table of releases anew, without testing anything
"""

from __future__ import annotations

import csv
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from report import put
from results import ROOT

DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Run:
    """One run of the tests. Where an installation or a build failed, one test counts as failed."""

    torch: str
    python: str
    device: str  # cpu, or cuda for CUDA code
    passed: int
    failed: int
    skipped: int
    install_s: int
    build_s: int
    test_s: int
    pytest_args: str
    date: str
    commit: str
    machine: str

    @property
    def subject(self) -> tuple[str, str, str]:
        """What a newer run of the same replaces."""
        return self.torch, self.python.rpartition(".")[0], self.device


@dataclass(frozen=True)
class Waited:
    """What a new user waits for."""

    what: str
    seconds: float


def read(docs: Path = DOCS) -> list[Run]:
    if not (docs / "support.csv").exists():
        return []
    with (docs / "support.csv").open(newline="") as file:
        kinds = {field.name: int if field.type == "int" else str for field in dataclasses.fields(Run)}
        return [Run(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def add(result: Run, docs: Path = DOCS) -> None:
    """Adds a run to the file, in the place of an earlier one of the same, and writes the page anew."""
    runs = [run for run in read(docs) if run.subject != result.subject]
    with (docs / "support.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Run)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(run) for run in sorted([*runs, result], key=_order))
    write(docs)


def write(docs: Path = DOCS) -> None:
    _put(docs, "support: releases", table(read(docs)))


def write_waits(waited: list[Waited], stamp: dict[str, str], docs: Path = DOCS) -> None:
    """Writes the times, which stand in the page alone, and what they were measured on."""
    lines = ["| | seconds |", "|---|---|", *(f"| {wait.what} | {wait.seconds:,} |" for wait in waited), ""]
    machine = f"{stamp['processor']}, {stamp['cores']} cores, {stamp['system']}"
    when = f"{stamp['date']}, commit {stamp['commit']}; load average before: {stamp['load before']}"
    lines.append(f"Machine: {machine}. {when}. Command: `make first-minutes`.")
    _put(docs, "support: first minutes", "\n".join(lines))


def _put(docs: Path, name: str, text: str) -> None:
    page = (docs / "support.md").read_text()
    assert f"<!-- {name} -->" in page, name
    (docs / "support.md").write_text(put(page, name, text))


def table(runs: list[Run]) -> str:
    if not runs:
        return "No run is recorded yet."
    lines = ["| torch | Python | tests of | passed | failed | skipped | install, build, test (s) | commit, date |"]
    lines.append("|---" * 8 + "|")
    devices = {"cpu": "the CPU extension", "cuda": "the CUDA extension"}
    for run in sorted(runs, key=_order):
        lines.append(
            f"| {run.torch} | {run.python} | {devices[run.device]} | {run.passed:,} | {run.failed} | {run.skipped:,} | "
            f"{run.install_s}, {run.build_s}, {run.test_s} | {run.commit}, {run.date} |"
        )
    machines = sorted({run.machine for run in runs})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}. Command: `make test-torch-matrix`."])


def _order(run: Run) -> tuple[object, ...]:
    numbers = [int(number) for number in re.findall(r"\d+", run.torch.partition("+")[0])]
    return *numbers, run.torch, [int(number) for number in run.python.split(".")[:2]], run.device


if __name__ == "__main__":
    write()
