"""How many instructions is a step of the MLP, and whose are they? Counted by callgrind, they hardly vary.

    python benchmarks/instructions.py            prints the table
    python benchmarks/instructions.py --write    also puts it into docs/performance.md

A loop that hands out gradients and steps, less one that only hands them out, after a few steps of each. One thread.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from report import put, table
from results import ROOT

STEPS = 200
PAGE = ROOT / "docs" / "performance.md"
COUNTED = [(algorithm, name) for algorithm in ("sgd", "adam") for name in ("sgdr_fused", "torch fused")]
# callgrind writes what it has counted, and starts anew, where the process calls this function; nothing else here does.
MARK = "getppid"
WHOSE = {
    "sgdr_fused's extension": r"/sgdr_fused/_C\.",
    "torch's libraries": r"/libtorch|/libc10|/torch/lib/|libgomp",
    "Python": r"python",
}
OTHERS = "others"  # the C library, mostly: memory is allocated and copied

Counts = dict[str, int]  # instructions by whose they are


def counted_process() -> None:
    """What runs under callgrind: a mark before and after each loop."""
    import torch
    from implementations import BUILDERS, Model, our_optimizer
    from workloads import WORKLOADS

    torch.set_num_threads(1)
    for algorithm, name in COUNTED:
        model = Model(WORKLOADS["mlp"])
        if name == "sgdr_fused":
            step = our_optimizer(algorithm, "cosine", model).step
        else:
            step = BUILDERS[name](algorithm, "cosine", model)

        def loop(steps: int, stepping: bool, model: Model = model, step: object = step) -> None:
            for number in range(steps):
                model.new_gradients(number)
                if stepping:
                    step()  # type: ignore[operator]

        for stepping in (True, False):
            loop(20, stepping)
            os.getppid()
            loop(STEPS, stepping)
            os.getppid()


def by_owner(dump: str) -> Counts:
    """Of the instructions in a dump, those of each object's own functions."""
    objects: dict[str, str] = {}
    counts: Counts = defaultdict(int)
    owner, of_a_call = OTHERS, False
    for line in dump.splitlines():
        if line.startswith("ob="):
            number, _, name = line[3:].partition(" ")
            path = objects.setdefault(number, name)
            owner = next((who for who, pattern in WHOSE.items() if re.search(pattern, path)), OTHERS)
        elif line.startswith("calls="):
            of_a_call = True  # the line after has what the function that is called has cost
        elif re.match(r"[\d+*-]", line):
            if not of_a_call:
                counts[owner] += int(line.split()[1])
            of_a_call = False
    return counts


def count() -> dict[tuple[str, str], Counts]:
    """Instructions per step, by algorithm and implementation."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--dump-before={MARK}", f"--callgrind-out-file={folder}/counts"]
        # The same addresses, hashes and so paths each time.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, __file__, "--counted"]
        done = subprocess.run([*command, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"valgrind has failed:\n{done.stderr[-3000:]}")
        # Each dump is of what came before its mark: every second one of a loop.
        dumps = sorted(Path(folder).glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        loops = [by_owner(path.read_text()) for path in dumps[1 : 4 * len(COUNTED) : 2]]
    result = {}
    for key, stepping, idle in zip(COUNTED, loops[::2], loops[1::2], strict=True):
        result[key] = {who: (stepping[who] - idle[who]) // STEPS for who in (*WHOSE, OTHERS)}
    return result


def report(counts: dict[tuple[str, str], Counts]) -> str:
    body = []
    for (algorithm, name), of_one in counts.items():
        numbers = [f"{instructions:,}" for instructions in (*of_one.values(), sum(of_one.values()))]
        body.append(({"sgd": "SGD", "adam": "Adam"}[algorithm], name, *numbers))
    return table(("", "", *WHOSE, OTHERS, "all"), body, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--counted", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.counted:
        return counted_process()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is missing: apt-get install valgrind, or the like. Nothing else needs it.")
    text = report(count())
    print(text)
    if arguments.write:
        PAGE.write_text(put(PAGE.read_text(), "bench: instructions", text))


if __name__ == "__main__":
    main()
