"""Counts the instructions of a step of a small model by callgrind, and says whose they are. They hardly vary.

    python benchmarks/instructions.py            prints the tables
    python benchmarks/instructions.py --write    also puts them into docs/performance.md

What is counted is a loop that hands out gradients and steps, less a loop that only hands them out. Each loop is counted
when it runs for the second time, with one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from racing import OURS
from report import put
from results import ROOT
from tables import ALGORITHMS, WORKLOADS, table

from sgdr_fused._native import toolchain

STEPS = {"mlp": 200, "500x64": 20}
PAGE = ROOT / "docs" / "performance.md"
COUNTED = [
    (workload, algorithm, name)
    for workload in ("mlp", "500x64")
    for algorithm in ("sgd", "adam")
    for name in ("sgdr_fused", "torch fused")
]
EXTENSION = "sgdr_fused's extension"
WHOSE = {
    EXTENSION: r"/sgdr_fused/_C\.",
    "torch's libraries": r"/libtorch|/libc10|/torch/lib/|libgomp",
    "Python": r"python",
}
OTHERS = "others"  # mostly the C library, which allocates and copies memory
# The extension's functions belong to the first part whose pattern they match.
PARTS = {
    "elements": r"cpu::run_\w+<",
    "tensors looked at": r"\bGuards::collect",
    "versions counted up": r"\bGuards::bump_versions",
    "hyperparameters, counts, shares": r"cpu::|OptimizerPlan::run",
}
THE_REST = "bindings and the rest"

Counts = dict[str, int]  # instructions by whose they are, or by part
Key = tuple[str, str, str]  # workload, algorithm, implementation


def counted_process(library: str) -> None:
    """Runs under callgrind, which writes a file at each mark, with what it has counted since the mark before."""
    import torch
    from implementations import BUILDERS, Model, our_optimizer
    from workloads import WORKLOADS as MODELS

    torch.set_num_threads(1)
    gc.disable()
    marks = ctypes.CDLL(library)
    marks.start()
    for workload, algorithm, name in COUNTED:
        model = Model(MODELS[workload])
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
            loop(STEPS[workload], stepping)  # the interpreter adapts to the loop
            marks.mark()
            loop(STEPS[workload], stepping)
            marks.mark()


def first_match(patterns: dict[str, str], text: str, otherwise: str) -> str:
    return next((name for name, pattern in patterns.items() if re.search(pattern, text)), otherwise)


def by_owner_and_part(dump: str) -> Counts:
    """The instructions in a dump by whose functions they are in, and those of the extension by part too."""
    names: dict[str, dict[str, str]] = {"ob": {}, "fn": {}}
    counts: Counts = defaultdict(int)
    owner, part, of_a_call = OTHERS, THE_REST, False
    for line in dump.splitlines():
        key, _, value = line.partition("=")
        if key in (
            "ob",
            "cob",
            "fn",
            "cfn",
        ):  # the function itself, or a callee; a name stands only beside the first use of its number
            number, _, name = value.partition(" ")
            name = names[key[-2:]].setdefault(number, name)
            if key == "ob":
                owner = first_match(WHOSE, name, OTHERS)
            elif key == "fn":
                part = first_match(PARTS, name, THE_REST)
        elif key == "calls":
            of_a_call = True  # the next line has the cost of the called function
        elif re.match(r"[\d+*-]", line):
            if not of_a_call:
                cost = int(line.split()[1])
                counts[owner] += cost
                if owner == EXTENSION:
                    counts[part] += cost
            of_a_call = False
    return counts


def count() -> dict[Key, Counts]:
    """Instructions per step."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/marks.so"
        build = [
            *toolchain.compiler(),
            "-xc",
            "-shared",
            "-fPIC",
            str(Path(__file__).with_name("marks.c")),
            "-o",
            library,
        ]
        if subprocess.run(build).returncode != 0:
            raise SystemExit("benchmarks/marks.c cannot be built: it needs valgrind's headers")
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/counts"]
        # Hashes, and so the paths through the code, are the same in each run.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, __file__, "--counted", library]
        done = subprocess.run([*command, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"valgrind has failed:\n{done.stderr[-3000:]}")
        dumps = sorted(Path(folder).glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        loops = [by_owner_and_part(path.read_text()) for path in dumps[1 : 4 * len(COUNTED) : 2]]
    result = {}
    columns = (*WHOSE, OTHERS, *PARTS, THE_REST)
    for key, stepping, idle in zip(COUNTED, loops[::2], loops[1::2], strict=True):
        result[key] = {column: (stepping[column] - idle[column]) // STEPS[key[0]] for column in columns}
        unmatched = [part for part in PARTS if key[2] == OURS and stepping[part] == 0]
        if unmatched:
            raise SystemExit(f"no function of the extension matches the patterns of {unmatched} in PARTS")
    return result


def rows(counts: dict[Key, Counts], columns: list[str], of_all: bool) -> str:
    body = []
    for (workload, algorithm, name), of_one in counts.items():
        if of_all or name == OURS:
            numbers = [of_one[column] for column in columns]
            job = f"{ALGORITHMS[algorithm]}, {WORKLOADS[workload]}"
            left = (job, name) if of_all else (job,)
            body.append((*left, *(f"{instructions:,}" for instructions in (*numbers, sum(numbers)))))
    return table(("", "", *columns, "all") if of_all else ("", *columns, "all"), body, left=2 if of_all else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--counted", metavar="MARKS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.counted:
        return counted_process(arguments.counted)
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is missing: apt-get install valgrind, or the like. Nothing else needs it.")
    counts = count()
    tables = {
        "bench: instructions": rows(counts, [*WHOSE, OTHERS], of_all=True),
        "bench: instructions by part": rows(counts, [*PARTS, THE_REST], of_all=False),
    }
    for text in tables.values():
        print(text, end="\n\n")
    if arguments.write:
        page = PAGE.read_text()
        for name, text in tables.items():
            page = put(page, name, text)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
