"""Clipping inside the step: by the norm of all gradients, and by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import emulation
import pytest
import torch
from bits import bits, snapshot
from cases import (
    DEVICE,
    DTYPES,
    EMULATED,
    HALVES,
    MEASURING,
    PRETEND,
    SCHEDULES,
    TYPICAL,
    Case,
    Oracle,
    as_double,
    assert_within,
    gradient,
    ids,
    make_params,
    one_step_tolerance,
    params_of,
    rate,
    set_gradients,
    train,
    values,
)
from torch import Tensor, nn

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused._native import backends

# Both sides of a vector, of a block's threads, of the lanes of a sum and of a chunk.
SIZES = (0, 1, 7, 255, 256, 257, 2047, 2048, 2049, 16383, 16384, 16385, 32768 + 2048 + 3)
SOME_SIZES = (5, 0, 33, 2049, 16384 + 2049)
STEPS = 6

# Of the gradients above the norm is in the hundreds, and most elements lie between 0.5 and 1.5.
OPTIONS: tuple[dict[str, float], ...] = (
    {"max_grad_norm": 1.5},
    {"max_grad_norm": 1e6},
    {"max_grad_value": 0.8},
    {"max_grad_norm": 1.5, "max_grad_value": 0.8},
)
option_ids = pytest.mark.parametrize("options", [pytest.param(o, id="-".join(map(str, o.items()))) for o in OPTIONS])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs these tests with one thread: with so little work, threads only wait. A test below is about threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def exact_norm(grads: Sequence[Tensor | None], scale: float = 1.0) -> float:
    """Rounded once for each square, and at the end."""
    return math.sqrt(math.fsum(x * x for g in grads if g is not None for x in (g.double() / scale).flatten().tolist()))


def assert_norm(opt: Any, expected: float) -> None:
    """The squares are added up in double; each partial sum rounds, of which an element sees some thirty."""
    assert opt.grad_norm.dtype == torch.float64
    assert opt.grad_norm.shape == ()
    assert opt.grad_norm.device == params_of(opt)[0].device
    assert opt.grad_norm.item() == pytest.approx(expected, rel=30 * 2**-53, abs=0)


def clip(grads: Sequence[Tensor], norm: float, max_grad_norm: Any = None, max_grad_value: Any = None) -> list[Tensor]:
    """What the update is to see of gradients with this norm, in their own dtype."""
    coefficient = 1.0 if max_grad_norm is None else min(1.0, max_grad_norm / (norm + 1e-6))
    limit = math.inf if max_grad_value is None else max_grad_value
    return [grad.clamp(-limit, limit) * torch.tensor(coefficient, dtype=grad.dtype, device=DEVICE) for grad in grads]


# ---------------------------------------------------------------------------------------- the norm


@pytest.mark.parametrize("dtype", ids(DTYPES))
def test_norm_of_one_tensor(dtype: torch.dtype) -> None:
    for size in SIZES:
        opt = FusedSGD(make_params((size,), dtype), lr=0.1, max_grad_norm=math.inf)
        train(opt, [size])
        assert_norm(opt, exact_norm([p.grad for p in params_of(opt)]))


@pytest.mark.parametrize("dtype", ids(DTYPES))
def test_norm_of_all_groups(dtype: torch.dtype) -> None:
    groups = [{"params": make_params(SIZES, dtype)}, {"params": make_params((3,) * 300, dtype, seed=1), "lr": 0.2}]
    opt = FusedSGD(groups, lr=0.1, max_grad_norm=math.inf)
    norm = opt.grad_norm
    for t in range(2):
        train(opt, [t])
        assert opt.grad_norm is norm
        assert_norm(opt, exact_norm([p.grad for p in params_of(opt)]))


def test_norm_of_several_dtypes_and_missing_gradients() -> None:
    """Several launches on a GPU, all of whose parts add up."""
    params = [p for i, dtype in enumerate(DTYPES) for p in make_params(SOME_SIZES, dtype, seed=i)]
    opt = FusedSGD(params, lr=0.1, momentum=0.9, max_grad_norm=1.0)
    for t in range(4):
        set_gradients(params, t)
        for param in params[t::3] if t < 3 else params:
            param.grad = None
        opt.step()
        assert_norm(opt, exact_norm([p.grad for p in params]))
    assert opt.grad_norm.item() == 0.0
    assert opt.clock.item() == 4


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda base: base.view(80, 60).t()[:, 3:],
    "every_second": lambda base: base[::2],
    "odd_address": lambda base: base[1:4100],
}


@pytest.mark.parametrize("which", ["both", "gradient"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.bfloat16]))
def test_layouts(dtype: torch.dtype, layout: str, which: str) -> None:
    """The elements are added up in the order of the parameter, wherever the gradient has them."""
    results = []
    for dense in (True, False):
        param = values(4800, 0, dtype).to(DEVICE)
        param = LAYOUTS[layout](param)
        param = nn.Parameter(param if which == "both" else param.contiguous())
        grad = LAYOUTS[layout](values(4800, 1, dtype).to(DEVICE))
        param.grad = torch.empty_like(param).copy_(grad) if dense else grad
        opt = FusedSGD([param], lr=0.1, max_grad_norm=1.0)
        opt.step()
        assert_norm(opt, exact_norm([grad]))
        results.append([bits(opt.grad_norm), bits(param)])
    assert results[0] == results[1]


@pytest.mark.skipif(EMULATED or DEVICE.type != "cpu", reason="about the CPU's threads and instruction sets")
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64, torch.float16]))
def test_threads_and_instruction_sets_give_the_same_bits(dtype: torch.dtype, backend: str) -> None:
    if backend == "reference":
        pytest.skip("the reference has neither")
    extension: Any = backends.load()
    results = []
    try:
        for name in extension.instruction_sets():
            extension.use_instruction_set(name)
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                opt = FusedAdamW(make_params((*SIZES, 131072 + 5, 70001), dtype), lr=0.1, max_grad_norm=1.0)
                train(opt, range(2))
                results.append([bits(opt.grad_norm), *map(bits, params_of(opt))])
    finally:
        extension.use_instruction_set(extension.instruction_sets()[-1])
    assert len(results) >= 3
    assert all(result == results[0] for result in results)


@pytest.mark.skipif(not EMULATED, reason="about emulated kernels: SGDR_FUSED_TEST_DEVICE=emulated_cuda")
@option_ids
@pytest.mark.parametrize("dtype", ids(DTYPES))
def test_kernels_give_the_bits_of_the_cpu(
    dtype: torch.dtype, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    more = (3,) * 2100 if dtype == torch.float32 else (3,)  # than the arguments of one launch hold
    for name in (emulation.BACKEND, "cpu"):
        monkeypatch.setattr(backends, "backend_for", lambda device, name=name: name)
        params = [*make_params(SIZES, dtype), *make_params(more, dtype), *make_params((300,), torch.float64)]
        opt = FusedAdamW(params, lr=SCHEDULES[1], **options)
        opt.grad_scale = torch.tensor(3.0)
        for t in range(2):
            set_gradients(params, t)
            params[3].grad = None if t == 0 else params[3].grad
            opt.step()
        norm = [bits(opt.grad_norm)] if "max_grad_norm" in options else []
        results.append(norm + [bits(x) for p in params for x in (p, p.grad)])
    assert results[0] == results[1]


# -------------------------------------------------------------------------------------- the update


@option_ids
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64]))
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_the_update_is_that_of_clipped_gradients(case: Case, dtype: torch.dtype, options: dict[str, Any]) -> None:
    """The bits are the same, and the gradients stay as they are."""
    sizes = SOME_SIZES[:-1] if PRETEND else SOME_SIZES
    opt = case.fused(make_params(sizes, dtype), lr=SCHEDULES[0], **options)
    twin = case.fused(make_params(sizes, dtype), lr=SCHEDULES[0])
    for t in range(STEPS):
        grads = [gradient(p, t, i) for i, p in enumerate(params_of(opt))]
        for param, grad in zip(params_of(opt), grads, strict=True):
            param.grad = grad.clone()
        opt.step()
        assert [bits(p.grad) for p in params_of(opt)] == [bits(g) for g in grads]
        limited = clip(grads, 0.0, max_grad_value=options.get("max_grad_value"))
        norm = opt.grad_norm.item() if "max_grad_norm" in options else 0.0
        if "max_grad_norm" in options:
            assert_norm(opt, exact_norm(limited))
        for param, grad in zip(params_of(twin), clip(grads, norm, **options), strict=True):
            param.grad = grad
        twin.step()
        for what in ("params", "states", "clock", "groups"):
            assert snapshot(opt)[what] == snapshot(twin)[what], f"{what} after step {t}"


@option_ids
@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids(TYPICAL[2:]))
def test_low_precision_against_the_oracle(case: Case, dtype: torch.dtype, options: dict[str, Any]) -> None:
    """The clipped gradient is not rounded to 16 bits on its way to the update."""
    params = make_params(SOME_SIZES, dtype)
    oracle = Oracle(case, params)
    before = [p.clone() for p in oracle.params]
    opt = case.fused(params, lr=0.1, **options)
    train(opt, [0])
    grads = [p.grad.cpu().double() for p in params]
    limited = clip([g.to(DEVICE) for g in grads], 0.0, max_grad_value=options.get("max_grad_value"))
    grads = [g.cpu() for g in clip([g.to(DEVICE) for g in grads], exact_norm(limited), **options)]
    oracle.step(grads, [0.1] * len(params))
    for i, param in enumerate(params):
        new = {"param": oracle.params[i], **oracle.states[i]}
        operand = case.largest_operand(0.1, {"param": before[i]}, grads[i], new, 1)
        for key, actual in {"param": param, **opt.state[param]}.items():
            if key != "step":
                assert_within(actual, new[key], one_step_tolerance(new[key], operand[key], dtype), key)


@option_ids
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_against_torch(case: Case, options: dict[str, Any]) -> None:
    """torch.nn.utils.clip_grad_value_ and clip_grad_norm_ in front of torch.optim, in float64."""
    ours = make_params(SOME_SIZES, torch.float64)
    theirs = [nn.Parameter(p.detach().cpu().clone()) for p in ours]
    opt, peer = case.fused(ours, lr=SCHEDULES[0], **options), case.torch(theirs, lr=1.0)
    for t in range(2 * STEPS):
        set_gradients(ours, t)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = p.grad.cpu().clone()
        peer.param_groups[0]["lr"] = rate(SCHEDULES[0], t)
        opt.step()
        if "max_grad_value" in options:
            nn.utils.clip_grad_value_(theirs, options["max_grad_value"])
        if "max_grad_norm" in options:
            norm = nn.utils.clip_grad_norm_(theirs, options["max_grad_norm"])
            assert opt.grad_norm.item() == pytest.approx(norm.item(), rel=1e-14)
        peer.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-12, atol=1e-12)
        for key, expected in as_double(peer.state[q]).items():
            torch.testing.assert_close(opt.state[p][key].cpu().double(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ids([torch.float32, torch.bfloat16]))
@option_ids
def test_with_a_scale(options: dict[str, Any], dtype: torch.dtype) -> None:
    """The scale, a power of 2, is gone before anything is measured or clipped; it is divided out in memory too."""
    results = []
    for scale in (1.0, 1024.0):
        opt = FusedAdamW(make_params(SOME_SIZES, dtype), lr=SCHEDULES[0], **options)
        for t in range(3):
            set_gradients(params_of(opt), t)
            for param in params_of(opt):
                param.grad.mul_(scale)
            if scale != 1.0:
                opt.grad_scale, opt.found_inf = (torch.tensor(x, device=DEVICE) for x in (scale, 0.0))
            opt.step()
        results.append([snapshot(opt), bits(opt.grad_norm) if "max_grad_norm" in options else None])
    assert results[0] == results[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@option_ids
def test_gradients_that_are_not_finite_do_what_they_do_in_torch(options: dict[str, Any], bad: float) -> None:
    ours = make_params(SOME_SIZES, torch.float64)
    theirs = [nn.Parameter(p.detach().cpu().clone()) for p in ours]
    set_gradients(ours, 0)
    ours[2].grad[7] = bad
    for p, q in zip(ours, theirs, strict=True):
        q.grad = p.grad.cpu().clone()
    opt = FusedSGD(ours, lr=0.1, **options)
    opt.step()
    if "max_grad_value" in options:
        nn.utils.clip_grad_value_(theirs, options["max_grad_value"])
    if "max_grad_norm" in options:
        norm = nn.utils.clip_grad_norm_(theirs, options["max_grad_norm"])
        torch.testing.assert_close(opt.grad_norm.cpu(), norm, rtol=1e-14, atol=0, equal_nan=True)
    torch.optim.SGD(theirs, lr=0.1).step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-14, atol=0, equal_nan=True)


def test_norms_out_of_a_floats_range() -> None:
    """float32 gradients whose squares overflow, or vanish, in float32."""
    for size in (1e30, 1e-30):
        params = make_params((5,))
        params[0].grad = torch.full_like(params[0], size)
        before = params[0].detach().clone()
        opt = FusedSGD(params, lr=1.0, max_grad_norm=1.0)
        opt.step()
        assert opt.grad_norm.item() == pytest.approx(size * math.sqrt(5), rel=1e-6)
        expected = min(size, 1 / math.sqrt(5))
        torch.testing.assert_close(params[0].detach(), before - expected)
