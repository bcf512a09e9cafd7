"""LARS and LAMB: rates of each parameter's own, by norms that a pass before the update measures.

The arithmetic is in test_update.py and test_hundred_steps.py; here is what only such algorithms have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import emulation
import pytest
import torch
from bits import bits, snapshot
from cases import (
    DEVICE,
    DTYPES,
    EMULATED,
    LAMB,
    LARS,
    MEASURING,
    SCHEDULES,
    Algorithm,
    Case,
    gradient,
    ids,
    make_params,
    params_of,
    set_gradients,
    train,
    values,
)
from torch import Tensor, nn

from sgdr_fused import FusedLAMB, FusedLARS, FusedSGD
from sgdr_fused._native import backends

# Both sides of a pair of elements, of a vector, of a row of pairs and of a chunk; several chunks.
SIZES = (0, 1, 2, 3, 8, 9, 255, 2047, 2048, 2049, 16383, 16384, 16385, 3 * 16384 + 2048 + 3)
SOME_SIZES = (5, 0, 33, 2049, 16384 + 2049)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs these tests with one thread: with so little work, threads only wait. A test below is about threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------ by hand


def pythagorean(*elements: float) -> Tensor:
    return torch.tensor(elements, dtype=torch.float64)


def both_of(algorithm: Algorithm, start: Tensor, **options: Any) -> tuple[Any, Any, Any]:
    """The fused class, the tests' own and the reference's, from the same start."""
    ours, theirs = nn.Parameter(start.clone().to(DEVICE)), nn.Parameter(start.clone())
    return algorithm.fused([ours], **options), algorithm.torch([theirs], **options), start.clone()


def check_steps(algorithm: Algorithm, start: Tensor, steps: list[tuple[Tensor, Tensor]], **options: Any) -> None:
    """(gradient, parameter after its step)."""
    fused, own, plain = both_of(algorithm, start, **options)
    state: dict[str, Tensor] = {}
    for t, (grad, expected) in enumerate(steps):
        for opt in (fused, own):
            params_of(opt)[0].grad = grad.to(params_of(opt)[0].device, copy=True)
            opt.step()
        algorithm.reference(plain, grad, state, **options)
        for got in (params_of(fused)[0].detach().cpu(), params_of(own)[0].detach(), plain):
            torch.testing.assert_close(got, expected, rtol=1e-14, atol=0, msg=lambda text, t=t: f"step {t}: {text}")


def test_two_steps_of_lars_by_hand() -> None:
    """The norms are 5 and 4: the steps go along (6, 8) + (3, 4) / 2 and along (0, -1) + (0, 4) / 2."""
    options = {"lr": 2.0, "momentum": 0.5, "weight_decay": 0.5, "trust_coefficient": 0.25, "eps": 0.5}
    first = 2.0 * 0.25 * 5 / (10 + 0.5 * 5 + 0.5)  # the rate
    p1 = pythagorean(3 - first * 7.5, 4 - first * 10)
    norm = math.hypot(*p1.tolist())
    second = 2.0 * 0.25 * norm / (1 + 0.5 * norm + 0.5)
    buffer = 0.5 * first * pythagorean(7.5, 10.0) + second * (pythagorean(0.0, -1.0) + 0.5 * p1)
    grads = pythagorean(6.0, 8.0), pythagorean(0.0, -1.0)
    check_steps(LARS, pythagorean(3.0, 4.0), [(grads[0], p1), (grads[1], p1 - buffer)], **options)


def test_two_steps_of_lamb_by_hand() -> None:
    options = {"lr": 0.5, "betas": (0.5, 0.75), "eps": 1.0, "weight_decay": 0.5}
    # m = g / 2 and v = g**2 / 4, both without their bias g and g**2: g / (|g| + 1) is (3/4, -2/3).
    r = pythagorean(0.75 + 0.5 * 3, -2 / 3 + 0.5 * 4)
    p1 = pythagorean(3.0, 4.0) - 0.5 * 5 / math.hypot(*r.tolist()) * r
    # Then g = (1, 0): m = g' / 4 + g / 2 over 3/4, v = 3/16 g'**2 + g**2 / 4 over 7/16.
    m = pythagorean((0.75 + 0.5) / 0.75, -0.5 / 0.75)
    v = pythagorean((27 / 16 + 0.25) / (7 / 16), (12 / 16) / (7 / 16))
    r = m / (v.sqrt() + 1) + 0.5 * p1
    p2 = p1 - 0.5 * math.hypot(*p1.tolist()) / math.hypot(*r.tolist()) * r
    check_steps(LAMB, pythagorean(3.0, 4.0), [(pythagorean(3.0, -2.0), p1), (pythagorean(1.0, 0.0), p2)], **options)


@pytest.mark.parametrize("algorithm", [LARS, LAMB], ids=["lars", "lamb"])
@pytest.mark.parametrize("what", ["parameter", "gradient"])
def test_the_ratio_is_1_where_a_norm_is_0(algorithm: Algorithm, what: str) -> None:
    """Beside a parameter whose norm is not, which a rate of its own moves by as much as ever."""
    params = make_params((40001, 40001), torch.float64)
    alone = make_params((40001,), torch.float64, seed=0)[0]
    options = {"lr": 0.1, "weight_decay": 0.0}
    opt, other = (algorithm.fused(p, **options) for p in (params[1:] + params[:1], [alone]))
    zero = params[1]
    set_gradients(params, 0)
    alone.grad = params[0].grad.clone()
    with torch.no_grad():
        (zero if what == "parameter" else zero.grad).zero_()
    before = zero.detach().clone()
    opt.step()
    other.step()
    moved = zero.grad.sign() if algorithm is LAMB else zero.grad
    torch.testing.assert_close(zero.detach(), before - 0.1 * moved, rtol=1e-5, atol=0)
    assert bits(params[0]) == bits(alone)


# ------------------------------------------------------------------------------- excluded groups


@pytest.mark.parametrize("form", ["classical", "torch"])
@pytest.mark.parametrize("dtype", ids(DTYPES))
def test_lars_that_does_not_adapt_is_sgd(dtype: torch.dtype, form: Any) -> None:
    options = {"lr": SCHEDULES[0], "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "momentum_form": form}
    results = []
    for fused, more in ((FusedLARS, {"adapts": False}), (FusedSGD, {})):
        opt: Any = fused(make_params(SOME_SIZES, dtype), **options, **more)
        train(opt, range(4))
        results.append([bits(x) for p in params_of(opt) for x in (p, *opt.state[p].values())])
    assert results[0] == results[1]


@pytest.mark.parametrize("case", ids(MEASURING))
def test_groups_that_adapt_beside_some_that_do_not(case: Case) -> None:
    """Each group is updated as in an optimizer of its own, and what is assigned holds from the next step on."""
    sizes = (33, 16384 + 5, 3)
    opt = case.fused(
        [{"params": make_params(sizes, seed=0), "adapts": False}, {"params": make_params(sizes, seed=1)}], lr=0.1
    )
    apart = [case.fused(make_params(sizes, seed=i), lr=0.1, adapts=i == 1) for i in range(2)]
    for t in range(5):
        if t == 3:
            opt.param_groups[0]["adapts"] = apart[0].param_groups[0]["adapts"] = True
        for group, each in zip(opt.param_groups, apart, strict=True):
            set_gradients(group["params"], t)
            set_gradients(params_of(each), t)
            each.step()
        opt.step()
    assert [bits(p) for p in params_of(opt)] == [bits(p) for each in apart for p in params_of(each)]


# ---------------------------------------------------------------------------------- the same bits


@pytest.mark.skipif(EMULATED or DEVICE.type != "cpu", reason="about the CPU's threads and instruction sets")
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64, torch.bfloat16]))
@pytest.mark.parametrize("case", ids(MEASURING))
def test_threads_and_instruction_sets_give_the_same_bits(case: Case, dtype: torch.dtype, backend: str) -> None:
    if backend == "reference":
        pytest.skip("the reference has neither")
    extension: Any = backends.load()
    results = []
    try:
        for name in extension.instruction_sets():
            extension.use_instruction_set(name)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                opt = case.fused(make_params((*SIZES, 131072 + 5, 70001), dtype), lr=0.1)
                train(opt, range(2))
                results.append([bits(p) for p in params_of(opt)])
    finally:
        extension.use_instruction_set(extension.instruction_sets()[-1])
    assert len(results) >= 3
    assert all(result == results[0] for result in results)


def strided(seed: int) -> nn.Parameter:
    """A strided tensor of two chunks."""
    return nn.Parameter(values((821, 40), seed, torch.float32).t()[:, 3:])


@pytest.mark.skipif(not EMULATED, reason="about emulated kernels: SGDR_FUSED_TEST_DEVICE=emulated_cuda")
@pytest.mark.parametrize(
    "options",
    [{}, {"max_grad_norm": 1.5, "max_grad_value": 0.8}, {"master_weights": True, "state_dtype": torch.float32}],
    ids=["", "clipped", "master_weights"],
)
@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(MEASURING))
def test_kernels_give_the_bits_of_the_cpu(
    case: Case, dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors need several launches, with strides, a scale, missing gradients and groups that do not adapt."""
    if "state_dtype" in options and dtype not in (torch.bfloat16, torch.float16):
        pytest.skip("for 16 bits")
    results = []
    for name in (emulation.BACKEND, "cpu"):
        monkeypatch.setattr(backends, "backend_for", lambda device, name=name: name)
        params = [*make_params(SIZES, dtype), *make_params((3,) * 300, dtype, seed=1)]
        other = [] if "state_dtype" in options else [strided(0), *make_params((300,), torch.float64)]
        excluded = make_params((70, 16385), dtype, seed=2)
        groups = [{"params": params + other}, {"params": excluded, "adapts": False}]
        opt = case.fused(groups, lr=SCHEDULES[1], **options)
        opt.grad_scale = torch.tensor(3.0)
        for t in range(3):
            set_gradients(params_of(opt), t)
            for param in params_of(opt)[t :: 5 + t]:
                param.grad = None if t < 2 else param.grad
            opt.step()
        results.append([bits(x) for p in params_of(opt) for x in (p, *opt.state[p].values())])
    assert results[0] == results[1]


@pytest.mark.skipif(not EMULATED, reason="about emulated kernels: SGDR_FUSED_TEST_DEVICE=emulated_cuda")
@pytest.mark.parametrize(
    ("options", "passes"),
    [({}, 2), ({"max_grad_value": 0.8}, 2), ({"max_grad_norm": 1.0}, 3), ({"skip_nonfinite": True}, 3)],
    ids=str,
)
@pytest.mark.parametrize("case", ids(MEASURING))
def test_launches_of_a_step(case: Case, options: dict[str, Any], passes: int) -> None:
    params = [*make_params(SOME_SIZES), *make_params(SOME_SIZES, torch.float64)]  # two dtypes
    opt = case.fused(params, lr=0.1, **options)
    for t in range(3):
        launches = emulation.library().emulator_launches()
        train(opt, [t])
        assert emulation.library().emulator_launches() - launches == 2 * passes


# -------------------------------------------------------------------------------- skipped, resumed


@pytest.mark.parametrize("how", ["found_inf", "skip_nonfinite"])
@pytest.mark.parametrize("case", ids(MEASURING))
def test_a_skipped_step_leaves_nothing_behind(case: Case, how: str) -> None:
    """A first step among them, of parameters of several chunks."""
    results = []
    for skips in (False, True):
        opt = case.fused(make_params(SOME_SIZES), lr=SCHEDULES[0], skip_nonfinite=how == "skip_nonfinite")
        for t in range(5):
            if skips:
                set_gradients(params_of(opt), 100 + t)
                if how == "found_inf":
                    opt.grad_scale, opt.found_inf = None, torch.tensor(1.0, device=DEVICE)
                else:
                    params_of(opt)[t % 2 * 4].grad.view(-1)[-1] = math.nan
                opt.step()
                if how == "found_inf":
                    del opt.grad_scale, opt.found_inf
            train(opt, [t])
        results.append(snapshot(opt))
    assert results[0] == results[1]


@pytest.mark.parametrize("case", ids(MEASURING))
def test_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(case: Case) -> None:
    def make() -> Any:
        groups = [{"params": make_params(SOME_SIZES)}, {"params": make_params((7,), seed=1), "adapts": False}]
        return case.fused(groups, lr=SCHEDULES[0])

    whole, opt, resumed = make(), make(), make()
    train(whole, range(6))
    train(opt, range(3))
    for param, value in zip(params_of(resumed), params_of(opt), strict=True):
        param.data.copy_(value)
    resumed.param_groups[1]["adapts"] = True  # the checkpoint's comes back
    resumed.load_state_dict(opt.state_dict())
    train(resumed, range(3, 6))
    assert snapshot(resumed) == snapshot(whole)


@pytest.mark.parametrize("case", ids(MEASURING))
def test_master_weights_are_measured_with_their_remainders(case: Case) -> None:
    """Parameters of which 16 bits keep little: from 1 to 1 + 2**-9, which bfloat16 takes for 1."""
    param = nn.Parameter(torch.ones(16384 + 5, dtype=torch.bfloat16, device=DEVICE))
    opt = case.fused([param], lr=0.0, master_weights=True, state_dtype=torch.float32)
    start = torch.linspace(1, 1 + 2**-9, 16384 + 5)
    twin = nn.Parameter(start.to(DEVICE))
    train(opt, [0])
    opt.state[param]["remainder"].copy_((start.view(torch.int32) & 0xFFFF).to(torch.int16))
    other = case.fused([twin], lr=0.0)
    set_gradients([param], 0)
    twin.grad = param.grad.float()
    other.step()
    for opt_, p in ((opt, param), (other, twin)):
        opt_.param_groups[0]["lr"] = 0.5
        p.grad = gradient(param, 1).to(p.dtype)
        opt_.step()
    upper, lower = param.detach().cpu().view(torch.int16), opt.state[param]["remainder"].cpu()
    joined = (upper.to(torch.int32) << 16) + lower
    assert bits(joined.view(torch.float32)) == bits(twin)


@pytest.mark.parametrize("fused", [FusedLARS, FusedLAMB])
def test_the_rate_is_per_tensor_not_per_element(fused: Any) -> None:
    """A parameter ten times as large with the same gradient moves ten times as far."""
    small, large = (nn.Parameter(k * values(2049, 0).to(DEVICE)) for k in (1.0, 10.0))
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.0, "eps": 0.0}
    opt = fused([small, large], **options)
    before = [p.detach().clone() for p in (small, large)]
    for p in (small, large):
        p.grad = values(2049, 1).to(DEVICE)
    opt.step()
    moved = [old - p.detach() for p, old in zip((small, large), before, strict=True)]
    torch.testing.assert_close(moved[1], 10 * moved[0], rtol=1e-10, atol=0)
    assert all(float(m.abs().max()) > 0 for m in moved)
