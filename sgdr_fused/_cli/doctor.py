"""Says what computes a step on this machine and why, and tests it.

The status is 1 if the test of a device failed. Where no extension was built ahead of time, this builds it, as
the first optimizer would do.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import torch

import sgdr_fused

from .._native import backends, toolchain
from . import self_test
from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object with the same facts")


def run(args: argparse.Namespace) -> int:
    try:
        facts = examine()
    except (RuntimeError, ValueError) as error:  # FORCE_CUDA=1 without a toolkit; a bad SGDR_FUSED_BACKEND
        raise CommandError(str(error)) from None
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    return 0 if facts["passed"] else 1


def examine() -> dict[str, Any]:
    """All facts, as JSON has them."""
    names = ["cpu", *[f"cuda:{i}" for i in range(torch.cuda.device_count())]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reference, which is among the facts
        devices = [_device(name) for name in names]
    file = next((device["extension"] for device in devices if device["extension"]), None)
    return {
        "passed": all(device["self_test"]["passed"] for device in devices),
        "sgdr_fused": sgdr_fused.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cuda_of_torch": torch.version.cuda,
        "platform": platform.platform(),
        "package": str(toolchain.PACKAGE),
        "extension": file,
        "openmp": None if file is None else uses_openmp(Path(file)),
        "threads": torch.get_num_threads(),
        "devices": devices,
        "compiler": _compiler(),
        "ninja": _ninja(),
        "cuda_toolkit": toolchain.cuda_home(),
        "cache": _cache(),
    }


def _device(name: str) -> dict[str, Any]:
    device = torch.device(name)
    choice = backends.choice_for(device)
    known_as = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": name,
        "name": known_as,
        "backend": choice.backend,
        "why": choice.why,
        "extension": choice.file,
        "self_test": self_test.run(device),
    }


def uses_openmp(library: Path) -> bool:
    """Whether a compiled library calls OpenMP: its functions stand in the file by name, those of GCC or of clang."""
    compiled = library.read_bytes()
    return any(name in compiled for name in (b"GOMP_parallel", b"__kmpc_fork_call"))


def _compiler() -> dict[str, Any]:
    command = toolchain.compiler()
    path = shutil.which(command[0])
    version = ""
    if path is not None:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
        version = done.stdout.partition("\n")[0]
    return {"command": " ".join(command), "path": path, "version": version}


def _ninja() -> str | None:
    """The program: on PATH, or in the package of that name."""
    if (path := shutil.which("ninja")) is not None or importlib.util.find_spec("ninja") is None:
        return path
    return shutil.which("ninja", path=importlib.import_module("ninja").BIN_DIR)


def _cache() -> dict[str, Any]:
    try:
        folder = backends.cache_root()
    except RuntimeError as error:  # no home, which a prebuilt extension does not need
        return {"folder": None, "writable": False, "problem": str(error)}
    return {"folder": str(folder), "writable": is_writable(folder), "problem": None}


def is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder, which may have to be made first."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def as_text(facts: dict[str, Any]) -> str:
    compiler, cache = facts["compiler"], facts["cache"]
    openmp = {True: f"yes, {facts['threads']} threads", False: "no, one thread", None: "-"}[facts["openmp"]]
    found = (
        f"{compiler['path']} ({compiler['version']})" if compiler["path"] else f"{compiler['command']} is not on PATH"
    )
    rows = [
        ("sgdr_fused", f"{facts['sgdr_fused']} in {facts['package']}"),
        ("torch", f"{facts['torch']}, " + (f"CUDA {facts['cuda_of_torch']}" if facts["cuda_of_torch"] else "no CUDA")),
        ("Python", facts["python"]),
        ("platform", facts["platform"]),
        ("extension", facts["extension"] or "none"),
        ("OpenMP", openmp),
        ("compiler", found),
        ("ninja", facts["ninja"] or "missing: pip install ninja"),
        ("CUDA toolkit", facts["cuda_toolkit"] or "none"),
        ("cache", cache["problem"] or f"{cache['folder']} ({'writable' if cache['writable'] else 'NOT writable'})"),
    ]
    lines = [f"{name:<13} {value}" for name, value in rows]
    for device in facts["devices"]:
        lines += ["", f"{device['device']} ({device['name']})", f"  backend    {device['backend']}: {device['why']}"]
        test = device["self_test"]
        lines.append(f"  self-test  {'PASS' if test['passed'] else 'FAIL'} in {test['seconds']:.1f} s")
        lines += [
            f"    {check['optimizer']:<13} {'PASS' if check['passed'] else 'FAIL'}  {check['found']}"
            for check in test["checks"]
        ]
    return "\n".join(lines)
