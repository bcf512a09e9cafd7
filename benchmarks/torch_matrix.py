"""Tests the project with releases of torch, each in an environment of its own: `make test-torch-matrix`.

python benchmarks/torch_matrix.py                        the newest release of every minor version from 2.4
python benchmarks/torch_matrix.py 2.4.1 2.14.1@3.13 newest   these releases, the second with python3.13, and the newest
python benchmarks/torch_matrix.py --gpu-runner COMMAND 2.14.1   builds CUDA code too; COMMAND stands before the tests

Each run is a row of docs/support.csv, in the place of an earlier row for the same torch, Python and device, and
docs/support.md is written anew after each. An environment takes up to 5.6 GB while it is tested. What make and pytest
say is in out/torch_matrix/.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import support_page
from results import ROOT, conditions
from support_page import Run
from torch_releases import chosen

LOGS = ROOT / "out" / "torch_matrix"
# A part of the cases of every test, as in .ci/run. Every formula is tested with the torch that `make test` installs.
PART = "-q --sample=8 -m 'not slow and not formulas' --ignore=tests/engine/test_interrupts.py"
PART_ON_GPU = "-q --sample=8 -m 'untracked and not alike and not host'"
VERSIONS = "import platform, torch; print(torch.__version__, platform.python_version())"


def counted(report: Path) -> Counter[str]:
    """How many tests passed, failed and were skipped, by a file in JUnit's format; nothing without the file."""
    counts: Counter[str] = Counter()
    if report.exists():
        for case in ET.parse(report).getroot().iter("testcase"):
            outcomes = {child.tag for child in case} & {"failure", "error", "skipped"}
            counts["skipped" if outcomes == {"skipped"} else "failed" if outcomes else "passed"] += 1
    return counts


def copy_of_checkout(target: Path) -> None:
    """What a clean checkout holds, changes that are not committed included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def test(release: str, pytest_args: str | None, gpu_runner: str | None) -> Run:
    """Installs, builds and tests in a copy of the checkout."""
    version, _, python = release.partition("@")
    device = "cpu" if gpu_runner is None else "cuda"
    args = pytest_args or (PART if gpu_runner is None else PART_ON_GPU)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{release}-{device}.log"
    with tempfile.TemporaryDirectory(prefix="torch_matrix_") as folder, log.open("w") as output:
        copy, report = Path(folder, "sgdr_fused"), Path(folder, "report.xml")
        copy_of_checkout(copy)
        make = ["make", "-C", str(copy), "VENV=.venv", f"TORCH=torch=={version}"]
        make.append(f"PYTHON=python{python}" if python else f"PYTHON={sys.executable}")
        tests = [f"PYTEST_ARGS={args} --junitxml={shlex.quote(str(report))}"]
        tests += ["test"] if gpu_runner is None else ["test-gpu", f"GPU_RUNNER={gpu_runner}"]
        seconds = [0.0, 0.0, 0.0]
        for i, goals in enumerate(([".venv/installed-test"], ["build"], tests)):
            start = time.monotonic()
            done = subprocess.run([*make, *goals], env=environment(device), stdout=output, stderr=subprocess.STDOUT)
            seconds[i] = time.monotonic() - start
            if done.returncode:
                break
        counts = counted(report)
        if done.returncode:
            counts["failed"] = max(counts["failed"], 1)
            print(f"{release}: failed. The end of {log}:", *log.read_text().splitlines()[-100:], sep="\n", flush=True)
        asked = subprocess.run([copy / ".venv/bin/python", "-c", VERSIONS], capture_output=True, text=True)
    installed = asked.stdout.split() or [version, python or platform.python_version()]
    stamp = conditions()
    return Run(
        torch=installed[0],
        python=installed[1],
        device=device,
        passed=counts["passed"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        install_s=round(seconds[0]),
        build_s=round(seconds[1]),
        test_s=round(seconds[2]),
        pytest_args=args,
        date=stamp["date"],
        commit=stamp["commit"],
        machine=f"{stamp['processor']}, {stamp['cores']} cores, {stamp['system']}",
    )


def environment(device: str) -> dict[str, str]:
    """This process's variables, but those that the make around it has set for itself."""
    own_to_make = ("MAKE", "MFLAGS", "PYTEST_ARGS", "FORCE_CUDA")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own_to_make)}
    return kept if device == "cpu" else {**kept, "FORCE_CUDA": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="for example 2.4.1, 2.14.1@3.13, newest")
    parser.add_argument("--pytest-args", help="in the place of those that choose a part of the cases")
    parser.add_argument("--gpu-runner", help="build CUDA code, and test with device=cuda behind this command")
    given = parser.parse_args()
    failed = False
    for release in chosen(given.releases):
        result = test(release, given.pytest_args, given.gpu_runner)
        failed |= result.failed > 0
        support_page.add(result)
        print(f"{release}: {result.passed} passed, {result.failed} failed, {result.skipped} skipped", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
