"""Memory layouts: views, strides and odd addresses give the bits that dense tensors give.

What is not part of a view is not written.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from bits import bits
from cases import CASES, DEVICE, DTYPES, MEASURING, NUMBERS, PRETEND, SCHEDULES, TYPICAL, Case, ids, values
from torch import Tensor

STEPS = 4

# From a dense buffer of 2,400 elements to the view that is the parameter.
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "offset_1": lambda base: base[1:2049],
    "offset_3": lambda base: base[3:1029],
    "offset_rows": lambda base: base.view(6, 20, 20)[2:5],
    "every_second": lambda base: base[::2],
    "columns": lambda base: base.view(60, 40)[:, 3:8],
    "one_column": lambda base: base.view(60, 40)[:, 7],
    "transposed": lambda base: base.view(60, 40).t(),
    "transposed_columns": lambda base: base.view(60, 40)[:, 3:36].t(),
    "permuted": lambda base: base.view(10, 12, 20).permute(2, 0, 1),
    "channels_last": lambda base: base.view(4, 10, 12, 5).permute(0, 3, 1, 2),
    "channels_last_crop": lambda base: base.view(4, 10, 12, 5).permute(0, 3, 1, 2)[:, :, 1:9, 2:],
    "size_1_dimension": lambda base: base.as_strided((1, 33, 1), (7, 1, 999), 5),
    "no_dimension": lambda base: base[1234],
    "zero_size": lambda base: base.view(60, 40)[:, 5:5],
}


def _reversed(tensor: Tensor) -> Tensor:
    return tensor.permute(tuple(reversed(range(tensor.dim()))))


# From a dense gradient to the same numbers in other memory.
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda grad: grad,
    "other_order": lambda grad: _reversed(_reversed(grad).contiguous()),
    "gaps": lambda grad: grad.new_full((*grad.shape, 3), 99.0)[..., 1].copy_(grad),
    "offset": lambda grad: torch.cat([grad.new_zeros(1), grad.reshape(-1)])[1:].view(grad.shape),
}


def assert_same(case: Case, actual: Tensor, expected: Tensor) -> None:
    """The bits are the same. But a norm is added up in the order of its parameter's memory, and float64 shows that."""
    if case.algorithm.per_tensor and actual.dtype == torch.float64:
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-15)
    else:
        assert bits(actual) == bits(expected)


def check_layout(case: Case, dtype: torch.dtype, view: str, layout: Callable[[Tensor], Tensor]) -> None:
    base = values(2400, 1, dtype).to(DEVICE)
    untouched = base.clone()
    param = torch.nn.Parameter(VIEWS[view](base))
    dense = torch.nn.Parameter(param.detach().clone(memory_format=torch.contiguous_format))
    opt, expected = case.fused([param], lr=SCHEDULES[0]), case.fused([dense], lr=SCHEDULES[0])
    for t in range(STEPS):
        dense.grad = values(dense.shape, 100 + t, dtype).to(DEVICE)
        param.grad = layout(dense.grad.clone())
        opt.step()
        expected.step()
        assert bits(param.grad) == bits(dense.grad)
    assert_same(case, param, dense)
    for key, state in opt.state[param].items():
        assert_same(case, state, expected.state[dense][key])
    VIEWS[view](untouched).copy_(param.detach())  # now all but the rest of the buffer is equal
    assert bits(base) == bits(untouched)


@pytest.mark.parametrize("layout", GRADIENTS)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("case", ids(TYPICAL[1:3] if PRETEND else (*TYPICAL, *MEASURING)))
def test_views(case: Case, view: str, layout: str) -> None:
    check_layout(case, torch.float32, view, GRADIENTS[layout])


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(TYPICAL if PRETEND else CASES))
def test_channels_last_with_dense_gradient(case: Case, dtype: torch.dtype) -> None:
    check_layout(case, dtype, "channels_last", GRADIENTS["dense"])


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_dense_parameter_with_channels_last_gradient(case: Case) -> None:
    param, dense = (torch.nn.Parameter(values((4, 5, 6, 7), 1, torch.float32).to(DEVICE)) for _ in range(2))
    opt, expected = case.fused([param], lr=0.1), case.fused([dense], lr=0.1)
    for t in range(STEPS):
        dense.grad = values(dense.shape, 100 + t, torch.float32).to(DEVICE)
        param.grad = dense.grad.clone(memory_format=torch.channels_last)
        opt.step()
        expected.step()
    assert bits(param) == bits(dense)


@pytest.mark.parametrize("case", ids(TYPICAL[1:]))
def test_state_has_the_strides_that_torch_gives_it(case: Case) -> None:
    for view in VIEWS.values():
        param = torch.nn.Parameter(view(values(2400, 1, torch.float32).to(DEVICE)))
        param.grad = torch.ones_like(param)
        opt = case.fused([param], lr=0.1)
        opt.step()
        expected = torch.zeros_like(param, memory_format=torch.preserve_format)
        for key, state in opt.state[param].items():
            assert key in NUMBERS or (state.shape, state.stride()) == (expected.shape, expected.stride())


@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_layouts_that_change_between_steps(case: Case) -> None:
    param, dense = (torch.nn.Parameter(values((6, 5, 4), 1, torch.float32).to(DEVICE)) for _ in range(2))
    opt, expected = case.fused([param], lr=0.1), case.fused([dense], lr=0.1)
    for t, layout in enumerate([*GRADIENTS.values(), *reversed(GRADIENTS.values())]):
        dense.grad = values(dense.shape, 100 + t, torch.float32).to(DEVICE)
        param.grad = layout(dense.grad.clone())
        opt.step()
        expected.step()
    assert bits(param) == bits(dense)


# What may be refused, as long as it is never wrong.


def equal_or_refused(case: Case, param: Tensor, grad: Tensor) -> None:
    dense = torch.nn.Parameter(param.detach().clone(memory_format=torch.contiguous_format))
    before = bits(param)
    opt, expected = case.fused([param], lr=0.1), case.fused([dense], lr=0.1)
    param.grad, dense.grad = grad, grad.clone(memory_format=torch.contiguous_format)
    expected.step()
    try:
        opt.step()
    except (RuntimeError, ValueError):
        assert bits(param) == before
        assert opt.clock.item() == 0
    else:
        assert bits(param) == bits(dense)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_gradient_that_is_expanded(case: Case) -> None:
    param = torch.nn.Parameter(values((5, 7), 1, torch.float32).to(DEVICE))
    equal_or_refused(case, param, values((1, 7), 2, torch.float32).to(DEVICE).expand(5, 7))


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_many_dimensions(case: Case) -> None:
    shape = (2,) * 11
    base = values((*shape, 2), 1, torch.float32).to(DEVICE)
    param = torch.nn.Parameter(base[..., 0].permute(*reversed(range(11))))
    equal_or_refused(case, param, values(shape, 2, torch.float32).to(DEVICE))
