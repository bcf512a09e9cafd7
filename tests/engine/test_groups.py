"""Parameter groups, missing gradients, empty tensors and mixed dtypes in one optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    CASE_OF,
    CASES,
    DEVICE,
    DTYPES,
    EVERY_ALGORITHM,
    HALVES,
    MEASURING,
    NUMBERS,
    SCHEDULES,
    TYPICAL,
    Case,
    Oracle,
    as_double,
    assert_within,
    gradient,
    ids,
    make_params,
    one_step_tolerance,
    params_of,
    rate,
    train,
)

from sgdr_fused import FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

STEPS = 12
TIGHT = 1e-12  # of float64, per step


@pytest.mark.parametrize("case", ids(CASES))
def test_missing_gradients(case: Case) -> None:
    """Parameter i has a gradient at every (i + 1)-th step: its own first step, its own count."""
    params = make_params((5, 17, 33, 4), torch.float64)
    opt, oracle = case.fused(params, lr=SCHEDULES[0]), Oracle(case, params)
    applied = [0] * len(params)
    for t in range(STEPS):
        for i, p in enumerate(params):
            present = t % (i + 1) == i
            p.grad = gradient(p, t, i) if present else None
            applied[i] += present
        oracle.step([p.grad for p in params], [rate(SCHEDULES[0], t)] * len(params))
        opt.step()
        assert opt.clock.item() == t + 1
    for i, p in enumerate(params):
        assert_within(p, oracle.params[i], TIGHT * (1 + oracle.params[i].abs()), f"parameter {i}")
        for key, state in oracle.states[i].items():
            assert_within(opt.state[p][key], state, TIGHT * (1 + state.abs()), f"{key} of parameter {i}")
        if "step" in oracle.states[i]:
            assert opt.state[p]["step"].item() == applied[i]


@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_step_without_any_gradient_only_advances_the_clock(case: Case) -> None:
    params = make_params((5,), torch.float64)
    opt = case.fused(params, lr=SCHEDULES[0])
    before = bits(params[0])
    opt.step()
    opt.step()
    assert bits(params[0]) == before
    assert opt.clock.item() == 2
    assert not opt.state.get(params[0])
    assert float(opt.param_groups[0]["lr"]) == pytest.approx(rate(SCHEDULES[0], 2), rel=TIGHT)
    oracle = Oracle(case, params)
    params[0].grad = gradient(params[0], 0)
    oracle.step([params[0].grad], [rate(SCHEDULES[0], 2)])
    opt.step()
    assert_within(params[0], oracle.params[0], TIGHT * (1 + oracle.params[0].abs()), "parameter")


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_clock_is_shared_by_a_group_added_later(case: Case) -> None:
    first, second = make_params((5,), torch.float64), make_params((7,), torch.float64, seed=1)
    opt = case.fused(first, lr=SCHEDULES[0])
    train(opt, range(4))
    opt.add_param_group({"params": second, "lr": SCHEDULES[1]})
    oracle = Oracle(case, second)
    for t in range(4, STEPS):
        for i, p in enumerate([*first, *second]):
            p.grad = gradient(p, t, i)
        oracle.step([second[0].grad], [rate(SCHEDULES[1], t)])
        opt.step()
    assert_within(second[0], oracle.params[0], STEPS * TIGHT * (1 + oracle.params[0].abs()), "parameter")


@pytest.mark.parametrize("name", EVERY_ALGORITHM)
def test_every_group_has_its_own_options(name: str) -> None:
    case, every = CASE_OF[name], EVERY_ALGORITHM[name].group_options
    groups = [make_params((3, 17), torch.float64, seed=g) for g in range(4)]
    opt = case.fused([{"params": g, **o} for g, o in zip(groups, every, strict=True)], lr=0.05)
    oracles = [Oracle(case, g) for g in groups]
    for t in range(STEPS):
        for group, oracle, options in zip(groups, oracles, every, strict=True):
            for i, p in enumerate(group):
                p.grad = gradient(p, t, i)
            oracle.step([p.grad for p in group], [0.05] * len(group), **options)
        opt.step()
    for group, oracle in zip(groups, oracles, strict=True):
        for p, expected in zip(group, oracle.params, strict=True):
            assert_within(p, expected, STEPS * TIGHT * (1 + expected.abs()), "parameter")


def test_hundreds_of_groups_have_schedules_of_their_own() -> None:
    """On a GPU several blocks compute the rates of the next step. They are shown, used, and used again after a jump."""
    params = make_params((3,) * 200, torch.float64)
    schedules = [CosineWarmRestarts(0.1 + i / 1000, T_0=3 + i % 7, T_mult=2) for i in range(len(params))]
    opt = FusedSGD([{"params": [p], "lr": s} for p, s in zip(params, schedules, strict=True)])
    for t in (0, 1, 2, 3, 7, 8, 10, 11):
        opt.clock.fill_(t)
        before = [p.detach().cpu().clone() for p in params]
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
        for group, schedule, p, old in zip(opt.param_groups, schedules, params, before, strict=True):
            assert_within(p, old - rate(schedule, t), TIGHT * torch.ones(3), f"{schedule!r}, step {t}")
            assert group["lr"].item() == pytest.approx(rate(schedule, t + 1), rel=TIGHT)


@pytest.mark.parametrize("grouped", ["in_one_group", "in_a_group_each"])
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_dtypes_do_not_mix(case: Case, grouped: str) -> None:
    """The same bits as with an optimizer for each dtype; the clock advances once a step."""
    in_one = grouped == "in_one_group"
    rates = [SCHEDULES[0]] * len(DTYPES) if in_one else [0.1, 0.08, 0.06, 0.04]
    groups = [{"params": make_params((9, 1025), dtype), "lr": lr} for dtype, lr in zip(DTYPES, rates, strict=True)]
    together = [p for group in groups for p in group["params"]]
    opt = case.fused(together, lr=rates[0]) if in_one else case.fused(groups)
    apart = [case.fused(make_params((9, 1025), dtype), lr=lr) for dtype, lr in zip(DTYPES, rates, strict=True)]
    for t in range(STEPS):
        for each in apart:
            for i, p in enumerate(params_of(each)):
                p.grad = gradient(p, t, i)
        expected = [p for each in apart for p in params_of(each)]
        for p, q in zip(together, expected, strict=True):
            p.grad = q.grad.clone()
        opt.step()
        for each in apart:
            each.step()
    assert opt.clock.item() == STEPS
    assert [bits(p) for p in together] == [bits(p) for p in expected]


@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids(c for c in CASES if c.id not in ("sgd", "sgd_weight_decay")))
def test_float32_state_of_low_precision_parameters(case: Case, dtype: torch.dtype) -> None:
    """The state stays float32 and is as accurate as one, step by step."""
    params = make_params((5, 1025), dtype)
    opt = case.fused(params, lr=0.05)
    train(opt, range(1))
    for p in params:
        for key, state in opt.state[p].items():
            if key not in NUMBERS:
                opt.state[p][key] = state.float() * 1.001  # not representable in 16 bits
    for t in range(1, STEPS):
        oracle = Oracle(case, params)
        oracle.states = [as_double(opt.state[p]) for p in params]
        for i, p in enumerate(params):
            p.grad = gradient(p, t, i)
        oracle.step([p.grad for p in params], [0.05] * len(params))
        opt.step()
        for p, expected, states in zip(params, oracle.params, oracle.states, strict=True):
            # The largest operand of each is below 16: ten gradients of at most 1.5.
            operand = torch.full_like(expected, 15.0)
            assert_within(p, expected, one_step_tolerance(expected, operand, dtype), "parameter")
            for key, state in states.items():
                if key not in NUMBERS:
                    assert opt.state[p][key].dtype == torch.float32
                    tolerance = one_step_tolerance(state, operand, torch.float32)
                    assert_within(opt.state[p][key], state, tolerance, key)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_parameter_of_no_dimension(case: Case) -> None:
    params = [torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64, device=DEVICE))]
    opt, oracle = case.fused(params, lr=0.05), Oracle(case, params)
    for _ in range(STEPS):
        params[0].grad = torch.tensor(0.7, dtype=torch.float64, device=DEVICE)
        oracle.step([params[0].grad], [0.05])
        opt.step()
    assert params[0].shape == ()
    assert_within(params[0], oracle.params[0], TIGHT * (1 + oracle.params[0].abs()), "parameter")


def test_backend_is_the_one_of_this_run(backend: str) -> None:
    for case in TYPICAL:
        opt: Any = case.fused(make_params((3,)), lr=0.1)
        assert opt.backend == backend


def test_environment_forces_the_reference(with_reference: Any) -> None:
    """It says so, warns of nothing, and takes the steps that this run's backend takes."""
    code = (
        "import torch, cases\n"
        "for case in cases.TYPICAL:\n"
        "    params = cases.make_params((5, 33), torch.float64)\n"
        "    opt = case.fused(params, lr=cases.SCHEDULES[0])\n"
        "    cases.train(opt, range(12))\n"
        "    print(opt.backend, opt.clock.item(), *(x for p in params for x in p.tolist()))\n"
    )
    lines = with_reference(code).splitlines()
    for case, line in zip(TYPICAL, lines, strict=True):
        params = make_params((5, 33), torch.float64)
        train(case.fused(params, lr=SCHEDULES[0]), range(12))
        name, clock, *numbers = line.split()
        assert (name, clock) == ("reference", "12")
        expected = [x for p in params for x in p.tolist()]
        assert [float(x) for x in numbers] == pytest.approx(expected, rel=0, abs=1e-11)
