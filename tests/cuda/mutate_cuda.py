"""Breaks the CUDA sources on purpose, one place at a time, and checks that the tests notice each time.

    python tests/cuda/mutate_cuda.py [--gpu-runner COMMAND] [--jobs N] [NAME ...]

A mutation is caught if the sources still compile and an assertion fails, on values or on counts; a test that ends in
any other error does not count, nor does one that fails on the sources as they are. Each names the file of tests that
has to notice, because all of them would take an hour. Most run on the emulated kernels.
Each refers to the code by its text, and to the tests by the name of their file, in whichever folder. test_mutations.py
checks that both are there.
Some only show where accesses are ordered as loosely as a GPU's: for them, --gpu-runner is a command, with an absolute
path, that runs a program on a pretend GPU which tracks races.
"""

from __future__ import annotations

import argparse
import dataclasses
import queue
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from mutated_checkout import REPORT, ROOT, copy_checkout, failed_assertion, prepare_for_races, run_tests

STEP = "csrc/step/fused_step.h"
KERNEL = "csrc/cuda/fused_step.cu"
DENSE = "csrc/cuda/update_dense.cuh"
MEASURE = "csrc/cuda/measure_grads.cu"
PARTIAL_SUMS = "csrc/cuda/partial_sums.cuh"
TENSORS = "csrc/cuda/measure_params.cu"
SQUARES = "csrc/cuda/measure_params_dense.cuh"
WORK = "csrc/cuda/work.cuh"
ELEMENT = "csrc/cuda/update_element.cuh"
ARGUMENTS = "csrc/cuda/arguments.cuh"
GRADIENT = "csrc/cuda/gradient.cuh"
STATES = "csrc/cuda/state_storage.cuh"
CLIPPING = "csrc/step/clipping.h"


@dataclasses.dataclass(frozen=True)
class Mutation:
    name: str
    old: str
    new: str
    path: str = KERNEL
    is_race: bool = False
    tests: str = "emulation"  # the file of those that notice: test_emulation.py, in any folder
    places: int = 1  # where `old` stands, all of which are changed


MUTATIONS = (
    Mutation("tail: the last element is left out", "(threadIdx.x); i < count;", "(threadIdx.x); i + 1 < count;", DENSE),
    Mutation("tail: begins one element late", "int i = body + static_cast", "int i = body + 1 + static_cast", DENSE),
    Mutation("body: the last vector is left out", "i + kCount <= count;", "i + 2 * kCount <= count;", DENSE),
    Mutation("body: a vector of something else", "g.load_whole(chunk.grad", "g.load_whole(chunk.param", DENSE),
    Mutation(
        "unscaling: not written back",
        "if (changes.unscales) g.store",
        "if (false) g.store",
        DENSE,
        tests="amp",
        places=2,
    ),
    Mutation(
        "gradients in 16 bits: of the other type",
        "return f(Half{});",
        "return f(BFloat16{});",
        GRADIENT,
        tests="narrow_gradients",
    ),
    Mutation(
        "gradients in 16 bits: wrong base",
        "static_cast<decltype(type)*>(",
        "static_cast<param_t*>(",
        GRADIENT,
        tests="narrow_gradients",
    ),
    Mutation(
        "gradients in 16 bits: one is left out",
        "j < Vector<param_t>::kCount",
        "j + 1 < kCount",
        GRADIENT,
        tests="narrow_gradients",
        places=2,
    ),
    Mutation("states: swapped", "load_whole(chunk.states[k]", "load_whole(chunk.states[kStates - 1 - k]", STATES),
    Mutation("states: one too few", "(work.tensor.num_states < kStates)", "(work.tensor.num_states <= kStates)"),
    Mutation("chunk: wrong base", "(chunk.index) * size;", "(chunk.index) * (size - 4);", STEP),
    Mutation("chunk: 32 bits", "static_cast<int64_t>(chunk.index) *", "static_cast<uint32_t>(chunk.index) *", STEP),
    Mutation("chunk: gradient of another tensor", "grads[chunk->tensor - header.first_tensor]", "grads[0]", WORK),
    Mutation(
        "strides: threads overlap",
        "kThreads) {\n    int64_t offsets[2 +",
        "kThreads / 2) {\n    int64_t offsets[2 +",
        ELEMENT,
    ),
    Mutation("barrier: hyperparameters are read too early", "index);\n  __syncthreads();", "index);"),
    Mutation(
        "barrier: scalars are read too early",
        "}\n    __syncthreads();\n    if (work.grad",
        "}\n    if (work.grad",
        is_race=True,
        tests="groups",
    ),
    Mutation(
        "barrier: the last block does not know it", "  __syncthreads();\n  return last;", "  return last;", ARGUMENTS
    ),
    Mutation("ticket: not reset", "atomicInc(ticket, blocks - 1)", "atomicInc(ticket, 0xffffffffu)", ARGUMENTS),
    Mutation("ticket: the first block takes itself for the last", "== blocks - 1;  //", "== 0;  //", ARGUMENTS),
    Mutation(
        "fence: none around the ticket", "    __threadfence();\n", "", ARGUMENTS, is_race=True, tests="groups", places=2
    ),
    Mutation(
        "fence: none before the ticket",
        "    __threadfence();\n    last",
        "    last",
        ARGUMENTS,
        is_race=True,
        tests="groups",
    ),
    Mutation("group: always the first", ": group * kMaxHypers + k;", ": k;", WORK, tests="groups"),
    Mutation(
        "group: numbers of another one",
        "numbers[(group - header.first_group) *",
        "numbers[0 *",
        WORK,
        tests="groups",
    ),
    Mutation("clock: advanced twice", "*plan.clock = next;", "*plan.clock = next + 1;"),
    Mutation("clock: advanced by each launch", "if (header.is_last_launch) {", "if (true) {", tests="groups"),
    Mutation(
        "clock: the rate shown is the last step's",
        "(next & 1) * num_hypers",
        "(clock & 1) * num_hypers",
        tests="groups",
    ),
    Mutation(
        "ahead: whatever step it was made for",
        "plan.next_values.steps[step & 1] == step;",
        "plan.next_values.steps[step & 1] != kNoStep;",
        WORK,
        tests="schedules_in_steps",
    ),
    Mutation(
        "ahead: only what the first block makes",
        "blockIdx.x * kNextValuesPerBlock +",
        "0 * kNextValuesPerBlock +",
        WORK,
        tests="groups",
    ),
    Mutation(
        "lots: each block's begin anew",
        "word += static_cast<uint32_t>(work.begin % kCell)",
        "word += 0",
        WORK,
        tests="stochastic_rounding",
    ),
    Mutation("counts: also without a gradient", "if (grads[i] != nullptr) apply(", "if (true) apply(", tests="groups"),
    Mutation(
        "counts: also without momentum",
        "tensor.steps != nullptr && Algorithm::counts(hypers)",
        "tensor.steps != nullptr",
        STEP,
        tests="replaced",
    ),
    Mutation(
        "counts: a product that no step advances",
        "*tensor.product *= update.factor",
        "*tensor.product *= 1.0",
        STEP,
        tests="groups",
    ),
    Mutation("skip: ignored", "if (skips(plan.clipping, header.found_inf)) {", "if (false) {", tests="amp"),
    Mutation("clip: ignored", "return changes.clips ?", "return changes.clips && false ?", ELEMENT, tests="clipping"),
    Mutation(
        "clip: by another coefficient", "(clip_coefficient(", "(0.5 * clip_coefficient(", CLIPPING, tests="clipping"
    ),
    Mutation(
        "norm: the last element is left out",
        "i < count; i += kThreads",
        "i + 1 < count; i += kThreads",
        MEASURE,
        tests="nonfinite",
    ),
    Mutation(
        "norm: every second row is left out",
        "row += kPartialSums) {",
        "row += 2 * kPartialSums) {",
        MEASURE,
        tests="nonfinite",
    ),
    Mutation(
        "norm: the sum of another chunk",
        "clipping.chunks[index] =",
        "clipping.chunks[blockIdx.x] =",
        MEASURE,
        tests="nonfinite",
    ),
    Mutation(
        "norm: another order",
        "partial_sums[i] += partial_sums[half + i]",
        "partial_sums[i] += partial_sums[2 * half - 1 - i]",
        PARTIAL_SUMS,
    ),
    Mutation(
        "norm: what the first thread saw", "  nonfinite = __syncthreads_or(nonfinite);", "", MEASURE, tests="nonfinite"
    ),
    # Without the condition every launch would finish it, the last one for good: that only takes longer.
    Mutation(
        "norm: not finished by the last launch",
        "!header.is_last_launch || ",
        "header.is_last_launch || ",
        MEASURE,
        tests="nonfinite",
    ),
    Mutation("squares: put down for another tensor", "tensors[work.chunk.tensor] =", "tensors[0] =", TENSORS),
    Mutation("squares: the sums of another chunk", "chunks[work.chunk.index] =", "chunks[0] =", TENSORS),
    Mutation("squares: a ticket for all tensors", "tickets + work.chunk.tensor", "tickets + 0", TENSORS),
    Mutation(
        "squares: only the first chunk",
        "add_chunks(chunks, count, partial_sums)",
        "add_chunks(chunks, 1, partial_sums)",
        TENSORS,
    ),
    Mutation(
        "squares: the last element is left out", "i < count && i < first + 2", "i + 1 < count && i < first + 2", SQUARES
    ),
    Mutation(
        "squares: every second row is left out", "+= kThreads * kCount) {", "+= 2 * kThreads * kCount) {", SQUARES
    ),
    Mutation(
        "squares: another gradient",
        "clip_element<T>(g, changes, factors), states",
        "g, states",
        SQUARES,
        tests="clipping",
    ),
    Mutation("squares: without the scale", "if (changes.unscales) g = g / factors.scale;", "", SQUARES, tests="amp"),
    Mutation(
        "launcher: gradients of another launch",
        "step.grads + range.first_tensor,",
        "step.grads,",
        ARGUMENTS,
        tests="groups",
    ),
    Mutation(
        "launcher: other numbers", "step.numbers + range.first_group *", "step.numbers + 0 *", ARGUMENTS, tests="groups"
    ),
)


def files_of_tests(mutation: Mutation) -> list[str]:
    """The file of the tests that have to notice it, from the checkout: one, unless the name is wrong."""
    found = sorted((ROOT / "tests").rglob(f"test_{mutation.tests}.py"))
    return [str(path.relative_to(ROOT)) for path in found]


def misfit(mutation: Mutation) -> str | None:
    """What the mutation says of the code or of the tests that is no longer so; None if all is well."""
    path = ROOT / mutation.path
    places = path.read_text().count(mutation.old) if path.is_file() else 0
    if places != mutation.places:
        return f"{mutation.path} has {mutation.old!r} in {places} places, not in {mutation.places}"
    if mutation.old == mutation.new:
        return "it changes nothing"
    files = files_of_tests(mutation)
    if len(files) != 1:
        return f"tests/ has {len(files)} files named test_{mutation.tests}.py, not one"
    return None


class Verdict(NamedTuple):
    mutation: Mutation
    caught_by: str | None  # the test
    text: str


def verdict_on(mutation: Mutation, checkouts: queue.Queue[Path], runner: str) -> Verdict:
    """Whether it is caught, and by what; in whichever checkout is free."""
    start = time.monotonic()
    checkout = checkouts.get()
    path = checkout / mutation.path
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        if mutation.is_race:
            prepare_for_races(checkout)
        done = run_tests(checkout, files_of_tests(mutation), mutation.is_race, runner)
        caught = failed_assertion(checkout / REPORT) if done.returncode == 1 else None
    finally:
        path.write_text(text)
        checkouts.put(checkout)
    by = ": ".join(caught) if caught else f"NOT CAUGHT (exit {done.returncode})\n{done.stdout[-2000:]}"
    return Verdict(mutation, caught and caught[0], f"{mutation.name} ({time.monotonic() - start:.0f} s): {by}")


def fail_anyway(verdicts: Iterable[Verdict], checkout: Path, runner: str) -> bool:
    """Whether one of the tests that caught something fails on the sources as they are."""
    for is_race in (False, True):
        tests = sorted({v.caught_by for v in verdicts if v.caught_by and v.mutation.is_race == is_race})
        if tests and is_race:
            prepare_for_races(checkout)
        done = run_tests(checkout, tests, is_race, runner) if tests else None
        if done is not None and done.returncode != 0:
            print(f"fails without a mutation:\n{done.stdout}\n{done.stderr}")
            return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpu-runner", default="", help="a command that runs a program on a pretend GPU")
    parser.add_argument("--jobs", type=int, default=2, help="mutations at a time, each in a checkout of its own")
    parser.add_argument("names", nargs="*", help="mutations whose names contain one of these; default: all")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if not arguments.names or any(name in m.name for name in arguments.names)]
    misfits = [f"{mutation.name}: {reason}" for mutation in chosen if (reason := misfit(mutation))]
    if misfits or not chosen:
        print("\n".join(misfits) or "no mutation has such a name")
        return 1
    left_out = [m for m in chosen if m.is_race and not arguments.gpu_runner]
    chosen = [m for m in chosen if m not in left_out]
    chosen.sort(key=lambda m: not m.is_race)  # which takes longest

    with tempfile.TemporaryDirectory() as scratch:
        checkouts: queue.Queue[Path] = queue.Queue()
        for i in range(arguments.jobs):
            checkout = Path(scratch, f"checkout{i}")
            copy_checkout(checkout)
            checkouts.put(checkout)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            running = [pool.submit(verdict_on, m, checkouts, arguments.gpu_runner) for m in chosen]
            for done in as_completed(running):
                print(done.result().text, flush=True)
        verdicts = [done.result() for done in running]
        unusable = fail_anyway(verdicts, checkouts.get(), arguments.gpu_runner)
    caught = sum(verdict.caught_by is not None for verdict in verdicts)
    for mutation in left_out:
        print(f"{mutation.name}: not run, needs --gpu-runner")
    print(f"{caught} of {len(chosen)} mutations caught")
    return 0 if caught == len(chosen) and not unusable else 1


if __name__ == "__main__":
    sys.exit(main())
