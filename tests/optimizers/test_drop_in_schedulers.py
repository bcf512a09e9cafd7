"""torch's schedulers on top of our optimizers, and many threads of one program."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    CASES,
    TYPICAL,
    Case,
    expected_backend,
    gradient,
    ids,
    make_params,
    params_of,
    train,
)
from pairs import SIZES, assert_equal, pair
from torch.optim import lr_scheduler

pytestmark = pytest.mark.untracked

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, gamma=0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: 0.5**t]),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 8)], [3]
    ),
}


@pytest.mark.parametrize("tensor_rate", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("case", ids(c for c in CASES if c.id in ("sgd_nesterov", "adam", "adamw_amsgrad")))
def test_torchs_scheduler_on_top(case: Case, scheduler: str, tensor_rate: bool) -> None:
    optimizers = []
    for fused in (True, False):
        params = make_params(SIZES, torch.float64)
        if not fused:
            params = [torch.nn.Parameter(p.detach().cpu().clone()) for p in params]

        def lr(value: float, device: Any = params[0].device) -> Any:
            return torch.tensor(value, dtype=torch.float64, device=device) if tensor_rate else value

        groups = [{"params": params[:1], "lr": lr(0.05)}, {"params": params[1:], "lr": lr(0.02)}]
        optimizers.append(case.fused(groups) if fused else case.torch(groups))
    schedulers = [SCHEDULERS[scheduler](opt) for opt in optimizers]
    for t in range(11):
        for opt, on_top in zip(optimizers, schedulers, strict=True):
            train(opt, [t])
            on_top.step()
        rates = [[float(g["lr"]) for g in opt.param_groups] for opt in optimizers]
        assert rates[0] == pytest.approx(rates[1], rel=1e-14)
    assert_equal(*optimizers)


def test_reduce_on_plateau_on_top() -> None:
    optimizers = pair(TYPICAL[1])
    schedulers = [lr_scheduler.ReduceLROnPlateau(o, patience=1) for o in optimizers]
    for t in range(10):
        for opt, on_top in zip(optimizers, schedulers, strict=True):
            train(opt, [t])
            on_top.step(1.0)
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"] < 0.05
    assert_equal(*optimizers)


def test_group_added_under_a_torch_scheduler() -> None:
    """ReduceLROnPlateau and a scheduler made afterwards work, as on torch's optimizer."""
    optimizers = pair(TYPICAL[1])
    for opt in optimizers:
        first = lr_scheduler.ExponentialLR(opt, 0.5)
        train(opt, [9])
        first.step()
        added = make_params((4,), torch.float64, seed=3)[0].detach().to(params_of(opt)[0].device)
        opt.add_param_group({"params": [torch.nn.Parameter(added)], "lr": 0.02})
        on_top = lr_scheduler.ExponentialLR(opt, 0.9)
        for t in range(4):
            train(opt, [t])
            on_top.step()
    assert [g["lr"] for g in optimizers[0].param_groups] == [g["lr"] for g in optimizers[1].param_groups]
    assert_equal(*optimizers)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_many_threads_of_one_program_step_their_own_optimizers(case: Case) -> None:
    """The interpreter's lock is released in a step; what is shared has to bear that."""
    shared = 70_000 if expected_backend() == "cpu" else 2_000  # the first is work for several threads of a step

    def work(seed: int) -> list[Any]:
        params = make_params((1025, shared), seed=seed)
        opt = case.fused(params, lr=0.05)
        for t in range(5):
            for i, p in enumerate(params):
                p.grad = gradient(p, t, i)
            opt.step()
        return [bits(p) for p in params]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(4)))
    assert together == [work(seed) for seed in range(4)]
