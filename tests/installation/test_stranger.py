"""The script that tries a wheel as a stranger does: what it reads, and that it ends at the first failure."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import stranger
from installs import ROOT

pytestmark = pytest.mark.once


def made_wheel(folder: Path, code: str) -> Path:
    """A wheel whose package is this code."""
    wheel = folder / "sgdr_fused-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("sgdr_fused/__init__.py", code)
        info = "sgdr_fused-0.1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: sgdr_fused\nVersion: 0.1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def tried(wheel: Path) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "tests" / "installation" / "stranger.py")
    command = [sys.executable, script, "--torch-of", sys.executable, str(wheel)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgdr_fused-0.1.0-py3-none-any.whl", ("0.1.0", False, None)),
        ("sgdr_fused-0.1.0-cp311-cp311-linux_x86_64.whl", ("0.1.0", True, None)),
        (
            "sgdr_fused-0.1.0+cuda.torch2.14.1.cu130-cp311-cp311-linux_x86_64.whl",
            ("0.1.0+cuda.torch2.14.1.cu130", True, "torch==2.14.1"),
        ),
    ],
)
def test_names(name: str, expected: tuple[str, bool, str | None], tmp_path: Path) -> None:
    wheel = tmp_path / name
    wheel.touch()
    assert stranger.read_name(wheel) == stranger.Wheel(*expected)


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n```python\nx = 1\n```\n```sh\nls\n```\n```python\nassert x\n```\n")
    assert stranger.blocks(page) == "x = 1\n\nassert x\n"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match=r"page\.md must have Python blocks"):
        stranger.blocks(page)


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    done = tried(tmp_path / "sgdr_fused-0.1.0.tar.gz")
    assert done.returncode == 2
    assert "WHEEL must be a wheel of sgdr_fused, got" in done.stderr


def test_it_ends_at_the_first_failure(tmp_path: Path) -> None:
    done = tried(made_wheel(tmp_path, "raise ImportError('broken on purpose')\n"))
    assert done.returncode == 1
    assert "==== install: " in done.stdout
    assert "a step on the extension that is built at first use: FAILED" in done.stderr
    assert "broken on purpose" in done.stderr
    assert "doctor" not in done.stdout + done.stderr
