"""schedules.from_torch against torch's own schedulers, stepped on from wherever they stand; tables; training."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)
from torch_schedulers import (
    CLOSED,
    CYCLIC,
    STARTS,
    STEPS,
    TABULATED,
    Make,
    assert_same,
    momenta,
    named,
    run,
    torch_optimizer,
)

from sgdr_fused import FusedAdam, FusedAdamW, FusedSGD
from sgdr_fused.schedules import Table, from_torch

pytestmark = pytest.mark.once


@pytest.mark.parametrize("make", CLOSED)
def test_goes_on_where_the_scheduler_stands(make: Make) -> None:
    """Without a warning, so without a table."""
    for start in STARTS:
        scheduler = make(torch_optimizer(momentum=0.9))
        run(scheduler, start)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            converted = from_torch(scheduler)
        assert_same(converted, run(scheduler, STEPS), f"from step {start}")


@pytest.mark.parametrize("make", TABULATED)
def test_tabulated(make: Make) -> None:
    for start in STARTS:
        scheduler = make(torch_optimizer(momentum=0.9))
        run(scheduler, start)
        with pytest.warns(UserWarning, match=rf"{type(scheduler).__name__} was tabulated for {STEPS} steps"):
            converted = from_torch(scheduler, num_steps=STEPS)
        assert all(isinstance(schedule, Table) for schedule in converted)
        expected = run(scheduler, STEPS)
        assert_same(converted, expected, f"from step {start}")
        assert [schedule(10**9) for schedule in converted] == [schedule(STEPS - 1) for schedule in converted]


# ------------------------------------------------------------------------------------ the momentum


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, FusedSGD, FusedAdam], ids=lambda k: k.__name__)
@pytest.mark.parametrize("make", CYCLIC)
def test_momentum(make: Make, kind: Any) -> None:
    """SGD's momentum, Adam's first beta; also of our optimizers under torch's scheduler."""
    options = {"momentum": 0.9} if kind in (torch.optim.SGD, FusedSGD) else {}
    for start in STARTS[::3]:
        scheduler = make(torch_optimizer(kind, **options))
        run(scheduler, start)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            converted = from_torch(scheduler, hyperparameter="momentum")
        assert_same(converted, momenta(scheduler, STEPS), f"from step {start}")


def test_momentum_of_a_combination_is_tabulated() -> None:
    for start in (0, 7, 20, 30):
        opt = torch_optimizer(momentum=0.9)
        scheduler = SequentialLR(opt, [ConstantLR(opt, 0.5, total_iters=30), CyclicLR(opt, 0.01, 0.1, 7)], [20])
        run(scheduler, start)
        with pytest.warns(UserWarning, match="tabulated for 300 steps, and its last momentum holds"):
            converted = from_torch(scheduler, "momentum", num_steps=STEPS)
        assert_same(converted, momenta(scheduler, STEPS), f"from step {start}")


@pytest.mark.parametrize(
    "make",
    named(
        step=lambda o: StepLR(o, 10),
        cyclic=lambda o: CyclicLR(o, 0.001, 0.1, 10, cycle_momentum=False),
        one_cycle=lambda o: OneCycleLR(o, 0.5, total_steps=100, cycle_momentum=False),
        chained=lambda o: ChainedScheduler([StepLR(o, 10), ExponentialLR(o, 0.9)]),
    ),
)
def test_schedulers_that_move_no_momentum(make: Make) -> None:
    scheduler = make(torch_optimizer(momentum=0.9))
    with pytest.raises(ValueError, match=rf"hyperparameter.*{type(scheduler).__name__}.*'momentum'"):
        from_torch(scheduler, hyperparameter="momentum")


# ------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("make", [*CLOSED, *TABULATED])
def test_scheduler_and_optimizer_are_left_as_they_are(make: Make) -> None:
    one, other = make(torch_optimizer(momentum=0.9)), make(torch_optimizer(momentum=0.9))
    for scheduler in (one, other):
        run(scheduler, 13)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from_torch(one, num_steps=50)
    assert run(one, 100) == run(other, 100)


def test_the_number_of_steps_in_a_table() -> None:
    scheduler = LambdaLR(torch_optimizer(), lambda epoch: 1 / (1 + epoch))
    with pytest.warns(UserWarning, match=r"tabulated for 100000 steps.*num_steps says how many"):
        schedules = from_torch(scheduler)
    assert [len(schedule.entries) for schedule in schedules] == [100_000] * 2
    for num_steps in (1, 7):
        with pytest.warns(UserWarning, match=f"tabulated for {num_steps} steps"):
            schedules = from_torch(scheduler, num_steps=num_steps)
        assert [len(schedule.entries) for schedule in schedules] == [num_steps] * 2


def test_a_table_ends_where_the_scheduler_does() -> None:
    factors = [1.0, 0.5, 0.25]
    scheduler = LambdaLR(torch_optimizer(), lambda epoch: factors[epoch])
    with pytest.warns(UserWarning, match=r"tabulated for 3 steps.*IndexError"):
        schedules = from_torch(scheduler)
    assert schedules[0].values(5).tolist() == [0.1, 0.05, 0.025, 0.025, 0.025]


def test_one_cycle_past_its_end() -> None:
    """The rate that torch has one step past the end, where it jumps up, and then the lowest."""
    scheduler = OneCycleLR(torch_optimizer(momentum=0.9), 0.5, total_steps=20)
    run(scheduler, 20)
    schedule = from_torch(scheduler)[0]
    assert schedule(0) == scheduler.optimizer.param_groups[0]["lr"] > schedule(1)
    assert schedule(1) == schedule(100) == pytest.approx(0.5 / 25 / 1e4, rel=1e-12)


# ------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("theirs", "ours", "options"),
    [
        (torch.optim.SGD, FusedSGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.AdamW, FusedAdamW, {"betas": (0.9, 0.99)}),
    ],
    ids=["sgd", "adamw"],
)
def test_half_a_training_under_torch_and_half_under_ours(theirs: Any, ours: Any, options: dict[str, Any]) -> None:
    """Rate and momentum are converted in the middle of one cycle; the other half goes on as torch's would have."""
    old = torch_optimizer(theirs, lrs=(0.05, 0.01), **options)
    scheduler = OneCycleLR(old, [0.05, 0.01], total_steps=60, three_phase=True)

    def train(opt: Any, steps: range) -> None:
        for step in steps:
            for i, group in enumerate(opt.param_groups):
                p = group["params"][0]
                p.grad = (p.detach() - 1 + math.sin(step + i)).clone()
            opt.step()
            if opt is old:
                scheduler.step()

    train(old, range(31))
    lrs, momentum = from_torch(scheduler), from_torch(scheduler, hyperparameter="momentum")
    name = "momentum" if theirs is torch.optim.SGD else "betas"
    groups: list[dict[str, Any]] = [
        {"params": [torch.nn.Parameter(group["params"][0].detach().clone())]} for group in old.param_groups
    ]
    new = ours(groups, **options)
    new.load_state_dict(old.state_dict())
    new.clock.fill_(0)  # the Schedules' 0 is now
    for group, lr, m in zip(new.param_groups, lrs, momentum, strict=True):
        group["lr"] = lr
        group[name] = m if name == "momentum" else (m, 0.99)
    train(old, range(31, 60))
    train(new, range(31, 60))
    for a, b in zip(old.param_groups, new.param_groups, strict=True):
        assert b["params"][0].item() == pytest.approx(a["params"][0].item(), rel=1e-5)
