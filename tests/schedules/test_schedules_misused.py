"""Habits from torch's schedulers that Schedules answer with a sentence, and OneCycle made as torch's."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from schedule_cases import FIELDS, NAMES, every_schedule
from torch.optim import lr_scheduler

from sgdr_fused import FusedSGD
from sgdr_fused.schedules import Constant, CosineWarmRestarts, OneCycle, Product, Schedule, Sequential, Table, Warmup

pytestmark = [pytest.mark.once, pytest.mark.formulas, pytest.mark.host]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("step", r"optimizer\.step\(\) advances the clock"),
        ("get_last_lr", r"optimizer\.get_last_lr\(\)"),
        ("state_dict", r"optimizer\.state_dict\(\)"),
        ("load_state_dict", r"optimizer\.load_state_dict\(\)"),
    ],
)
@every_schedule
def test_methods_of_schedulers(schedule: Schedule, name: str, advice: str) -> None:
    """Each says what to do instead, and is not there for a framework that asks."""
    assert not hasattr(schedule, name)
    with pytest.raises(AttributeError, match=rf"{type(schedule).__name__}.*'{name}'.*is no scheduler.*{advice}"):
        getattr(schedule, name)


def test_other_attributes_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match=r"^'Constant' object has no attribute 'vlaue'$"):
        Constant(0.1).vlaue  # noqa: B018


FOREIGN = {
    "ours": lambda: FusedSGD([torch.nn.Parameter(torch.zeros(1))]),
    "torchs": lambda: torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1),
}


@pytest.mark.parametrize("make", FOREIGN)
@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_an_optimizer_as_an_argument(kind: Any, make: str) -> None:
    """The error names the optimizer in any place, also if other arguments are missing or come twice."""
    optimizer = FOREIGN[make]()
    good = FIELDS[kind][0]
    for name in good:
        with pytest.raises(TypeError, match=rf"takes no optimizer: pass it as lr=.*{kind.__name__}.*{name}"):
            kind(**{**good, name: optimizer})
    with pytest.raises(TypeError, match="takes no optimizer"):
        kind(optimizer)
    with pytest.raises(TypeError, match="takes no optimizer"):
        kind(optimizer, **good)


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_a_scheduler_of_torchs_as_an_argument(kind: Any) -> None:
    scheduler = lr_scheduler.StepLR(FOREIGN["torchs"](), 3)
    for name, value in FIELDS[kind][0].items():
        with pytest.raises(TypeError, match=rf"from_torch\(scheduler\).*{name} is a StepLR"):
            kind(**{**FIELDS[kind][0], name: scheduler})
        if name in ("factors", "schedules"):
            with pytest.raises(TypeError, match=r"from_torch\(scheduler\).* is a StepLR"):
                kind([scheduler, *value])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Warmup(CosineWarmRestarts, 3),
            r"schedule must be a Schedule.*the class: make one, Cosine",
        ),
        (lambda: Product([Constant(1), Constant]), r"factors\[1\] must be a Schedule.*the class"),
        (lambda: Sequential([("cosine", 3), Constant(1)]), r"schedules\[0\]\[0\] must be a Schedule, got 'cosine'"),
        (lambda: Sequential([(Constant(1), 3), None]), r"schedules\[1\], the last, must be a Schedule, got None"),
        (lambda: Sequential([Constant(1), Constant(2)]), r"schedules\[0\] must be a pair"),
        (lambda: Warmup("x" * 10**6, 3), r"schedule must be a Schedule, got 'xx"),
        (lambda: Sequential("x" * 10**6), "schedules must be a list"),
        (lambda: Product({"x" * 10**6}), "factors must be a list"),
        (lambda: Table("x" * 10**6), "entries must be a list"),
        (lambda: OneCycle(0.1, 10, anneal_strategy="x" * 10**6), "anneal_strategy must be one of"),
    ],
)
def test_what_is_no_schedule_is_named_shortly(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        make()
    assert len(str(caught.value)) < 400


# ------------------------------------------------------------------------------------- one cycle


def test_one_cycle_of_epochs() -> None:
    """It is made as torch's is; it keeps only the number of steps."""
    schedule = OneCycle(0.1, epochs=3, steps_per_epoch=25, pct_start=0.4)
    same = OneCycle(0.1, 75, pct_start=0.4)
    assert schedule == same and hash(schedule) == hash(same) and repr(schedule) == repr(same)
    assert schedule.to_dict() == same.to_dict()
    others = (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule), eval(repr(schedule), dict(NAMES)))
    assert all(other == schedule for other in (*others, Schedule.from_dict(schedule.to_dict())))
    assert dataclasses.replace(schedule, max_lr=0.2) == OneCycle(0.2, 75, pct_start=0.4)
    optimizer = FOREIGN["torchs"]()
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=3, steps_per_epoch=25, pct_start=0.4)
    for t in range(75):
        assert schedule(t) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        if t < 74:
            scheduler.step()
    assert schedule.momentum == same.momentum


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "total_steps must be given, or epochs and steps_per_epoch"),
        ({"epochs": 3}, r"steps_per_epoch must be an integer, got None"),
        ({"steps_per_epoch": 3}, r"epochs must be an integer, got None"),
        ({"total_steps": 30, "epochs": 3, "steps_per_epoch": 10}, "total_steps must be left out.*30, 3 and 10"),
        ({"total_steps": 30, "epochs": 3}, "total_steps must be left out.*30, 3 and None"),
        ({"epochs": 0, "steps_per_epoch": 10}, r"epochs must be an integer in \[1, 2\*\*61\], got 0"),
        ({"epochs": 2, "steps_per_epoch": 1.5}, r"steps_per_epoch must be an integer, got 1.5"),
        ({"epochs": 1, "steps_per_epoch": 1}, r"total_steps must be an integer in \[2, 2\*\*61\], got 1"),
        ({"epochs": 2**40, "steps_per_epoch": 2**40}, r"total_steps must be an integer in \[2"),
    ],
    ids=repr,
)
def test_one_cycle_needs_one_number_of_steps(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        OneCycle(0.1, **options)
    with pytest.raises(TypeError, match="positional"):
        OneCycle(0.1, None, 0.3, "cos", 0.85, 0.95, 25.0, 1e4, False, 3, 10)  # type: ignore[call-arg,arg-type]
