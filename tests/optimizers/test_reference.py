"""The reference's updates against torch.optim, which runs in float64 wherever an oracle is needed.

All combinations of options, twelve steps at changing rates, every element of parameters and states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import (
    DTYPES,
    HALVES,
    NUMBERS,
    assert_within,
    ids,
    one_step_tolerance,
    trajectory_tolerance,
    values,
)
from reference_options import OPTIONS, RATES, TYPICAL, Options, State, Torch, doubles, start_and_gradients
from torch import Tensor

from sgdr_fused import reference

pytestmark = [pytest.mark.once, pytest.mark.formulas]

# --------------------------------------------------------------------------------- all options


@pytest.mark.parametrize(
    "implementation", [{}, {"foreach": False}, {"foreach": True}], ids=["default", "for_loop", "foreach"]
)
@pytest.mark.parametrize("options", ids(OPTIONS))
def test_float64_to_1e_12(options: Options, implementation: Mapping[str, Any]) -> None:
    """Relative to the largest that the element has been: it may pass through zero."""
    start, gradients = start_and_gradients(torch.float64)
    param, state = start.clone(), State()
    oracle = Torch(options, start, **implementation)
    largest: dict[str, Tensor] = {}
    for t, (grad, lr) in enumerate(zip(gradients, RATES, strict=True)):
        options.update(param, grad, state, lr)
        oracle.step(grad, lr)
        actual, expected = doubles(param, state), oracle.tensors()
        assert actual.keys() == expected.keys()
        for name, exact in expected.items():
            largest[name] = torch.maximum(largest.get(name, exact.abs()), exact.abs())
            assert_within(actual[name], exact, 1e-12 * largest[name], f"step {t}, {name}")
        if options.has_step:
            assert state["step"].item() == t + 1


@pytest.mark.parametrize("options", ids(OPTIONS))
def test_float32_one_step_to_4_ulp_of_the_largest_operand(options: Options) -> None:
    """Each step on its own: torch in float64 starts it from what the reference has in float32."""
    param, gradients = start_and_gradients(torch.float32)
    state = State()
    for t, (grad, lr) in enumerate(zip(gradients, RATES, strict=True)):
        oracle = Torch(options, param.double())
        old = {name: tensor.double().clone() for name, tensor in state.items()}
        if old:
            oracle.opt.state[oracle.param] = {k: v.clone() for k, v in old.items()}
        old["param"] = param.double()
        options.update(param, grad, state, lr)
        oracle.step(grad, lr)
        actual, expected = doubles(param, state), oracle.tensors()
        assert actual.keys() == expected.keys()
        hyper = {**options.algorithm.defaults, **options.hyper}
        operands = options.algorithm.largest_operand(hyper, lr, old, grad, expected, t + 1)
        for name, exact in expected.items():
            tolerance = one_step_tolerance(exact, operands[name], torch.float32)
            assert_within(actual[name], exact, tolerance, f"step {t}, {name}")


@pytest.mark.parametrize("options", ids(OPTIONS))
def test_float32_to_1e_5_of_the_updates(options: Options) -> None:
    start, gradients = start_and_gradients(torch.float32)
    param, state = start.clone(), State()
    oracle = Torch(options, start.double())
    travelled: dict[str, Tensor] = {}
    largest: dict[str, Tensor] = {}
    before: Mapping[str, Tensor] = {"param": start.double()}
    for grad, lr in zip(gradients, RATES, strict=True):
        options.update(param, grad, state, lr)
        oracle.step(grad, lr)
        expected = oracle.tensors()
        for name, exact in expected.items():
            moved = (exact - before.get(name, torch.zeros_like(exact))).abs()
            travelled[name] = travelled.get(name, torch.zeros_like(exact)) + moved
            largest[name] = torch.maximum(largest.get(name, exact.abs()), exact.abs())
        before = expected
    actual = doubles(param, state)
    assert actual.keys() == before.keys()
    for name, exact in before.items():
        tolerance = trajectory_tolerance(travelled[name], largest[name], len(RATES), torch.float32)
        assert_within(actual[name], exact, tolerance, name)


@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("options", ids(OPTIONS))
def test_low_precision_error_is_at_most_twice_torchs(options: Options, dtype: torch.dtype) -> None:
    # Of so many elements that the largest of their rounding errors is no matter of luck.
    start, gradients = start_and_gradients(dtype, (7, 1493))
    param, state = start.clone(), State()
    peer = Torch(options, start, foreach=False)
    oracle = Torch(options, start.double())
    for t, (grad, lr) in enumerate(zip(gradients, RATES, strict=True)):
        options.update(param, grad, state, lr)
        peer.step(grad, lr)
        oracle.step(grad, lr)
        ours, theirs, exact = doubles(param, state), peer.tensors(), oracle.tensors()
        assert ours.keys() == theirs.keys() == exact.keys()
        for name in exact:
            error, bound = ((x[name] - exact[name]).abs().max().item() for x in (ours, theirs))
            assert error <= 2 * bound, f"step {t}, {name}"
    assert all(tensor.dtype == dtype for name, tensor in state.items() if name not in NUMBERS)


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("options", ids(OPTIONS))
def test_every_element_moves_at_every_step(options: Options, dtype: torch.dtype) -> None:
    """Every element of the parameter and of each state moves by each update at a rate that is not 0."""
    start, gradients = start_and_gradients(dtype)
    param, state = start.clone(), State()
    before = doubles(param, state)
    options.update(param, gradients[0], state, 0.5)
    after = doubles(param, state)
    for name, tensor in after.items():
        assert bool((tensor != before.get(name, torch.zeros(()))).all()), name


# ------------------------------------------------------------------------------ special values


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("options", ids(OPTIONS))
def test_infinities_and_nan_propagate_as_in_torch(options: Options, dtype: torch.dtype) -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.5])
    start, first = torch.cartesian_prod(special, special).to(dtype).unbind(1)
    if options.has_step and dtype == torch.float16:  # see the next test
        start, first = start[first != 0], first[first != 0]
    param, state = start.clone(), State()
    oracle = Torch(options, start, foreach=False)
    for t, lr in enumerate((0.1, 0.0, 0.05)):
        grad = values(start.shape, t, dtype) if t else first.contiguous()
        options.update(param, grad, state, lr)
        oracle.step(grad, lr)
        actual, expected = doubles(param, state), oracle.tensors()
        for name, exact in expected.items():
            eps = torch.finfo(dtype).eps
            close = torch.isclose(actual[name], exact, rtol=4 * eps, atol=8 * eps, equal_nan=True)
            assert bool(close.all()), f"step {t}, {name}: {actual[name]} is not {exact}"


def test_a_zero_gradient_is_no_nan_in_float16() -> None:
    """torch computes Adam's denominator in float16, where an eps of 1e-8 is 0, and divides 0 by it; others' too."""
    param, zero, state = torch.ones(3).half(), torch.zeros(3).half(), State()
    reference.adam(param, zero, state, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    assert param.tolist() == [1, 1, 1]


@pytest.mark.parametrize("options", TYPICAL)
def test_denormal_numbers_are_kept(options: Options) -> None:
    # Second moments underflow: eps alone is to be the denominator.
    options = replace(options, hyper={**options.hyper, **options.algorithm.denormal})
    tiny = torch.finfo(torch.float32).tiny
    start = torch.tensor([tiny / 4, -tiny / 8, tiny * 3, 2.0**-149])
    param, state = start.clone(), State()
    oracle = Torch(options, start)
    for t in range(3):
        grad = torch.tensor([tiny / 2, -tiny / 4, tiny, 2.0**-148]) * (t + 1)
        options.update(param, grad, state, 0.5)
        oracle.step(grad, 0.5)
    assert bool((param != start).all())
    # Denormals are 2**-149 apart; a rounding of the first moment weighs up to lr / (1 - beta1) = 5.
    torch.testing.assert_close(param, oracle.param.detach(), rtol=1e-6, atol=15 * 2.0**-149)
