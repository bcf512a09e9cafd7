"""GradScaler: unscaling and skipping inside the step, the clock and first steps untouched by a skip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import (
    CASES,
    DEVICE,
    HALVES,
    MEASURING,
    SCHEDULES,
    TYPICAL,
    Case,
    Oracle,
    assert_within,
    gradient,
    ids,
    make_params,
    one_step_tolerance,
    params_of,
    rate,
    set_gradients,
    train,
)

from sgdr_fused import FusedSGD

SIZES = (5, 33)
OVERFLOWS = (0, 1, 4, 6)  # the very first step among them
STEPS = 10
# torch's check for overflow has no kernel for bfloat16 on CUDA.
SCALED_HALVES = HALVES if DEVICE.type == "cpu" else (torch.float16,)


def make_scaler(**options: Any) -> Any:
    return torch.amp.GradScaler(DEVICE.type, **{"init_scale": 1024.0, "growth_interval": 3, **options})


def scaled_backward(params: Any, scaler: Any, t: int) -> None:
    """A loss whose gradients are those of step t, scaled; some of them overflow at OVERFLOWS."""
    for p in params:
        p.grad = None
    loss = sum((p.float() * gradient(p, t, i).float()).sum() for i, p in enumerate(params))
    scaler.scale(loss).backward()
    if t in OVERFLOWS:
        params[-1].grad[1] = float("inf") if t % 2 else float("nan")


@pytest.mark.untracked
@pytest.mark.parametrize("unscaled_before", [False, True], ids=["scaled", "unscale_"])
@pytest.mark.parametrize("case", ids(CASES))
def test_loop_against_torch_unfused(case: Case, unscaled_before: bool) -> None:
    """A whole loop with its own scaler each: the same parameters, states and scales as torch's."""
    ours = make_params(SIZES)
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    unfused = {"foreach": False} if case.algorithm.takes("foreach") else {}
    optimizers = case.fused(ours, lr=0.05), case.torch(theirs, lr=0.05, **unfused)
    scalers = make_scaler(), make_scaler()
    for t in range(STEPS):
        for opt, scaler in zip(optimizers, scalers, strict=True):
            scaled_backward(params_of(opt), scaler, t)
            if unscaled_before:
                scaler.unscale_(opt)
                torch.nn.utils.clip_grad_value_(params_of(opt), 1.0)
            scaler.step(opt)
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert optimizers[0].clock.item() == STEPS - len(OVERFLOWS)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        for key, expected in optimizers[1].state[q].items():
            got = optimizers[0].state[p][key]
            torch.testing.assert_close(got.cpu(), expected.cpu().to(got.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ids(SCALED_HALVES))
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_loop_with_low_precision_parameters(case: Case, dtype: torch.dtype) -> None:
    """float16 gradients are unscaled by us alone: GradScaler.unscale_ refuses them."""
    params = make_params(SIZES, dtype)
    opt, scaler = case.fused(params, lr=SCHEDULES[0]), make_scaler(init_scale=8.0)
    for t in range(STEPS):
        scale = scaler.get_scale() if t else 8.0
        scaled_backward(params, scaler, t)
        grads = [p.grad.double() / scale for p in params]
        oracle = Oracle(case, params)
        oracle.states = [
            {k: v.detach().cpu().double().clone() for k, v in opt.state[p].items()} if opt.clock else {} for p in params
        ]
        clock, before = opt.clock.item(), [bits(p) for p in params]
        scaler.step(opt)
        scaler.update()
        if t in OVERFLOWS:
            assert [bits(p) for p in params] == before
            assert opt.clock.item() == clock
            continue
        oracle.step(grads, [rate(SCHEDULES[0], clock)] * len(params))
        assert opt.clock.item() == clock + 1
        for p, expected in zip(params, oracle.params, strict=True):
            operand = expected.abs() + 4
            assert_within(p, expected, one_step_tolerance(expected, operand, dtype), f"step {t}")


@pytest.mark.parametrize("skipped", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("after", [0, 3], ids=["before_the_first_step", "later"])
@pytest.mark.parametrize("case", ids(CASES))
def test_skipped_step_is_as_if_it_had_not_been(case: Case, after: int, skipped: int) -> None:
    troubled, untroubled = (case.fused(make_params(SIZES), lr=SCHEDULES[0]) for _ in range(2))
    for opt in (troubled, untroubled):
        train(opt, range(after))
    for found_inf in [1.0, 2.0][:skipped]:
        set_gradients(params_of(troubled), 50)
        params_of(troubled)[0].grad.fill_(float("nan"))
        gradients = [bits(p.grad) for p in params_of(troubled)]
        troubled.grad_scale = torch.tensor(4.0, device=DEVICE)
        troubled.found_inf = torch.tensor(found_inf, device=DEVICE)
        troubled.step()
        assert troubled.clock.item() == after
        assert [bits(p.grad) for p in params_of(troubled)] == gradients
    del troubled.grad_scale, troubled.found_inf
    for opt in (troubled, untroubled):
        train(opt, range(after, after + 4))
    assert snapshot(troubled) == snapshot(untroubled)


@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64, *HALVES]))
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_unscaling_writes_the_gradient_back(case: Case, dtype: torch.dtype) -> None:
    """torch's fused step does so too; and the step is the one that the unscaled gradient would have made."""
    scaled, plain = (case.fused(make_params((0, 5, 1025), dtype), lr=0.05) for _ in range(2))
    for t in range(4):
        for opt in (scaled, plain):
            set_gradients(params_of(opt), t)
        versions = []
        for p in params_of(scaled):
            p.grad.mul_(4)
            versions.append(p.grad._version)
        scaled.grad_scale = torch.tensor(4.0, device=DEVICE)
        scaled.found_inf = torch.tensor(0.0, device=DEVICE)
        scaled.step()
        plain.step()
        assert [bits(p.grad) for p in params_of(scaled)] == [bits(p.grad) for p in params_of(plain)]
        assert all(p.grad._version > v for p, v in zip(params_of(scaled), versions, strict=True))
    assert [bits(p) for p in params_of(scaled)] == [bits(p) for p in params_of(plain)]


def test_unscaling_divides_by_a_scale_that_is_no_power_of_two() -> None:
    opt = TYPICAL[0].fused(make_params((1025,), torch.float64), lr=0.05)
    p = params_of(opt)[0]
    p.grad = gradient(p, 0) * 3.0
    opt.grad_scale, opt.found_inf = torch.tensor(3.0, device=DEVICE), torch.tensor(0.0, device=DEVICE)
    opt.step()
    assert_within(p.grad, gradient(p, 0).cpu(), torch.full(p.shape, 1e-15), "gradient")


SCALES = (1.0, 3.0, 65536.0, -8.0, 1e-3, 2.0**-20, 2.0**126, 2.0**127, 2.0**-126, 2.0**-149)
EXTREMES = (0.0, -0.0, 2.0**-149, 2.0**-126, -(2.0**-127), 3.0, 2.0**127, -float(torch.finfo(torch.float32).max))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64]))
def test_unscaling_gives_the_bits_of_a_division(dtype: torch.dtype, scale: float) -> None:
    """Also where it is a multiplication, and near both ends of what a float holds; in the norm's pass too."""
    opt = FusedSGD(make_params((3 * 2048 + 100, 16384 + 7), dtype), lr=0.0, max_grad_norm=1.0)
    opt.grad_scale = torch.tensor(scale, device=DEVICE)
    for p in params_of(opt):
        p.grad = gradient(p, 0)
        p.grad[: len(EXTREMES)] = torch.tensor(EXTREMES, dtype=dtype)
    expected = [p.grad.cpu() / torch.tensor(scale) for p in params_of(opt)]
    opt.step()
    assert [bits(p.grad.cpu()) for p in params_of(opt)] == [bits(g) for g in expected]
    norm = torch.cat([g.double() for g in expected]).norm().item()
    assert opt.grad_norm.item() == pytest.approx(norm, rel=1e-12)


def test_strided_gradients_are_unscaled_in_place() -> None:
    opt = TYPICAL[1].fused(make_params(((6, 5),)), lr=0.05)
    p = params_of(opt)[0]
    around = torch.full((6, 7), 99.0, device=DEVICE)
    p.grad = around[:, 1:6]
    p.grad.copy_(gradient(p, 0) * 4)
    opt.grad_scale, opt.found_inf = torch.tensor(4.0, device=DEVICE), torch.tensor(0.0, device=DEVICE)
    opt.step()
    assert bits(p.grad) == bits(gradient(p, 0))
    assert bool((around[:, 0] == 99).all() and (around[:, 6] == 99).all())


def test_attributes_belong_to_the_scaler() -> None:
    """It sets them, deletes them, and takes what it finds as the user's own scale."""
    opt = TYPICAL[0].fused(make_params(SIZES), lr=0.05)
    assert opt._step_supports_amp_scaling is True
    assert not hasattr(opt, "grad_scale")
    assert not hasattr(opt, "found_inf")
    scaler = make_scaler()
    scaled_backward(params_of(opt), scaler, 2)
    scaler.step(opt)
    assert not hasattr(opt, "grad_scale")
    assert not hasattr(opt, "found_inf")
    train(opt, [3])
    assert opt.clock.item() == 2


@pytest.mark.parametrize("absent", ["grad_scale", "found_inf"])
def test_one_attribute_alone(absent: str) -> None:
    """found_inf alone after unscale_; grad_scale alone where a user scales by hand."""
    opt, plain = (TYPICAL[1].fused(make_params(SIZES), lr=0.05) for _ in range(2))
    for t in range(3):
        for each in (opt, plain):
            set_gradients(params_of(each), t)
        if absent == "grad_scale":
            opt.found_inf = torch.tensor(0.0, device=DEVICE)
        else:
            opt.grad_scale = torch.tensor(4.0, device=DEVICE)
            for p in params_of(opt):
                p.grad.mul_(4)
        opt.step()
        plain.step()
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(plain)]


def test_disabled_scaler() -> None:
    opt, plain = (TYPICAL[1].fused(make_params(SIZES), lr=0.05) for _ in range(2))
    scaler = make_scaler(enabled=False)
    for t in range(3):
        set_gradients(params_of(opt), t)
        scaler.step(opt)
        scaler.update()
        train(plain, [t])
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(plain)]


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_schedule_under_a_scaler(case: Case) -> None:
    """The displayed rate is that of the next step that will be taken."""
    opt, scaler = case.fused(make_params(SIZES), lr=SCHEDULES[0]), make_scaler()
    taken = 0
    for t in range(STEPS):
        scaled_backward(params_of(opt), scaler, t)
        scaler.step(opt)
        scaler.update()
        taken += t not in OVERFLOWS
        assert opt.clock.item() == taken
        assert float(opt.param_groups[0]["lr"]) == pytest.approx(rate(SCHEDULES[0], taken), rel=1e-12)
