"""Times what a new user waits for, in a clean copy of the checkout with an empty home: `make first-minutes`.

The times are those of one run. They contain what pip fetches, so they depend on the network.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import support_page
from results import conditions
from support_page import Waited
from torch_matrix import copy_of_checkout

FIRST_STEP = """
import sgdr_fused, torch
param = torch.nn.Parameter(torch.ones(3))
param.grad = torch.ones(3)
optimizer = sgdr_fused.FusedSGD([param], lr=0.1)
optimizer.step()
assert optimizer.backend == "cpu", optimizer.backend
"""
# What this process was built or started with is not for a new user's.
OWN = ("MAKE", "MFLAGS", "PYTHONPATH", "VIRTUAL_ENV", "FORCE_CUDA", "SGDR_FUSED", "TORCH_", "XDG_", "OMP_")


def waits(folder: Path, with_tests: bool) -> list[tuple[str, list[str]]]:
    """What a user waits for, and the command."""
    python, elsewhere = str(folder / "env" / "bin" / "python"), ["-C", str(folder / "checkout")]
    result = [
        ("`python -m venv env`", [sys.executable, "-m", "venv", str(folder / "env")]),
        (
            "`pip install .`, torch included",
            [python, "-m", "pip", "install", "--no-cache-dir", str(folder / "checkout")],
        ),
        ("the first step, which compiles the extension", [python, "-c", FIRST_STEP]),
        ("a step in the next process", [python, "-c", FIRST_STEP]),
        ("`make demo`", ["make", *elsewhere, "demo"]),
        ("`make demo` once more", ["make", *elsewhere, "demo"]),
    ]
    return result + [("`make test` after it", ["make", *elsewhere, "test"])] * with_tests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-tests", action="store_true", help="leave `make test` out, which takes longest")
    given = parser.parse_args()
    waited = []
    with tempfile.TemporaryDirectory(prefix="first_minutes_") as name:
        folder = Path(name)
        copy_of_checkout(folder / "checkout")
        (folder / "home").mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        environment["HOME"] = str(folder / "home")
        for what, command in waits(folder, not given.without_tests):
            start = time.monotonic()
            subprocess.run(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, check=True)
            waited.append(Waited(what, round(time.monotonic() - start, 1)))
            print(f"{what}: {waited[-1].seconds} s", flush=True)
    support_page.write_waits(waited, conditions())


if __name__ == "__main__":
    main()
