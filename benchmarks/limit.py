"""The time that a step's streams of memory take by themselves: what no step can be faster than."""

from __future__ import annotations

import ctypes
import functools
import itertools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgdr_fused import _build

# What is timed here runs here: so, unlike the extension's, for this machine's processor.
FLAGS = ["-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
UNIT = 64  # kUnit of streams.cpp


@functools.cache
def _library() -> Any:
    """streams.cpp, built once per process: it takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "streams.so")
        source = Path(__file__).with_name("streams.cpp")
        command = [*_build.compiler(), *FLAGS, *_build.openmp_flags(), str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))


def _addresses(tensors: Sequence[Tensor]) -> Any:
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


class Limit:
    """Passes over all elements: the first reads the gradients alone, where `first_reads`; the last reads them too, and
    reads and writes each of `written`: lists of tensors like the parameters."""

    def __init__(self, params: Sequence[Tensor], written: list[Sequence[Tensor]], first_reads: bool = False) -> None:
        sizes = [param.numel() for param in params]
        units = itertools.accumulate(((size + UNIT - 1) // UNIT for size in sizes), initial=0)
        self._sizes = len(sizes), (ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_int64 * (len(sizes) + 1))(*units)
        by_param = [tensor for of_one in zip(*written, strict=True) for tensor in of_one]
        self._passes = [(0, _addresses([]))] if first_reads else []
        self._passes.append((len(written), _addresses(by_param)))
        self._kept = [*params, *by_param]
        self._threads = torch.get_num_threads()
        self._run = _library().run
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        self._run.argtypes = [integer, pointer, pointer, integer, pointer, pointer, integer]
        self._run.restype = None

    def new_gradients(self, gradients: list[Tensor]) -> None:
        self._gradients = gradients, _addresses(gradients)

    def step(self) -> None:
        for count, written in self._passes:
            self._run(*self._sizes, count, written, self._gradients[1], self._threads)
