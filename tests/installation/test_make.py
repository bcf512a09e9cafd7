"""What `make` does and leaves out, with a python that only writes down what it is asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from installs import ROOT, copy_project

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(shutil.which("make") is None, reason="no make"),
]

# `python -m venv DIR` puts a copy of itself there. With FAIL in its command line it fails, as one that is interrupted.
PYTHON = """#!/bin/sh
case "$*" in "-c import sys; sys.exit("*) exec {real} "$@";; esac
echo "$*" >> {log}
[ -n "$FAIL" ] && case "$*" in *"$FAIL"*) exit 130;; esac
[ -n "$NO_EXTENSION" ] && case "$*" in *"import backends"*) exit 1;; esac
[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
case "$*" in
  benchmarks/torch_releases.py) echo 2.4.1 2.15.0 ;;
  benchmarks/torch_releases.py*) shift; echo "$@" ;;
  *"-m build"*) mkdir -p "$6" && touch "$6/of_$(basename "$6").tar.gz" ;;
  *"-m pip wheel"*) touch "$7/named_$SGDR_FUSED_NAME_TORCH.whl" ;;
esac
exit 0
"""
Make = Callable[..., list[str]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    project = copy_project(tmp_path / "project", "")
    shutil.copy(ROOT / "Makefile", project)
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(PYTHON.format(real=sys.executable, log=log))
    python.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not set_for_make(name)}

    def call(*arguments: str, fails: str = "", **variables: str) -> list[str]:
        """The commands that were run, shortened to what they are about."""
        log.write_text("")
        command = ["make", f"PYTHON={python}", "VENV=env", *arguments]
        done = subprocess.run(
            command, cwd=project, env={**clean, "FAIL": fails, **variables}, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == bool(fails), done.stdout + done.stderr
        return [short(line) for line in log.read_text().splitlines()]

    return call


def set_for_make(name: str) -> bool:
    """Whether an environment variable changes what `make` does: make's own, and what the Makefile reads.

    A `make test` hands the variables of its command line to this process.
    """
    own = name.startswith("MAKE") or name in ("MFLAGS", "GNUMAKEFLAGS")
    makefile = (ROOT / "Makefile").read_text()
    return own or re.search(rf"^{re.escape(name)} \?=|\$\({re.escape(name)}\)", makefile, re.MULTILINE) is not None


def short(line: str) -> str:
    if "-m pip install" in line:
        assert "--quiet" not in line  # its bar is what shows that something goes on
        return "pip " + " ".join(word for word in line.split()[3:] if not word.startswith("--"))
    return "load" if "import backends" in line else line.replace("setup.py --quiet build_ext --inplace", "build")


PARALLEL = "-m pytest -n auto --maxprocesses=8 --dist=worksteal"
FIRST = ["-m venv env", "pip .[build,demo]", "build", "load", "examples/digits.py"]


def test_demo_installs_what_it_needs_and_once(make: Make) -> None:
    assert make("demo") == FIRST
    assert make("demo") == ["examples/digits.py"]


def test_each_command_adds_its_own_packages(make: Make) -> None:
    assert make("demo") == FIRST
    assert make("test") == ["pip .[build,test]", PARALLEL]
    assert make("bench") == ["pip .[build,bench]", "-m pytest benchmarks --benchmark-columns=median,iqr,rounds"]
    assert make("demo") == ["examples/digits.py"]


def test_processes_that_run_the_tests(make: Make) -> None:
    make("test")
    assert make("test", "PYTEST_WORKERS=3", "PYTEST_ARGS=-k sgd") == [PARALLEL.replace("auto", "3") + " -k sgd"]
    assert make("test", "PYTEST_WORKERS=0", "PYTEST_ARGS=-k sgd") == ["-m pytest -k sgd"]


def test_demo_distributed(make: Make) -> None:
    assert make("demo-distributed") == [*FIRST[:-1], "examples/distributed_demo.py"]


def test_docs_need_no_extension(make: Make) -> None:
    assert make("docs") == ["-m venv env", "pip .[build,docs]", "-m mkdocs build --strict"]


def test_wheels(make: Make, tmp_path: Path) -> None:
    """Each torch has an environment of its own. What was built comes into dist/ once it has been tried."""

    def commands(torch: str) -> list[str]:
        environment = f"env-torch-{torch}"
        dist = f"{environment}/dist"
        archive, wheel = f"{dist}/of_dist.tar.gz", f"{dist}/named_1.whl"
        return [
            f"-m venv {environment}",
            f"pip torch=={torch} .[build,wheels]",
            f"-m build --sdist --no-isolation --outdir {dist}",
            f"-m pip wheel --no-build-isolation --no-deps --wheel-dir {dist} {archive}",
            f"-m twine check --strict {wheel} {archive}",
            f"tests/installation/stranger.py --torch-of {environment}/bin/python {wheel}",
        ]

    project = tmp_path / "project"
    make("wheels", "TORCHS=2.13.0", fails="stranger")
    assert not (project / "dist").exists()
    asked = "benchmarks/torch_releases.py"
    two = [f"{asked} 2.13.0 2.14.0", *commands("2.13.0")[2:], *commands("2.14.0")]
    assert make("wheels", "TORCHS=2.13.0 2.14.0") == two
    assert not list(project.glob("env-torch-*"))
    assert sorted(path.name for path in (project / "dist").iterdir()) == ["named_1.whl", "of_dist.tar.gz"]
    assert make("wheels") == [asked, *commands("2.4.1"), *commands("2.15.0")]


def test_stranger(make: Make) -> None:
    assert make("test-stranger", "WHEEL=dist/a.whl", "STRANGER_ARGS=--quiet") == [
        "tests/installation/stranger.py --quiet dist/a.whl"
    ]


def test_environment_with_spaces_in_its_path_is_refused(make: Make) -> None:
    make("demo", "VENV=my env", fails="nothing, since make itself refuses it")


@pytest.mark.parametrize(("interrupted", "rest"), [("venv", FIRST), ("pip", FIRST[1:]), ("build_ext", FIRST[2:])])
def test_interrupted_it_goes_on_where_it_was(interrupted: str, rest: list[str], make: Make) -> None:
    for _ in range(2):
        make("demo", fails=interrupted)
    assert make("demo") == rest
    assert make("demo") == ["examples/digits.py"]


def test_settings_are_recorded(make: Make) -> None:
    assert make("demo") == FIRST
    rebuilt = ["build", "load", "examples/digits.py"]
    assert make("demo", FORCE_CUDA="1") == rebuilt  # and nothing is installed anew
    assert make("demo", FORCE_CUDA="1") == ["examples/digits.py"]
    assert make("demo", FORCE_CUDA="1", CUDA_VISIBLE_DEVICES="0,1") == rebuilt
    assert make("demo", SGDR_FUSED_CUDA="0", TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX") == rebuilt
    assert make("demo") == rebuilt
    assert make("demo", "TORCH=torch==2.13.0") == ["pip torch==2.13.0 .[build,demo]", *rebuilt]
    assert make("demo", "TORCH=torch==2.13.0") == ["examples/digits.py"]
    assert make("demo") == ["pip .[build,demo]", *rebuilt]


def test_without_an_extension_the_next_call_tries_again(make: Make) -> None:
    """`make demo` runs on the reference where there is no compiler, and builds once there is one."""
    assert make("demo", NO_EXTENSION="1") == FIRST
    assert make("demo") == ["build", "load", "examples/digits.py"]
    assert make("demo") == ["examples/digits.py"]


def test_commands_for_a_gpu_ask_for_cuda_code(make: Make) -> None:
    assert make("test-gpu") == ["-m venv env", "pip .[build,test]", "build", "load", "load", "-m pytest"]
    make("bench-gpu", fails="has_cuda")
