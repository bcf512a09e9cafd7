"""Processes of torch.distributed on this machine, which run a function together."""

from __future__ import annotations

import functools
import multiprocessing
import os
import queue
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import cases
import emulation
import torch
import torch.distributed as dist

TIMEOUT = timedelta(seconds=120)  # of a collective, and of a whole function


def _process(rank: int, size: int, store: str, calls: Any, results: Any) -> None:
    torch.set_num_threads(1)  # of two cores, which the processes share
    os.environ["OMP_NUM_THREADS"] = "1"
    if cases.EMULATED:
        emulation.install()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=TIMEOUT)
    while (call := _next(calls)) is not None:
        function, args = call
        try:
            results.put((rank, function(*args), None))
        except BaseException:
            results.put((rank, None, traceback.format_exc()))
    dist.destroy_process_group()


def _next(calls: Any) -> Any:
    """The next call; None at the end, also where the process of the tests is no more."""
    while True:
        try:
            return calls.get(timeout=5)
        except queue.Empty:
            parent = multiprocessing.parent_process()
            if parent is None or not parent.is_alive():
                return None


@functools.cache
def forking() -> Any:
    """Forks processes from one that has imported everything, for which each of them would take seconds."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "sharding", "wrapped", "dcp", "dcp_recipes", "dying", "torch._dynamo"])
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    return context


class World:
    """So many processes, which live as long as this object and share a process group."""

    def __init__(self, size: int) -> None:
        context = forking()
        self.size = size
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name, "store"))
        self._calls, self._results = [context.Queue() for _ in range(size)], context.Queue()
        self._processes = [
            context.Process(target=_process, args=(rank, size, store, calls, self._results), daemon=True)
            for rank, calls in enumerate(self._calls)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What each process's call of the function returns, in the order of ranks; raises if one of them does."""
        for calls in self._calls:
            calls.put((function, args))
        returned, errors = {}, []
        for _ in range(self.size):
            rank, result, error = self._results.get(timeout=TIMEOUT.total_seconds())
            returned[rank] = result
            if error is not None:
                errors.append(f"rank {rank}: {error}")
        if errors:
            raise RuntimeError("\n".join(errors))
        return [returned[rank] for rank in range(self.size)]

    def close(self) -> None:
        for calls in self._calls:
            calls.put(None)
        for process in self._processes:
            process.join(timeout=30)
            process.kill()
        self._folder.cleanup()
