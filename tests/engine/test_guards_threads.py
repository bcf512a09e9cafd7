"""Memory that other threads replace while an optimizer steps, and a GPU's streams and tickets."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import emulation
import pytest
import torch
from bits import bits
from cases import (
    DEVICE,
    EMULATED,
    PRETEND,
    SCHEDULES,
    expected_backend,
    make_params,
    params_of,
    train,
)

from sgdr_fused import EMA, FusedAdam, FusedSGD

REFUSED = (ValueError, TypeError, RuntimeError)
pytestmark = [
    pytest.mark.skipif(
        expected_backend() == "reference",
        reason="the reference steps by torch's operations, which do not look whether memory is there",
    ),
    pytest.mark.untracked,
]
on_the_cpu = pytest.mark.skipif(DEVICE.type != "cpu", reason="moves the CPU's storages")

# ---- threads


def hammer(stepping: Callable[[], None], replacing: Callable[[], None], seconds: float = 1.5) -> None:
    """Both at once, with as many switches between them as Python makes, for so long and at least four steps."""
    interval, steps, errors = sys.getswitchinterval(), 0, []
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            replacing()

    thread = threading.Thread(target=others)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end or steps < 4:
            try:
                stepping()
            except REFUSED as error:  # what was replaced while the step was prepared
                errors.append(error)
            steps += 1
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert all("changed while" in str(error) for error in errors)


@pytest.mark.parametrize(
    "size",
    [
        16,
        pytest.param(
            300_000, marks=pytest.mark.skipif(EMULATED or PRETEND, reason="kernels that are emulated are slow")
        ),
    ],
)
def test_gradients_replaced_by_another_thread(size: int) -> None:
    """The update is by a gradient that was there, whole: each element moves by as much as the others."""
    param = torch.nn.Parameter(torch.zeros(size, device=DEVICE, dtype=torch.float64))
    opt = FusedSGD([param], lr=1.0)
    fill = iter(range(1, 10**9))

    def replace() -> None:
        param.grad = torch.full((size,), float(next(fill) % 7 + 1), dtype=torch.float64, device=DEVICE)

    replace()
    hammer(opt.step, replace)
    assert bool((param == param[0]).all())
    assert param[0].item() == round(param[0].item())


@on_the_cpu
def test_parameters_moved_by_another_thread() -> None:
    """Beside a large step, which lets others run, too: what the step began with, it ends with."""
    param = torch.nn.Parameter(torch.zeros(300_000, device=DEVICE))
    param.grad = torch.ones_like(param)
    opt = FusedAdam([param], lr=1e-3, average=EMA(0.5))

    def replace() -> None:
        param.data = param.data.clone()
        state = opt.state[param]
        if "exp_avg" in state:
            state["exp_avg"].data = state["exp_avg"].data.clone()

    hammer(opt.step, replace)


@on_the_cpu
def test_two_threads_step_one_large_optimizer() -> None:
    """One after the other, so each counts."""
    param = torch.nn.Parameter(torch.zeros(300_000, device=DEVICE))
    opt = FusedSGD([param], lr=1.0)
    param.grad = torch.ones_like(param)
    opt.step()
    taken = []

    def many() -> None:
        for _ in range(20):
            param.grad = torch.ones_like(param)
            opt.step()
            taken.append(1)

    threads = [threading.Thread(target=many) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 40
    assert opt.clock.item() == 41
    assert bool((param == -41).all())


# ---- a GPU's streams and tickets, where the emulator can play them


@pytest.mark.skipif(not EMULATED, reason="asks the emulator")
def test_memory_is_recorded_on_each_stream_that_uses_it() -> None:
    """Once for each: a plan that is made anew must not hand its memory on while a kernel reads it."""
    library = emulation.library()
    opt = FusedAdam(make_params((5,)), lr=SCHEDULES[0])
    train(opt, [0])
    counts = []
    for stream in (0, 1, 1, 0, 1, 2):
        before = library.emulator_records()
        library.emulator_set_stream(stream)
        try:
            train(opt, [1])
        finally:
            library.emulator_set_stream(0)
        counts.append(library.emulator_records() - before)
    # The plan's own, clock, display, exp_avg, exp_avg_sq and step.
    assert counts == [0, 6, 0, 0, 0, 6]


@pytest.mark.skipif(not EMULATED, reason="asks the emulator")
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}])
def test_writing_the_clock_sets_back_a_ticket(options: Any) -> None:
    """A step of which some blocks never came leaves its ticket above 0, and no later block would be the last."""
    library = emulation.library()
    opt, twin = (FusedAdam(make_params((5, 5000)), lr=SCHEDULES[0], **options) for _ in range(2))
    for each in (opt, twin):
        train(each, [0])
    tensors = [(t, t.detach().clone()) for p in params_of(opt) for t in (p, *opt.state[p].values())]
    library.emulator_set_first_block(1)
    try:
        train(opt, [1])
    finally:
        library.emulator_set_first_block(0)
    with torch.no_grad():
        for tensor, value in tensors:
            tensor.copy_(value)
    opt.clock.fill_(1)
    for each in (opt, twin):
        train(each, range(1, 4))
    assert values_of_state(opt) == values_of_state(twin)


def values_of_state(opt: Any) -> list[bytes]:
    return [bits(t) for p in params_of(opt) for t in (p, *opt.state[p].values())] + [bits(torch.as_tensor(opt.clock))]
