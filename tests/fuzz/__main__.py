"""Runs the machine for a time, or for a number of sequences: see --help."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import run_state_machine_as_test

from .machine import OptimizerMachine

BATCH = 100  # sequences with one seed


def without(names: list[str]) -> type[OptimizerMachine]:
    """The machine without those actions: to look for more beside a failure that is known."""
    for name in names:
        getattr(OptimizerMachine, name)  # raises for what is none
    return type("Machine", (OptimizerMachine,), dict.fromkeys(names))


def run_batch(machine: type[OptimizerMachine], number: int, args: argparse.Namespace) -> None:
    size = min(BATCH, args.sequences or BATCH)
    chosen = settings(
        max_examples=size,
        stateful_step_count=args.actions,
        deadline=None,
        database=None if args.keep_going else DirectoryBasedExampleDatabase(args.database),
        suppress_health_check=list(HealthCheck),
        phases=[phase for phase in Phase if args.shrink or phase is not Phase.shrink],
        print_blob=True,
    )
    run_state_machine_as_test(seed(number)(lambda: machine()), settings=chosen)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long, at most (3600)")
    parser.add_argument("--sequences", type=int, default=0, help="how many, at most; 0: as the time allows")
    parser.add_argument("--actions", type=int, default=30, help="of a sequence, at most (30)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first batch; the next ones count up")
    parser.add_argument("--without", nargs="*", default=[], metavar="ACTION", help="actions to leave out")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure, which is not kept")
    parser.add_argument("--shrink", action=argparse.BooleanOptionalAction, default=True, help="simplify a failure")
    database = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sgdr_fused" / "fuzz"
    parser.add_argument("--database", type=Path, default=database, help=f"of failures, tried first ({database})")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what an action has to warn of, it looks at itself
    machine, counts, failures = without(args.without), OptimizerMachine.counts, 0
    start = shown = time.monotonic()
    number = args.seed
    while time.monotonic() - start < args.seconds and counts["sequences"] < (args.sequences or float("inf")):
        try:
            run_batch(machine, number, args)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                break
            failures += 1
            traceback.print_exc()
            print(f"again: python -m fuzz --seed {number} --sequences {BATCH} --actions {args.actions}", flush=True)
            if not args.keep_going:
                break
        number += 1
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"{shown - start:.0f} s: {dict(counts)}, {failures} failures", flush=True)
    print(
        f"{counts['sequences']} sequences, {counts['actions']} actions, {failures} failures, seeds {args.seed} to "
        f"{number - 1}, {time.monotonic() - start:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
