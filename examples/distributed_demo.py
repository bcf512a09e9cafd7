"""Kills a training of two processes, goes on with four, and compares the losses with those of one process.

Each training is examples/fsdp2.py. All run on the CPU, so that the number of GPUs does not matter. The script prints a
table, draws both curves, and ends with status 1 where they differ by more than the order of additions explains.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

EXAMPLE = Path(__file__).with_name("fsdp2.py")
LIMIT = 240  # seconds for one training; one that takes longer is killed, and the script fails
# More processes add up the same numbers in another order. A float32 of 4 to 8, as the first losses are, has a spacing
# of 4.8e-7, and this training is too smooth to amplify last digits: tests/distributed/test_examples.py reverses the
# order in one process, and finds a difference of at most five such spacings. The bound is twenty of them.
BOUND = 20 * 2.0**-21


class Row(NamedTuple):
    step: int
    processes: int
    loss: float
    lr: float


def read(file: Path) -> list[Row]:
    """The steps in the file that a training writes; none while there is no file yet."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["grad_norm"]]  # the last row may be half written
    return [Row(int(row["step"]), int(row["processes"]), float(row["loss"]), float(row["lr"])) for row in rows]


def kill(process: subprocess.Popen[Any]) -> None:
    """Kills a process and its children, which get no chance to save anything."""
    process.send_signal(signal.SIGSTOP)  # so that torchrun neither notices nor replaces what is gone
    tasks = Path("/proc", str(process.pid), "task")
    children = [int(child) for file in tasks.glob("*/children") for child in file.read_text().split()]
    for pid in (*children, process.pid):
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(pid, signal.SIGKILL)
    process.wait()


@contextmanager
def started(script: Path, processes: int, arguments: list[str]) -> Iterator[subprocess.Popen[Any]]:
    """A script in so many processes, which are killed at the end of the context if they still run."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(script), *arguments]
    process = subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        if process.poll() is None:
            kill(process)


def train(script: Path, processes: int, arguments: list[str]) -> None:
    with started(script, processes, arguments) as process:
        status = process.wait(timeout=LIMIT)
    if status:
        raise RuntimeError(f"{script.name} ended with status {status} in {processes} processes")


def train_and_kill(processes: int, arguments: list[str], file: Path, steps: int) -> None:
    """Kills all processes of a training as soon as its file has so many steps."""
    end = time.monotonic() + LIMIT
    with started(EXAMPLE, processes, arguments) as process:
        while len(read(file)) < steps:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{EXAMPLE.name} did not come to step {steps}, status {process.returncode}")
            time.sleep(0.02)
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{EXAMPLE.name} ended by itself, with status {process.returncode}, before it was killed")


def last_checkpoint(folder: Path) -> int:
    """The step of the last complete checkpoint."""
    return max(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def is_same(alone: list[Row], resumed: list[Row], saved: int, steps: int) -> bool:
    """Prints what both trainings did, and returns whether it is the same."""
    if [row.step for row in alone] != list(range(steps)) or [row.step for row in resumed] != list(range(steps)):
        raise RuntimeError(f"{len(alone)} and {len(resumed)} steps were written, and not {steps}")
    if [row.processes for row in resumed] != [2] * saved + [4] * (steps - saved):
        raise RuntimeError("the four processes did not go on where the two had saved a checkpoint")
    differences = [abs(one.loss - other.loss) for one, other in zip(alone, resumed, strict=True)]
    print(f"\n{'step':>5}{'processes':>11}{'loss':>11}{'alone':>11}{'difference':>12}{'rate':>11}")
    for i in [*range(0, steps, max(steps // 14, 1)), steps - 1]:
        row = resumed[i]
        print(f"{i:>5}{row.processes:>11}{row.loss:>11.6f}{alone[i].loss:>11.6f}{differences[i]:>12.1e}{row.lr:>11.2e}")
    print(f"\nlargest difference of the losses over all {steps} steps: {max(differences):.1e}; bound: {BOUND:.1e}")
    same_rates = [row.lr for row in alone] == [row.lr for row in resumed]
    print(f"the rates are {'the same' if same_rates else 'NOT the same'}, bit for bit")
    return same_rates and all(difference <= BOUND for difference in differences)  # a NaN is not


def draw(alone: list[Row], resumed: list[Row], saved: int, killed: int, file: Path) -> None:
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    rate, loss = figure.subplots(2, 1, sharex=True, height_ratios=[2, 3])
    wide: dict[str, Any] = {"color": "#f0a35e", "linewidth": 5, "label": "one process, uninterrupted"}
    styles: dict[int, dict[str, Any]] = {2: {"color": "#1f3b73"}, 4: {"color": "#2a8f5b"}}
    for axes, column in ((rate, "lr"), (loss, "loss")):
        axes.plot([row.step for row in alone], [getattr(row, column) for row in alone], **wide)
        for processes, style in styles.items():
            part = [row for row in resumed if row.processes == processes]
            points = [row.step for row in part], [getattr(row, column) for row in part]
            axes.plot(*points, linewidth=1.4, label=f"{processes} processes", **style)
        axes.axvline(saved, color="0.4", linestyle="--", label=f"checkpoint after {saved} steps, where four go on")
        axes.axvline(killed, color="#c03030", linestyle=":", label=f"the two are killed, after {killed} steps or more")
        axes.grid(alpha=0.3)
    rate.set(title="Learning rate: cosine annealing with warm restarts", ylabel="learning rate")
    loss.set(title="Training loss", ylabel="cross-entropy (nats)", xlabel="step")
    loss.legend()
    figure.savefig(file, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=140, help="default: %(default)s")
    parser.add_argument("--kill-after", type=int, default=50, metavar="N", help="steps; default: %(default)s")
    parser.add_argument("--save-every", type=int, default=20, metavar="N", help="steps; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder; default: %(default)s")
    options = parser.parse_args(arguments)

    folder, picture = options.out / "distributed", options.out / "distributed.png"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    alone, resumed, checkpoint = folder / "alone.csv", folder / "resumed.csv", folder / "checkpoint"
    steps = ["--steps", str(options.steps)]
    saves = [*steps, "--checkpoint", str(checkpoint), "--save-every", str(options.save_every)]

    print("one process", flush=True)
    train(EXAMPLE, 1, [*steps, "--out", str(alone)])
    print("two processes, to be killed", flush=True)
    train_and_kill(2, [*saves, "--out", str(resumed)], resumed, options.kill_after)
    killed, saved = len(read(resumed)), last_checkpoint(checkpoint)
    print(f"\nkilled after {killed} steps or more; four processes go on from the checkpoint of {saved}", flush=True)
    train(EXAMPLE, 4, [*saves, "--out", str(resumed)])

    same = is_same(read(alone), read(resumed), saved, options.steps)
    draw(read(alone), read(resumed), saved, killed, picture)
    print(f"{'the same curve' if same else 'ANOTHER CURVE'}\npicture: {picture}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
