"""What an earlier version has pickled and saved can be loaded, and goes on bit for bit."""

from __future__ import annotations

import importlib
import json
import pickle
from typing import Any

import pytest
import recorded_bits
import recorded_objects
import torch
from cases import CASES, DEVICE, Case, expected_backend, ids
from schedule_cases import ROWS

from sgdr_fused import EMA, GrowingBatchSampler, LRFindResult

EXPECTED = json.loads(recorded_objects.EXPECTED.read_text())
RECORDED = [case for case in CASES if case.id in EXPECTED["goes_on"]]


@pytest.fixture(scope="module")
def pickles() -> dict[str, Any]:
    return pickle.loads(recorded_objects.PICKLES.read_bytes())


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, Any]:
    return torch.load(recorded_objects.CHECKPOINTS, weights_only=True)


def assert_goes_on(opt: Any, case: Case) -> None:
    """Bit for bit where the backend and the C library are those of the recording; a step is taken everywhere."""
    digest = recorded_objects.goes_on(opt)
    if expected_backend() == "cpu" and recorded_bits.made_with() == EXPECTED["made_with"]:
        assert digest == EXPECTED["goes_on"][case.id]


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the pickled parameters are on the CPU")
@pytest.mark.parametrize("case", ids(RECORDED))
def test_pickled_optimizers_go_on(case: Case, pickles: dict[str, Any]) -> None:
    assert type(pickles[case.id]) is case.algorithm.fused
    assert_goes_on(pickles[case.id], case)


@pytest.mark.parametrize("case", ids(RECORDED))
def test_checkpoints_go_on(case: Case, checkpoints: dict[str, Any]) -> None:
    opt = recorded_objects.optimizer(case)
    for param, value in zip(opt.param_groups[0]["params"], checkpoints[case.id]["params"], strict=True):
        param.data.copy_(value)
    opt.load_state_dict(checkpoints[case.id]["state"])
    assert_goes_on(opt, case)


@pytest.mark.once
def test_other_pickles(pickles: dict[str, Any]) -> None:
    assert pickles["schedules"] == [row.schedule for row in ROWS[: len(pickles["schedules"])]]
    assert pickles["average"] == EMA(0.75)
    assert type(pickles["result"]) is LRFindResult
    assert type(pickles["sampler"]) is GrowingBatchSampler
    assert [list(batch) for batch in pickles["sampler"]] == [list(batch) for batch in make_sampler()]


def make_sampler() -> GrowingBatchSampler:
    from sgdr_fused.schedules import CosineWarmRestarts

    return GrowingBatchSampler(range(10), 2, CosineWarmRestarts(0.1, T_0=3), 8)


@pytest.mark.once
def test_modules_are_named_as_before() -> None:
    """Pickles name classes by their modules, and older versions know no others."""
    found = recorded_objects.modules()
    assert {name: found.get(name) for name in EXPECTED["modules"]} == EXPECTED["modules"]
    for name, module in EXPECTED["modules"].items():
        assert hasattr(importlib.import_module(module), name.rpartition(".")[2])
