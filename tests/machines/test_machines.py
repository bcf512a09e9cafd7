"""The loops of csrc/cpu, built for another processor or by another compiler, leave the same bits as the extension here.

aarch64: a cross compiler builds, and qemu runs. clang: it builds for this machine.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import recording
import torch
from algorithms import CASE_OF, CASES, EVERY_ALGORITHM
from cases import gradient, params_of
from recorded_bits import BF16, F32, F64, VARIANTS, Variant
from schedule_cases import SCHEDULES
from schedule_extremes import EDGES, EXTREMES, as_text
from torch_features import GRAD_DTYPE

from sgdr_fused._native import backends, toolchain

TESTS = Path(__file__).resolve().parent.parent
FLAGS = [*toolchain.CXX_FLAGS, "-std=c++17", f"-I{toolchain.csrc()}"]
# What becomes one instruction where nothing forbids it, and then rounds once, not twice.
FUSED = re.compile(r"\t(?:fn?m(?:add|sub)|fml[as])\t")


@dataclasses.dataclass(frozen=True)
class Machine:
    """A compiler, and what runs its programs here."""

    compiler: str
    runner: tuple[str, ...]
    package: str

    def missing(self) -> list[str]:
        return [tool for tool in (self.compiler, *self.runner) if shutil.which(tool) is None]


AARCH64 = Machine("aarch64-linux-gnu-g++", ("qemu-aarch64",), "g++-aarch64-linux-gnu and qemu-user")
CLANG = Machine("clang++", (), "clang")


def has_fma() -> bool:
    """Whether the C library's powers and sines take the way here that they take on every aarch64 processor."""
    flags = Path("/proc/cpuinfo")
    return platform.machine() != "x86_64" or (flags.exists() and " fma " in flags.read_text())


needs_aarch64 = pytest.mark.skipif(
    bool(AARCH64.missing()), reason=f"{', '.join(AARCH64.missing())} not found; Debian has {AARCH64.package}"
)
needs_clang = pytest.mark.skipif(bool(CLANG.missing()), reason="no clang++")
needs_fma = pytest.mark.skipif(
    not has_fma(),
    reason="without FMA the C library's pow and sin differ from aarch64's in the last bit, here and there",
)
pytestmark = [
    pytest.mark.once,
    pytest.mark.slow,
    pytest.mark.skipif(backends.load() is None, reason="compares with the extension"),
]
machines = pytest.mark.parametrize(
    "machine",
    [
        pytest.param(AARCH64, id="aarch64", marks=[needs_aarch64, needs_fma]),
        pytest.param(CLANG, id="clang", marks=needs_clang),
    ],
)


def build(machine: Machine, sources: list[Path], folder: Path) -> Path:
    """A program without shared libraries, which needs nothing of the other machine's system."""

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        run([machine.compiler, *FLAGS, "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "program"
    run([machine.compiler, "-static", "-pthread", *objects, "-o", str(program)])
    return program


def run(command: list[str], given: bytes = b"") -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, env={**os.environ, "LD_PRELOAD": ""}, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()[-2000:]}"
    return done.stdout


# ---------------------------------------------------------------------------------------- trainings


def gap(opt, step: int) -> None:
    """One parameter has no gradient at some steps; its average goes on."""
    plain(opt, step)
    if step >= 3:
        params_of(opt)[step % len(SIZES)].grad = None


def transposed(opt, step: int) -> None:
    """Gradients in another order than their parameters."""
    for index, param in enumerate(params_of(opt)):
        param.grad = (
            gradient(param, step, index).mT.contiguous().mT if param.dim() > 1 else gradient(param, step, index)
        )


def wild(opt, step: int) -> None:
    """Gradients of every size, from denormal numbers to infinite ones."""
    plain(opt, step)
    for param in params_of(opt):
        param.grad.mul_(torch.exp2(torch.arange(param.numel()) % 280 - 149).reshape(param.shape))
        for place, value in enumerate((0.0, -0.0, float("inf"))):
            param.grad.view(-1)[place + 1 : place + 2] = value


plain = VARIANTS[0].inputs
SIZES = (0, 1, 4, 7, 33, 63, 64, 65, (5, 6), 513, (9, 41))
# Both sides of what is measured or rounded together, and more than threads divide.
LARGE = (16383, 16385, 65537)
STEPS = 7
OWN_VARIANTS = (
    Variant("gap", inputs=gap, options={"average": "cycle"}),
    Variant("transposed", inputs=transposed),
    Variant("transposed_float64", F64, inputs=transposed),
    Variant("transposed_remainders", BF16, {"master_weights": True, "state_dtype": F32}, transposed),
    Variant("transposed_stochastic", BF16, {"stochastic_rounding": True}, transposed),
    Variant("wild", inputs=wild),
    Variant("wild_bfloat16", BF16, {"stochastic_rounding": True}, wild),
    Variant("wild_float16", torch.float16, {"master_weights": True}, wild),
)
# "none" makes a second plan: at first, a parameter without a gradient takes no part in a plan.
SMALL_VARIANTS = [*(each for each in VARIANTS if each.id != "none"), *OWN_VARIANTS]
OF_EVERY_CASE = ("float32", "float64", "remainders", "wild")
LARGE_VARIANTS = (
    Variant("large", options={"max_grad_norm": 0.5, "average": "cycle"}),
    Variant("large_stochastic", BF16, {"stochastic_rounding": True, "max_grad_norm": 0.5}),
)


def trainings() -> list[recording.Training]:
    """Every algorithm with every variant, every case with a few of them, and large parameters."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with so little work, threads only wait
    try:
        small = [
            recording.record(case, variant, SIZES, STEPS)
            for case in CASES
            for variant in SMALL_VARIANTS
            if (case.id in EVERY_ALGORITHM or variant.id in OF_EVERY_CASE)
            and (GRAD_DTYPE or variant.id != "narrow_gradients")
        ]
        large = [recording.record(CASE_OF[name], each, LARGE, 2) for name in EVERY_ALGORITHM for each in LARGE_VARIANTS]
        return small + large
    finally:
        torch.set_num_threads(threads)


def replay_of(program: list[str], recorded: list[recording.Training], threads: int) -> bytes:
    count = recording.Writer()
    count.integers(len(recorded))
    return run([*program, str(threads)], b"".join([*count.parts, *(each.written for each in recorded)]))


@machines
def test_trainings_leave_the_same_bits(machine: Machine, tmp_path: Path) -> None:
    sources = [*sorted(toolchain.csrc().glob("cpu/*.cpp")), TESTS / "machines" / "replay.cpp"]
    program = [*machine.runner, str(build(machine, sources, tmp_path))]
    recorded = trainings()
    output = replay_of(program, recorded, threads=3)
    assert recording.differences(recorded, output) == []
    assert len(recording.differences(recorded, bytes([output[0] ^ 1]) + output[1:])) == 1


@machines
def test_schedules_have_the_same_bits(machine: Machine, tmp_path: Path) -> None:
    program = build(machine, [TESTS / "schedule_sanitized.cpp"], tmp_path)
    schedules = [*SCHEDULES, *EXTREMES]
    steps = [*range(150), *EDGES]
    text = "\n".join([str(len(schedules)), *(as_text(each._segments(), steps) for each in schedules)])
    lines = run([*machine.runner, str(program)], text.encode()).decode().split()
    values = [float.fromhex(line).hex() for line in lines]
    assert values == [schedule._compiled(step).hex() for schedule in schedules for step in steps]


@needs_aarch64
@pytest.mark.parametrize("source", ["update_1.cpp", "measure_grads.cpp"])
def test_no_product_is_fused_with_a_sum(source: str) -> None:
    """aarch64's compilers do that unless they are told not to, and then a step leaves other bits."""
    command = [AARCH64.compiler, *FLAGS, "-S", "-o", "-", str(toolchain.csrc() / "cpu" / source)]
    assert FUSED.search(run(command).decode()) is None
    assert FUSED.search(run([each for each in command if each != "-ffp-contract=off"]).decode()) is not None


@needs_clang
def test_clang_takes_all_that_is_asked_of_a_function() -> None:
    """clang ignores all of an attribute in which it does not know one name, and builds what it would build without."""
    command = [CLANG.compiler, *FLAGS, "-fsyntax-only", "-Werror=ignored-attributes"]
    run([*command, str(toolchain.csrc() / "cpu" / "update_0.cpp")])
    unknown = subprocess.run(
        [*command, "-xc++", "-"], input=b'__attribute__((target("nonsense"))) void f();', capture_output=True
    )
    assert unknown.returncode != 0
