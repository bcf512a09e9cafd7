"""Every Python block of README.md and docs/ runs as it is written: page by page, in order, in one namespace."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from installs import ROOT, run

pytestmark = pytest.mark.once

# Run elsewhere: in several processes by tests/distributed/, with frameworks by tests/integrations/.
ELSEWHERE = [ROOT / "docs" / "distributed.md", ROOT / "docs" / "frameworks.md"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# All of them run: there is no mark for those that do not.
BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(.*)$", re.MULTILINE)


def blocks(text: str) -> list[tuple[int, str]]:
    """Each with the number of its first line."""
    return [(text[: match.start(1)].count("\n") + 1, match.group(1)) for match in BLOCK.finditer(text)]


def program(page: Path) -> str:
    """The blocks at their lines, so that an error names the page's own line."""
    lines: list[str] = []
    for first, code in blocks(page.read_text()):
        lines += [""] * (first - 1 - len(lines)) + code.splitlines()
    return "\n".join(lines)


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n```sh\nls\n```\n\n```python\ny = x\nassert y\n```\n"
    assert blocks(text) == [(3, "x = 1\n"), (10, "y = x\nassert y\n")]
    assert sum(len(blocks(page.read_text())) for page in PAGES if page not in ELSEWHERE) > 25


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_language_is_what_it_says(page: Path) -> None:
    """So no block is left out because its fence is spelled differently."""
    opening = FENCE.findall(page.read_text())[::2]
    assert {fence.strip() for fence in opening} <= {"python", "sh", "diff", "", "text"}, opening


RUN_HERE = [page for page in PAGES if page not in ELSEWHERE and blocks(page.read_text())]


@pytest.mark.parametrize("page", RUN_HERE, ids=name)
def test_page_runs_as_written(page: Path, tmp_path: Path) -> None:
    code = f"exec(compile({program(page)!r}, {page.name!r}, 'exec'), {{'__name__': '__main__'}})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment)
