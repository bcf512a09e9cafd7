"""The time that a step's streams of memory take by themselves: what no step can be faster than."""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from sgdr_fused import _build

# What is timed here runs here: so, unlike the extension's, for this machine's processor.
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]


@functools.cache
def _streams() -> ModuleType:
    """streams.cpp, built at the first use on a machine and kept by torch."""
    with _build.torch_build_tools(torch, with_cuda=False) as cpp_extension:
        source = Path(__file__).with_name("streams.cpp")
        return cpp_extension.load(
            "sgdr_fused_streams", [str(source)], extra_cflags=FLAGS, extra_ldflags=["-fopenmp"], with_cuda=False
        )


class Limit:
    """Passes over the parameters' elements: the first reads the gradients alone where `first_reads`; the last reads
    them too, and reads and writes each of `written`: lists of tensors like the parameters."""

    def __init__(self, params: list[Tensor], written: list[list[Tensor]], first_reads: bool = False) -> None:
        passes = _streams().Pass
        detached = [[tensor.detach() for tensor in tensors] for tensors in written]
        self._passes = [passes(params, [])] if first_reads else []
        self._passes.append(passes(params, detached))

    def new_gradients(self, gradients: list[Tensor]) -> None:
        for one in self._passes:
            one.read(gradients)

    def step(self) -> None:
        for one in self._passes:
            one.run()
