"""Converts a checkpoint of torch's optimizer and scheduler to one of ours, or back.

CHECKPOINT is a file of torch.save: a dict that holds an optimizer's state_dict, and a scheduler's, under keys of any
names. The scheduler's goes into the optimizer's as Schedules and a clock, or comes out of it, and everything else
stays as it is. In a file of Lightning, the keys of its states are optimizer_states[0], lr_schedulers[0] and so on.
A file that is an optimizer's state_dict itself becomes one too; with a scheduler of torch's it becomes a dict with the
keys "optimizer" and "scheduler".
"""

from __future__ import annotations

import argparse
import itertools
import os
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .._messages import shown
from .errors import CommandError
from .to_ours import UNUSABLE, to_ours
from .to_torch import is_ours, to_torch
from .torch_states import CLASSES, is_scheduler_state

OPTIMIZER, SCHEDULER = "optimizer", "scheduler"  # keys of what has to be added to a file
OPTIMIZERS, SCHEDULERS = "optimizer_states", "lr_schedulers"  # lists of states, in a file of Lightning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file to read")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--to", choices=("ours", "torch"), help="default: to the other one of what CHECKPOINT holds")
    parser.add_argument("--optimizer-key", metavar="KEY", help="where the optimizer's state is; default: by its shape")
    parser.add_argument("--scheduler-key", metavar="KEY", help="where the scheduler's state is, or where to write it")
    parser.add_argument("--scheduler", metavar="CLASS", help=f"what the scheduler is: {', '.join(CLASSES)}")
    parser.add_argument(
        "--each-step",
        action="store_true",
        help="the scheduler is stepped after each step of the optimizer, though it has counted fewer",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if output.is_dir():
        raise CommandError(f"-o must be a file, got the folder {output}")
    if output.exists() and not args.force:
        raise CommandError(f"-o {output} exists; --force overwrites it")
    file = _loaded(args.checkpoint)
    held = _opened(file)
    key = _key(held, args.optimizer_key, _is_optimizer_state, "--optimizer-key", "an optimizer's state_dict")
    optimizer = held if key is None else held[key]
    ours = is_ours(optimizer)
    if args.to == ("ours" if ours else "torch"):
        raise CommandError(f"--to must not be {args.to}: the optimizer's state in {args.checkpoint} is that already")
    convert = _with_torch_states if ours else _with_our_state
    try:
        result, said = convert(args, held, key, optimizer)
    except UNUSABLE as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise CommandError(f"what {args.checkpoint} holds cannot be converted: {reason}") from error
    _save(_closed(result, file), output)
    print("\n".join([f"{output}: for {'torch.optim' if ours else 'sgdr_fused'}", *[f"  {each}" for each in said]]))
    return 0


def _with_our_state(
    args: argparse.Namespace, held: dict[Any, Any], key: Any, optimizer: dict[str, Any]
) -> tuple[dict[Any, Any], list[str]]:
    scheduler_key = None
    if key is not None:
        scheduler_key = _key(held, args.scheduler_key, is_scheduler_state, "--scheduler-key", None)
    elif args.scheduler_key is not None:
        raise CommandError(
            f"--scheduler-key must be a key of the file, got {shown(args.scheduler_key)}: it has no keys"
        )
    if scheduler_key is None and (args.scheduler is not None or args.each_step):
        option = "--scheduler" if args.scheduler is not None else "--each-step"
        raise CommandError(f"{option} is about a scheduler's state, and {args.checkpoint} has none")
    scheduler = None if scheduler_key is None else held[scheduler_key]
    converted, said = to_ours(optimizer, scheduler, args.scheduler, args.each_step)
    if key is None:
        return converted, said
    if scheduler_key is not None:
        said.append(f"the entry {scheduler_key!r} is left out, since the optimizer's state holds what it said")
    return {k: converted if k == key else v for k, v in held.items() if k != scheduler_key}, said


def _with_torch_states(
    args: argparse.Namespace, held: dict[Any, Any], key: Any, optimizer: dict[str, Any]
) -> tuple[dict[Any, Any], list[str]]:
    for option, given in (("--scheduler", args.scheduler is not None), ("--each-step", args.each_step)):
        if given:
            raise CommandError(f"{option} is about a scheduler of torch's that is converted to ours")
    converted, scheduler, said = to_torch(optimizer)
    if scheduler is None:
        return converted if key is None else {**held, key: converted}, said
    result = {OPTIMIZER: converted} if key is None else {**held, key: converted}
    usual = _free_entry(held) if str(key).startswith(f"{OPTIMIZERS}[") else SCHEDULER
    scheduler_key = args.scheduler_key or usual
    if usual != SCHEDULER and scheduler_key != usual and scheduler_key not in held:
        raise CommandError(
            f"--scheduler-key must be {usual!r}, since a file of Lightning has a list, got {scheduler_key!r}"
        )
    if result.get(scheduler_key) not in (None, {}):  # of an InStepScheduler it is empty
        raise CommandError(
            f"the scheduler's state is written to {scheduler_key!r}, which has something else already: name another "
            "key with --scheduler-key"
        )
    result[scheduler_key] = scheduler
    said.append(f"the scheduler's state is under {scheduler_key!r}")
    return result, said


def _opened(file: dict[Any, Any]) -> dict[Any, Any]:
    """Of a file of Lightning, with each state in its lists as an entry of its own; another file as it is."""
    if not all(isinstance(file.get(name), list) for name in (OPTIMIZERS, SCHEDULERS)):
        return file
    held: dict[Any, Any] = {}
    for key, value in file.items():
        held |= (
            {f"{key}[{i}]": state for i, state in enumerate(value)} if key in (OPTIMIZERS, SCHEDULERS) else {key: value}
        )
    return held


def _closed(held: dict[Any, Any], file: dict[Any, Any]) -> dict[Any, Any]:
    """The reverse of `_opened`, which has made the entries of `held` from this file."""
    if _opened(file) is file:
        return held
    return {
        key: [state for name, state in held.items() if str(name).startswith(f"{key}[")]
        if key in (OPTIMIZERS, SCHEDULERS)
        else held[key]
        for key in file
    }


def _free_entry(held: dict[Any, Any]) -> str:
    """The first key in Lightning's list of schedulers that has no state, or an empty one."""
    keys = (f"{SCHEDULERS}[{i}]" for i in itertools.count())
    return next(key for key in keys if held.get(key) in (None, {}))


def _is_optimizer_state(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    return isinstance(groups, list) and bool(groups) and all(isinstance(g, dict) and "params" in g for g in groups)


def _key(
    held: dict[Any, Any], given: str | None, fits: Callable[[Any], bool], option: str, needed: str | None
) -> Any | None:
    """The key of what fits: that which is given, or the only one; None where the file itself fits, or nothing does."""
    fitting = [key for key, value in held.items() if fits(value)]
    if given is not None:
        if given not in held:
            raise CommandError(f"{option} must be one of {shown(list(held))}, got {given!r}")
        if given not in fitting:
            raise CommandError(f"{option} {given!r} does not hold such a state; those that do are {fitting}")
        return given
    if needed is not None and fits(held):
        return None
    if len(fitting) > 1:
        raise CommandError(f"{option} must say which one is meant of {fitting}")
    if not fitting and needed is not None:
        raise CommandError(f"CHECKPOINT holds nothing with the shape of {needed} under its keys, {shown(list(held))}")
    return fitting[0] if fitting else None


def _loaded(file: str) -> dict[Any, Any]:
    torch.serialization.add_safe_globals([Counter])  # MultiStepLR's milestones
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CommandError(f"CHECKPOINT cannot be read: {error}") from None
    except Exception as error:  # torch raises whatever its reader runs into in a damaged file
        reason = " ".join(str(error).split())
        raise CommandError(
            f"CHECKPOINT {file} cannot be read with weights_only=True, which runs no code of a file: {reason[:400]}"
        ) from None
    if not isinstance(held, dict):
        raise CommandError(f"CHECKPOINT must hold a dict, got {shown(type(held))} in {file}")
    return held


def _save(result: dict[Any, Any], output: Path) -> None:
    """Writes a file beside it and renames that, so that nobody sees half of one."""
    unfinished = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        torch.save(result, unfinished)
        os.replace(unfinished, output)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer, for a folder that does not exist
        raise CommandError(f"-o {output} cannot be written: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
