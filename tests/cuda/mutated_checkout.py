"""Checkouts of which mutate_cuda.py changes a source, and the tests that run in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPORT = "report.xml"


def copy_checkout(target: Path) -> None:
    target.mkdir()
    for name in ("csrc", "sgdr_fused", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("*.so", "_C.*.json", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, target)


def run_tests(checkout: Path, tests: Sequence[str], is_race: bool, runner: str) -> subprocess.CompletedProcess[str]:
    """pytest up to the first failure, with a report in the checkout."""
    command = [*(runner.split() if is_race else []), sys.executable, "-m", "pytest", "-x", "-q", f"--junitxml={REPORT}"]
    environment = {**os.environ, "SGDR_FUSED_TEST_DEVICE": "cuda" if is_race else "emulated_cuda"}
    environment.pop("CI", None)  # with it pytest shows all that differs, and looks for it for many minutes
    (checkout / REPORT).unlink(missing_ok=True)
    return subprocess.run(
        [*command, *tests], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def failed_assertion(report: Path) -> tuple[str, str] | None:
    """The test and the assertion that failed first; None where something else went wrong, or nothing."""
    if not report.is_file():
        return None
    for case in ElementTree.parse(report).iter("testcase"):
        for failure in [*case.findall("failure"), *case.findall("error")]:
            message = failure.get("message", "")
            if re.match(r'(failed on teardown with ")?(AssertionError|assert )', message):
                file = str(case.get("classname")).replace(".", "/") + ".py"
                return f"{file}::{case.get('name')}", message.splitlines()[0][:80]
    return None


def prepare_for_races(checkout: Path) -> None:
    """The CUDA extension, in place, so that a mutation compiles one file; the PTX is what runs."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    environment = {**os.environ, "FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0+PTX"}
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)
