"""What a parameter carries is what ParamSpec declares, with every option and algorithm."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from cases import CASES, DEVICE, SCHEDULES, Case, ids
from torch import Tensor
from torch.nn import Parameter

from sgdr_fused import EMA
from sgdr_fused._engine.param_state import (
    BESIDE,
    NUMBERS,
    ParamSpec,
    beside_names,
    dtypes_of,
    memory_of,
    number_keys,
    tensor_names,
)


def test_all_that_is_optional_is_declared() -> None:
    optional = {each.name for each in dataclasses.fields(ParamSpec) if each.default is None}
    assert optional - {"grad"} == {*BESIDE, *NUMBERS}


def test_a_plain_tensor_is_its_own_memory() -> None:
    tensor = torch.ones(3)
    assert memory_of(tensor) is tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"average": EMA(0.5), "master_weights": True}], ids=["plain", "options"])
@pytest.mark.parametrize("case", ids(CASES))
def test_state_after_a_step(case: Case, options: dict[str, Any], dtype: torch.dtype) -> None:
    param = Parameter(torch.ones(5, dtype=dtype, device=DEVICE))
    param.grad = torch.ones_like(param)
    opt = case.fused([param], lr=SCHEDULES[0], **options)
    opt.step()
    session = opt._session
    tensors = tensor_names(session.algorithm, session.options, opt.param_groups[0], param)
    assert ("average" in beside_names(param, session.options)) == bool(options)
    assert ("remainder" in beside_names(param, session.options)) == (bool(options) and dtype == torch.bfloat16)
    numbers = [key for key, number in number_keys(session.algorithm).items() if number.in_state(session.algorithm)]
    state: dict[str, Tensor] = opt.state[param]
    assert {*state} == {*tensors, *numbers}
    for name in tensors:
        assert state[name].dtype in dtypes_of(param, name) and state[name].shape == param.shape
    for key in numbers:
        assert state[key].dtype == torch.float64 and state[key].dim() == 0
