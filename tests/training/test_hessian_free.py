"""The estimate of the rate: on quadratics, whose curvature is known, and by the formula in exact fractions."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import pytest
import torch
from cases import DEVICE, make_params
from torch import Tensor, nn

from sgdr_fused import FusedSGD, HessianFreeLR, hessian_free_lr
from sgdr_fused.schedules import Exponential


def descent(start: Tensor, curvature: Any, lrs: list[float]) -> list[Tensor]:
    """Gradient descent on sum(curvature * w**2) / 2."""
    path = [start]
    for lr in lrs:
        path.append(path[-1] - lr * curvature * path[-1])
    return path


@pytest.mark.parametrize("lrs", [(0.1, 0.1), (1e-4, 1e-4), (0.7, 0.7), (0.1, 0.02), (0.02, 0.5)], ids=str)
@pytest.mark.parametrize("curvature", [0.01, 4.0, -3.0])
def test_one_curvature(curvature: float, lrs: tuple[float, float]) -> None:
    """1 / |h| whatever the rates are, also where the curvature is negative.

    The change of the gradient is w * lr * h**2, got from steps of w, divided by lr: what is rounded at each of a few
    operations on w is that much larger in it.
    """
    start = torch.tensor([1.0, -3.0, 0.5], dtype=torch.float64, device=DEVICE)
    lr = lrs[0] if lrs[0] == lrs[1] else lrs
    estimate = hessian_free_lr(*descent(start, curvature, list(lrs)), lr=lr)
    assert estimate.dtype == torch.float64
    assert estimate.shape == ()
    assert estimate.device.type == DEVICE.type
    tolerance = 8 * torch.finfo(torch.float64).eps / (min(lrs) * curvature) ** 2
    assert tolerance < 1e-2
    assert estimate.item() == pytest.approx(1 / abs(curvature), rel=max(tolerance, 1e-12))


def test_several_curvatures() -> None:
    """The inverse of their mean, weighted with the distances."""
    start = torch.tensor([1.0, -3.0, 0.5, 2.0], dtype=torch.float64)
    curvature = torch.tensor([0.5, 2.0, 7.0, -1.0], dtype=torch.float64)
    path = descent(start, curvature, [0.1, 0.1])
    distances = (path[1] - path[0]).abs()
    mean = (distances * curvature.abs()).sum() / distances.sum()
    assert hessian_free_lr(*path, lr=0.1).item() == pytest.approx(1 / mean.item(), rel=1e-12)


def test_against_the_formula_in_fractions() -> None:
    generator = random.Random(0)
    weights = [[Fraction(generator.randrange(-99, 99), 16) for _ in range(7)] for _ in range(3)]
    w0, w1, w2 = weights
    expected = Fraction(1, 8) * sum(abs(b - a) for a, b in zip(w0, w1, strict=True))
    expected /= sum(abs(2 * b - a - c) for a, b, c in zip(w0, w1, w2, strict=True))
    flat = [torch.tensor(list(map(float, w)), dtype=torch.float32) for w in weights]
    assert hessian_free_lr(*flat, lr=0.125).item() == pytest.approx(float(expected), rel=1e-15)
    parts = [[w[:3].reshape(3, 1), w[3:], w[:0]] for w in flat]  # as several tensors, an empty one among them
    assert hessian_free_lr(*parts, lr=0.125).item() == pytest.approx(float(expected), rel=1e-15)
    rate = torch.tensor([0.125])
    assert hessian_free_lr(*flat, lr=(rate, 0.125)).item() == pytest.approx(float(expected), rel=1e-15)


def test_nothing_to_go_by() -> None:
    zero, one, two = (torch.full((3,), value) for value in (0.0, 1.0, 2.0))
    assert hessian_free_lr(zero, one, two, lr=0.1).item() == math.inf
    assert math.isnan(hessian_free_lr(one, one, one, lr=0.1).item())


@pytest.mark.parametrize(
    ("weights", "lr", "named"),
    [
        ((torch.ones(2), torch.ones(2), torch.ones(3)), 0.1, r"same shapes.*\(3,\)"),
        (([torch.ones(2)], [torch.ones(2)], [torch.ones(2)] * 2), 0.1, "same shapes"),
        (([], [], []), 0.1, "at least one tensor"),
        ((torch.ones(2),) * 3, 0.0, r"lr\[0\].*0\.0"),
        ((torch.ones(2),) * 3, (0.1, math.inf), r"lr\[1\].*inf"),
        ((torch.ones(2),) * 3, torch.ones(2), r"lr\[0\].*\(2,\)"),
    ],
)
def test_bad_arguments(weights: Any, lr: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        hessian_free_lr(*weights, lr=lr)


@pytest.mark.parametrize(
    ("params", "smoothing", "error", "named"),
    [
        ([], 0.9, TypeError, r"params.*\[\]"),
        ([1], 0.9, TypeError, r"params.*1"),
        (make_params((2,)), 1.0, ValueError, "smoothing"),
    ],
)
def test_bad_arguments_of_the_smoothed_one(params: Any, smoothing: float, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        HessianFreeLR(params, smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_along_a_training(smoothing: float) -> None:
    """A scheduled rate; the estimates of every three weight vectors, smoothed by hand. Step 4 is skipped."""
    schedule, skipped = Exponential(0.2, gamma=0.9), 4
    params = make_params((5, (2, 3)), torch.float64)
    optimizer = FusedSGD(params, lr=schedule)
    estimate = HessianFreeLR(params, smoothing)
    assert math.isnan(estimate.value.item())
    path, lrs, values = [[p.detach().clone() for p in params]], [], []
    for step in range(9):
        optimizer.zero_grad()
        sum((p.square() * (i + 1) + p.sin()).sum() for i, p in enumerate(params)).backward()
        lr = optimizer.param_groups[0]["lr"].clone()
        lrs.append(lr.item())
        if step == skipped:
            optimizer.found_inf = torch.tensor(1.0, device=DEVICE)
        optimizer.step()
        if step == skipped:
            del optimizer.found_inf
        estimate.update(lr if step % 2 else lr.item())
        path.append([p.detach().clone() for p in params])
        if step and skipped not in (step, step - 1):
            values.append(hessian_free_lr(*path[-3:], lr=(lrs[-2], lrs[-1])).item())
            expected = values[0]
            for value in values[1:]:
                expected = smoothing * expected + (1 - smoothing) * value
        if step:
            assert estimate.value.item() == pytest.approx(expected, rel=1e-12)
    assert len(values) == 6


def test_estimates_that_are_not_finite_are_left_out() -> None:
    param = nn.Parameter(torch.zeros(2, device=DEVICE))
    estimate = HessianFreeLR([param], smoothing=0.5)
    values = []
    for value in (1.0, 2.0, 2.5, 3.0, 3.25):  # steps of 1, 1, 0.5, 0.5, 0.25: two estimates are infinite
        param.data.fill_(value)
        estimate.update(lr=0.1)
        values.append(estimate.value.item())
    assert math.isnan(values[0])
    assert math.isnan(values[1])
    assert values[2:] == pytest.approx([0.2, 0.2, 0.2])
