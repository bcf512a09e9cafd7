"""The package as users get it: wheels and editable installs, used far from the checkout, and the build at first use."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from installs import (
    LOAD,
    ROOT,
    SMALL_EXTENSION,
    clean_environment,
    copy_project,
    install,
    load_in,
    needs_compiler,
    on_cpu_only,
    run,
    virtual_environment,
)

from sgdr_fused._native import toolchain

pytestmark = on_cpu_only

TRAIN = """
import json, torch, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from sgdr_fused import FusedSGD
    from sgdr_fused.schedules import CosineWarmRestarts
    weight = torch.nn.Parameter(torch.full((8,), 3.0))
    opt = FusedSGD([weight], lr=CosineWarmRestarts(0.1, T_0=10))
    for _ in range(100):
        weight.grad = 2 * weight.detach()
        opt.step()
print(json.dumps({
    "weight": weight.abs().max().item(),
    "backend": opt.backend,
    "warnings": [str(w.message) for w in caught if "sgdr_fused" in str(w.message)],
}))
"""


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def build_wheel(project: Path, out: Path, **environment: str) -> Path:
    """A wheel as `pip install --no-build-isolation .` makes it."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "-w",
        str(out),
        ".",
    ]
    run(command, cwd=project, env=clean_environment(out, **environment))
    (wheel,) = out.glob("*.whl")
    return wheel


@dataclass
class Installed:
    python: str
    folder: Path


@pytest.fixture(scope="module")
def wheel_without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel as plain `pip install .` makes it, in an environment that has only setuptools."""
    folder = tmp_path_factory.mktemp("without_torch")
    python = virtual_environment(folder / "environment", sees_torch=False)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 1
    project = copy_project(folder / "project")
    hook = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    run([python, "-c", hook], cwd=project, env=clean_environment(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel_without_torch: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("far_away")
    python = virtual_environment(folder / "environment", sees_torch=True)
    install(wheel_without_torch, python)
    return Installed(python, folder)


def test_wheel_without_torch_holds_the_sources(wheel_without_torch: Path) -> None:
    assert wheel_without_torch.name == "sgdr_fused-0.1.0-py3-none-any.whl"
    packed = names(wheel_without_torch)
    assert not any(name.endswith((".so", ".json")) for name in packed)
    assert "sgdr_fused/py.typed" in packed
    for path in toolchain.csrc().rglob("*.*"):
        assert f"sgdr_fused/csrc/{path.relative_to(toolchain.csrc()).as_posix()}" in packed


def test_without_compiler_it_trains_on_the_reference(installed: Installed, tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, PATH=str(tmp_path))
    done = run([installed.python, "-c", TRAIN], env=environment, cwd=installed.folder)
    report = json.loads(done.stdout)
    assert report["backend"] == "reference"
    assert report["weight"] < 0.1
    (warning,) = report["warnings"]
    assert "no C++ compiler: c++ is not on PATH; install one" in warning


@needs_compiler
@pytest.mark.slow
def test_builds_at_first_use(installed: Installed, tmp_path: Path) -> None:
    """A build is killed; then two processes start at once, of which one builds; then none needs a compiler.

    What the compiler makes is tested elsewhere, so it does not optimize, and is done in a third of the time.
    """
    unoptimized = tmp_path / "c++"
    unoptimized.write_text(f'#!/bin/sh\nexec {shlex.join(toolchain.compiler())} "$@" -O0\n')
    unoptimized.chmod(0o755)
    environment = clean_environment(tmp_path / "cache", CXX=str(unoptimized))
    options = {"env": environment, "cwd": installed.folder, "text": True}

    def start() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([installed.python, "-c", LOAD], **options, **pipes, start_new_session=True)  # type: ignore[call-overload, no-any-return]

    killed = start()
    assert killed.stderr is not None
    assert "compiling" in killed.stderr.readline()
    while not list((tmp_path / "cache").rglob("*.o.d")):  # until the compilers run
        assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not list((tmp_path / "cache").rglob("*.so"))

    both = [start(), start()]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    messages = sorted("compiling the" in errors for _, errors in outputs)
    assert messages == [False, True], outputs
    for report in (json.loads(output) for output, _ in outputs):
        assert Path(report["package"]).is_relative_to(installed.folder)
        assert Path(report["extension"]).is_relative_to(tmp_path / "cache")
        assert report["again"]
        assert report["backend"] == "cpu"
        assert report["warnings"] == []
    assert not list((tmp_path / "cache").rglob("build-*"))

    unoptimized.unlink()
    report, errors = load_in(installed.python, {**environment, "PATH": str(tmp_path / "empty")}, installed.folder)
    assert report["backend"] == "cpu"
    assert "compiling" not in errors


def sdist(project: Path, out: Path) -> Path:
    hook = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    run([sys.executable, "-c", hook], cwd=project, env=clean_environment(out))
    (archive,) = out.glob("*.tar.gz")
    return archive


def test_source_distribution_holds_the_project(tmp_path: Path) -> None:
    """All that a checkout holds and that a build, the tests or another command needs: not what git and CI need."""
    project = tmp_path / "project"
    made = ("build", "dist", "out", "__pycache__", "*.pyc", "*.so", "_C.*.json", "*.egg-info", ".[!c]*", ".ci")
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(*made))
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert {"setup.py", "conftest.py", "Makefile", "sgdr_fused/py.typed", "csrc/bindings/module.cpp"} <= files
    with tarfile.open(sdist(project, tmp_path)) as packed:
        names_in_it = {name.partition("/")[2] for name in packed.getnames()}
    assert files - names_in_it == set()


@needs_compiler
def test_wheel_that_names_torch(tmp_path: Path) -> None:
    """From a source distribution, whose setup.cfg sets a tag too. The name says what read_record() will ask for."""
    archive = sdist(copy_project(tmp_path / "project", SMALL_EXTENSION), tmp_path)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    wheel = build_wheel(source, tmp_path / "wheel", SGDR_FUSED_NAME_TORCH="1")
    _, version, *_ = wheel.name.split("-")
    code, _, build = version.removeprefix("0.1.0+").partition(".")
    assert (code, build) == ("cpu", "torch" + torch.__version__.replace("+", "."))
    with zipfile.ZipFile(wheel) as packed_wheel:
        (record,) = (name for name in names(wheel) if name.endswith(".json"))
        assert json.loads(packed_wheel.read(record))["torch"].split()[0] == torch.__version__


@needs_compiler
@pytest.mark.parametrize("reason", ["compiling", "no compiler"])
def test_wheel_that_names_torch_has_the_extension_or_is_not_made(reason: str, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", "#error broken on purpose\n")
    environment = clean_environment(tmp_path, SGDR_FUSED_NAME_TORCH="1")
    if reason == "no compiler":
        environment["CXX"] = "/nowhere/c++"
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "-d", str(tmp_path / "wheel")]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    expected = (
        "broken on purpose" if reason == "compiling" else "SGDR_FUSED_NAME_TORCH=1 needs torch and a C++ compiler"
    )
    assert expected in done.stderr
    assert not list((tmp_path / "wheel").glob("*"))


@needs_compiler
def test_wheel_with_extension(tmp_path: Path) -> None:
    """Built ahead of time it is used as it is, until torch changes."""
    project = copy_project(tmp_path / "project", SMALL_EXTENSION)
    wheel = build_wheel(project, tmp_path / "wheel")
    assert wheel.name.startswith(f"sgdr_fused-0.1.0-cp{sys.version_info.major}{sys.version_info.minor}-cp")
    assert not wheel.name.endswith("none-any.whl")
    assert "sgdr_fused/csrc/bindings.cpp" in names(wheel)
    assert "sgdr_fused/py.typed" in names(wheel)
    assert sum(name.endswith(".so") for name in names(wheel)) == 1

    python = virtual_environment(tmp_path / "environment", sees_torch=True)
    install(wheel, python)
    environment = clean_environment(tmp_path / "cache", PATH=str(tmp_path))
    report, _ = load_in(python, environment, tmp_path)
    assert Path(report["extension"]).is_relative_to(tmp_path / "environment")
    assert report["backend"] == "cpu"
    assert report["warnings"] == []
    assert not (tmp_path / "cache").exists()

    (record,) = (tmp_path / "environment").rglob("_C.*.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "torch": "2.0.0 1234"}))
    report, _ = load_in(python, environment, tmp_path)
    assert report["backend"] == "reference"
    (warning,) = report["warnings"]
    assert "prebuilt extension: it was built for torch 2.0.0" in warning
    assert "build at first use: no C++ compiler" in warning


@needs_compiler
def test_wheel_where_compiling_fails(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", "#error broken on purpose\n")
    wheel = build_wheel(project, tmp_path / "wheel")
    assert wheel.name == "sgdr_fused-0.1.0-py3-none-any.whl"
    assert not any(name.endswith(".so") for name in names(wheel))
    python = virtual_environment(tmp_path / "environment", sees_torch=True)
    install(wheel, python)
    report, _ = load_in(python, clean_environment(tmp_path / "cache", PATH=str(tmp_path)), tmp_path)
    (warning,) = report["warnings"]
    assert "prebuilt extension: compiling failed when the package was installed" in warning


def test_wheel_without_compiler(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    wheel = build_wheel(copy_project(tmp_path / "project"), tmp_path / "wheel", PATH=str(tmp_path / "empty"))
    assert wheel.name == "sgdr_fused-0.1.0-py3-none-any.whl"
    assert "sgdr_fused/csrc/bindings/module.cpp" in names(wheel)


@needs_compiler
def test_editable_install(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", SMALL_EXTENSION)
    python = virtual_environment(tmp_path / "environment", sees_torch=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
    ]
    run([*command, "--editable", "."], cwd=project, env=clean_environment(tmp_path))
    report, _ = load_in(python, clean_environment(tmp_path / "cache", PATH=str(tmp_path)), tmp_path)
    assert Path(report["package"]).parent == project / "sgdr_fused"
    assert Path(report["extension"]).parent == project / "sgdr_fused"


@needs_compiler
def test_demanded_cuda_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", SMALL_EXTENSION)
    environment = clean_environment(tmp_path, FORCE_CUDA="1")
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FORCE_CUDA=1, but the CUDA code cannot be built: SGDR_FUSED_CUDA=0" in done.stderr
