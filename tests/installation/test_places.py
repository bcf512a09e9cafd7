"""Builds wherever a user has things: paths with spaces, caches that cannot be written, one cache for two torches."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest
import torch
from installs import LOAD, SMALL_EXTENSION, clean_environment, copy_project, load_in, needs_compiler, run

from sgdr_fused._native import backends, toolchain

pytestmark = pytest.mark.once

# Root may write where the permissions do not allow it. Without this capability, it may not.
AS_USER = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override"]
needs_permissions = pytest.mark.skipif(
    bool(AS_USER) and shutil.which("setpriv") is None, reason="root may write everywhere: it takes setpriv to hinder it"
)


def report(command: list[str], environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """LOAD's report, by this command."""
    return json.loads(run([*command, "-c", LOAD], env=environment, cwd=folder).stdout.splitlines()[-1])  # type: ignore[no-any-return]


def environment_of_links(folder: Path) -> str:
    """The interpreter of an environment that has this one's packages, torch among them, under its own paths."""
    venv.create(folder, with_pip=False)
    python = str(folder / "bin" / "python")
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    for package in Path(torch.__file__).parents[1].iterdir():
        if "sgdr_fused" not in package.name and not (packages / package.name).exists():
            (packages / package.name).symlink_to(package)
    return python


@needs_compiler
@pytest.mark.slow
def test_paths_with_spaces(tmp_path: Path) -> None:
    """Those of the checkout, of the environment with torch in it, and of the cache: at first use, and ahead of time."""
    project = copy_project(tmp_path / "the project", SMALL_EXTENSION)
    python = environment_of_links(tmp_path / "an environment")
    environment = clean_environment(tmp_path / "a cache", PYTHONPATH=str(project))
    code = "import torch.utils.cpp_extension as tools; print(tools.TORCH_LIB_PATH)"
    assert str(tmp_path / "an environment") in run([python, "-c", code], env=environment, cwd=tmp_path).stdout
    built = report([python], environment, tmp_path)
    assert Path(built["extension"]).is_relative_to(tmp_path / "a cache")
    assert (built["backend"], built["warnings"]) == ("cpu", [])

    run([python, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=project, env=environment)
    prebuilt = report([python], environment, tmp_path)
    assert Path(prebuilt["extension"]).parent == project / "sgdr_fused"
    assert (prebuilt["backend"], prebuilt["warnings"]) == ("cpu", [])


@needs_permissions
@needs_compiler
def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """What somebody else has built there is used. Where there is nothing, the warning says what to do."""
    project, cache = copy_project(tmp_path / "project", SMALL_EXTENSION), tmp_path / "cache"
    environment = clean_environment(cache, PYTHONPATH=str(project))
    library = Path(report([sys.executable], environment, tmp_path)["extension"])
    assert library.is_relative_to(cache)
    folders = [library.parent, library.parent.parent, cache]
    for folder in folders:
        folder.chmod(0o555)
    try:
        as_user = [*AS_USER, sys.executable]
        denied = subprocess.run([*AS_USER, "touch", "x"], cwd=cache, stderr=subprocess.PIPE, check=False)
        assert denied.returncode != 0
        assert report(as_user, environment, tmp_path)["extension"] == str(library)
        # Of other flags than those of the library, as with another torch.
        changed = project / "csrc" / "bindings.cpp"
        changed.write_text(changed.read_text() + "\n")
        told = report(as_user, environment, tmp_path)
        assert told["backend"] == "reference"
        (warning,) = told["warnings"]
        assert f"Permission denied: '{library.parent.parent}" in warning
        assert "set TORCH_EXTENSIONS_DIR to a writable folder" in warning
    finally:
        for folder in folders:
            folder.chmod(0o755)


@needs_compiler
def test_home_that_cannot_be_written(tmp_path: Path) -> None:
    """/proc takes no folders, from root neither. That of another variable serves."""
    project = copy_project(tmp_path / "project", SMALL_EXTENSION)
    environment = clean_environment(tmp_path / "cache", PYTHONPATH=str(project), HOME="/proc/nobody")
    there = environment.pop("TORCH_EXTENSIONS_DIR")
    environment.pop("XDG_CACHE_HOME", None)
    told = report([sys.executable], environment, tmp_path)
    assert told["backend"] == "reference"
    (warning,) = told["warnings"]
    assert "/proc/nobody" in warning
    assert "set TORCH_EXTENSIONS_DIR to a writable folder" in warning
    assert report([sys.executable], {**environment, "TORCH_EXTENSIONS_DIR": there}, tmp_path)["backend"] == "cpu"


def test_user_without_home_and_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `docker run --user 12345` makes one."""
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(backends._UnavailableError, match="home directory, TORCH_EXTENSIONS_DIR must name"):
        backends._cached_or_built(with_cuda=False)
    assert not list(tmp_path.iterdir())  # such as a folder of the name ~
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/x")
    assert backends.cache_root() == Path("/var/tmp/x/torch_extensions/sgdr_fused")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert backends.cache_root() == tmp_path / "sgdr_fused"


@needs_compiler
@pytest.mark.slow
def test_two_torches_with_one_cache(tmp_path: Path) -> None:
    """Each finds its own build, also after the other one has built. The second is this torch, by another version."""
    project, cache = copy_project(tmp_path / "project", SMALL_EXTENSION), tmp_path / "cache"
    other = LOAD.replace("torch, warnings\n", "torch, warnings\ntorch.__version__ = '2.98.1+cpu'\n", 1)
    environment = clean_environment(cache, PYTHONPATH=str(project))

    def loaded(code: str, **variables: str) -> Path:
        done = run([sys.executable, "-c", code], env={**environment, **variables}, cwd=tmp_path)
        return Path(json.loads(done.stdout)["extension"])

    first, second = loaded(LOAD), loaded(other)
    assert f"torch{torch.__version__}-" in first.parent.name
    assert "torch2.98.1+cpu-" in second.parent.name
    assert sorted(cache.rglob("*.so")) == sorted([first, second])
    without_compiler = {"PATH": str(tmp_path)}
    assert (loaded(LOAD, **without_compiler), loaded(other, **without_compiler)) == (first, second)


@needs_compiler
@pytest.mark.slow
def test_build_ahead_of_time_is_interrupted(tmp_path: Path) -> None:
    """The extension that was there before, from other sources, does not stand in. The next build goes through."""
    project = copy_project(tmp_path / "project", SMALL_EXTENSION)
    environment = clean_environment(tmp_path / "cache", PYTHONPATH=str(project))
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    run(build, cwd=project, env=environment)
    prebuilt, _ = load_in(sys.executable, environment, tmp_path)
    assert Path(prebuilt["extension"]).parent == project / "sgdr_fused"

    started, compiler = tmp_path / "started", tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) touch {started}; sleep 300;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    source = project / "csrc" / "bindings.cpp"
    source.write_text(source.read_text() + "\n")
    process = subprocess.Popen(
        build,
        cwd=project,
        env={**environment, "CXX": str(compiler)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell's background is around
    )
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() != 0
    without_compiler, _ = load_in(sys.executable, {**environment, "PATH": str(tmp_path)}, tmp_path)
    assert without_compiler["extension"] is None
    assert "prebuilt extension: there is none" in without_compiler["warnings"][0]

    run(build, cwd=project, env=environment)
    again, _ = load_in(sys.executable, {**environment, "PATH": str(tmp_path)}, tmp_path)
    assert Path(again["extension"]).parent == project / "sgdr_fused"
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_failed_link_shows_what_was_not_found() -> None:
    not_found = "/usr/bin/ld: cannot find -lc10: No such file or directory"
    log = f"ninja: build stopped\n{not_found}\ncollect2: error: ld returned 1 exit status\n"
    assert toolchain.first_errors(log).splitlines()[0] == not_found
