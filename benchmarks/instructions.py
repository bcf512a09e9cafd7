"""How many instructions is a step of the MLP, and whose are they? Counted by callgrind, they hardly vary.

    python benchmarks/instructions.py            prints the table
    python benchmarks/instructions.py --write    also puts it into docs/performance.md

A loop that hands out gradients and steps, less one that only hands them out, each for the second time. One thread.
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

from report import put, table
from results import ROOT

from sgdr_fused import _build

STEPS = 200
PAGE = ROOT / "docs" / "performance.md"
COUNTED = [(algorithm, name) for algorithm in ("sgd", "adam") for name in ("sgdr_fused", "torch fused")]
WHOSE = {
    "sgdr_fused's extension": r"/sgdr_fused/_C\.",
    "torch's libraries": r"/libtorch|/libc10|/torch/lib/|libgomp",
    "Python": r"python",
}
OTHERS = "others"  # the C library, mostly: memory is allocated and copied

Counts = dict[str, int]  # instructions by whose they are


def counted_process(library: str) -> None:
    """What runs under callgrind, which writes a file at each mark: of what came before it."""
    import torch
    from implementations import BUILDERS, Model, our_optimizer
    from workloads import WORKLOADS

    torch.set_num_threads(1)
    gc.disable()
    marks = ctypes.CDLL(library)
    marks.start()
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
            loop(STEPS, stepping)  # the interpreter adapts to it
            marks.mark()
            loop(STEPS, stepping)
            marks.mark()


def by_owner(dump: str) -> Counts:
    """Of the instructions in a dump, those of each object's own functions."""
    objects: dict[str, str] = {}
    counts: Counts = defaultdict(int)
    owner, of_a_call = OTHERS, False
    for line in dump.splitlines():
        key, _, value = line.partition("=")
        if key in ("ob", "cob"):  # of the function, or of one that it calls; named where a number first stands
            number, _, name = value.partition(" ")
            path = objects.setdefault(number, name)
            if key == "ob":
                owner = next((who for who, pattern in WHOSE.items() if re.search(pattern, path)), OTHERS)
        elif key == "calls":
            of_a_call = True  # the line after has what the function that is called has cost
        elif re.match(r"[\d+*-]", line):
            if not of_a_call:
                counts[owner] += int(line.split()[1])
            of_a_call = False
    return counts


def count() -> dict[tuple[str, str], Counts]:
    """Instructions per step, by algorithm and implementation."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/marks.so"
        build = [*_build.compiler(), "-xc", "-shared", "-fPIC", str(Path(__file__).with_name("marks.c")), "-o", library]
        if subprocess.run(build).returncode != 0:
            raise SystemExit("benchmarks/marks.c cannot be built: it needs valgrind's headers")
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/counts"]
        # The same addresses, hashes and so paths each time.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, __file__, "--counted", library]
        done = subprocess.run([*command, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"valgrind has failed:\n{done.stderr[-3000:]}")
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
    parser.add_argument("--counted", metavar="MARKS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.counted:
        return counted_process(arguments.counted)
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is missing: apt-get install valgrind, or the like. Nothing else needs it.")
    text = report(count())
    print(text)
    if arguments.write:
        PAGE.write_text(put(PAGE.read_text(), "bench: instructions", text))


if __name__ == "__main__":
    main()
