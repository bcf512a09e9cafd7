"""A step by three calls, between which the sums that were measured may be changed, as a sum over processes does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import emulation
import pytest
import torch
from bits import bits, snapshot
from cases import (
    DEVICE,
    EMULATED,
    MEASURING,
    SCHEDULES,
    TYPICAL,
    Case,
    expected_backend,
    gradient,
    ids,
    make_params,
    params_of,
    set_gradients,
    train,
)
from torch import Tensor

from sgdr_fused import EMA, FusedAdam, FusedLAMB, FusedLARS, FusedSGD
from sgdr_fused._native import backends

pytestmark = pytest.mark.skipif(expected_backend() == "reference", reason="a step of the extension")

SIZES = (5, 0, 33, 2049, 16384 + 2049)
LAMB = MEASURING[1]
Between = Callable[[Any], None]  # gets a plan


def nothing(plan: Any) -> None:
    pass


@contextmanager
def steps_in_parts(after_grads: Between = nothing, after_params: Between = nothing) -> Iterator[list[str]]:
    """Every step of an optimizer that is built meanwhile takes three calls; yields the list of those that did."""
    extension: Any = backends.load()
    calls: list[str] = []

    def step(membership: Any, groups: Any, plans: Any, scales: Any, founds: Any, pending: Any) -> bool:
        arguments = membership, groups, plans, scales, founds
        if not extension.measure_grads(*arguments):
            return False
        for plan in plans:
            after_grads(plan)
        if not extension.measure_params(*arguments):
            return False
        for plan in plans:
            after_params(plan)
        calls.append("step")
        return bool(extension.update(*arguments, pending))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "step", step)
        yield calls


def multiply_grad_sums(plan: Any) -> None:
    plan.grad_sums.mul_(4.0)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_grad_norm": 1.0}, {"max_grad_norm": 2.0, "max_grad_value": 0.9, "skip_nonfinite": True}],
    ids=str,
)
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_three_calls_give_the_bits_of_one(case: Case, options: dict[str, Any]) -> None:
    def run() -> tuple[Any, ...]:
        opt = case.fused(make_params(SIZES), lr=SCHEDULES[0], average=EMA(0.9), **options)
        opt.grad_scale, opt.found_inf = torch.full((), 3.0, device=DEVICE), torch.zeros((), device=DEVICE)
        for t in range(4):
            opt.found_inf.fill_(t == 2)
            train(opt, [t])
        return snapshot(opt), bits(opt.grad_norm) if options else None, bits(opt.n_averaged)

    whole = run()
    with steps_in_parts() as calls:
        assert run() == whole
    assert len(calls) == 4


def test_gradients_elsewhere_count_towards_the_norm() -> None:
    """The same gradients once more in another process: their squares add up to twice as many."""
    params = make_params((16384 + 5,))
    both = [*params, torch.nn.Parameter(params[0].detach().clone())]
    whole = FusedAdam(both, lr=0.1, max_grad_norm=1.0)
    for t in range(3):
        for param in both:
            param.grad = gradient(param, t)
        whole.step()

    def add_those_elsewhere(plan: Any) -> None:
        plan.grad_sums.mul_(2.0)

    half = FusedAdam(make_params((16384 + 5,)), lr=0.1, max_grad_norm=1.0)
    with steps_in_parts(add_those_elsewhere):
        train(half, range(3))
    assert bits(half.grad_norm) == bits(whole.grad_norm)
    assert bits(params_of(half)[0]) == bits(both[0])


def test_the_norm_and_the_coefficient_follow_the_sums() -> None:
    plain, changed = (FusedSGD(make_params((5,)), lr=1.0, max_grad_norm=norm) for norm in (0.25, 0.5))
    train(plain, [0])
    with steps_in_parts(multiply_grad_sums):
        train(changed, [0])
    assert changed.grad_norm.item() == 2.0 * plain.grad_norm.item()
    for actual, expected in zip(params_of(changed), params_of(plain), strict=True):
        assert torch.allclose(actual, expected, rtol=1e-5, atol=0.0)  # of the 1e-6 in the coefficient


@pytest.mark.parametrize("case", ids((TYPICAL[2], *MEASURING)))
def test_a_gradient_elsewhere_that_is_not_finite_skips_the_step(case: Case) -> None:
    bad = torch.zeros((), device=DEVICE)

    def add_those_elsewhere(plan: Any) -> None:
        plan.grad_sums[:, 1] += bad

    opt = case.fused(make_params(SIZES), lr=0.1, skip_nonfinite=True)
    with steps_in_parts(add_those_elsewhere):
        train(opt, [0])
        before = snapshot(opt)
        bad.fill_(2.0)
        set_gradients(params_of(opt), 0)
        opt.step()
        assert (snapshot(opt), opt.skipped_steps.item()) == (before, 1)
        bad.fill_(0.0)
        train(opt, [1])
    assert (opt.clock.item(), opt.skipped_steps.item()) == (2, 1)


def test_the_error_follows_the_sums() -> None:
    opt = FusedSGD(make_params((5,)), lr=1.0, error_if_nonfinite=True)

    def make_infinite(plan: Any) -> None:
        plan.grad_sums[:, 0] = math.inf

    set_gradients(params_of(opt), 0)
    before = snapshot(opt)["params"]
    with steps_in_parts(make_infinite), pytest.raises(RuntimeError, match="norm of the gradients is inf"):
        opt.step()
    assert (opt.clock.item(), snapshot(opt)["params"]) == (0, before)
    assert opt.grad_norm.isinf()


def test_the_rates_of_lamb_follow_the_sums_of_each_parameter() -> None:
    """Four times the squares of the parameters are twice their norms, and so twice the rate."""

    def quadruple(plan: Any) -> None:
        assert plan.param_sums.shape == (len(SIZES), 2)
        plan.param_sums[:, 0] *= 4.0

    results = []
    for lr, between in ((0.2, nothing), (0.1, quadruple)):
        opt = FusedLAMB(make_params(SIZES), lr=lr)
        with steps_in_parts(after_params=between):
            train(opt, [0])
        results.append(snapshot(opt)["params"])
    assert results[0] == results[1]


def test_what_is_not_measured_has_no_sums() -> None:
    seen: list[Tensor | None] = []

    def look(plan: Any) -> None:
        seen.extend((plan.grad_sums, plan.param_sums))

    with steps_in_parts(look):
        train(FusedSGD(make_params((5,)), lr=0.1, max_grad_value=1.0), [0])
        train(FusedLARS(make_params((5,)), lr=0.1, max_grad_norm=1.0), [0])
    assert seen[:2] == [None, None]
    assert seen[2] is not None and seen[3] is not None
    assert (seen[2].shape, seen[3].shape) == ((1, 2), (1, 2))
    assert {(s.dtype, s.device) for s in seen[2:] if s is not None} == {(torch.float64, params_device())}


def params_device() -> torch.device:
    return make_params((1,))[0].device


def test_each_call_looks_at_everything_again() -> None:
    """A parameter is gone from its group in between: nothing is updated by the plans that knew it."""
    opt = LAMB.fused(make_params((5, 7)), lr=0.1)
    dropped: list[Tensor] = []

    def drop_one(plan: Any) -> None:
        if opt.clock == 1 and not dropped:
            dropped.append(opt.param_groups[0]["params"].pop())

    with steps_in_parts(drop_one):
        train(opt, [0])
        before = bits(params_of(opt)[1])
        train(opt, [1])
    assert [bits(param) for param in dropped] == [before]
    assert opt.clock.item() == 2


def test_another_step_may_be_taken_in_between() -> None:
    """Of plans that are locked for the length of a call: of a large step, beside which other threads run."""
    opt = FusedSGD(make_params((2**18 + 1,)), lr=0.1, max_grad_norm=1.0)
    inner: list[Any] = []

    def step_once(plan: Any) -> None:
        if not inner:
            inner.append(plan)
            opt.step()

    with steps_in_parts(step_once):
        train(opt, [0])
    assert inner and opt.clock.item() == 2


@pytest.mark.skipif(not EMULATED, reason="the emulator counts launches")
@pytest.mark.parametrize("case", ids((TYPICAL[2], LAMB)))
def test_three_calls_launch_one_kernel_more(case: Case) -> None:
    """It writes the norm anew, since something may have changed the sum."""
    launches = []

    def run() -> None:
        opt = case.fused(make_params((5, 7)), lr=0.1, max_grad_norm=1.0)
        train(opt, [0])
        before = emulation.library().emulator_launches()
        train(opt, [1])
        launches.append(emulation.library().emulator_launches() - before)

    run()
    with steps_in_parts():
        run()
    in_one_call = 3 if case is LAMB else 2
    assert launches == [in_one_call, in_one_call + 1]


@pytest.mark.skipif(DEVICE.type != "cuda", reason="captures a CUDA graph")
@pytest.mark.parametrize("case", ids((TYPICAL[2], LAMB)))
def test_what_stands_in_between_is_captured(case: Case) -> None:
    def make() -> Any:
        opt = case.fused(make_params((5, 33)), lr=0.1, max_grad_norm=1.0)
        with steps_in_parts(multiply_grad_sums):
            train(opt, [0])
        return opt

    eager, replayed = make(), make()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.step()
    for t in range(1, 4):
        for opt in (eager, replayed):
            for i, param in enumerate(params_of(opt)):
                param.grad.copy_(gradient(param, t, i))
        eager.step()
        graph.replay()
    assert snapshot(eager) == snapshot(replayed)
    assert bits(eager.grad_norm) == bits(replayed.grad_norm)
