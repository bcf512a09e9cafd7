"""Failures that this package has had, by the number that they have in our list: cyclic schedules and momenta."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from cases import (
    ADAM,
    Case,
    Oracle,
    assert_within,
    make_params,
    rate,
    set_gradients,
    train,
)

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import Triangular

pytestmark = pytest.mark.untracked

TIGHT = 1e-12  # of float64


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_peer_15_cyclic_schedules_are_picklable(mode: str) -> None:
    schedule = Triangular(0.01, 0.1, step_size_up=3, mode=mode, gamma=0.9)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert copy.deepcopy(schedule) == schedule
    opt = FusedSGD(make_params((5,)), lr=schedule)
    train(opt, range(4))
    again = pickle.loads(pickle.dumps(opt))
    assert again.param_groups[0]["lr_schedule"] == schedule
    assert again.clock.item() == 4


def test_peer_15_cyclic_momentum_of_adam_by_torchs_scheduler() -> None:
    ours, theirs = (make_params((5, 33), torch.float64) for _ in range(2))
    options = {"base_lr": 0.001, "max_lr": 0.01, "step_size_up": 3, "base_momentum": 0.8, "max_momentum": 0.9}
    optimizers = FusedAdam(ours), torch.optim.Adam(theirs)
    cycles = [torch.optim.lr_scheduler.CyclicLR(opt, **options) for opt in optimizers]
    for t in range(10):
        for opt, cycle in zip(optimizers, cycles, strict=True):
            train(opt, [t])
            cycle.step()
    assert optimizers[0].param_groups[0]["betas"] == optimizers[1].param_groups[0]["betas"] != (0.9, 0.999)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_peer_15_cyclic_momentum_of_adam_by_schedule() -> None:
    params = make_params((5, 33), torch.float64)
    cycle = Triangular(0.8, 0.9, step_size_up=3)
    case = Case("adam", ADAM, {})
    opt, oracle = case.fused(params, lr=0.05, betas=(cycle, 0.99)), Oracle(case, params)
    for t in range(10):
        assert float(opt.param_groups[0]["betas"][0]) == pytest.approx(rate(cycle, t), rel=TIGHT)
        set_gradients(params, t)
        oracle.step([p.grad for p in params], [0.05] * 2, betas=(rate(cycle, t), 0.99))
        opt.step()
    for p, expected in zip(params, oracle.params, strict=True):
        assert_within(p, expected, 10 * TIGHT * (1 + expected.abs()), "parameter")
