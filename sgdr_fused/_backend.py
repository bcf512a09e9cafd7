"""What computes a step: the prebuilt extension, else one built at first use, else the reference with one warning."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from . import _build

_lock = threading.Lock()
_no_cuda: str | None = None  # why the extension that was loaded has no CUDA code


class _UnavailableError(Exception):
    """Why one way to an extension is closed, with the remedy."""


def load() -> ModuleType | None:
    """The extension module, built first if need be; None, after one warning, where there is none.

    SGDR_FUSED_BACKEND=reference gives None without a warning. The module is looked for once per process.
    """
    choice = os.environ.get("SGDR_FUSED_BACKEND", "")
    if choice == "reference":
        return None
    if choice:
        raise ValueError(f'SGDR_FUSED_BACKEND must be "reference" or unset, got {choice!r}')
    with _lock:
        return _load_once()


def backend_for(device: torch.device) -> str:
    """ "cuda", "cpu" or "reference": what computes a step for parameters on this device."""
    if device.type not in ("cpu", "cuda"):
        return "reference"
    module = load()
    if module is None:
        return "reference"
    if device.type == "cuda" and not module.has_cuda:
        _warn_once(f"sgdr_fused runs its slow pure-PyTorch reference on CUDA devices: {_no_cuda}")
        return "reference"
    return device.type


@functools.cache
def _load_once() -> ModuleType | None:
    causes = []
    for name, attempt in (("prebuilt extension", _prebuilt), ("build at first use", _jit)):
        try:
            return attempt()
        except _UnavailableError as error:
            causes.append(f"\n  {name}: {error}")
    _warn_once(
        "sgdr_fused runs its slow pure-PyTorch reference, because it has no C++ extension:"
        + "".join(causes)
        + "\nThe next start builds it, once that is mended. SGDR_FUSED_BACKEND=reference silences this warning."
    )
    return None


@functools.cache
def _warn_once(message: str) -> None:
    """Shown at the line of the caller's own code that needed a backend."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == "sgdr_fused":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=depth)


def _prebuilt() -> ModuleType:
    global _no_cuda
    obstacle, _no_cuda = _build.read_record(torch)
    if obstacle:
        raise _UnavailableError(obstacle)
    try:
        return importlib.import_module("sgdr_fused._C")
    except ImportError as error:
        raise _UnavailableError(f"{error}") from error


# ---- the build at first use ------------------------------------------------------------------------


def _jit() -> ModuleType:
    global _no_cuda
    forced = os.environ.get("FORCE_CUDA") == "1"
    # A CUDA build of torch on a machine without a GPU is common, and nvcc takes minutes: not unless there is a GPU.
    if forced or (torch.cuda.is_available() and os.environ.get("SGDR_FUSED_CUDA") != "0"):
        try:
            return _cached_or_built(with_cuda=True)
        except _UnavailableError as error:
            if forced:
                raise RuntimeError(f"FORCE_CUDA=1, but sgdr_fused cannot build its CUDA code: {error}") from error
            _no_cuda = str(error)
    else:
        _no_cuda = "it was built with SGDR_FUSED_CUDA=0 or where torch saw no GPU"
    return _cached_or_built(with_cuda=False)


def _cached_or_built(with_cuda: bool) -> ModuleType:
    # Two names: torch renames the second extension of one name in one process, here the CPU's after CUDA's failed.
    name = "sgdr_fused_C_cuda" if with_cuda else "sgdr_fused_C"
    try:
        folder = _cache_folder(with_cuda)
        library = folder / f"{name}.so"
        if not library.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / "lock"):
                if not library.is_file():
                    return _built(name, library, with_cuda)
    except OSError as error:
        raise _UnavailableError(f"{error}; set TORCH_EXTENSIONS_DIR to a writable folder on a local disk") from error
    return _imported(name, library)


def _cache_folder(with_cuda: bool) -> Path:
    """One folder for each combination of what a binary depends on, beside those that torch caches."""
    depends_on = [_build.torch_id(torch), _build.source_hash(), repr(_build.flags(with_cuda))]
    if with_cuda:
        depends_on += [str(torch.version.cuda), _build.cuda_arch_list(torch)]
    digest = hashlib.sha256("\n".join(depends_on).encode()).hexdigest()[:12]
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torch_extensions")
    kind = "cuda" if with_cuda else "cpu"
    return Path(root, "sgdr_fused", f"torch{torch.__version__}-{sysconfig.get_config_var('SOABI')}-{kind}-{digest}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time. The kernel drops the lock of a process that was killed, so it is never stale."""
    import fcntl  # not on Windows, where only a prebuilt extension works

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process, which compiles the extension ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _built(name: str, library: Path, with_cuda: bool) -> ModuleType:
    """Builds in a folder of its own and moves the finished library into place: half of one is never seen.

    So the leftovers of a build that was killed, whose compilers may still be writing, are out of the way, and torch's
    lock with them.
    """
    compiler = _build.compiler()[0]
    if shutil.which(compiler) is None:
        raise _UnavailableError(
            f"no C++ compiler: {compiler} is not on PATH; install one (such as the package g++), or set CXX"
        )
    if with_cuda and (obstacle := _build.cuda_obstacle(torch)):
        raise _UnavailableError(obstacle)
    for leftover in library.parent.glob("build-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=library.parent))
    kind = "CPU and CUDA" if with_cuda else "CPU"
    _say(f"compiling the {kind} extension, about a minute, once, for {library.parent} ...")
    start = time.monotonic()
    try:
        with _build.torch_build_tools(torch, with_cuda) as cpp_extension:
            if not cpp_extension.is_ninja_available():
                raise _UnavailableError("ninja is missing: pip install ninja")
            flags = _build.flags(with_cuda)
            openmp = _build.openmp_flags()
            module = cpp_extension.load(
                name,
                _build.sources(with_cuda),
                extra_include_paths=[str(_build.csrc())],
                extra_cflags=flags["cxx"] + openmp,
                extra_cuda_cflags=flags["nvcc"],
                extra_ldflags=openmp,
                build_directory=str(folder),
                with_cuda=with_cuda,
            )
    except (RuntimeError, ImportError, subprocess.SubprocessError) as error:
        log = library.parent / "build.log"
        log.write_text(f"{error}\n")
        raise _UnavailableError(f"{_first_errors(str(error))}\n  The whole log is {log}") from error
    else:
        os.replace(folder / library.name, library)
        module.__file__ = str(library)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _say(f"compiled in {time.monotonic() - start:.0f} s")
    return module


def _imported(name: str, library: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise _UnavailableError(f"{error}; remove {library.parent} to build it again") from error
    return module


def _first_errors(log: str) -> str:
    """What to show of a compiler's output: its first errors, or its end."""
    lines = log.strip().splitlines()
    errors = [line for line in lines if re.search(r"\berror: |undefined reference", line)]
    return "\n    ".join(errors[:5] or lines[-5:])


def _say(message: str) -> None:
    print(f"sgdr_fused: {message}", file=sys.stderr, flush=True)
