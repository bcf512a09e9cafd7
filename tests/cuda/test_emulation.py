"""The emulated GPU itself, and what only it can show: the CPU's bits from the kernels, indices beyond 2**32."""

from __future__ import annotations

import ctypes
import math
import mmap
from typing import Any

import emulation
import pytest
import torch
from bits import bits
from cases import (
    CASES,
    DTYPES,
    EMULATED,
    HALVES,
    MEASURING,
    SCHEDULES,
    SMALL_SIZES,
    TYPICAL,
    Case,
    gradient,
    make_params,
    params_of,
    train,
)
from torch import Tensor

from sgdr_fused import EMA, FusedSGD
from sgdr_fused._native import backends

pytestmark = pytest.mark.skipif(not EMULATED, reason="about emulated kernels: SGDR_FUSED_TEST_DEVICE=emulated_cuda")

THREADS = 96  # selftest.cpp
CHUNK = 16384  # csrc/step/fused_step.h


def call(name: str, *arguments: Any) -> int:
    converted = [ctypes.c_void_p(x.data_ptr()) if isinstance(x, Tensor) else x for x in arguments]
    return int(getattr(emulation.library(), "selftest_" + name)(*converted))


def ints(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int32)


# ------------------------------------------------------------------------------------- the emulator


def test_a_barrier_lets_threads_see_what_others_wrote() -> None:
    out = ints(2 * THREADS)
    assert call("neighbours", ctypes.c_bool(True), out) == 0
    assert out.tolist() == [(i + 1) % THREADS for i in range(THREADS)] * 2


def test_without_a_barrier_some_read_poison() -> None:
    out = ints(2 * THREADS)
    assert call("neighbours", ctypes.c_bool(False), out) == 0
    right = torch.tensor([(i + 1) % THREADS for i in range(THREADS)] * 2, dtype=torch.int32)
    assert set(out[out != right].tolist()) == {-1}  # in the second block too: what the first left is gone


def test_shuffles_add_up_a_warp() -> None:
    values = torch.arange(THREADS, dtype=torch.float64)
    out = torch.zeros(THREADS // 32, dtype=torch.float64)
    assert call("warp_sums", values, out) == 0
    assert out.tolist() == values.view(-1, 32).sum(1).tolist()


def test_blocks_run_in_a_shuffled_order_and_the_ticket_returns_to_zero() -> None:
    orders = []
    for _ in range(3):
        ticket, out = ints(1), ints(100)
        assert call("order_of_blocks", 100, ticket, out) == 0
        assert ticket.item() == 0
        orders.append(out.tolist())
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_a_barrier_that_some_do_not_reach_is_a_fault() -> None:
    out = ints(1)
    for _ in range(2):
        assert call("some_leave_early", out) != 0
        fault = emulation.library().selftest_fault
        fault.restype = ctypes.c_char_p
        assert fault() == b"not all threads of a block or warp reach a barrier"
        assert out.item() == 0
    values = ints(2 * THREADS)
    assert call("neighbours", ctypes.c_bool(True), values) == 0  # as if nothing had been
    assert values.tolist() == [(i + 1) % THREADS for i in range(THREADS)] * 2


# -------------------------------------------------------------------------------------- the kernels


# Each with the types of parameters that it is for.
OPTIONS: dict[str, tuple[dict[str, Any], tuple[torch.dtype, ...]]] = {
    "": ({}, DTYPES),
    "average": ({"average": EMA(0.7)}, DTYPES),
    "float32_states": ({"state_dtype": torch.float32}, HALVES),
    "bfloat16_states": ({"state_dtype": torch.bfloat16, "average": EMA(0.7)}, (torch.float32,)),
    "master_weights": ({"master_weights": True, "average": EMA(0.7), "state_dtype": torch.float32}, HALVES),
    "stochastic": ({"stochastic_rounding": True}, (torch.bfloat16,)),
    "stochastic_states": ({"stochastic_rounding": True, "state_dtype": torch.bfloat16}, (torch.float32,)),
}


@pytest.mark.parametrize(
    ("case", "dtype", "options"),
    [
        pytest.param(case, dtype, options, id="-".join([case.id, str(dtype).removeprefix("torch."), name]))
        for name, (options, dtypes) in OPTIONS.items()
        for dtype in dtypes
        for case in ((*TYPICAL, *MEASURING) if options else CASES)
    ],
)
def test_kernels_give_the_bits_of_the_cpu(
    case: Case, dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name in (emulation.BACKEND, "cpu"):
        monkeypatch.setattr(backends, "backend_for", lambda device, name=name: name)
        torch.manual_seed(0)
        opt = case.fused(make_params((*SMALL_SIZES, 65537), dtype), lr=SCHEDULES[1], **options)
        assert opt.backend == name
        launches = emulation.library().emulator_launches()
        train(opt, range(3))
        passes = 2 if case.algorithm.per_tensor else 1
        assert emulation.library().emulator_launches() - launches == (3 * passes if name == emulation.BACKEND else 0)
        results.append([bits(x) for p in params_of(opt) for x in (p, *opt.state[p].values())])
        assert int(opt.n_averaged) == (3 if "average" in options else 0)
    assert results[0] == results[1]


def huge_zeros(count: int) -> Tensor:
    """Zeros that take no memory until they are written."""
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's number, where Python does not know it yet
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return torch.frombuffer(mmap.mmap(-1, 4 * count, flags=flags), dtype=torch.float32)


def huge_gradient(layout: str, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if layout == "every_second":
        return huge_zeros(2 * count)[::2]
    zeros = huge_zeros(count)
    return zeros.view(*reversed(shape)).t() if layout == "transposed" else zeros.view(shape)


@pytest.mark.parametrize("layout", ["dense", "every_second", "transposed"])
def test_elements_beyond_2_to_the_32(layout: str) -> None:
    """Blocks before the last few are left out, so the kernels' indices are what they are in 32 GB of memory."""
    half = 2**31 + CHUNK + 5
    count, last = 2 * half, 3 * CHUNK + 17  # the last ones straddle 2**32
    shape = (2, half) if layout == "transposed" else (count,)
    param = torch.nn.Parameter(huge_zeros(count).view(shape))
    param.grad = huge_gradient(layout, shape)
    values = gradient(torch.zeros(last), step=0)
    param.grad[..., -last:].view(-1, last)[-1] = values
    opt = FusedSGD([param], lr=0.5)
    emulation.library().emulator_set_first_block((count - last) // CHUNK + 2)
    try:
        opt.step()
    finally:
        emulation.library().emulator_set_first_block(0)
    left_out = -(count - last) % CHUNK
    flat = param.detach().view(-1)[-last:]
    assert torch.equal(flat[left_out:], -0.5 * values[left_out:])
    assert not flat[:left_out].any()
    # Where an index would write that lost its upper bits.
    assert not param.detach().view(-1)[: 4 * CHUNK].any()
