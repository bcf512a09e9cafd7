"""Options of the benchmarks, races that run once for all their implementations, and what is written at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report
import tables
import torch
from compare import compare
from racing import CLOCK, SMOKE, Pace, Times
from results import Row, Subject, conditions, extra_info, rows, to_csv

THREADS = 2
Measured = tuple[Times, dict[str, str]]  # the times, and why implementations are missing

_measured: dict[tuple[str, str, str], tuple[Times, list[Row]]] = {}
_STAMP = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sgdr_fused")
    group.addoption("--smoke", action="store_true", help="tiny and short, to see that all of it runs; writes nothing")
    group.addoption(
        "--compiled", action="store_true", help="torch.compile steps of hundreds of tensors too: minutes each"
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(THREADS)
    config.stash[_STAMP] = conditions()


def pytest_report_header(config: pytest.Config) -> str:
    return "sgdr_fused: " + "; ".join(f"{key} {value}" for key, value in config.stash[_STAMP].items())


@pytest.fixture
def smoke(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("smoke"))


@pytest.fixture
def pace(smoke: bool) -> Callable[..., Pace]:
    """The constructor of Pace; in a smoke test it gives the same short pace always."""
    return lambda *args, **kwargs: SMOKE if smoke else Pace(*args, **kwargs)


@pytest.fixture
def result_of(benchmark: Any) -> Callable[[Subject, str, Callable[[], Measured]], None]:
    """Hands the times of one implementation to pytest-benchmark. The first implementation of a race runs the race."""

    def hand_over(subject: Subject, implementation: str, run: Callable[[], Measured]) -> None:
        benchmark.group = f"{subject.question}: {subject.job}, {subject.name}"
        key = (subject.question, subject.job, subject.name)
        if key not in _measured:
            times, missing = run()
            _measured[key] = times, rows(subject, times, missing)
        times, of_race = _measured[key]
        row = next(row for row in of_race if row.implementation == implementation)
        if row.note:
            pytest.skip(f"{implementation}: {row.note}")
        benchmark.extra_info.update(extra_info(row))
        CLOCK.show(benchmark, times[implementation])

    return hand_over


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not _measured:
        return
    terminalreporter.section("the best of torch's to sgdr_fused, round by round")
    for _, of_race in _measured.values():
        terminalreporter.write_line(tables.line(of_race))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Writes a complete run into the docs. A part of one is only kept, so that it can be looked at."""
    text = to_csv([row for _, of_race in _measured.values() for row in of_race], session.config.stash[_STAMP])
    chosen = any(session.config.getoption(name) for name in ("keyword", "markexpr", "deselect"))
    asked = {item.path for item in session.items}
    complete = exitstatus == 0 and not chosen and asked == set(Path(__file__).parent.glob("test_*.py"))
    if session.config.getoption("smoke"):
        with tempfile.TemporaryDirectory() as folder:  # so that a failure to write is seen
            if complete:
                report.write(text, Path(folder))
                written = Path(folder, "docs", "performance.csv")
                assert compare(written, written) == 0
    elif _measured:
        report.KEPT.parent.mkdir(exist_ok=True)
        report.KEPT.write_text(text)
        if complete:
            report.write(text)
