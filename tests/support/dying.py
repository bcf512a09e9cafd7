"""Short-lived processes of torch.distributed, one of which may die or stand still, and what the others see of it."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import sharding
import torch
import torch.distributed as dist
from bits import bits
from dcp import group_of_saves, start_save
from dcp_recipes import Training
from torch.distributed.checkpoint import FileSystemWriter
from worlds import forking

TIMEOUT = timedelta(seconds=10)  # of the process group, in which the others have to notice
START = timedelta(seconds=120)  # for all to start, on a busy machine


@dataclass(frozen=True)
class Seen:
    """What a process saw of the death of another one.

    Attributes:
        error: the class and the message of the error that it got; None: it got none.
        raised_in: the file of torch, or of ours, whose line raised it.
        seconds: how long it waited.
    """

    error: str | None
    raised_in: str
    seconds: float


def run(size: int, function: Callable[..., Any], *args: Any, dies: int | None = None) -> list[Any]:
    """What each process's call returns, in the order of ranks; None of the rank that dies or stands still.

    Raises RuntimeError where another one raises, is gone, or does not end: that is a hang.
    """
    context = forking()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_process, args=(rank, size, folder, function, args), daemon=True)
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        until = time.monotonic() + (START + 4 * TIMEOUT).total_seconds()
        for rank, process in enumerate(processes):
            if rank != dies:
                process.join(timeout=max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
        results = []
        for rank, code in enumerate(codes):
            file = Path(folder, f"{rank}.pt")
            if (rank == dies) == file.exists():
                raise RuntimeError(f"rank {rank}: exit code {code}, where None is a process that has not ended")
            result, error = torch.load(file, weights_only=False) if file.exists() else (None, None)
            if error is not None:
                raise RuntimeError(f"rank {rank}: {error}")
            results.append(result)
        return results


def _process(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder, "store")), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=START)
    try:
        outcome = function(*args), None
    except BaseException:
        outcome = None, traceback.format_exc()
    torch.save(outcome, Path(folder, f"{rank}.pt"))
    os._exit(0)  # without taking leave of a process that is no more


def _seen(function: Callable[[], Any]) -> Seen:
    """From here on, TIMEOUT holds: what came before has taken as long as a busy machine makes it."""
    dist.barrier()
    c10d = dist.distributed_c10d
    set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # the name of torch 2.14, and that of 2.13
    for group in (dist.group.WORLD, group_of_saves()):
        set_timeout(TIMEOUT, group)
    began = time.monotonic()
    try:
        function()
    except BaseException as error:  # as DCP's are
        frames = traceback.extract_tb(error.__traceback__)
        where = frames[-1].filename
        return Seen(f"{type(error).__name__}: {error}", where, time.monotonic() - began)
    return Seen(None, "", time.monotonic() - began)


# ---- a process that is killed during a save


class _DyingWriter(FileSystemWriter):
    """Kills its process before or behind the writing of its own files; before, it leaves half a file."""

    def __init__(self, folder: Path, when: str) -> None:
        super().__init__(folder, sync_files=False, thread_count=1)
        self._folder, self._when = folder, when

    def write_data(self, plan: Any, planner: Any) -> Any:
        if self._when == "behind":
            super().write_data(plan, planner).wait()
        else:
            (self._folder / f"__{dist.get_rank()}_0.distcp").write_bytes(b"half")
        _kill_myself()


def killed_in_save(recipe: str, way: str, first: Path, second: Path, dies: int, when: str) -> tuple[Seen, bool]:
    """Saves after 3 steps; a process dies while all save after 5. Also whether the training was left as it was."""
    training = Training(recipe)
    training.train(range(3))
    wait_for(start_save(training, first, way))
    training.train(range(3, 5))
    before = local_result(training)
    writer = _DyingWriter(second, when) if dist.get_rank() == dies else None
    seen = _seen(lambda: wait_for(start_save(training, second, way, writer)))
    return seen, before == local_result(training)


def wait_for(pending: Any) -> None:
    if pending is not None:
        pending.result()


# ---- a process that dies or stands still in a step


def lost_in_step(recipe: str, layout: str, steps: int, dies: int, at: int, sign: int) -> tuple[Seen, bool, int]:
    """After so many steps, a process gets a signal in the next one, before its collective number `at`.

    Also whether the optimizer was left as it was before that step, and how many collectives it had begun.
    """
    training = Training(recipe, layout)
    training.train(range(steps))
    training.set_gradients(steps)
    before = local_result(training)
    begun = 0
    all_reduce = dist.all_reduce

    def counted(*args: Any) -> Any:
        nonlocal begun
        if begun == at and dist.get_rank() == dies:
            os.kill(os.getpid(), sign)
        begun += 1
        return all_reduce(*args)

    dist.all_reduce = counted
    seen = _seen(training.opt.step)
    dist.all_reduce = all_reduce
    return seen, before == local_result(training), begun


def local_result(training: Training) -> dict[str, Any]:
    """What of the training is in this process, without a word to another one."""
    opt = training.opt
    states = opt.state_dict()["state"]
    return {
        "params": [bits(sharding.local_of(param)) for param in training.model.parameters()],
        "states": {
            i: {key: bits(sharding.local_of(value)) for key, value in each.items()} for i, each in states.items()
        },
        "clock": int(opt.clock),
        "skipped": int(opt.param_groups[0]["skipped_steps"]),
        "rates": [float(group["lr"]) for group in opt.param_groups],
    }


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
