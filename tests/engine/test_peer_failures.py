"""Failures that other fused optimizers and schedulers have had, by the number they have in our list.

Numbers 5, 6 and 7 are about schedules alone and stand in test_schedules_cosine.py and test_schedules.py; 16 is in
test_graphs.py.
"""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import (
    ADAM,
    ADAMW,
    CASES,
    DEVICE,
    NUMBERS,
    SCHEDULES,
    SGD,
    TYPICAL,
    Case,
    Oracle,
    assert_within,
    gradient,
    ids,
    make_params,
    params_of,
    rate,
    set_gradients,
    train,
    values,
)
from courses import scaled_step

from sgdr_fused.schedules import CosineWarmRestarts, Triangular

pytestmark = pytest.mark.untracked

TIGHT = 1e-12  # of float64


@pytest.mark.parametrize("skipped", [1, 3])
@pytest.mark.parametrize("case", ids(CASES))
def test_peer_01_overflow_at_the_first_step(case: Case, skipped: int) -> None:
    """The first step that counts is a first step, its buffers made from its own gradient."""
    params = make_params((5, 1025), torch.float64)
    opt, oracle = case.fused(params, lr=0.05), Oracle(case, params)
    before = [bits(p) for p in params]
    for t in range(skipped):
        set_gradients(params, t)
        params[0].grad[2] = float("inf")
        scaled_step(opt, found_inf=1.0)
        assert [bits(p) for p in params] == before
        assert opt.clock.item() == 0
    for t in range(skipped, skipped + 3):
        set_gradients(params, t)
        oracle.step([p.grad for p in params], [0.05] * 2)
        scaled_step(opt, found_inf=0.0)
        for i, p in enumerate(params):
            assert_within(p, oracle.params[i], TIGHT * (1 + oracle.params[i].abs()), f"step {t}")
            for key, state in oracle.states[i].items():
                assert_within(opt.state[p][key], state, TIGHT * (1 + state.abs()), f"step {t}, {key}")


@pytest.mark.parametrize("case", ids(CASES))
def test_peer_02_parameter_unfrozen_later_in_the_same_group(case: Case) -> None:
    params = make_params((5, 7, 9), torch.float64)
    opt, oracle = case.fused(params, lr=0.05), Oracle(case, params)
    for t in range(6):
        for i, p in enumerate(params):
            p.requires_grad_(i != 1 or t >= 3)
            p.grad = gradient(p, t, i) if p.requires_grad else None
        oracle.step([p.grad for p in params], [0.05] * 3)
        opt.step()
        for i, p in enumerate(params):
            assert_within(p, oracle.params[i], TIGHT * (1 + oracle.params[i].abs()), f"step {t}")


@pytest.mark.parametrize("case", ids(CASES))
def test_peer_03_gradient_strides_differ_from_parameter_strides(case: Case) -> None:
    start = values((4, 3, 5, 6), 1).to(DEVICE).contiguous(memory_format=torch.channels_last)
    param = torch.nn.Parameter(start)
    opt, oracle = case.fused([param], lr=0.05), Oracle(case, [param])
    for t in range(4):
        param.grad = values((4, 3, 5, 6), 10 + t).to(DEVICE)
        assert param.grad.stride() != param.stride()
        oracle.step([param.grad], [0.05])
        opt.step()
    assert_within(param, oracle.params[0], TIGHT * (1 + oracle.params[0].abs()), "parameter")


@pytest.mark.parametrize("case", ids(CASES))
def test_peer_03_parameter_that_is_a_strided_view(case: Case) -> None:
    buffer = values((64, 9), 1).to(DEVICE)
    outside = buffer[:, :3].clone(), buffer[:, 6:].clone()
    param = torch.nn.Parameter(buffer[:, 3:6])
    opt, oracle = case.fused([param], lr=0.05), Oracle(case, [param])
    for t in range(4):
        param.grad = values((64, 3), 10 + t).to(DEVICE)
        oracle.step([param.grad], [0.05])
        opt.step()
    assert_within(buffer[:, 3:6], oracle.params[0], TIGHT * (1 + oracle.params[0].abs()), "the view")
    assert torch.equal(buffer[:, :3], outside[0])
    assert torch.equal(buffer[:, 6:], outside[1])


@pytest.mark.parametrize("found_inf", [1.0, 2.0, 7.0, float("inf"), float("nan"), 1e-30])
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_peer_04_found_inf_that_is_not_one(case: Case, found_inf: float) -> None:
    """Two devices overflowed: their flags are added."""
    opt = case.fused(make_params((5, 1025)), lr=SCHEDULES[0])
    train(opt, range(2))
    set_gradients(params_of(opt), 2)
    params_of(opt)[0].grad.fill_(float("nan"))
    before = snapshot(opt)
    scaled_step(opt, found_inf=found_inf)
    assert snapshot(opt) == before


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_peer_08_add_param_group_and_then_the_schedulers_step(case: Case) -> None:
    """No scheduler has a list of groups that could lag behind: a new group just has a rate."""
    opt = case.fused(make_params((5,), torch.float64), lr=SCHEDULES[0])
    train(opt, range(2))
    added = make_params((7, 3), torch.float64, seed=1)
    opt.add_param_group({"params": added[:1]})  # the constructor's schedule, at the shared clock
    opt.add_param_group({"params": added[1:], "lr": SCHEDULES[1]})
    for group, schedule in zip(opt.param_groups[1:], SCHEDULES[:2], strict=True):
        assert group["lr_schedule"] == schedule
        assert float(group["lr"]) == pytest.approx(rate(schedule, 2), rel=TIGHT)
    oracle = Oracle(case, added)
    for t in range(2, 8):
        set_gradients(params_of(opt), t)
        oracle.step([p.grad for p in added], [rate(s, t) for s in SCHEDULES[:2]])
        opt.step()
    for p, expected in zip(added, oracle.params, strict=True):
        assert_within(p, expected, 10 * TIGHT * (1 + expected.abs()), "parameter")


RATES_OF_ZERO = {
    "number": lambda: 0.0,
    "tensor": lambda: torch.tensor(0.0, device=DEVICE),
    "warm_up_from_0": lambda: Triangular(0.0, 0.1, step_size_up=5),
    "maximum_0": lambda: CosineWarmRestarts(0.0, T_0=3),
}


@pytest.mark.parametrize("form", RATES_OF_ZERO)
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("algorithm", [ADAM, ADAMW], ids=["adam", "adamw"])
def test_peer_09_rate_of_zero(algorithm: Any, capturable: bool, form: str) -> None:
    """The parameters stay, bit for bit; the moments are those of any other rate."""
    params = make_params((5, 33))
    opt = algorithm.fused(params, lr=RATES_OF_ZERO[form](), capturable=capturable)
    before = [bits(p) for p in params]
    train(opt, range(1))
    assert [bits(p) for p in params] == before
    assert all(bool((opt.state[p][k] != 0).all()) for p in params for k in ("exp_avg", "exp_avg_sq"))
    train(opt, range(1, 4))
    assert all(bool(p.isfinite().all()) for p in params)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": False}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_peer_10_checkpoint_of_an_unfused_optimizer(case: Case, options: Any, backend: str) -> None:
    """Loading one keeps the backend, and with it the unscaling in the step."""
    theirs = [torch.nn.Parameter(p.detach().cpu()) for p in make_params((5, 33))]
    unfused = case.torch(theirs, lr=0.05, **options)
    train(unfused, range(2))
    ours = [torch.nn.Parameter(p.detach().to(DEVICE)) for p in theirs]
    opt = case.fused(ours, lr=0.05)
    opt.load_state_dict(unfused.state_dict())
    assert opt.backend == backend
    assert opt._step_supports_amp_scaling
    before = [bits(p) for p in ours]
    set_gradients(ours, 2)
    scaled_step(opt, found_inf=1.0)
    assert [bits(p) for p in ours] == before
    for p in ours:
        p.grad.mul_(1024)
    scaled_step(opt, found_inf=0.0, scale=1024.0)
    train(unfused, [2])
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_peer_11_schedule_stands_still_while_the_scaler_skips(case: Case) -> None:
    opt = case.fused(make_params((5,)), lr=SCHEDULES[0])
    clocks, rates = [], []
    for t, found_inf in enumerate([0.0, 1.0, 1.0, 0.0, 1.0, 0.0]):
        set_gradients(params_of(opt), t)
        scaled_step(opt, found_inf=found_inf)
        clocks.append(opt.clock.item())
        rates.append(float(opt.param_groups[0]["lr"]))
    assert clocks == [1, 1, 1, 2, 2, 3]
    assert rates == pytest.approx([rate(SCHEDULES[0], t) for t in clocks], rel=TIGHT)


@pytest.mark.parametrize("sizes", [(0,), (0, 0, 0), (0, 5, 0, 1025, 0), (5, 0), ((3, 0, 2), 5)], ids=str)
@pytest.mark.parametrize("case", ids(CASES))
def test_peer_14_parameters_of_zero_size(case: Case, sizes: Any) -> None:
    """They neither keep the others from being updated nor are written past their end."""
    params = make_params(sizes, torch.float64)
    opt, oracle = case.fused(params, lr=0.05), Oracle(case, params)
    for t in range(4):
        set_gradients(params, t)
        oracle.step([p.grad for p in params], [0.05] * len(params))
        opt.step()
    assert opt.clock.item() == 4
    for i, p in enumerate(params):
        assert_within(p, oracle.params[i], TIGHT * (1 + oracle.params[i].abs()), f"parameter {i}")
        assert set(opt.state[p]) == set(oracle.states[i])


def test_peer_15_optimizer_and_its_state_are_freed_without_the_garbage_collector() -> None:
    """A cycle of references would keep device memory until a collection, which CUDA does not ask for."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for case in TYPICAL[1:]:
            opt = case.fused(make_params((5,)), lr=Triangular(0.0, 0.1, step_size_up=2))
            train(opt, range(3))
            opt.load_state_dict(copy.deepcopy(opt.state_dict()))
            train(opt, range(3, 5))
            state = opt.state[params_of(opt)[0]]
            key = "momentum_buffer" if "momentum_buffer" in state else "exp_avg"
            kept = [weakref.ref(x) for x in (opt, params_of(opt)[0], state[key], opt.clock)]
            del opt, state
            assert [ref() is None for ref in kept] == [True] * 4, case.id
    finally:
        if collecting:
            gc.enable()


@pytest.mark.parametrize("case", ids(c for c in TYPICAL if c.id != "sgd"))
def test_peer_17_float32_state_of_bfloat16_parameters_survives_loading(case: Case) -> None:
    params = make_params((5, 33), torch.bfloat16)
    opt = case.fused(params, lr=0.05)
    train(opt, range(1))
    for p in params:
        for key, state in opt.state[p].items():
            if key not in NUMBERS:
                opt.state[p][key] = state.float() * 1.001
    train(opt, range(1, 3))
    saved = copy.deepcopy(opt.state_dict())
    again = case.fused([torch.nn.Parameter(p.detach().clone()) for p in params], lr=0.05)
    again.load_state_dict(saved)
    for p, q in zip(params, params_of(again), strict=True):
        kept, saved_state = ({k: bits(v) for k, v in s.items()} for s in (again.state[q], opt.state[p]))
        assert kept == saved_state
        assert all(v.dtype != torch.bfloat16 for v in again.state[q].values())
    for each in (opt, again):
        train(each, range(3, 6))
    assert [bits(p) for p in params] == [bits(p) for p in params_of(again)]


@pytest.mark.parametrize("case", ids(c for c in TYPICAL if c.algorithm is not SGD))
def test_peer_18_step_counts_past_two_to_the_24(case: Case) -> None:
    """The count goes on from float32, as torch saves it, and from our own."""
    params = make_params((5,), torch.float64)
    theirs = case.torch([torch.nn.Parameter(p.detach().cpu()) for p in params], lr=0.05)
    train(theirs, range(1))
    saved = theirs.state_dict()
    saved["state"][0]["step"].fill_(2.0**24)
    opt = case.fused(params, lr=SCHEDULES[0])
    opt.load_state_dict(saved)
    assert opt.clock.item() == 2**24
    train(opt, range(3))
    step = opt.state[params[0]]["step"]
    assert (step.item(), step.dtype, step.shape) == (2**24 + 3, torch.float64, ())
    assert opt.clock.item() == 2**24 + 3


@pytest.mark.parametrize("case", ids(CASES))
def test_peer_19_stale_graph_is_noticed(case: Case) -> None:
    """A second backward through a graph whose parameters a step has changed raises, as after torch's."""
    param = make_params((5,))[0]
    opt = case.fused([param], lr=0.05)
    loss = (param * param).sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("case", ids(CASES))
def test_peer_19_autograd_version_of_all_that_is_written(case: Case) -> None:
    params = make_params((0, 5, 1025))
    opt = case.fused(params, lr=0.05)
    train(opt, range(1))
    written = [x for p in params for x in (p, *opt.state[p].values())]
    before = [x._version for x in written]
    set_gradients(params, 1)
    gradients = [p.grad._version for p in params]
    opt.step()
    assert all(x._version > v for x, v in zip(written, before, strict=True))
    assert [p.grad._version for p in params] == gradients
