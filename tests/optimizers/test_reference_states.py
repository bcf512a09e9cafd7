"""The states that the reference's updates keep, beside torch's, and tensors of other layouts."""

from __future__ import annotations

import pytest
import torch
from bits import bits
from cases import (
    DTYPES,
    HALVES,
    NUMBERS,
    ids,
    values,
)
from reference_options import OPTIONS, RATES, TYPICAL, Options, State, Torch, start_and_gradients

from sgdr_fused import reference

pytestmark = [pytest.mark.once, pytest.mark.formulas]


@pytest.mark.parametrize("options", TYPICAL)
def test_the_first_step_is_each_parameters_own(options: Options) -> None:
    """A parameter that gets its first gradient at step 3, beside one that has had three."""
    params = [values(17, 1), values(17, 2)]
    theirs = [torch.nn.Parameter(p.clone()) for p in params]
    opt = options.algorithm.torch(theirs, lr=1.0, **options.hyper)
    states = [State(), State()]
    for t, lr in enumerate(RATES):
        for i, (p, q, state) in enumerate(zip(params, theirs, states, strict=True)):
            q.grad = None if i == 1 and t < 3 else values(17, 10 * t + i)
            if q.grad is not None:
                options.update(p, q.grad, state, lr)
        opt.param_groups[0]["lr"] = lr
        opt.step()
        for p, q in zip(params, theirs, strict=True):
            torch.testing.assert_close(p, q.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("options", ids(OPTIONS))
def test_float32_state_of_a_16_bit_parameter(options: Options, dtype: torch.dtype) -> None:
    """The bits are as if all were float32, except that the parameter is rounded at each step."""
    param, gradients = start_and_gradients(dtype)
    first = State()
    options.update(param.float(), gradients[0], first, 0.1)
    state = {name: tensor.clone() for name, tensor in first.items()}
    wide_state = {name: tensor.clone() for name, tensor in first.items()}
    for grad, lr in zip(gradients, RATES, strict=True):
        wide = param.float()
        options.update(wide, grad.float(), wide_state, lr)
        options.update(param, grad, state, lr)
        assert bits(param) == bits(wide.to(dtype))
        assert {k: bits(v) for k, v in state.items()} == {k: bits(v) for k, v in wide_state.items()}
    assert all(v.dtype == (torch.float64 if k in NUMBERS else torch.float32) for k, v in state.items())


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("options", TYPICAL)
def test_state_is_made_as_torch_makes_it(options: Options, dtype: torch.dtype) -> None:
    start = values((2, 3, 4, 5), 1, dtype).to(memory_format=torch.channels_last)
    param, state = torch.nn.Parameter(start.clone()), State()
    oracle = Torch(options, start)
    options.update(param, values(start.shape, 2, dtype), state, 0.1)
    oracle.step(values(start.shape, 2, dtype).to(memory_format=torch.channels_last), 0.1)
    expected = {k: v for k, v in oracle.opt.state[oracle.param].items() if v is not None}
    assert list(state) == list(expected)
    for name, tensor in state.items():
        assert tensor.shape == expected[name].shape
        assert tensor.stride() == expected[name].stride()
        assert tensor.dtype == (torch.float64 if name in NUMBERS else dtype)
        assert not tensor.requires_grad


@pytest.mark.parametrize("options", TYPICAL)
def test_strides_do_not_matter(options: Options) -> None:
    """A strided view with a transposed gradient, and nothing outside the view is written."""
    dense, state, view_state = values((5, 6), 1), State(), State()
    memory = torch.full((10, 12), 7.0, dtype=torch.float64)
    view = memory[::2, 1::2]
    view.copy_(dense)
    for t, lr in enumerate(RATES):
        grad = values((5, 6), 20 + t)
        options.update(dense, grad, state, lr)
        options.update(view, grad.t().contiguous().t(), view_state, lr)
    assert bits(view) == bits(dense)
    assert [bits(t) for t in view_state.values()] == [bits(t) for t in state.values()]
    assert bool((memory[1::2] == 7).all())
    assert bool((memory[:, ::2] == 7).all())


@pytest.mark.parametrize("options", ids(OPTIONS))
def test_writes_in_place_and_only_what_it_should(options: Options) -> None:
    param = torch.nn.Parameter(values(9, 1))
    grad, state = values(9, 2), State()
    options.update(param, grad, state, 0.1)
    version, tensors = param._version, dict(state)
    versions = {name: tensor._version for name, tensor in state.items()}
    options.update(param, grad, state, 0.1)
    assert bits(grad) == bits(values(9, 2))
    assert param._version > version
    assert param.is_leaf
    assert all(state[name] is tensor for name, tensor in tensors.items())
    assert all(tensor._version > versions[name] for name, tensor in state.items())
    assert bool(state) == (options.hyper.get("momentum") != 0 or options.has_step)


def test_steps_are_counted_beyond_float32() -> None:
    """peer_18: a float32 counter stops at 2**24."""
    zeros = torch.zeros(1)
    state = {
        "step": torch.tensor(2.0**24, dtype=torch.float64),
        "exp_avg": zeros.clone(),
        "exp_avg_sq": zeros.clone(),
    }
    for _ in range(3):
        reference.adam(zeros, torch.ones(1), state, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    assert state["step"].item() == 2**24 + 3


@pytest.mark.parametrize("shape", [(), (0,), (1,)], ids=str)
@pytest.mark.parametrize("options", TYPICAL)
def test_scalars_and_nothing(options: Options, shape: tuple[int, ...]) -> None:
    param, state = values(1, 1)[0].expand(shape).clone(), State()
    oracle = Torch(options, param)
    for t, lr in enumerate(RATES):
        grad = values(1, 10 + t)[0].expand(shape).clone()
        options.update(param, grad, state, lr)
        oracle.step(grad, lr)
    torch.testing.assert_close(param, oracle.param.detach(), rtol=1e-12, atol=1e-14)
