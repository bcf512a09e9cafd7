"""The backend ``emulated_cuda``: the CUDA kernels, built by the host compiler and run by emulator.cpp.

Its device is the CPU, so tensors are the CPU's, and the sanitizers see every access that a kernel makes.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from sgdr_fused._native import backends, toolchain

HERE = Path(__file__).resolve().parent
BACKEND = "emulated_cuda"

# -O1: compiling is most of the time. Kernels read floats as int4, which is CUDA's way and not ISO C++'s.
FLAGS = [flag for flag in toolchain.CXX_FLAGS if flag != "-O3"] + [toolchain.CUDA_MACRO, "-O1", "-fno-strict-aliasing"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"]


@functools.cache
def load() -> Any:
    """The extension, compiled into the checkout's build/ as far as it changed since.

    SGDR_FUSED_SANITIZE=1 builds it with AddressSanitizer and UBSan, whose libraries the process must have loaded.
    """
    sanitize = os.environ.get("SGDR_FUSED_SANITIZE") == "1"
    name = "sgdr_fused_sanitized" if sanitize else "sgdr_fused_emulated"
    folder = HERE.parent.parent / "build" / name
    folder.mkdir(parents=True, exist_ok=True)
    # Compilers are slow in a sanitizer.
    with (
        mock.patch.dict(os.environ, {"LD_PRELOAD": ""}),
        toolchain.torch_build_tools(torch, with_cuda=False) as cpp_extension,
    ):
        openmp_compile, openmp_link = toolchain.openmp_flags(again="run the tests again")
        return cpp_extension.load(
            name,
            toolchain.sources(with_cuda=False) + [str(path) for path in sorted(HERE.glob("*.cpp"))],
            extra_include_paths=[str(HERE / "include"), str(toolchain.csrc())],
            extra_cflags=FLAGS + (SANITIZERS if sanitize else []) + openmp_compile,
            extra_ldflags=(SANITIZERS[:1] if sanitize else []) + openmp_link,
            build_directory=str(folder),
            with_cuda=False,
        )


@functools.cache
def library() -> ctypes.CDLL:
    """The emulator's own functions."""
    library = ctypes.CDLL(load().__file__)
    library.emulator_launches.restype = ctypes.c_int64
    library.emulator_set_first_block.argtypes = [ctypes.c_int64]
    library.emulator_set_stream.argtypes = [ctypes.c_int64]
    library.emulator_records.restype = ctypes.c_int64
    return library


def install() -> None:
    """From here on, every optimizer of this process steps on the emulated kernels."""
    backends.load = load
    backends.backend_for = lambda device: BACKEND
