"""docs/frameworks.md: every Python block runs as it is written, and every cell of its table names a test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from installs import ROOT

PAGE = ROOT / "docs" / "frameworks.md"
TEXT = PAGE.read_text()
BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
TEST = re.compile(r"`(test_\w+)`")
ROWS = re.compile(r"^\| ([^|]+?) \|(.*)\|$", re.MULTILINE)


def blocks() -> dict[str, str]:
    """The blocks by the titles of their sections, each at its line of the page, which an error then names."""
    found: dict[str, str] = {}
    for block in BLOCK.finditer(TEXT):
        title = HEADING.findall(TEXT[: block.start()])[-1]
        assert title not in found, f"{title} has two blocks"
        found[title] = "\n" * TEXT[: block.start(1)].count("\n") + block.group(1)
    return found


BLOCKS = blocks()
FRAMEWORKS = [title for title in BLOCKS if title != "Logging"]


def test_every_framework_has_an_example_and_a_row() -> None:
    rows = {name for name, _ in ROWS.findall(TEXT)}
    assert set(FRAMEWORKS) <= rows
    assert set(FRAMEWORKS) == set(FILES)
    for title, block in BLOCKS.items():
        assert "\nassert " in block, f"the example of {title} asserts nothing"


@pytest.mark.parametrize("title", BLOCKS)
def test_example_runs_as_written(title: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(BLOCKS[title])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


# Whose tests the cells of a row name.
FILES = {
    "Hugging Face Trainer": ["test_hugging_face.py"],
    "accelerate": ["test_accelerate.py"],
    "Lightning": [
        "test_lightning.py",
        "test_lightning_averages.py",
        "test_lightning_callbacks.py",
        "test_lightning_fabric.py",
    ],
    "timm": ["test_timm.py"],
    "fastai": ["test_fastai.py"],
    "ignite": ["test_ignite.py"],
    "torch-lr-finder": ["test_torch_lr_finder.py"],
    "torchao": ["test_torchao.py"],
    "Wrappers and processes": ["test_wrappers_and_processes.py"],
}


@pytest.mark.parametrize("title", FRAMEWORKS)
def test_every_cell_is_a_test(title: str) -> None:
    """A cell that says something names the test that shows it."""
    texts = [(Path(__file__).parent / file).read_text() for file in FILES[title]]
    tests = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    cells = [cell.strip() for cell in dict(ROWS.findall(TEXT))[title].split("|")]
    assert len(cells) == len(["fit", "resume", "clip", "mixed precision", "logging", "lr finder"])
    for cell in cells:
        assert cell == "none" or TEST.search(cell), f"{title}: the cell {cell!r} names no test"
        assert set(TEST.findall(cell)) <= tests, f"{title}: {cell}"
