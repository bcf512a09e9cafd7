"""The machine code of every kernel, read: no local memory, half occupancy, vectors in the steady loop."""

from __future__ import annotations

from collections import Counter

import compiled_code
import pytest
from cases import EVERY_ALGORITHM
from compiled_code import ARCHITECTURES, Kernel
from installs import needs_compiler, on_cpu_only

from sgdr_fused._native import toolchain

pytestmark = [
    on_cpu_only,
    needs_compiler,  # nvcc does
    pytest.mark.slow,
    pytest.mark.skipif(toolchain.cuda_home() is None, reason="no CUDA toolkit"),
    pytest.mark.skipif(compiled_code.cuobjdump() is None, reason="no cuobjdump: neither on PATH nor in triton"),
]

RULES = {algorithm.rule.name: algorithm.rule for algorithm in EVERY_ALGORITHM.values()}
STATES = {name: rule.states for name, rule in RULES.items()}
MEASURED = {name: rule.measured_states for name, rule in RULES.items() if rule.measured_states is not None}
TYPES = {"float": 4, "double": 8, "Half": 2, "BFloat16": 2}
# Storage of the parameter, and of its states.
PAIRS = {(name, name) for name in TYPES} | {("Half", "float"), ("BFloat16", "float"), ("float", "BFloat16")}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    return compiled_code.read_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def steps(kernels: list[Kernel]) -> list[Kernel]:
    return [kernel for kernel in kernels if kernel.kind == "step"]


@pytest.fixture(scope="module")
def measuring(kernels: list[Kernel]) -> list[Kernel]:
    return [kernel for kernel in kernels if kernel.kind == "measure_params"]


def test_every_instantiation_is_here(kernels: list[Kernel], steps: list[Kernel], measuring: list[Kernel]) -> None:
    """The tests below leave out no kernel: each algorithm, pair of types and at least one size of arguments is here."""
    for architecture in ARCHITECTURES:
        found = {(k.algorithm, k.param, k.state) for k in steps if k.architecture == architecture}
        assert found == {(algorithm, *pair) for algorithm in STATES for pair in PAIRS}
        # Where no state is read, one kernel for each type of parameter.
        pairs = {a: PAIRS if states else {(name, name) for name in TYPES} for a, states in MEASURED.items()}
        found = {(k.algorithm, k.param, k.state) for k in measuring if k.architecture == architecture}
        assert found == {(algorithm, *pair) for algorithm in MEASURED for pair in pairs[algorithm]}
        others = {(k.kind, k.param) for k in kernels if k.architecture == architecture and k.algorithm is None}
        assert others == {("show", ""), ("report_norm", ""), *(("measure_grads", name) for name in TYPES)}


def test_no_local_memory(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        assert kernel.local_bytes == 0, kernel.id
        local = {name: n for name, n in kernel.accesses().items() if name.startswith(("LDL", "STL"))}
        assert local == {}, kernel.id


def test_registers_allow_half_occupancy(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        # Two states in double or more take many registers: three blocks of 256 threads, not four (work.cuh).
        many = kernel.param == "double" and kernel.algorithm is not None and STATES[kernel.algorithm][1] >= 2
        assert kernel.occupancy >= (0.375 if many else 0.5), f"{kernel.id}: {kernel.registers} registers"


def vectors(kernel: Kernel, states: int) -> Counter[str]:
    """What an iteration accesses at most, in vectors of 128 bits, of as many elements as the narrower type has in one.

    Parameters and gradients, which are stored where a GradScaler's scale is divided out; states; remainders, of 16-bit
    parameters; averages, which are float32, or float64 where the parameter is.
    """
    elements = 16 // min(TYPES[kernel.param], TYPES[kernel.state])
    params, per_state = elements * TYPES[kernel.param] // 16, elements * TYPES[kernel.state] // 16
    remainders = 1 if TYPES[kernel.param] == 2 else 0
    both = 2 * params + states * per_state + remainders + averages_of(kernel)
    expected = Counter({"LDG.128": both, "STG.128": both})
    if kernel.param == "float":  # whose gradients may be of either type of 16 bits instead: half as many bits of each
        expected += {"LDG.64": 2 * params, "STG.64": 2 * params}
    return expected


def averages_of(kernel: Kernel) -> int:
    elements = 16 // min(TYPES[kernel.param], TYPES[kernel.state])
    return elements * max(TYPES[kernel.param], 4) // 16


def test_steady_loops_access_global_memory_by_vectors_and_nothing_else(steps: list[Kernel]) -> None:
    for kernel in steps:
        fewest, most = STATES[str(kernel.algorithm)]
        expected = [vectors(kernel, states) for states in range(fewest, most + 1)]
        found = sorted(kernel.steady_loops, key=lambda loop: loop["LDG.128"])
        assert found == expected, f"{kernel.id}: {[dict(loop) for loop in found]}"


def test_measuring_loops_load_vectors_and_nothing_else(measuring: list[Kernel]) -> None:
    """They load the parameter, its remainder, the gradient and the states that the direction depends on."""
    for kernel in measuring:
        expected = vectors(kernel, MEASURED[str(kernel.algorithm)])
        expected["LDG.128"] -= averages_of(kernel)
        loads = {name: count for name, count in expected.items() if name.startswith("LDG")}
        assert kernel.steady_loops == [loads], kernel.id


def test_the_norms_loop_loads_128_bits_and_nothing_else(kernels: list[Kernel]) -> None:
    """Two rows of 2,048 gradients, eight of each to a thread; one loop for each type that they may have."""
    for kernel in kernels:
        if kernel.kind == "measure_grads":
            loads = [2 * 8 * TYPES[kernel.param] // 16] + ([2, 2] if kernel.param == "float" else [])
            found = sorted(kernel.steady_loops, key=lambda loop: loop["LDG.128"], reverse=True)
            assert found == [{"LDG.128": n} for n in loads], kernel.id
