"""The workflows in .github/ call commands that exist, may write nothing, end, and say that they have not been run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from installs import ROOT

pytestmark = pytest.mark.once

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CALL = re.compile(r"^ *- run: make ([\w-]+)", re.MULTILINE)
each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([\w-]+):(?!=)", makefile, re.MULTILINE))


def unknown(workflow: str) -> set[str]:
    """The targets that it makes and that the Makefile does not have."""
    return set(CALL.findall(workflow)) - targets((ROOT / "Makefile").read_text())


def jobs(workflow: str) -> list[str]:
    return re.split(r"^  (?=[\w-]+:)", workflow.split("\njobs:\n")[1], flags=re.MULTILINE)[1:]


@pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="a source distribution has no workflows")
def test_there_is_one_for_each_system() -> None:
    assert [path.stem for path in WORKFLOWS] == ["gpu", "linux", "macos", "windows"]
    assert unknown("    steps:\n      - run: make test\n      - run: make nonsense X=1\n") == {"nonsense"}


@each_workflow
def test_every_target_exists(workflow: Path) -> None:
    text = workflow.read_text()
    assert unknown(text) == set()
    assert CALL.search(text) or workflow.stem == "windows"  # which says why not


@each_workflow
def test_every_job_is_limited(workflow: Path) -> None:
    text = workflow.read_text()
    assert text.startswith("# This workflow has not been run")
    assert re.findall(r"^ *permissions:\n(?: +.*\n)+?(?=\S)", text, re.MULTILINE) == [
        "permissions:\n  contents: read\n"
    ]
    assert "\nconcurrency:\n" in text
    assert jobs(text)
    for job in jobs(text):
        assert re.search(r"^    timeout-minutes: \d+$", job, re.MULTILINE), job
        assert "cache: pip" in job
