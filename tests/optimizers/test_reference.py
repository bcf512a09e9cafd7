"""reference.py's updates against torch.optim, which runs in float64 wherever an oracle is needed.

All combinations of options, twelve steps at changing rates, every element of parameters and states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    DTYPES,
    EVERY_ALGORITHM,
    HALVES,
    NUMBERS,
    Algorithm,
    assert_within,
    ids,
    one_step_tolerance,
    trajectory_tolerance,
    values,
)
from torch import Tensor

from sgdr_fused import reference

pytestmark = [pytest.mark.once, pytest.mark.formulas]

# Two falls, a step at rate 0, and a rise.
RATES = (0.1, 0.075, 0.025, 0.1, 0.0, 0.09, 0.05, 0.02, 0.001, 0.03, 0.06, 0.09)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Options:
    """One set of options for both: those of torch's constructor are the keywords of ours."""

    algorithm: Algorithm
    hyper: Mapping[str, Any]
    id: str = field(default="", compare=False)

    @property
    def has_step(self) -> bool:
        return self.algorithm.has_step

    def update(self, param: Tensor, grad: Tensor, state: State, lr: float) -> None:
        self.algorithm.reference(param, grad, state, lr=lr, **{**self.algorithm.defaults, **self.hyper})


OPTIONS = tuple(
    Options(algorithm, hyper, id=f"{name}-{options}")
    for name, algorithm in EVERY_ALGORITHM.items()
    for options, hyper in algorithm.reference_options.items()
)


def pick(*names: str) -> list[Any]:
    """Some of OPTIONS, by id, for tests that are not about all combinations."""
    return ids(next(options for options in OPTIONS if options.id == name) for name in names)


TYPICAL = pick(
    "sgd-plain",
    "sgd-momentum=0.9-dampening=0.3-weight_decay=0.1",
    "sgd-momentum=0.9-weight_decay=0.1-nesterov",
    "adam-beta1=0.9-weight_decay=0.1",
    "adamw-beta1=0.4-weight_decay=0.1-amsgrad-maximize",
    "classical-momentum=0.9-weight_decay=0.1-nesterov",
    "nadam-betas=(0.4, 0.5)-eps=0.001-momentum_decay=0.5-decoupled_weight_decay-weight_decay=0.1-maximize",
    "adamax-betas=(0.4, 0.5)-eps=0.001-weight_decay=0.1-maximize",
    "adagrad-lr_decay=0.1-initial_accumulator_value=0.5-weight_decay=0.1-maximize",
    "rmsprop-alpha=0.9-momentum=0.9-centered-weight_decay=0.1-maximize",
    "adadelta-eps=0.01",
)


class Torch:
    """torch.optim on one parameter of its own."""

    def __init__(self, options: Options, start: Tensor, **implementation: Any) -> None:
        self.param = torch.nn.Parameter(start.clone())
        known = {key: value for key, value in implementation.items() if options.algorithm.takes(key)}
        self.opt = options.algorithm.torch([self.param], lr=1.0, **options.hyper, **known)

    def step(self, grad: Tensor, lr: float) -> None:
        self.param.grad = grad.to(self.param.dtype, copy=True)
        self.opt.param_groups[0]["lr"] = lr
        self.opt.step()

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the parameter and of its states, in float64, without the step counter."""
        return doubles(self.param, self.opt.state[self.param])


def doubles(param: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float64, without the step counter; SGD without momentum has None for a buffer."""
    tensors = {"param": param, **{k: v for k, v in state.items() if k not in NUMBERS and v is not None}}
    return {name: tensor.detach().double().clone() for name, tensor in tensors.items()}


def start_and_gradients(dtype: torch.dtype, shape: tuple[int, ...] = (7, 149)) -> tuple[Tensor, list[Tensor]]:
    gradients = [values(shape, 100 + t, dtype) for t in range(len(RATES))]
    return values(shape, 1, dtype), gradients


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
    """Each step on its own: torch in float64 starts it from what reference.py has in float32."""
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
    """In the parameter and in each state, by each update at a rate that is not 0."""
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


# ------------------------------------------------------------------------------- state, layout


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
    """As if all were float32, bit for bit, but for the parameter, which is rounded at each step."""
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
    assert bool(state) == (options.has_step or options.hyper["momentum"] != 0)


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
