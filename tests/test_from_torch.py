"""schedules.from_torch against torch's own schedulers, stepped on from wherever they stand.

Tolerance: 1e-9 of the rate, and 1e-12 of the highest one. torch makes most rates from the one before, so its
rounding adds up over the steps; and where a rate passes through 0 (the bottom of a cosine, the end of a polynomial)
what is left of torch's digits is an absolute error, which its next factors multiply. Every step is compared, so a
change that came a step early or late would show: neighbouring rates differ by far more than that.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from sgdr_fused import FusedAdam, FusedAdamW, FusedSGD
from sgdr_fused.schedules import Schedule, Table, from_torch

LRS = (0.1, 0.03)  # of the two groups
STARTS = (0, 1, 2, 4, 5, 6, 9, 10, 11, 19, 20, 21, 29, 30, 31, 47, 90, 121, 122, 200)
STEPS = 300  # after the start

Make = Callable[[torch.optim.Optimizer], Any]


def named(**makes: Make) -> list[Any]:
    return [pytest.param(make, id=name) for name, make in makes.items()]


CLOSED = named(
    step=lambda o: StepLR(o, 10, 0.5),
    step_1=lambda o: StepLR(o, 1, 0.99),
    step_7=lambda o: StepLR(o, 7),
    step_growing=lambda o: StepLR(o, 30, 1.5),
    step_to_0=lambda o: StepLR(o, 20, 0.0),
    multi_step=lambda o: MultiStepLR(o, [5, 20, 30], 0.5),
    multi_step_twice=lambda o: MultiStepLR(o, [10, 10, 31, 121], 0.3),
    multi_step_at_0=lambda o: MultiStepLR(o, [0, 10, 20], 0.5),
    multi_step_none=lambda o: MultiStepLR(o, [], 0.5),
    constant=lambda o: ConstantLR(o, 0.25, total_iters=10),
    constant_default=lambda o: ConstantLR(o),
    constant_0_steps=lambda o: ConstantLR(o, 0.5, total_iters=0),
    linear=lambda o: LinearLR(o, 0.1, total_iters=20),
    linear_down=lambda o: LinearLR(o, 1.0, 0.2, total_iters=30),
    linear_to_0=lambda o: LinearLR(o, 0.7, 0.0, total_iters=10),
    linear_1=lambda o: LinearLR(o, 0.3, 0.9, total_iters=1),
    exponential=lambda o: ExponentialLR(o, 0.97),
    exponential_growing=lambda o: ExponentialLR(o, 1.02),
    polynomial=lambda o: PolynomialLR(o, total_iters=30, power=2.0),
    polynomial_half=lambda o: PolynomialLR(o, total_iters=121, power=0.5),
    polynomial_linear=lambda o: PolynomialLR(o),
    cosine=lambda o: CosineAnnealingLR(o, T_max=20),
    cosine_min=lambda o: CosineAnnealingLR(o, T_max=10, eta_min=0.01),
    cosine_long=lambda o: CosineAnnealingLR(o, T_max=250, eta_min=0.001),
    cosine_1=lambda o: CosineAnnealingLR(o, T_max=1, eta_min=0.01),
    warm_restarts=lambda o: CosineAnnealingWarmRestarts(o, 10, 2, 0.001),
    warm_restarts_equal=lambda o: CosineAnnealingWarmRestarts(o, 10),
    warm_restarts_1_3=lambda o: CosineAnnealingWarmRestarts(o, 1, 3, 0.01),
    cyclic=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=5),
    cyclic_down=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=3, step_size_down=17),
    cyclic_per_group=lambda o: CyclicLR(o, [0.001, 0.0], [0.1, 0.2], 10, cycle_momentum=False),
    cyclic_2=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=10, mode="triangular2"),
    cyclic_exp=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=4, step_size_down=6, mode="exp_range", gamma=0.99),
    one_cycle=lambda o: OneCycleLR(o, 0.5, total_steps=600),
    one_cycle_per_group=lambda o: OneCycleLR(o, [0.5, 0.2], total_steps=555, div_factor=10, final_div_factor=100),
    one_cycle_linear=lambda o: OneCycleLR(
        o, 0.5, epochs=60, steps_per_epoch=10, pct_start=0.2, anneal_strategy="linear"
    ),
    one_cycle_three=lambda o: OneCycleLR(o, 0.5, total_steps=601, pct_start=0.37, three_phase=True),
    one_cycle_three_late=lambda o: OneCycleLR(o, 0.5, total_steps=523, pct_start=0.7, three_phase=True),
    one_cycle_three_linear=lambda o: OneCycleLR(
        o, 0.5, total_steps=523, pct_start=0.1, anneal_strategy="linear", three_phase=True
    ),
    one_cycle_falling=lambda o: OneCycleLR(o, 0.5, total_steps=523, pct_start=0.0),
    one_cycle_rising=lambda o: OneCycleLR(o, 0.5, total_steps=523, pct_start=1.0),
    warmed_up_cosine=lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=10), CosineAnnealingLR(o, 90)], [10]),
    warmed_up_restarts=lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=5), CosineAnnealingWarmRestarts(o, 10, 2, 0.001)], [5]
    ),
    three_in_a_row=lambda o: SequentialLR(
        o, [ConstantLR(o, 0.5, total_iters=100), ExponentialLR(o, 0.9), StepLR(o, 7, 0.8)], [20, 30]
    ),
    four_in_a_row=lambda o: SequentialLR(
        o,
        [PolynomialLR(o, 5), MultiStepLR(o, [2, 4], 0.5), CyclicLR(o, 0.01, 0.1, 4), LinearLR(o, 0.5, total_iters=50)],
        [10, 20, 90],
    ),
    skipped_part=lambda o: SequentialLR(
        o, [ConstantLR(o, 0.5, 3), ExponentialLR(o, 0.5), StepLR(o, 10, 0.5)], [20, 20]
    ),
    chained=lambda o: ChainedScheduler([ConstantLR(o, 0.1, total_iters=20), ExponentialLR(o, 0.97)]),
    chained_three=lambda o: ChainedScheduler(
        [LinearLR(o, 0.2, total_iters=30), StepLR(o, 10, 0.8), MultiStepLR(o, [29, 30, 31], 0.5)]
    ),
    chained_polynomial=lambda o: ChainedScheduler([PolynomialLR(o, 121, 2.0), ExponentialLR(o, 0.99)]),
    chained_alone=lambda o: ChainedScheduler([CosineAnnealingLR(o, 20, 0.01)]),
)
TABULATED = named(
    lambda_=lambda o: LambdaLR(o, lambda epoch: 0.95**epoch),
    lambda_per_group=lambda o: LambdaLR(o, [lambda epoch: 1 / (1 + epoch), lambda epoch: 1 + math.sin(epoch)]),
    multiplicative=lambda o: MultiplicativeLR(o, lambda epoch: 0.9 if epoch % 5 == 0 else 1.0),
    cyclic_scale=lambda o: CyclicLR(o, 0.001, 0.1, 5, scale_fn=lambda cycle: 1 / cycle, scale_mode="cycle"),
    cyclic_between_steps=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=2.5, step_size_down=4.25),
    cosine_rising=lambda o: CosineAnnealingLR(o, 20, eta_min=0.5),
    sequential_lambda=lambda o: SequentialLR(
        o, [LinearLR(o, 0.1, total_iters=20), LambdaLR(o, lambda epoch: 0.9**epoch)], [20]
    ),
    chained_cosine=lambda o: ChainedScheduler([LinearLR(o, 0.2, total_iters=30), CosineAnnealingLR(o, 150, 0.01)]),
    one_cycle_short_rise=lambda o: OneCycleLR(o, 0.5, total_steps=700, div_factor=math.inf),
)


def torch_optimizer(kind: Any = torch.optim.SGD, lrs: Any = LRS, **options: Any) -> torch.optim.Optimizer:
    return kind([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], **options)


def run(scheduler: Any, steps: int) -> list[list[float]]:
    """The rates of the groups in the next `steps` steps, which are taken; as long as the scheduler goes."""
    rates = []
    for _ in range(steps):
        rates.append([float(group["lr"]) for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def momenta(scheduler: Any, steps: int) -> list[list[float]]:
    result = []
    for _ in range(steps):
        groups = scheduler.optimizer.param_groups
        result.append([group["betas"][0] if "betas" in group else group["momentum"] for group in groups])
        scheduler.optimizer.step()
        scheduler.step()
    return result


def assert_same(converted: list[Schedule], expected: list[list[float]], what: str) -> None:
    assert len(converted) == len(expected[0])
    for i, schedule in enumerate(converted):
        theirs = torch.tensor([row[i] for row in expected], dtype=torch.float64)
        ours = schedule.values(len(expected))
        tolerance = 1e-9 * theirs.abs() + 1e-12 * theirs.max()
        wrong = ((ours - theirs).abs() > tolerance).nonzero().flatten()
        assert wrong.numel() == 0, (
            f"{what}, group {i}: {wrong.numel()} steps off, e.g. {wrong[0]}: {ours[wrong[0]]} for {theirs[wrong[0]]}"
        )
        assert schedule(0) == pytest.approx(expected[0][i], rel=1e-12, abs=1e-14)


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

CYCLIC = named(
    cyclic=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=5),
    cyclic_down=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=3, step_size_down=17, base_momentum=0.5),
    cyclic_2=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=10, mode="triangular2", max_momentum=0.99),
    cyclic_exp=lambda o: CyclicLR(o, 0.001, 0.1, step_size_up=4, mode="exp_range", gamma=0.99),
    cyclic_per_group=lambda o: CyclicLR(o, 0.001, 0.1, 10, base_momentum=[0.5, 0.6], max_momentum=[0.7, 0.95]),
    one_cycle=lambda o: OneCycleLR(o, 0.5, total_steps=600),
    one_cycle_per_group=lambda o: OneCycleLR(o, 0.5, 555, base_momentum=[0.5, 0.6], max_momentum=[0.7, 0.95]),
    one_cycle_linear=lambda o: OneCycleLR(o, 0.5, total_steps=600, pct_start=0.2, anneal_strategy="linear"),
    one_cycle_three=lambda o: OneCycleLR(o, 0.5, total_steps=601, pct_start=0.37, three_phase=True),
)


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


# ------------------------------------------------------- schedulers that stand where no step has led


@pytest.mark.parametrize("make", CLOSED)
def test_rates_that_were_set_by_hand(make: Make) -> None:
    """torch goes on from them, or forgets them at the next step; so do we."""
    for start in (0, 3, 10, 26, 125):
        scheduler = make(torch_optimizer(momentum=0.9))
        run(scheduler, start)
        for group in scheduler.optimizer.param_groups:
            group["lr"] = group["lr"] * 0.5 + 0.25  # above every minimum
        converted = from_torch(scheduler, num_steps=STEPS)
        assert_same(converted, run(scheduler, STEPS), f"from step {start}")


@pytest.mark.parametrize(
    "make",
    named(
        step=lambda o, **k: StepLR(o, 10, 0.5, **k),
        multi_step=lambda o, **k: MultiStepLR(o, [5, 20, 60], 0.5, **k),
        exponential=lambda o, **k: ExponentialLR(o, 0.97, **k),
        linear=lambda o, **k: LinearLR(o, 0.1, total_iters=60, **k),
        polynomial=lambda o, **k: PolynomialLR(o, 90, 2.0, **k),
        cosine=lambda o, **k: CosineAnnealingLR(o, 80, 0.001, **k),
        warm_restarts=lambda o, **k: CosineAnnealingWarmRestarts(o, 10, 2, 0.001, **k),
    ),
)
def test_made_with_a_last_epoch(make: Any) -> None:
    """Whatever torch makes of it: of warm restarts something wrong (#88791)."""
    for last in (4, 19, 50):
        scheduler = make(torch_optimizer(momentum=0.9))
        run(scheduler, last + 1)
        resumed = make(scheduler.optimizer, last_epoch=last)
        converted = from_torch(resumed)
        assert_same(converted, run(resumed, STEPS), f"after {last}")


@pytest.mark.parametrize("make", CLOSED[:28])
def test_loaded_from_a_checkpoint(make: Make) -> None:
    old = make(torch_optimizer(momentum=0.9))
    run(old, 47)
    new = make(torch_optimizer(momentum=0.9))
    new.optimizer.load_state_dict(old.optimizer.state_dict())
    new.load_state_dict(old.state_dict())
    assert from_torch(new) == from_torch(old)
    assert_same(from_torch(new), run(old, STEPS), "loaded")


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize(("T_0", "T_mult"), [(10, 2), (1, 3), (7, 1), (3, 3)])
def test_warm_restarts_that_were_put_at_an_epoch(T_0: int, T_mult: int) -> None:
    """Also where torch puts them one cycle too low: T_0=1, T_mult=3, step 121."""
    for epoch in (0, 1, 9, 10, 11, 29, 30, 40, 120, 121, 122, 364):
        scheduler = CosineAnnealingWarmRestarts(torch_optimizer(), T_0, T_mult, 0.001)
        scheduler.optimizer.step()
        scheduler.step(epoch)
        assert_same(from_torch(scheduler), run(scheduler, STEPS), f"at {epoch}")


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_between_two_steps() -> None:
    """Fractions of an epoch have no whole step in front of them: tabulated."""
    scheduler = CosineAnnealingWarmRestarts(torch_optimizer(), 10, 2)
    scheduler.optimizer.step()
    scheduler.step(3.25)
    with pytest.warns(UserWarning, match=r"T_cur=3.25"):
        converted = from_torch(scheduler, num_steps=STEPS)
    assert_same(converted, run(scheduler, STEPS), "at 3.25")


def test_rates_in_tensors() -> None:
    opt = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=torch.tensor(0.1, dtype=torch.float64))
    scheduler = SequentialLR(opt, [LinearLR(opt, 0.1, total_iters=10), CosineAnnealingLR(opt, 50)], [10])
    run(scheduler, 5)
    before = opt.param_groups[0]["lr"].clone()
    converted = from_torch(scheduler)
    assert opt.param_groups[0]["lr"] == before
    assert_same(converted, run(scheduler, STEPS), "tensor")
    multiplied = MultiplicativeLR(opt, lambda epoch: 0.9)
    with pytest.warns(UserWarning, match="tabulated"):
        assert from_torch(multiplied, num_steps=3)[0](2) == pytest.approx(0.81 * float(opt.param_groups[0]["lr"]))
    assert_same(from_torch(ExponentialLR(opt, 0.9)), run(ExponentialLR(opt, 0.9), 1), "tensor")


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


# ------------------------------------------------------------------------------------------- errors


def test_plateau_is_refused_with_the_reason() -> None:
    with pytest.raises(TypeError, match=r"ReduceLROnPlateau: its rate depends on the metric"):
        from_torch(ReduceLROnPlateau(torch_optimizer()))


class Halved(StepLR):
    def get_lr(self) -> list[Any]:
        return [rate / 2 for rate in super().get_lr()]


class Renamed(StepLR):
    """Nothing of its own."""


class Own(lr_scheduler.LRScheduler):
    def get_lr(self) -> list[Any]:
        return [0.1 for _ in self.base_lrs]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda o: Halved(o, 10), "Halved.*get_lr"),
        (lambda o: Own(o), "Own"),
        (lambda o: torch.optim.swa_utils.SWALR(o, 0.05), "SWALR"),
        (lambda o: SequentialLR(o, [Halved(o, 10), StepLR(o, 10)], [5]), "Halved.*get_lr"),
        (lambda o: ChainedScheduler([StepLR(o, 10), Own(o)]), "Own"),
        (lambda o: None, "None"),
        (lambda o: o, "SGD"),
    ],
    ids=["subclass", "own", "swa", "in_sequential", "in_chained", "none", "optimizer"],
)
def test_unknown_rules_are_refused(make: Make, named: str) -> None:
    with pytest.raises(TypeError, match=rf"(?s)scheduler must.*{named}"):
        from_torch(make(torch_optimizer()))


def test_a_scheduler_with_a_method_of_its_own_is_refused() -> None:
    scheduler = StepLR(torch_optimizer(), 10)
    scheduler.get_lr = lambda: [0.1, 0.1]
    with pytest.raises(TypeError, match="get_lr"):
        from_torch(scheduler)


def test_a_subclass_with_nothing_of_its_own() -> None:
    scheduler = Renamed(torch_optimizer(), 10)
    assert_same(from_torch(scheduler), run(scheduler, STEPS), "renamed")


def test_a_group_that_the_scheduler_does_not_know() -> None:
    scheduler = StepLR(torch_optimizer(), 10)
    scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match=r"scheduler must know all groups.*2 of 3"):
        from_torch(scheduler)


@pytest.mark.parametrize("name", ["weight_decay", "betas", "", None, 3], ids=repr)
def test_bad_hyperparameters(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"hyperparameter.*{name!r}"):
        from_torch(StepLR(torch_optimizer(), 10), hyperparameter=name)


@pytest.mark.parametrize("num_steps", [0, -1, 1.5, "3", None, True], ids=repr)
def test_bad_numbers_of_steps(num_steps: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"num_steps.*{re.escape(repr(num_steps))}"):
        from_torch(StepLR(torch_optimizer(), 10), num_steps=num_steps)


@pytest.mark.parametrize(
    "make",
    named(
        lambda_=lambda o: LambdaLR(o, lambda epoch: 1.0 - epoch / 5),
        cosine=lambda o: CosineAnnealingLR(o, 10, eta_min=-0.1),
        linear=lambda o: MultiplicativeLR(o, lambda epoch: -1.0),
    ),
)
def test_negative_rates_are_refused(make: Make) -> None:
    scheduler = make(torch_optimizer())
    with pytest.raises(ValueError, match=rf"scheduler cannot be converted: {type(scheduler).__name__}.*-0\.[0-9]+"):
        from_torch(scheduler, num_steps=20)


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
