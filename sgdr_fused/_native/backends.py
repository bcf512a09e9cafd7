"""Chooses what computes a step: the prebuilt extension, else one built at first use, else the reference."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import NamedTuple

import torch

from .._messages import warn
from . import toolchain

_lock = threading.RLock()
# The extension, and why there is none, or none of the ways that come before its own; None before the search.
_found: tuple[ModuleType | None, str] | None = None
_no_cuda: str | None = None  # why the extension that was loaded has no CUDA code
_seen: set[str] = set()  # warnings that were shown


def _renew_lock() -> None:
    """At a fork another thread may hold the lock, and that thread does not exist in the child."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)


class _UnavailableError(Exception):
    """Says why there is no extension by one of the ways, with the remedy."""


def load() -> ModuleType | None:
    """The extension module, which is built first if need be; None, after one warning, if there is none.

    SGDR_FUSED_BACKEND=reference gives None without a warning. The search for the module runs once per process, and
    other threads wait meanwhile. A signal handler that interrupts the searching thread cannot wait, and gets None for
    now.
    """
    choice = os.environ.get("SGDR_FUSED_BACKEND", "")
    if choice == "reference":
        return None
    if choice:
        raise ValueError(f'SGDR_FUSED_BACKEND must be "reference" or unset, got {choice!r}')
    if _found is None:
        with _lock:
            # The stack tells it, because an interrupt could keep a flag from being reset.
            if _is_running(_look):
                return None
            _look()
    assert _found is not None
    module, why_not = _found
    if module is None:
        _warn_once(why_not)
    return module


def backend_for(device: torch.device) -> str:
    """The name of what computes a step for parameters on this device: "cuda", "cpu" or "reference"."""
    if device.type not in ("cpu", "cuda"):
        return "reference"
    module = load()
    if module is None:
        return "reference"
    if device.type == "cuda" and not module.has_cuda:
        _warn_once(f"sgdr_fused runs its slow pure-PyTorch reference on CUDA devices: {_no_cuda}")
        return "reference"
    return device.type


class Choice(NamedTuple):
    """What ``backend_for`` says of a device, and why."""

    backend: str
    why: str
    file: str | None  # of the extension, if that computes the step


def choice_for(device: torch.device) -> Choice:
    """What computes a step for parameters on this device, and why. It warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend, module = backend_for(device), load()
    if backend != "reference":
        assert module is not None
        assert _found is not None
        prebuilt = module.__name__ == "sgdr_fused._C"
        why = "the prebuilt extension" if prebuilt else f"an extension that was built at first use, since:{_found[1]}"
        return Choice(backend, why, module.__file__)
    if device.type not in ("cpu", "cuda"):
        why = "there is compiled code for the CPU and for CUDA alone"
    elif os.environ.get("SGDR_FUSED_BACKEND") == "reference":
        why = "SGDR_FUSED_BACKEND=reference is set"
    elif module is None:
        why = _found[1] if _found is not None else "the extension is being built"
    else:
        why = f"the extension has no CUDA code: {_no_cuda}"
    return Choice(backend, why, None)


def _is_running(function: Callable[[], None]) -> bool:
    """Whether this thread is inside the function. A signal handler's frame is above those that it interrupted."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def _look() -> None:
    global _found
    if _found is not None:  # another thread has searched in the meantime
        return
    causes: list[str] = []
    for name, attempt in (("prebuilt extension", _prebuilt), ("build at first use", _jit)):
        try:
            _found = attempt(), "".join(causes)
            return
        except _UnavailableError as error:
            causes.append(f"\n  {name}: {error}")
    _found = (
        None,
        "sgdr_fused runs its slow pure-PyTorch reference, because it has no C++ extension:"
        + "".join(causes)
        + "\nThe next start builds it, once that is mended. SGDR_FUSED_BACKEND=reference silences this warning.",
    )


def _warn_once(message: str) -> None:
    """Warns until a warning was shown. A filter may ignore it now, and the next caller may have other filters."""
    if message in _seen:
        return
    with warnings.catch_warnings(record=True) as caught:  # under the caller's filters, which may make it an error
        warn(message, RuntimeWarning)
    for warning in caught:
        _seen.add(message)
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


def _prebuilt() -> ModuleType:
    global _no_cuda
    obstacle, _no_cuda = toolchain.read_record(torch)
    if obstacle is None and _no_cuda is not None and toolchain.cuda_is_forced():
        obstacle = f"FORCE_CUDA=1 is set, and {_no_cuda}"
    if obstacle:
        raise _UnavailableError(obstacle)
    try:
        return importlib.import_module("sgdr_fused._C")
    except ImportError as error:
        raise _UnavailableError(f"{error}") from error


# ---- the build at first use ------------------------------------------------------------------------


def _jit() -> ModuleType:
    global _no_cuda
    _no_cuda = toolchain.no_wish_for_cuda(torch)
    if _no_cuda is None:
        try:
            return _cached_or_built(with_cuda=True)
        except _UnavailableError as error:
            if toolchain.cuda_is_forced():
                raise RuntimeError(f"FORCE_CUDA=1, but sgdr_fused cannot build its CUDA code: {error}") from error
            _no_cuda = str(error)
    return _cached_or_built(with_cuda=False)


def _cached_or_built(with_cuda: bool) -> ModuleType:
    # There are two names because torch renames the second extension of one name in a process: here that for the CPU,
    # after the build with CUDA has failed.
    name = "sgdr_fused_C_cuda" if with_cuda else "sgdr_fused_C"
    try:
        folder = _cache_folder(with_cuda)
    except RuntimeError as error:
        raise _UnavailableError(f"{error}") from error
    try:
        library = folder / f"{name}.so"
        if not library.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / "lock"):
                if not library.is_file():
                    _build_library(name, library, with_cuda)
    except OSError as error:
        raise _UnavailableError(f"{error}; set TORCH_EXTENSIONS_DIR to a writable folder on a local disk") from error
    return _imported(name, library)


def cache_root() -> Path:
    """The folder of all extensions that were built at first use."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "torch_extensions")
        if root.startswith("~"):  # as in a container, for a user without HOME and without an account
            raise RuntimeError("without a home directory, TORCH_EXTENSIONS_DIR must name a folder for what is compiled")
    return Path(root, "sgdr_fused")


def _cache_folder(with_cuda: bool) -> Path:
    """One folder for each combination of what a binary depends on, beside those that torch caches."""
    depends_on = [toolchain.torch_id(torch), toolchain.source_hash(), repr(toolchain.flags(with_cuda))]
    if with_cuda:
        depends_on += [str(torch.version.cuda), toolchain.cuda_arch_list(torch)]
    digest = hashlib.sha256("\n".join(depends_on).encode()).hexdigest()[:12]
    kind = "cuda" if with_cuda else "cpu"
    return Path(cache_root(), f"torch{torch.__version__}-{sysconfig.get_config_var('SOABI')}-{kind}-{digest}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock, for one process at a time. The kernel drops the lock of a process that was killed."""
    import fcntl  # not on Windows, where only a prebuilt extension works

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            toolchain.say("waiting for another process, which compiles the extension ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_library(name: str, library: Path, with_cuda: bool) -> None:
    """Builds in a folder of its own and moves the finished library into place, so that nobody sees half of one.

    A build that was killed leaves files behind, and its compilers may still be writing. In a folder of its own they are
    out of the way, and so is torch's lock.
    """
    compiler = toolchain.compiler()[0]
    if shutil.which(compiler) is None:
        raise _UnavailableError(
            f"no C++ compiler: {compiler} is not on PATH; install one (such as the package g++), or set CXX"
        )
    if with_cuda and (obstacle := toolchain.cuda_obstacle(torch)):
        raise _UnavailableError(obstacle)
    for leftover in library.parent.glob("build-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=library.parent))
    kind = "CPU and CUDA" if with_cuda else "CPU"
    try:
        with (
            toolchain.torch_build_tools(torch, with_cuda, for_shell=True) as cpp_extension,
            toolchain.compiling(f"the {kind} extension, once, for {library.parent}"),
        ):
            if not cpp_extension.is_ninja_available():
                raise _UnavailableError("ninja is missing: pip install ninja")
            flags = toolchain.flags(with_cuda)
            openmp_compile, openmp_link = toolchain.openmp_flags(again=f"remove {library.parent}")
            # torch would give a second build in one process another name, even after an interrupted first build.
            cpp_extension.JIT_EXTENSION_VERSIONER.entries.pop(name, None)
            cpp_extension.load(
                name,
                toolchain.sources(with_cuda),
                extra_include_paths=[str(toolchain.csrc())],
                extra_cflags=flags["cxx"] + openmp_compile,
                extra_cuda_cflags=flags["nvcc"],
                extra_ldflags=openmp_link,
                build_directory=str(folder),
                with_cuda=with_cuda,
                is_python_module=False,  # it is imported later, from its final place: pybind11 allows one import only
            )
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        log = library.parent / "build.log"
        log.write_text(f"{error}\n")
        raise _UnavailableError(f"{toolchain.first_errors(str(error))}\n  The whole log is {log}") from error
    else:
        os.replace(folder / library.name, library)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
