"""What was tested with which torch: how it is counted, kept and written into docs/support.md."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from installs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import support_page
import torch_matrix
import torch_releases
from support_page import Run, Waited

pytestmark = pytest.mark.once

RUN = Run("2.9.1+cu128", "3.11.7", "cpu", 2000, 0, 30, 95, 130, 200, "-q", "1 May 2026", "abc", "a machine")


def test_the_newest_release_of_each_minor_version_is_tested() -> None:
    versions = "2.15.0, 2.14.1, 2.14.0, 2.13.0+cpu, 2.13.0, 2.10.0, 2.9.1, 2.9.0, 2.4.1, 2.3.1, 1.13.1"
    listed = f"torch (2.15.0)\nAvailable versions: {versions}\n  INSTALLED: 2.14.1"
    assert torch_releases.releases(listed) == ["2.4.1", "2.9.1", "2.10.0", "2.13.0", "2.14.1", "2.15.0"]


def test_releases_are_named_or_all() -> None:
    known = ["2.4.1", "2.15.0"]
    assert torch_releases.chosen([], lambda: known) == known
    assert torch_releases.chosen(["2.4.1", "newest", "2.14.1@3.13"], lambda: known) == [
        "2.4.1",
        "2.15.0",
        "2.14.1@3.13",
    ]
    assert torch_releases.chosen(["2.4.1"], lambda: 1 / 0) == ["2.4.1"]  # pip is not asked


REPORT = """<testsuites><testsuite tests="5">
<testcase name="a"/><testcase name="b"><failure>no</failure></testcase><testcase name="c"><error>no</error></testcase>
<testcase name="d"><skipped type="pytest.skip"/></testcase><testcase name="e"><system-out>said</system-out></testcase>
<testcase name="f"><skipped/><error>at the end</error></testcase>
</testsuite></testsuites>"""


def test_outcomes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert torch_matrix.counted(tmp_path / "report.xml") == {"passed": 2, "failed": 3, "skipped": 1}
    assert not torch_matrix.counted(tmp_path / "none.xml")


def changed(**values: Any) -> Run:
    return Run(**{**vars(RUN), **values})


def test_a_run_replaces_an_earlier_one_of_the_same(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "support.md", tmp_path)
    others = [changed(torch="2.10.0+cu128"), changed(device="cuda"), changed(python="3.13.0"), changed(torch="2.4.1")]
    for run in (RUN, *others, changed(python="3.11.9", passed=1999, failed=1)):
        support_page.add(run, tmp_path)
    kept = support_page.read(tmp_path)
    assert kept == [others[3], changed(python="3.11.9", passed=1999, failed=1), *others[1:3], others[0]]
    page = (tmp_path / "support.md").read_text()
    assert page.count("\n| 2.") == 5
    assert "| 2.9.1+cu128 | 3.11.9 | the CPU extension | 1,999 | 1 | 30 | 95, 130, 200 | abc, 1 May 2026 |" in page
    assert page.index("| 2.9.1+cu128") < page.index("| 2.10.0")


def test_waits_are_written(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "support.md", tmp_path)
    stamp = {name: name for name in ("processor", "cores", "system", "date", "commit", "load before")}
    for seconds in (1.5, 1234.5):
        support_page.write_waits([Waited("`make demo`", seconds)], stamp, tmp_path)
    page = (tmp_path / "support.md").read_text()
    assert "| `make demo` | 1,234.5 |" in page and "1.5 |" not in page.replace("1,234.5", "")


def test_the_page_shows_the_file(tmp_path: Path) -> None:
    for name in ("support.md", "support.csv"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    support_page.write(tmp_path)
    assert (tmp_path / "support.md").read_text() == (ROOT / "docs" / "support.md").read_text()
