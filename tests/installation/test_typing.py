"""Type checkers find nothing in what a user writes (typed_user.py), and do find what is wrong in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from subprocess import run as start

import pytest
from installs import ROOT, run

from sgdr_fused import Options

pytestmark = [pytest.mark.once, pytest.mark.slow]
USER = ROOT / "tests" / "support" / "typed_user.py"
WRONG = """
optimizer.clock = "yesterday"
FusedSGD(model.parameters(), lr=schedule, max_grad_nrom=1.0)
FusedSGD(model.parameters(), lr=schedule, skip_nonfinite="yes")
lr_find(model, optimizer, nn.functional.cross_entropy, loader, num_steps="many")
number: int = schedule.values(3)
"""


def checked(command: list[str], code: str, folder: Path) -> CompletedProcess[str]:
    (folder / "user.py").write_text(code)
    # mypy shows no errors of installed packages; of this one, which is found by its path, it would.
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)}
    return start([*command, "user.py"], cwd=folder, env=environment, stdout=PIPE, text=True, check=False)


@pytest.fixture
def mypy(tmp_path: Path) -> list[str]:
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    return [sys.executable, "-m", "mypy", *options]


def test_mypy(mypy: list[str], tmp_path: Path) -> None:
    done = checked(mypy, USER.read_text(), tmp_path)
    assert done.returncode == 0, done.stdout
    done = checked(mypy, USER.read_text() + WRONG, tmp_path)
    lines = USER.read_text().count("\n")
    found = {int(line.split(":")[1]) - lines for line in done.stdout.splitlines() if ": error:" in line}
    assert found == {2, 3, 4, 5, 6}, done.stdout


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pip install pyright, which brings node along")
def test_pyright(tmp_path: Path) -> None:
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"]}}')
    done = checked([sys.executable, "-m", "pyright", "--pythonpath", sys.executable], USER.read_text(), tmp_path)
    assert done.returncode == 0, done.stdout


def test_it_runs(tmp_path: Path) -> None:
    shutil.copy(USER, tmp_path)
    run([sys.executable, "typed_user.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_options_are_what_the_optimizers_take() -> None:
    assert set(Options.__annotations__) >= {"average", "max_grad_norm", "skip_nonfinite", "state_dtype"}
    assert not Options.__required_keys__
