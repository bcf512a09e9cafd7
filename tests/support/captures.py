"""CUDA graphs of a piece of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def captured(work: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """`work` recorded, not done."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph
