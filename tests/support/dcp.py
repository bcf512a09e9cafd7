"""Trainings that go through the checkpoints of torch.distributed.checkpoint, on any number of processes."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from dcp_recipes import SEED, Training
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint import state_dict as dsd
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.tensor import DTensor


def uninterrupted(recipe: str, stops: tuple[int, ...], layout: str = "fsdp") -> dict[int, dict[str, Any]]:
    """What a training that never stops is after so many steps."""
    training, results, at = Training(recipe, layout), {}, 0
    for stop in stops:
        training.train(range(at, stop))
        results[stop], at = training.result(), stop
    return results


# ---- checkpoints


@functools.cache
def group_of_saves() -> Any:
    """A process group of its own: a save in the background must not mix its messages with those of the training."""
    return dist.new_group() if dist.is_initialized() else None


def start_save(training: Training, folder: Path, way: str, writer: FileSystemWriter | None = None) -> Any:
    """Saves in a way of WAYS. Returns what is to be waited for, or None."""
    how = StateDictOptions(**WAYS[way].options)
    model, optim = dsd.get_state_dict(training.model, training.opt, options=how)
    state = {"model": model, "optim": optim}
    if WAYS[way].is_full:
        if not dist.is_initialized() or dist.get_rank() == 0:
            folder.mkdir()
            torch.save(state, folder / "all.pt")
        if dist.is_initialized():
            dist.barrier()
        return None
    writer, alone = writer or FileSystemWriter(folder, sync_files=False, thread_count=1), not dist.is_initialized()
    if WAYS[way].in_background:
        return dcp.async_save(state, storage_writer=writer, process_group=group_of_saves(), no_dist=alone)
    dcp.save(state, storage_writer=writer, no_dist=alone)
    return None


def load(training: Training, folder: Path, way: str, planner: Any = None) -> None:
    options = WAYS[way].options
    if WAYS[way].is_full:
        _load_full(training, folder / "all.pt", from_first=bool(options.get("cpu_offload")))
        return
    how = StateDictOptions(**options)
    model, optim = dsd.get_state_dict(training.model, training.opt, options=how)
    state = {"model": model, "optim": optim}
    dcp.load(state, storage_reader=FileSystemReader(folder), planner=planner, no_dist=not dist.is_initialized())
    both = {"model_state_dict": state["model"], "optim_state_dict": state["optim"]}
    dsd.set_state_dict(training.model, training.opt, **both, options=how)


def _load_full(training: Training, file: Path, from_first: bool) -> None:
    """From the file of a whole state, which each process reads, or the first one for all.

    With broadcast_from_rank0, torch 2.14.1's set_state_dict() hangs where it is given the model's and the optimizer's
    state together, also with torch's own optimizers: the other processes, whose model state is empty, take this for
    an optimizer's state alone, and take no part in the broadcast of the model's. So each is set by its own function.
    """
    if not (from_first and dist.is_initialized()):
        state = sendable(torch.load(file, weights_only=True))
        both = {"model_state_dict": state["model"], "optim_state_dict": state["optim"]}
        dsd.set_state_dict(training.model, training.opt, **both, options=StateDictOptions(full_state_dict=True))
        return
    how = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    state = sendable(torch.load(file, weights_only=True)) if dist.get_rank() == 0 else {"model": {}, "optim": {}}
    dsd.set_model_state_dict(training.model, state["model"], options=how)
    dsd.set_optimizer_state_dict(training.model, training.opt, state["optim"], options=how)


def sendable(state: dict[str, Any]) -> dict[str, Any]:
    """With remainders in int32. One process alone saves them in int16, and no process group can send those."""
    for values_of in state["optim"]["state"].values():
        if "remainder" in values_of:
            values_of["remainder"] = values_of["remainder"].int()
    return state


@dataclass(frozen=True)
class Way:
    """How a training is saved and loaded: torch's options, and whether it is done while the training goes on."""

    options: dict[str, Any]
    in_background: bool = False

    @property
    def is_full(self) -> bool:
        """Whether the whole state goes through one file of torch.save(), without dcp.save()."""
        return bool(self.options.get("full_state_dict"))


_FLAT = {"flatten_optimizer_state_dict": True}
WAYS = {
    "nested": Way({}),
    "flattened": Way(_FLAT),
    "nested in the background": Way({}, in_background=True),
    "flattened in the background": Way(_FLAT, in_background=True),
    "nested through the CPU": Way({"cpu_offload": True}),
    "flattened through the CPU": Way({**_FLAT, "cpu_offload": True}),
    "full on each process": Way({"full_state_dict": True}),
    "full on the first process": Way({"full_state_dict": True, "cpu_offload": True}),
}


def leg(
    recipe: str, layout: str, way: str, loaded: Path | None, saved: Path | None, start: int, stop: int
) -> dict[str, Any]:
    """A part of a training: from a checkpoint to a checkpoint. A warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # DCP's, in a process alone
        training = Training(recipe, layout, seed=SEED if loaded is None else 0)  # which the checkpoint's replaces
        if loaded is not None:
            load(training, loaded, way)
        training.train(range(start, stop))
        result = training.result()
        if saved is not None:
            pending = start_save(training, saved, way)
            if pending is not None:
                training.train(range(stop, stop + 2))  # what a save in the background must not see
                pending.result()
        return result


# ---- what a process does in the tests of test_checkpoints.py


def asked_before_the_first_step(recipe: str, layout: str, way: str, steps: int) -> tuple[dict[str, Any], ...]:
    """The training after it was asked for its state, twice, and after so many steps."""
    training = Training(recipe, layout)
    for _ in range(2):
        dsd.get_optimizer_state_dict(training.model, training.opt, options=StateDictOptions(**WAYS[way].options))
    asked = training.result()
    training.train(range(steps))
    return asked, training.result()


def partly_loaded(recipe: str, missing: str) -> dict[str, Any]:
    """Loads a state without that of one parameter, with strict=True, which raises, and with strict=False."""
    first, other = Training(recipe), Training(recipe)
    first.train(range(3))
    model, optim = dsd.get_state_dict(first.model, first.opt)
    del optim["state"][missing]
    state = {"model_state_dict": model, "optim_state_dict": optim}
    try:
        dsd.set_state_dict(other.model, other.opt, **state)
        error = ""
    except RuntimeError as raised:
        error = str(raised)
    unchanged = other.result()
    dsd.set_state_dict(other.model, other.opt, **state, options=StateDictOptions(strict=False))
    other.train(range(3, 5))
    after = other.result()
    steps = {name: int(after["states"][name]["step"]) for name in (missing, "0.weight")}
    return {"error": error, "unchanged": unchanged, "after": after, "steps": steps}


def full_and_flattened(recipe: str, make: Any) -> str:
    training = Training(recipe, make=make)
    training.train(range(2))
    how = StateDictOptions(full_state_dict=True, flatten_optimizer_state_dict=True)
    state = dsd.get_optimizer_state_dict(training.model, training.opt, options=how)
    assert not any(isinstance(value, DTensor) for value in state.values())
    try:
        dsd.set_optimizer_state_dict(training.model, training.opt, state, options=how)
    except KeyError as error:
        return repr(error)
    return ""


def with_class(
    recipe: str, make: Any, way: str, loaded: Path | None, saved: Path | None, start: int, stop: int
) -> dict[str, Any]:
    """A leg with torch's optimizer, or with ours for None, from a checkpoint of the other one."""
    training, missing, warned = Training(recipe, make=make), None, []
    if loaded is not None:
        for group in training.opt.param_groups:
            group["lr"] = 0.5  # the checkpoint's takes its place
        try:
            load(training, loaded, way)
        except CheckpointException as error:
            missing = str(error)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                load(training, loaded, way, DefaultLoadPlanner(allow_partial_load=True))
            warned = [str(each.message) for each in caught if "opt.clock.fill_" in str(each.message)]
            training.opt.clock.fill_(start)
    training.train(range(start, stop))
    result = training.result() | {"missing": missing, "warned": warned}
    if saved is not None:
        start_save(training, saved, way)
    return result
