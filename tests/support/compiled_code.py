"""What nvcc made of the kernels, read from the machine code (SASS): registers, local memory, accesses to memory."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from functools import cached_property
from pathlib import Path

from sgdr_fused._native import backends, toolchain

ARCHITECTURES = ("sm_80", "sm_90")
THREADS = 256  # per block: kThreads in fused_step.cu


def cuobjdump() -> str | None:
    """The path of cuobjdump, from PATH, the toolkit, or the triton package, which carries one; None without."""
    candidates = [Path(home, "bin") for home in [toolchain.cuda_home()] if home]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        candidates.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return next((found for path in [None, *candidates] if (found := shutil.which("cuobjdump", path=path))), None)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture. `algorithm` is None where it is the same for all."""

    kind: str  # step, measure_grads, measure_params, show or report_norm
    architecture: str
    algorithm: str | None
    param: str
    state: str
    argument_bytes: int
    registers: int
    local_bytes: int  # of local memory, where registers are spilled too
    instructions: list[tuple[int, str]] = dataclasses.field(repr=False)  # address, text

    @property
    def id(self) -> str:
        return f"{self.architecture}-{self.kind}-{self.algorithm}-{self.param}-{self.state}-{self.argument_bytes}"

    @property
    def occupancy(self) -> float:
        """The part of a multiprocessor's 64 warps that its 65,536 registers allow, of 256 threads a block.

        Registers are given to a warp in units of 256 (CUDA C++ Programming Guide, compute capabilities 8.0 and 9.0).
        Shared memory limits nothing: a step takes a few hundred bytes, a pass that measures 17 KB of 164 for each of at
        most eight blocks.
        """
        registers_per_warp = -(-self.registers * 32 // 256) * 256
        warps_per_block = THREADS // 32
        return 65536 // registers_per_warp // warps_per_block * warps_per_block / 64

    def accesses(self, first: int = 0, last: int | None = None) -> Counter[str]:
        """Accesses to global, generic and local memory between two addresses, by instruction."""
        texts = [text for address, text in self.instructions if first <= address and (last is None or address <= last)]
        found = [re.search(r"\b((?:LD|ST)[GL]?)\b(?:\.[A-Z0-9]+)*", text) for text in texts]  # LDS is none of them
        # LDG.E.64.CONSTANT -> LDG.64; without a width it is 32 bits.
        return Counter(
            f"{m[1]}.{width[1] if (width := re.search(r'[.](U8|S8|U16|S16|64|128)', m[0])) else '32'}"
            for m in found
            if m
        )

    @cached_property
    def steady_loops(self) -> list[Counter[str]]:
        """The accesses of each innermost loop over elements.

        A step's loads and stores 128 bits of global memory at a time. One that measures loads so much, and accesses
        nothing else but gradients of 16 bits, unlike those over a schedule's segments.
        """
        branches = [(address, re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)) for address, text in self.instructions]
        loops = [(int(m[1], 16), address) for address, m in branches if m and int(m[1], 16) <= address]
        required = {"LDG.128", "STG.128"} if self.kind == "step" else {"LDG.128"}
        accessed = {loop: self.accesses(*loop).keys() for loop in loops}
        steady = [
            loop
            for loop in loops
            if required <= accessed[loop] and (self.kind == "step" or accessed[loop] <= {"LDG.128", "LDG.64"})
        ]
        return [
            self.accesses(*outer)
            for outer in steady
            if not any(outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1] for inner in steady)
        ]


def read_kernels(folder: Path) -> list[Kernel]:
    """All kernels for ARCHITECTURES: from the built extension if it has code for each of them, else newly compiled."""
    extension = backends.load()
    if extension is not None and set(ARCHITECTURES) <= _architectures(Path(extension.__file__)):
        binaries = [Path(extension.__file__)]
    else:
        binaries = _compile(folder)
    return [kernel for binary in binaries for kernel in _kernels_in(binary)]


def _compile(folder: Path) -> list[Path]:
    """The kernels alone, by the project's own flags; a warning is an error."""
    nvcc = Path(str(toolchain.cuda_home()), "bin", "nvcc")
    targets = [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in ARCHITECTURES]
    options = [f"-I{toolchain.csrc()}", *toolchain.flags(True)["nvcc"], "--Werror=all-warnings", *targets, "-fatbin"]
    binaries = []
    for source in [path for path in toolchain.sources(True) if path.endswith(".cu")]:
        binary = folder / f"{Path(source).stem}.fatbin"
        done = subprocess.run(
            [str(nvcc), *options, "-o", str(binary), source], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        binaries.append(binary)
    return binaries


def _report(binary: Path, *options: str) -> list[str]:
    command = [str(cuobjdump()), *options, str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _architectures(binary: Path) -> set[str]:
    """None of an extension for the CPU alone, where cuobjdump fails."""
    listed = subprocess.run([str(cuobjdump()), "-lelf", str(binary)], capture_output=True, text=True, check=False)
    return set(re.findall(r"\.(sm_\d+)\.cubin", listed.stdout))


def _kernels_in(binary: Path) -> list[Kernel]:
    kernels = []
    for architecture in ARCHITECTURES:
        code, resources = _machine_code(binary, architecture), _resources(binary, architecture)
        assert code.keys() == resources.keys()
        kernels += [_kernel(architecture, name, *resources[name], code[name]) for name in code]
    return kernels


def _resources(binary: Path, architecture: str) -> dict[str, tuple[int, int]]:
    """Mangled name -> registers, bytes of local memory: the stack, with what is spilled, and fixed arrays."""
    resources, name = {}, ""
    for line in _report(binary, "-res-usage", "-arch", architecture):
        if m := re.match(r"\s*Function (\w+):", line):
            name = m[1]
        elif m := re.match(r"\s*REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", line):
            resources[name] = int(m[1]), int(m[2]) + int(m[3])
    return resources


def _machine_code(binary: Path, architecture: str) -> dict[str, list[tuple[int, str]]]:
    """Mangled name -> addresses and texts of the instructions."""
    code: dict[str, list[tuple[int, str]]] = {}
    instructions: list[tuple[int, str]] = []
    for line in _report(binary, "-sass", "-arch", architecture):
        if m := re.match(r"\s*Function : (\w+)", line):
            instructions = code[m[1]] = []
        elif m := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
            instructions.append((int(m[1], 16), m[2]))
    return code


def _kernel(
    architecture: str, mangled: str, registers: int, local_bytes: int, instructions: list[tuple[int, str]]
) -> Kernel:
    types = {"f": "float", "d": "double"}

    def type_of(text: str) -> str:
        return types.get(text) or re.sub(r"^NS_\d+|E$", "", text)

    rest = (registers, local_bytes, instructions)
    templated = r"(fused_step|measure_params)_kernelINS_\d+(\w+?)E(f|d|NS_\d+\w+?E)(f|d|NS_\d+\w+?E|S\w*_)Li(\d+)E"
    if m := re.search(templated, mangled):
        param = type_of(m[3])
        state = param if m[4].startswith("S") else type_of(m[4])  # S4_ and the like: the same type again
        return Kernel(m[1].removeprefix("fused_"), architecture, m[2], param, state, int(m[5]), *rest)
    if m := re.search(r"measure_grads_kernelI(f|d|NS_\d+\w+?E)Li(\d+)E", mangled):
        return Kernel("measure_grads", architecture, None, type_of(m[1]), "", int(m[2]), *rest)
    m = re.search(r"(show|report_norm)_kernel", mangled)
    assert m, mangled
    return Kernel(m[1], architecture, None, "", "", 0, *rest)
