"""Gradients in 16 bits beside float32 parameters: every step is the one of the same numbers in float32, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    CASE_OF,
    CASES,
    DEVICE,
    HALVES,
    MEASURING,
    PRETEND,
    SCHEDULES,
    SMALL_SIZES,
    TYPICAL,
    Case,
    gradient,
    ids,
    make_params,
    params_of,
    values,
)
from torch import Tensor, nn
from torch_features import needs_grad_dtype

from sgdr_fused import EMA, FusedSGD

pytestmark = needs_grad_dtype
STEPS = 3
SIZES = SMALL_SIZES if PRETEND else (*SMALL_SIZES, 65537)
SOME_SIZES = (0, 5, 2051, 16384 + 7)

OPTIONS: dict[str, dict[str, Any]] = {
    "norm": {"max_grad_norm": 1.0},
    "value": {"max_grad_value": 0.5, "average": EMA(0.7)},
    "bfloat16_states": {"state_dtype": torch.bfloat16, "skip_nonfinite": True},
    "stochastic": {"state_dtype": torch.bfloat16, "stochastic_rounding": True},
}


def give(param: Tensor, grad: Tensor | None) -> None:
    """`grad` in its own dtype, which torch allows where it is told so."""
    param.grad = None
    param.grad_dtype = None  # type: ignore[attr-defined]
    param.grad = grad


def narrow_gradient(param: Tensor, step: int, index: int, dtype: torch.dtype) -> Tensor:
    return gradient(param, step, index).to(dtype)


def pair(case: Case, sizes: tuple[int, ...], **options: Any) -> tuple[Any, Any]:
    """Two optimizers of equal parameters."""
    narrow, wide = (case.fused(make_params(sizes), lr=SCHEDULES[0], **options) for _ in range(2))
    if options.get("stochastic_rounding"):
        wide.load_state_dict(narrow.state_dict())  # with its seed
    return narrow, wide


def written(opt: Any) -> list[Any]:
    """All that a step writes but the gradients."""
    states = [{key: bits(value) for key, value in opt.state[p].items()} for p in params_of(opt)]
    norm = bits(opt.grad_norm) if hasattr(opt, "grad_norm") else None
    return [bits(opt.clock), norm, [bits(p) for p in params_of(opt)], states]


def check_alike(narrow: Any, wide: Any, dtype: torch.dtype) -> None:
    for t in range(STEPS):
        for i, (p, q) in enumerate(zip(params_of(narrow), params_of(wide), strict=True)):
            give(p, narrow_gradient(p, t, i, dtype))
            q.grad = p.grad.float()
        before = [bits(p.grad) for p in params_of(narrow)]
        narrow.step()
        wide.step()
        assert written(narrow) == written(wide), f"step {t}"
        assert [bits(p.grad) for p in params_of(narrow)] == before


@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids(CASES))
def test_the_step_is_that_of_float32(case: Case, dtype: torch.dtype) -> None:
    check_alike(*pair(case, SIZES), dtype)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_with_options(case: Case, dtype: torch.dtype, options: str) -> None:
    check_alike(*pair(case, SOME_SIZES, **OPTIONS[options]), dtype)


@pytest.mark.parametrize("clips", [{}, {"max_grad_norm": 1.0}], ids=["", "clipped"])
@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_unscaling(case: Case, dtype: torch.dtype, clips: dict[str, float]) -> None:
    """What is written back is rounded to the gradient's dtype; the update sees it before."""
    narrow, wide = pair(case, SOME_SIZES, **clips)
    for t in range(STEPS):
        skipped = t == 1
        for opt in (narrow, wide):
            opt.grad_scale = torch.full((), 3.0, device=DEVICE)
            opt.found_inf = torch.full((), float(skipped), device=DEVICE)
        for i, (p, q) in enumerate(zip(params_of(narrow), params_of(wide), strict=True)):
            give(p, narrow_gradient(p, t, i, dtype))
            q.grad = p.grad.float()
        narrow.step()
        wide.step()
        assert written(narrow) == written(wide), f"step {t}"
        for p, q in zip(params_of(narrow), params_of(wide), strict=True):
            assert bits(p.grad) == bits(q.grad.to(dtype)), f"step {t}"


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda base: base.view(37, 61).t(),
    "every_second": lambda base: torch.stack([base, base], dim=1)[:, 0].view(61, 37),
    "odd_address": lambda base: torch.cat([base[:1], base])[1:].view(61, 37),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids((TYPICAL[1], CASE_OF["lamb"])))
def test_layouts(case: Case, dtype: torch.dtype, view: str) -> None:
    narrow, wide = (case.fused(make_params([(61, 37)]), lr=0.1, max_grad_norm=1.0) for _ in range(2))
    for t in range(STEPS):
        grad = VIEWS[view](values(61 * 37, t).to(DEVICE, dtype))
        give(params_of(narrow)[0], grad)
        params_of(wide)[0].grad = grad.float().contiguous()
        narrow.step()
        wide.step()
        assert written(narrow) == written(wide), f"step {t}"


@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_another_dtype_at_each_step_and_for_each_parameter(case: Case) -> None:
    narrow, wide = pair(case, (5, 33, 7, 1025))
    dtypes = (torch.bfloat16, torch.float32, None, torch.float16)
    for t in range(8):
        for i, (p, q) in enumerate(zip(params_of(narrow), params_of(wide), strict=True)):
            dtype = dtypes[(i + t // 2) % 4]
            give(p, None if dtype is None else narrow_gradient(p, t, i, dtype))
            q.grad = None if p.grad is None else p.grad.float()
        narrow.step()
        wide.step()
        assert written(narrow) == written(wide), f"step {t}"


@pytest.mark.parametrize("dtype", ids(HALVES))
def test_as_autograd_leaves_them(dtype: torch.dtype) -> None:
    """``grad_dtype`` of a parameter is what backward() rounds its gradient to."""
    x = values((6, 5), 1, torch.float32).to(DEVICE)
    weights = [nn.Parameter(values((5, 3), 2, torch.float32).to(DEVICE)) for _ in range(2)]
    weights[0].grad_dtype = dtype
    narrow, wide = (FusedSGD([w], lr=0.1, momentum=0.9) for w in weights)
    for t in range(STEPS):
        for weight in weights:
            weight.grad = None
            (x @ weight).square().sum().backward()
        assert weights[0].grad is not None and weights[0].grad.dtype == dtype
        weights[1].grad = weights[0].grad.float()
        narrow.step()
        wide.step()
        assert bits(weights[0]) == bits(weights[1]), f"step {t}"


@pytest.mark.parametrize(
    ("param", "grad"),
    [
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float8_e4m3fn),
    ],
)
def test_no_other_pair(param: torch.dtype, grad: torch.dtype) -> None:
    weight = nn.Parameter(torch.ones(3, device=DEVICE, dtype=param))
    opt = FusedSGD([weight], lr=0.1)
    give(weight, torch.ones(3).to(grad).to(DEVICE))
    with pytest.raises(TypeError, match=rf"the gradient of parameter 0 .*{param}.* must be .*{param}.*, got {grad}"):
        opt.step()
    assert bool((weight == 1).all()) and opt.clock.item() == 0
