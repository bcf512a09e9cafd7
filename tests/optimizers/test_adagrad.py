"""What only Adagrad has: a state that is there from the start, that starts from a value, and that can be shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, DTYPES, assert_within, ids, make_params, params_of, train
from torch_features import needs_late_sums

from sgdr_fused import FusedAdagrad

SIZES = ((4, 3, 2, 2), 33, 0)


def pair(**options: Any) -> tuple[Any, Any]:
    ours = make_params(SIZES, torch.float64)
    theirs = [torch.nn.Parameter(p.detach().cpu().clone()) for p in ours]
    return FusedAdagrad(ours, **options), torch.optim.Adagrad(theirs, **options)


def assert_equal(ours: Any, theirs: Any) -> None:
    for p, q in zip(params_of(ours), params_of(theirs), strict=True):
        assert set(ours.state[p]) == set(theirs.state[q])
        for got, expected in ((p, q), *((ours.state[p][k], v) for k, v in theirs.state[q].items())):
            expected = expected.detach().double()
            assert_within(got, expected, 1e-12 * (1 + expected.abs()), "parameter or state")


@pytest.mark.parametrize("dtype", ids(DTYPES))
def test_state_from_the_start(dtype: torch.dtype) -> None:
    """Also of a parameter that never gets a gradient; laid out like it."""
    start = make_params(SIZES, dtype)
    start[0] = torch.nn.Parameter(start[0].detach().contiguous(memory_format=torch.channels_last))
    ours = FusedAdagrad(start, initial_accumulator_value=0.3)
    theirs = torch.optim.Adagrad([torch.nn.Parameter(p.detach().cpu()) for p in start], initial_accumulator_value=0.3)
    for p, q in zip(params_of(ours), params_of(theirs), strict=True):
        got, expected = ours.state[p]["sum"], theirs.state[q]["sum"]
        assert bits(got) == bits(expected)
        assert (got.stride(), got.device, got.requires_grad) == (p.stride(), p.device, False)
        step = ours.state[p]["step"]
        assert (step.item(), step.dtype, step.shape, step.device) == (0, torch.float64, (), p.device)


def test_parameters_without_a_gradient_keep_theirs() -> None:
    optimizers = pair(initial_accumulator_value=0.3)
    for opt in optimizers:
        train(opt, range(2))
        params_of(opt)[1].grad = None
        for _ in range(2):
            opt.step()
    assert_equal(*optimizers)


@needs_late_sums
def test_group_added_later() -> None:
    """Its state is made at its first update, from its own value; torch has the constructor's alone."""
    optimizers = pair(initial_accumulator_value=0.3)
    for opt in optimizers:
        device = params_of(opt)[0].device
        added = torch.nn.Parameter(torch.ones(5, dtype=torch.float64, device=device))
        opt.add_param_group({"params": [added], "lr": 0.5})
        assert not opt.state.get(added)
        train(opt, range(3))
    assert_equal(*optimizers)
    ours = optimizers[0]
    own = torch.nn.Parameter(torch.ones(5, dtype=torch.float64, device=DEVICE))
    ours.add_param_group({"params": [own], "initial_accumulator_value": 2.0})
    own.grad = torch.full_like(own, 3.0)
    ours.step()
    assert ours.state[own]["sum"].tolist() == [11.0] * 5


@needs_late_sums
def test_state_that_was_cleared_starts_again() -> None:
    optimizers = pair(initial_accumulator_value=0.3)
    for opt in optimizers:
        train(opt, range(3))
        opt.state.clear()
        train(opt, range(3, 5))
    assert_equal(*optimizers)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="memory of the CPU is shared between processes")
def test_shared_memory() -> None:
    optimizers = pair(lr_decay=0.1)
    for opt in optimizers:
        train(opt, range(2))
        opt.share_memory()
        assert all(opt.state[p]["sum"].is_shared() for p in params_of(opt) if p.numel())
        train(opt, range(2, 4))
    assert_equal(*optimizers)


def test_constructed_in_inference_mode() -> None:
    """The state is not bound to that mode."""
    params = make_params((5,))
    with torch.inference_mode():
        opt = FusedAdagrad(params)
    assert not any(x.is_inference() for x in opt.state[params[0]].values())
    train(opt, range(2))
