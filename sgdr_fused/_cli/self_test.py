"""A few steps of several optimizers, compared with the formulas of sgdr_fused.reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sgdr_fused

from .. import reference
from ..schedules import CosineWarmRestarts

STEPS = 7
# On both sides of the lengths that loops and vectors have; 0 too, and one that several threads share.
SIZES = (0, 1, 7, 33, 1025, 70_001)
TOLERANCE = 1e-12  # of the largest element; the arithmetic is in float64
RESTARTS: dict[str, Any] = {"max_lr": 0.1, "T_0": 2, "T_mult": 2, "eta_min": 1e-3, "max_decay": 1.0, "min_decay": 1.0}


class Check(NamedTuple):
    """An optimizer, its arguments, and the function of the reference with what that needs beside them."""

    optimizer: str
    arguments: dict[str, Any]
    by_reference: Callable[..., Any]
    of_reference: dict[str, Any]
    states: tuple[str, ...]


ADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
SGD = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
RMSPROP = {"alpha": 0.99, "eps": 1e-8, "weight_decay": 0.01, "momentum": 0.5, "centered": True}
LION = {"betas": (0.9, 0.99), "weight_decay": 0.01}
CHECKS = (
    Check("FusedSGD", SGD, reference.sgd, {}, ("momentum_buffer",)),
    Check("FusedAdam", {**ADAM, "amsgrad": True}, reference.adam, {}, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    Check("FusedAdamW", ADAM, reference.adam, {"decoupled_weight_decay": True}, ("exp_avg", "exp_avg_sq")),
    Check("FusedRMSprop", RMSPROP, reference.rmsprop, {}, ("square_avg", "grad_avg", "momentum_buffer")),
    Check("FusedLion", LION, reference.lion, {}, ("exp_avg",)),
)


def run(device: torch.device) -> dict[str, Any]:
    """What the checks have found on a device: whether all passed, the seconds they took, and each of them."""
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # torch's first optimizer imports for seconds
    start = time.perf_counter()
    checks = []
    for check in CHECKS:
        try:
            error = _largest_error(check, device)
            passed, found = error <= TOLERANCE, f"largest error {error:.1e}"
        except Exception as failure:  # whatever goes wrong in a step is what this is to tell
            passed, found = False, f"{type(failure).__name__}: {failure}"
        checks.append({"optimizer": check.optimizer, "passed": passed, "found": found})
    passed = all(check["passed"] for check in checks)
    return {"passed": passed, "seconds": round(time.perf_counter() - start, 3), "checks": checks}


def _largest_error(check: Check, device: torch.device) -> float:
    """How far parameters and states are from the reference's after some steps, relative to the largest element."""
    random = torch.Generator().manual_seed(0)

    def drawn(size: int) -> Tensor:
        return torch.randn(size, generator=random, dtype=torch.float64)

    expected = [drawn(size) for size in SIZES]
    states: list[dict[str, Tensor]] = [{} for _ in SIZES]
    params = [torch.nn.Parameter(each.to(device, copy=True)) for each in expected]
    make = getattr(sgdr_fused, check.optimizer)
    optimizer = make(params, lr=CosineWarmRestarts(**RESTARTS), **check.arguments)
    for t in range(STEPS):
        lr = reference.cosine_warm_restarts(t, **RESTARTS)
        for param, theirs, state in zip(params, expected, states, strict=True):
            grad = drawn(len(theirs))
            param.grad = grad.to(device)
            check.by_reference(theirs, grad, state, lr=lr, **check.arguments, **check.of_reference)
        optimizer.step()
    errors = [0.0]
    for param, theirs, state in zip(params, expected, states, strict=True):
        errors.append(_error(param.detach(), theirs))
        errors += [_error(optimizer.state[param][name], state[name]) for name in check.states]
    return max(errors)


def _error(ours: Tensor, theirs: Tensor) -> float:
    """A value that is no number counts as an infinite error."""
    if theirs.numel() == 0:
        return 0.0
    largest = (ours.cpu() - theirs).abs().max() / theirs.abs().max()
    return float(largest.nan_to_num(torch.inf, torch.inf))
