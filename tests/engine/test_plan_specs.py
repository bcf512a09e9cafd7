"""What Python hands to the extension has names, and what has an unknown name is refused by that name.

The plans here are made by hand, without an optimizer.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import expected_backend
from torch import Tensor

from sgdr_fused._native import backends
from sgdr_fused.schedules._base import Segment

pytestmark = pytest.mark.skipif(expected_backend() == "reference", reason="the reference needs no extension")
RATE = 0.5


@pytest.fixture(scope="module")
def extension() -> Any:
    return backends.load()


def a_param(extension: Any, param: Tensor, memory: Tensor, **carried: Any) -> Any:
    return extension.Param(
        param=param, memory=memory, grad=param.grad, states=[], group=0, index=0, active=True, **carried
    )


class Stepper:
    """Plain SGD with one parameter, and `changes`, which the optimizer would have."""

    def __init__(self, extension: Any, param: Tensor, memory: Tensor) -> None:
        self.extension, self.groups = extension, [{"params": [param]}]
        self.changes = SimpleNamespace(plan=object())
        self.membership = extension.Membership(self.groups, [], self.changes, self.changes.plan)
        self.plan = extension.Plan(
            algorithm="sgd",
            backend="cpu",
            clock=torch.zeros((), dtype=torch.int64),
            groups=[extension.Group(hypers=[extension.Hyper(x) for x in (RATE, 0.0, 0.0)], constants=[0.0] * 4)],
            params=[a_param(extension, param, memory)],
            steps_are_state=False,
            average=None,
            rounding_seed=None,
            clipping=extension.Clipping(max_value=math.inf, max_norm=-1.0, raises=False, norm=None, skipped=None),
        )

    def step(self) -> bool:
        taken: bool = self.extension.step(self.membership, self.groups, [self.plan], None, None, [])
        return taken


def with_gradient(*values: float) -> Tensor:
    param = torch.tensor(values, requires_grad=True)
    param.grad = torch.ones_like(param)
    return param


def test_unknown_kinds_are_named(extension: Any) -> None:
    with pytest.raises(ValueError, match=r"a segment's kind must be one of 'constant', .*, got 'sine'"):
        extension.CompiledSchedule([extension.Segment(**Segment("sine")._asdict())])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ramp", "the mode of a ramp must be one of 'linear', 'exponential', 'half_cosine', got 'steep'"),
        ("triangular", "'triangular', 'triangular2', 'exp_range', 'cosine', got 'steep'"),
        ("step", "the mode of a segment without modes must be one of 'none', got 'steep'"),
    ],
)
def test_unknown_modes_are_named(extension: Any, kind: str, message: str) -> None:
    segment = Segment(kind, "steep", [0.1, 0.2], [1, 1])
    with pytest.raises(ValueError, match=message):
        extension.CompiledSchedule([extension.Segment(**segment._asdict())])


def test_too_many_values_are_counted(extension: Any) -> None:
    segment = Segment("constant", values=[0.1] * 5)
    with pytest.raises(ValueError, match="at most 4 values and 2 lengths, got 5 and 0"):
        extension.CompiledSchedule([extension.Segment(**segment._asdict())])


def test_a_field_that_a_parameter_lacks_is_named(extension: Any) -> None:
    param = with_gradient(1.0)
    with pytest.raises(TypeError, match="carries nothing that is named 'colour'"):
        a_param(extension, param, param, colour=torch.zeros(1))


def test_the_memory_may_be_another_tensor_than_the_parameter(extension: Any) -> None:
    """The gradient is the parameter's; the elements that change are those of the memory."""
    param, memory = with_gradient(1.0, 2.0), torch.tensor([10.0, 20.0])
    stepper = Stepper(extension, param, memory)
    versions = [tensor._version for tensor in (param, memory)]
    assert stepper.step()
    assert param.tolist() == [1.0, 2.0]
    assert memory.tolist() == [10.0 - RATE, 20.0 - RATE]
    assert [tensor._version for tensor in (param, memory)] == [version + 1 for version in versions]


def test_the_memory_lives_as_long_as_the_plan(extension: Any) -> None:
    param = with_gradient(1.0)
    stepper = Stepper(extension, param, torch.tensor([10.0]))
    assert stepper.step()  # with memory that only the plan holds


def test_a_change_of_either_is_noticed(extension: Any) -> None:
    param, memory = with_gradient(1.0), torch.tensor([10.0])
    stepper = Stepper(extension, param, memory)
    memory.resize_(2)
    assert not stepper.step()
    memory.resize_(1)
    stepper = Stepper(extension, param, memory)
    torch.utils.swap_tensors(param, with_gradient(3.0))
    assert not stepper.step()
    assert memory.tolist() == [10.0]
