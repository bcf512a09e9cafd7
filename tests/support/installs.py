"""Copies of the project, wheels and environments to put them in, for the tests of building and installing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import setuptools

from sgdr_fused._native import toolchain

ROOT = Path(__file__).resolve().parents[2]

# What is built and how does not depend on the device that the tests run on, and an emulated GPU is no place to compile.
on_cpu_only = pytest.mark.skipif(
    os.environ.get("SGDR_FUSED_TEST_DEVICE", "cpu") != "cpu",
    reason="about builds, not about a device: runs with device cpu",
)
needs_compiler = pytest.mark.skipif(shutil.which(toolchain.compiler()[0]) is None, reason="no C++ compiler")

# An extension that compiles in seconds, for what is not about the real one.
SMALL_EXTENSION = """
#include <pybind11/pybind11.h>
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.attr("has_cuda") = false; }
"""

# Reports which extension is in use. Run with python -c, in a process and an environment of its own.
LOAD = """
import json, torch, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import sgdr_fused
    from sgdr_fused._native import backends
    modules = backends.load(), backends.load()
print(json.dumps({
    "package": sgdr_fused.__file__,
    "extension": modules[0] and modules[0].__file__,
    "again": modules[0] is modules[1],
    "backend": backends.backend_for(torch.device("cpu")),
    "warnings": [f"{w.category.__name__}: {w.message}" for w in caught if "sgdr_fused" in str(w.message)],
}))
"""


def copy_project(target: Path, extension: str | None = None) -> Path:
    """What a clean checkout holds; with other C++ sources if `extension` gives one."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
        target.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target)
    (target / "README.md").write_text("a copy\n")
    shutil.copytree(
        ROOT / "sgdr_fused", target / "sgdr_fused", ignore=shutil.ignore_patterns("*.so", "*.json", "*.pyc")
    )
    if extension is None:
        shutil.copytree(toolchain.csrc(), target / "csrc")
    else:
        (target / "csrc").mkdir()
        (target / "csrc" / "bindings.cpp").write_text(extension)
    return target


def clean_environment(cache: Path, **changes: str) -> dict[str, str]:
    """The variables of this process without those that steer a build, and with an extension cache of its own."""
    steering = ("FORCE_CUDA", "SGDR_FUSED_CUDA", "SGDR_FUSED_BACKEND", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in steering}
    return {**environment, "TORCH_EXTENSIONS_DIR": str(cache), "SGDR_FUSED_CUDA": "0", **changes}


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def load_in(python: str, environment: dict[str, str], folder: Path) -> tuple[dict[str, Any], str]:
    """LOAD's report from this interpreter, and what it said on stderr."""
    done = run([python, "-c", LOAD], env=environment, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def virtual_environment(folder: Path, sees_torch: bool) -> str:
    """The interpreter of a new environment that sees this one's packages, less sgdr_fused, or setuptools alone."""
    venv.create(folder, with_pip=False)
    python = str(folder / "bin" / "python")
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    if sees_torch:
        # As paths, not as links: the .pth file of an editable sgdr_fused is not read from there.
        paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (packages / "other_packages.pth").write_text("\n".join(paths) + "\n")
    else:
        here = Path(setuptools.__file__).parent.parent
        for package in [*here.glob("setuptools*"), *here.glob("_distutils_hack")]:
            (packages / package.name).symlink_to(package)
    return python


def install(wheel: Path, python: str) -> None:
    """Installs with this environment's pip, because the empty environment has none."""
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", str(wheel)])
