"""Clipping gradients: what an optimizer keeps of it, and what it refuses."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import (
    DEVICE,
    SCHEDULES,
    make_params,
    params_of,
    train,
)
from torch import nn

from sgdr_fused import FusedAdamW, FusedSGD

STEPS = 6


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "checkpoint"])
def test_goes_on_as_if_it_had_not_stopped(way: str) -> None:
    def make() -> Any:
        return FusedAdamW(make_params((5, 33)), lr=SCHEDULES[0], max_grad_norm=0.5, max_grad_value=0.9)

    whole, opt = make(), make()
    train(whole, range(STEPS))
    train(opt, range(3))
    if way == "checkpoint":
        resumed = make()
        for param, value in zip(params_of(resumed), params_of(opt), strict=True):
            param.data.copy_(value)
        resumed.load_state_dict(opt.state_dict())
    else:
        resumed = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
    train(resumed, range(3, STEPS))
    assert snapshot(resumed) == snapshot(whole)
    assert bits(resumed.grad_norm) == bits(whole.grad_norm)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_grad_norm": -1.0}, ValueError, "max_grad_norm must be >= 0, got -1.0"),
        ({"max_grad_norm": math.nan}, ValueError, "max_grad_norm must be >= 0, got nan"),
        ({"max_grad_norm": "1"}, TypeError, "max_grad_norm must be a number, got '1'"),
        ({"max_grad_norm": True}, TypeError, "max_grad_norm must be a number, got True"),
        ({"max_grad_value": -0.5}, ValueError, "max_grad_value must be finite and >= 0, got -0.5"),
        ({"max_grad_value": math.inf}, ValueError, "max_grad_value must be finite and >= 0, got inf"),
        ({"error_if_nonfinite": 1}, TypeError, "error_if_nonfinite must be True or False, got 1"),
        ({"skip_nonfinite": None}, TypeError, "skip_nonfinite must be True or False, got None"),
        (
            {"skip_nonfinite": True, "error_if_nonfinite": True},
            ValueError,
            "error_if_nonfinite and skip_nonfinite must not both be True",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FusedSGD(make_params((5,)), lr=0.1, **options)


def test_what_is_not_measured_is_no_attribute() -> None:
    opt = FusedSGD(make_params((5,)), lr=0.1, max_grad_value=1.0)
    with pytest.raises(AttributeError, match="grad_norm is not measured: it needs max_grad_norm"):
        _ = opt.grad_norm
    with pytest.raises(AttributeError, match="skipped_steps is not counted: it needs skip_nonfinite=True"):
        _ = opt.skipped_steps


@pytest.mark.parametrize("option", [{"max_grad_norm": 0.0}, {"skip_nonfinite": True}, {"error_if_nonfinite": True}])
def test_several_devices_are_refused(option: dict[str, Any]) -> None:
    here, elsewhere = make_params((5,))[0], nn.Parameter(torch.ones(5, device="meta"))
    ((name, value),) = option.items()
    message = rf"{name}={value}.* needs all parameters on one device, got them on {DEVICE.type}.*, meta"
    with pytest.raises(ValueError, match=message):
        FusedSGD([here, elsewhere], lr=0.1, **option)
    opt = FusedSGD([here], lr=0.1, **option)
    train(opt, [0])
    before = snapshot(opt)
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": [elsewhere]})
    assert snapshot(opt) == before
    FusedSGD([here, elsewhere], lr=0.1, max_grad_value=1.0)
