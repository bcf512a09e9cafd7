"""Every form that a hyperparameter takes: number, tensor, Schedule, and changes from one to another.

The oracle is the same optimizer driven by numbers, or the reference where that would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import (
    CASE_OF,
    CASES,
    DEVICE,
    EVERY_ALGORITHM,
    PRETEND,
    SCHEDULES,
    TYPICAL,
    Case,
    Oracle,
    assert_within,
    gradient,
    ids,
    make_params,
    params_of,
    rate,
)

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import Constant, CosineWarmRestarts, Table, Triangular

STEPS = 6 if PRETEND else 12  # past a restart of each schedule
SIZES = (5, 1025)
COSINE, TRIANGLE, DECAYING = SCHEDULES
TIGHT = 1e-12  # of float64: what two evaluations of one schedule may differ by


def follow(case: Case, opt: Any, rates: Callable[[int], float], change: Callable[[Any, int], None]) -> None:
    """Step `opt`, `change(group, t)` in front of step t, beside the oracle at `rates(t)`."""
    params = params_of(opt)
    oracle = Oracle(case, params)
    for t in range(STEPS):
        change(opt.param_groups[0], t)
        for i, p in enumerate(params):
            p.grad = gradient(p, t, i)
        oracle.step([p.grad for p in params], [rates(t)] * len(params))
        opt.step()
        for i, p in enumerate(params):
            assert_within(p, oracle.params[i], TIGHT * (1 + oracle.params[i].abs()), f"step {t}")


def one_group(case: Case, lr: Any) -> Any:
    return case.fused(make_params(SIZES, torch.float64), lr=lr)


def unchanged(group: dict[str, Any], t: int) -> None:
    pass


@pytest.mark.parametrize("case", ids(CASES))
@pytest.mark.parametrize("lr", [0.05, 0, 1, COSINE, TRIANGLE, DECAYING, Constant(0.05)], ids=repr)
def test_fixed_form(case: Case, lr: Any) -> None:
    follow(case, one_group(case, lr), lambda t: rate(lr, t), unchanged)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_number_that_changes(case: Case) -> None:
    def change(group: dict[str, Any], t: int) -> None:
        group["lr"] = rate(DECAYING, t)

    follow(case, one_group(case, 1.0), lambda t: rate(DECAYING, t), change)


@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64, torch.bfloat16]))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_tensor_changed_in_place(case: Case, dtype: torch.dtype) -> None:
    lr = torch.tensor(0.05, dtype=dtype, device=DEVICE)
    opt = one_group(case, lr)
    assert opt.param_groups[0]["lr"] is lr
    assert opt.param_groups[0]["lr_schedule"] is None

    def change(group: dict[str, Any], t: int) -> None:
        if t % 3 == 2:
            lr.mul_(0.7)

    follow(case, opt, lambda t: lr.item(), change)
    assert opt.param_groups[0]["lr"] is lr


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a device beside the CPU")
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_cpu_tensor_with_parameters_elsewhere(case: Case) -> None:
    lr = torch.tensor(0.05, dtype=torch.float64)

    def change(group: dict[str, Any], t: int) -> None:
        lr.mul_(0.9)

    follow(case, one_group(case, lr), lambda t: lr.item(), change)


def test_tensor_with_one_element_and_a_dimension() -> None:
    lr = torch.tensor([0.05], dtype=torch.float64, device=DEVICE)
    follow(TYPICAL[0], one_group(TYPICAL[0], lr), lambda t: 0.05, unchanged)


FORMS = [0.03, torch.tensor(0.05, dtype=torch.float64, device=DEVICE), COSINE, TRIANGLE]


@pytest.mark.parametrize("second", FORMS, ids=["number", "tensor", "cosine", "triangle"])
@pytest.mark.parametrize("first", FORMS, ids=["number", "tensor", "cosine", "triangle"])
@pytest.mark.parametrize("case", ids(TYPICAL[1:3]))
def test_assigned_later(case: Case, first: Any, second: Any) -> None:
    """It holds from the next step on: a schedule that is assigned at step 5 is read at 5, not from its own 0."""
    switch = 5
    opt = one_group(case, first)

    def change(group: dict[str, Any], t: int) -> None:
        if t == switch:
            group["lr"] = second

    follow(case, opt, lambda t: rate(first if t < switch else second, t), change)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_group_without_its_own_rate_gets_the_constructors(case: Case) -> None:
    groups: list[dict[str, Any]] = [
        {"params": make_params(SIZES, torch.float64, seed=0)},
        {"params": make_params(SIZES, torch.float64, seed=1), "lr": 0.02},
        {"params": make_params(SIZES, torch.float64, seed=2), "lr": TRIANGLE},
        {"params": make_params(SIZES, torch.float64, seed=3)},
    ]
    opt = case.fused(groups, lr=COSINE)
    rates = [COSINE, 0.02, TRIANGLE, COSINE]
    assert [g["lr_schedule"] for g in opt.param_groups] == [COSINE, None, TRIANGLE, COSINE]
    assert [float(g["lr"]) for g in opt.param_groups] == pytest.approx([rate(r, 0) for r in rates], rel=TIGHT)
    params = params_of(opt)
    oracle = Oracle(case, params)
    for t in range(STEPS):
        for i, p in enumerate(params):
            p.grad = gradient(p, t, i)
        oracle.step([p.grad for p in params], [rate(r, t) for r in rates for _ in SIZES])
        opt.step()
    for p, expected in zip(params, oracle.params, strict=True):
        assert_within(p, expected, TIGHT * (1 + expected.abs()), "parameter")


def test_one_schedule_object_serves_groups_of_several_optimizers() -> None:
    optimizers = [FusedSGD(make_params((3,)), lr=COSINE), FusedAdam(make_params((3,)), lr=COSINE)]
    for t in range(4):
        for opt in optimizers[: 1 + t % 2]:  # their clocks go separate ways
            for p in params_of(opt):
                p.grad = torch.ones_like(p)
            opt.step()
    assert [float(o.param_groups[0]["lr"]) for o in optimizers] == pytest.approx(
        [rate(COSINE, 4), rate(COSINE, 2)], rel=TIGHT
    )


def test_schedule_reaches_restarts_exactly() -> None:
    """The displayed rate at each restart is the maximum itself, not a number near it."""
    schedule = CosineWarmRestarts(0.1, T_0=2, T_mult=2)
    opt = FusedSGD(make_params((3,)), lr=schedule)
    restarts = []
    for t in range(31):
        if float(opt.param_groups[0]["lr"]) == 0.1:
            restarts.append(t)
        opt.step()
    assert restarts == [0, 2, 6, 14, 30]


# The other hyperparameters take the same forms.

MOMENTUM = Triangular(0.5, 0.9, step_size_up=3)
SWITCHED = Table((0.0, 0.5, 0.0, 0.25, 0.0, 0.75))  # off and on
OTHERS = [
    pytest.param(name, CASE_OF[case], MOMENTUM, id=f"{case}-{name}")
    for algorithm in EVERY_ALGORITHM.values()
    for case, name in algorithm.schedulable
]
# Where it is 0, the buffer waits; the reference is called with the number 0 and leaves it alone.
OTHERS += [
    pytest.param("momentum", CASE_OF[case], SWITCHED, id=f"{case}-momentum_off_and_on")
    for algorithm in EVERY_ALGORITHM.values()
    for case in algorithm.momentum_off_and_on
]


def _wrapped(name: str, value: Any) -> Any:
    return (value, 0.5) if name == "betas" else value


@pytest.mark.parametrize(("name", "case", "schedule"), OTHERS)
def test_schedule_for_another_hyperparameter(name: str, case: Case, schedule: Any) -> None:
    params = make_params(SIZES, torch.float64)
    opt = case.fused(params, lr=0.05, **{name: _wrapped(name, schedule)})
    group = opt.param_groups[0]
    assert group[f"{name}_schedule"] == schedule
    assert group["lr_schedule"] is None
    oracle = Oracle(case, params)
    for t in range(STEPS):
        shown = group[name][0] if name == "betas" else group[name]
        assert float(shown) == pytest.approx(rate(schedule, t), rel=TIGHT)
        for i, p in enumerate(params):
            p.grad = gradient(p, t, i)
        changed = {name: _wrapped(name, rate(schedule, t))}
        oracle.step([p.grad for p in params], [0.05] * len(params), **changed)
        opt.step()
    for p, expected in zip(params, oracle.params, strict=True):
        assert_within(p, expected, TIGHT * (1 + expected.abs()), "parameter")


@pytest.mark.parametrize(("name", "case", "schedule"), OTHERS)
def test_tensor_for_another_hyperparameter(name: str, case: Case, schedule: Any) -> None:
    params = make_params(SIZES, torch.float64)
    value = torch.tensor(0.5, dtype=torch.float64, device=DEVICE)
    second = torch.tensor(0.5, dtype=torch.float64, device=DEVICE)  # betas: both tensors or neither
    opt = case.fused(params, lr=0.05, **{name: (value, second) if name == "betas" else value})
    oracle = Oracle(case, params)
    for t in range(STEPS):
        value.fill_(rate(schedule, t))
        for i, p in enumerate(params):
            p.grad = gradient(p, t, i)
        changed = {name: _wrapped(name, rate(schedule, t))}
        oracle.step([p.grad for p in params], [0.05] * len(params), **changed)
        opt.step()
    for p, expected in zip(params, oracle.params, strict=True):
        assert_within(p, expected, TIGHT * (1 + expected.abs()), "parameter")
