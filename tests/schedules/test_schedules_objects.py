"""Schedules as objects: values, copies, checkpoints' dictionaries, and what they refuse."""

from __future__ import annotations

import copy
import dataclasses
import doctest
import importlib
import json
import math
import pickle
import pkgutil
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from cases import reference_of
from schedule_cases import FAR, FIELDS, NAMES, NAN, SCHEDULES, every_schedule, short

from sgdr_fused import FusedAdam, reference, schedules
from sgdr_fused._native import backends
from sgdr_fused.schedules import (
    Constant,
    CosineWarmRestarts,
    Exponential,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    Schedule,
    Table,
)

pytestmark = [pytest.mark.formulas, pytest.mark.host]


def test_constant() -> None:
    schedule = Constant(0.3)
    assert [schedule(t) for t in (0, 1, FAR)] == [0.3] * 3
    assert reference.constant(FAR, value=0.3) == 0.3
    assert schedule.values(4).tolist() == [0.3] * 4
    assert schedule.cycle(FAR) == (0, FAR, None)
    assert not schedule.is_cycle_end(FAR)


@every_schedule
def test_values(schedule: Schedule) -> None:
    values = schedule.values(100)
    assert values.dtype == torch.float64
    assert values.device.type == "cpu"
    assert values.tolist() == [schedule(t) for t in range(100)]
    assert schedule.values(0).shape == (0,)


@every_schedule
def test_the_kinds_of_integer_that_a_step_may_be(schedule: Schedule) -> None:
    value = schedule(13)
    assert type(value) is float
    others: tuple[Any, ...] = (torch.tensor(13), torch.arange(20).numpy()[13])  # the clock, NumPy's
    for t in others:
        assert schedule(t) == value
        assert schedule.cycle(t) == schedule.cycle(13)


@every_schedule
def test_repr_evaluates_to_an_equal_schedule(schedule: Schedule) -> None:
    assert eval(repr(schedule), dict(NAMES)) == schedule


@every_schedule
def test_copies_are_equal(schedule: Schedule) -> None:
    values = schedule.values(50)  # also of one that has been evaluated
    pickled = [pickle.loads(pickle.dumps(schedule, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for other in (*pickled, copy.copy(schedule), copy.deepcopy(schedule), dataclasses.replace(schedule)):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert torch.equal(other.values(50), values)


def test_equality_and_hash() -> None:
    assert len(set(SCHEDULES)) == len(SCHEDULES)
    assert CosineWarmRestarts(0.1, 10) == CosineWarmRestarts(max_lr=0.1, T_0=10, T_mult=1.0)
    assert CosineWarmRestarts(0.1, 10) != CosineWarmRestarts(0.1, 11)
    assert Constant(0.1) != 0.1


@every_schedule
def test_schedules_are_frozen(schedule: Schedule) -> None:
    name = dataclasses.fields(schedule)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, name, 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(schedule, name)


def primitive(data: Any) -> bool:
    if isinstance(data, dict):
        return type(data) is dict and all(type(key) is str and primitive(value) for key, value in data.items())
    return all(map(primitive, data)) if type(data) is list else type(data) in (str, int, float, bool)


@every_schedule
def test_dictionaries_of_primitives(schedule: Schedule) -> None:
    data = schedule.to_dict()
    assert primitive(data), data
    assert Schedule.from_dict(data) == schedule
    assert Schedule.from_dict(json.loads(json.dumps(data))) == schedule
    assert data == schedule.to_dict(), "from_dict has changed it"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"kind": "Spline", "value": 0.1}, "Spline"),
        ({"kind": "_Ramp", "start": 0.1, "end": 0.2, "steps": 3}, "_Ramp"),
        ({"kind": "Schedule"}, "Schedule"),
        ({"value": 0.1}, "kind"),
        ({"kind": ["Constant"]}, "Constant"),
        ({}, "kind"),
        (None, "None"),
        ("Constant", "Constant"),
        ({"kind": "Constant", "value": 0.1, "power": 2}, "power"),
        ({"kind": "CosineWarmRestarts", "max_lr": 0.1}, "T_0"),
        ({"kind": "Constant", "value": -1.0}, "value"),
        ({"kind": "Constant", "value": "high"}, "high"),
        ({"kind": "CosineWarmRestarts", "max_lr": 0.1, "T_0": 1.5}, "T_0"),
        ({"kind": "Warmup", "schedule": {"kind": "Constant", "value": -1.0}, "steps": 3}, "-1.0"),
        ({"kind": "Warmup", "schedule": {"kind": "Spline"}, "steps": 3}, "Spline"),
        ({"kind": "Warmup", "schedule": [0.1], "steps": 3}, "0.1"),
        ({"kind": "Sequential", "schedules": [[{"kind": "Constant", "value": 0.1}, 0]]}, "schedules"),
        ({"kind": "Table", "entries": [0.1, "high"]}, "high"),
    ],
    ids=str,
)
def test_dictionaries_that_hold_no_schedule(data: Any, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Schedule.from_dict(data)


@every_schedule
def test_without_an_extension_the_reference_is_used(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "load", lambda: None)
    fallback = copy.deepcopy(schedule)
    expected = [reference_of(schedule)(t) for t in range(100)]
    assert [fallback(t) for t in range(100)] == fallback.values(100).tolist() == expected


def test_examples() -> None:
    for module in pkgutil.iter_modules(schedules.__path__):
        assert doctest.testmod(importlib.import_module(f"{schedules.__name__}.{module.name}")).failed == 0


def test_everything_public_is_documented_with_an_example() -> None:
    for name in schedules.__all__:
        documented = getattr(schedules, name).__doc__
        assert name == "Schedule" or ">>>" in documented, name


# ------------------------------------------------------------------------------------ bad input


def with_items(value: Any) -> list[Any]:
    """The error names the wrong item of a list."""
    return [value, *(v for item in value for v in with_items(item))] if isinstance(value, (list, tuple)) else [value]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        pytest.param(kind, name, value, id=f"{kind.__name__}-{name}={short(value)}")
        for kind, (_, bad) in FIELDS.items()
        for name, values in bad.items()
        for value in values
    ],
)
def test_bad_arguments_are_named_with_their_value(kind: type[Schedule], name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        kind(**{**FIELDS[kind][0], name: value})
    message = str(caught.value)
    assert re.search(rf"\b{name}\b", message), message
    assert any(repr(v) in message for v in with_items(value)) or len(repr(value)) > 300, message


BAD_STEPS: tuple[Any, ...] = (-1, -(10**12), 2**63, 1.0, 1.5, NAN, "3", None, True, torch.tensor(1.0))


@pytest.mark.parametrize("method", ["__call__", "cycle", "is_cycle_end"])
@every_schedule
def test_bad_steps(schedule: Schedule, method: str) -> None:
    for t in BAD_STEPS:
        with pytest.raises((ValueError, TypeError)) as caught:
            getattr(schedule, method)(t)
        assert re.search(rf"\bt\b.*{re.escape(repr(t))}", str(caught.value)), str(caught.value)


@pytest.mark.parametrize("n", [-1, 1.5, "3", None], ids=repr)
@every_schedule
def test_bad_numbers_of_values(schedule: Schedule, n: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"\bn\b.*{re.escape(repr(n))}"):
        schedule.values(n)


def test_numbers_of_other_kinds() -> None:
    quarter: Any = Fraction(1, 4)
    assert Constant(quarter) == Constant(0.25)
    assert type(Constant(1).value) is float
    assert CosineWarmRestarts(0.1, torch.arange(5).numpy()[3]) == CosineWarmRestarts(0.1, 3)
    assert Constant(np.float64(0.25)) == Constant(0.25)
    for milestones in ([2, 5], (2, 5), torch.tensor([2, 5]), np.array([2, 5])):
        assert MultiStep(0.1, milestones) == MultiStep(0.1, (2, 5))
    for entries in ([0.5, 1], (0.5, 1), torch.tensor([0.5, 1.0]), np.array([0.5, 1.0])):
        assert Table(entries) == Table((0.5, 1.0))


# ------------------------------------------------------------------------------------------ tables


def test_a_function_is_called_once_per_step() -> None:
    calls = []
    schedule = Table(lambda t: calls.append(t) or t / 8, num_steps=5)
    assert calls == [0, 1, 2, 3, 4]
    assert schedule == Table((0.0, 0.125, 0.25, 0.375, 0.5))
    assert [schedule(t) for t in (4, 5, FAR)] == [0.5] * 3
    assert len(calls) == 5


@pytest.mark.parametrize("num_steps", [None, 0, -1, 1.5, "3", True], ids=repr)
def test_a_function_needs_a_number_of_steps(num_steps: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"num_steps.*{re.escape(repr(num_steps))}"):
        Table(lambda t: 0.1, num_steps)


def test_a_function_that_returns_no_rate() -> None:
    with pytest.raises(ValueError, match=r"entries\[3\].*-0.5"):
        Table(lambda t: 1.0 - t / 2, num_steps=10)


# --------------------------------------------------------------------------------------- one cycle


@pytest.mark.parametrize("options", [{}, {"three_phase": True}, {"anneal_strategy": "linear", "pct_start": 0.4}])
def test_one_cycle_is_a_pair(options: dict[str, Any]) -> None:
    schedule = OneCycle(0.1, 50, base_momentum=0.6, max_momentum=0.7, **options)
    lr, momentum = schedule
    assert lr is schedule
    assert momentum == schedule.momentum == OneCycleMomentum(0.6, 0.7, 50, **options)


def test_a_rate_that_grows_without_bound_is_no_beta() -> None:
    growing = Exponential(0.1, gamma=1.5)
    assert growing.upper_bound == math.inf
    assert growing(10**6) == reference_of(growing)(10**6) == math.inf
    assert (2 * growing).upper_bound == (Constant(0) * growing).upper_bound == math.inf
    with pytest.raises(ValueError, match=r"betas\[0\]"):
        FusedAdam([torch.nn.Parameter(torch.zeros(1))], betas=(growing, 0.999))
    assert MultiStep(0.1, (3, 5), gamma=2.0).upper_bound == 0.4
