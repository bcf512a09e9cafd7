"""The limit of a step: the time that its streams of memory take by themselves."""

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

from sgdr_fused._native import toolchain

# The loop is compiled for this machine's processor, unlike the extension, because it runs only here.
FLAGS = ["-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
UNIT = 64  # kUnit of streams.cpp


@functools.cache
def _library() -> Any:
    """streams.cpp, built once per process: it takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "streams.so")
        source = Path(__file__).with_name("streams.cpp")
        openmp_compile, openmp_link = toolchain.openmp_flags(again="run the benchmark again")
        command = [*toolchain.compiler(), *FLAGS, *openmp_compile, str(source), "-o", str(library), *openmp_link]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))


def _addresses(tensors: Sequence[Tensor]) -> Any:
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in tensors)
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


class _Pass(ctypes.Structure):
    """The struct of this name in streams.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tensors", "num_written", "writes_back", "max_threads")),
        *((name, ctypes.c_void_p) for name in ("numel", "first_unit", "written", "read")),
    )


class Limit:
    """A pass over all elements that reads the gradients, and reads and writes each of `written`.

    Each entry of `written` is a list of tensors like the parameters. With `scaled`, where gradients are unscaled and
    clipped, the pass writes the gradients too, and another pass before it only reads them.
    """

    def __init__(self, params: Sequence[Tensor], written: list[Sequence[Tensor]], scaled: bool = False) -> None:
        sizes = [param.numel() for param in params]
        units = list(itertools.accumulate(((size + UNIT - 1) // UNIT for size in sizes), initial=0))
        numel, first_unit = (ctypes.c_int64 * len(sizes))(*sizes), (ctypes.c_int64 * len(units))(*units)
        by_param = [tensor for of_one in zip(*written, strict=True) for tensor in of_one]
        addresses = _addresses(by_param)
        self._kept = by_param, numel, first_unit, addresses
        places = [ctypes.addressof(array) for array in (numel, first_unit, addresses)]
        passes = [(0, False), (len(written), True)] if scaled else [(len(written), False)]
        self._passes = [_Pass(len(sizes), *one, torch.get_num_threads(), *places) for one in passes]
        run = _library().run
        run.restype = None
        self._calls = [functools.partial(run, ctypes.byref(one)) for one in self._passes]

    def new_gradients(self, gradients: list[Tensor]) -> None:
        self._gradients = gradients, _addresses(gradients)
        for one in self._passes:
            one.read = ctypes.addressof(self._gradients[1])

    def step(self) -> None:
        for call in self._calls:
            call()
