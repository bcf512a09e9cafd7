"""Our optimizer and torch's, from the same parameters."""

from __future__ import annotations

from typing import Any

import torch
from cases import (
    Case,
    assert_within,
    make_params,
    params_of,
)

SIZES = (5, 33)
TIGHT = 1e-11  # of float64, over some ten steps


def pair(case: Case, **options: Any) -> tuple[Any, Any]:
    """Ours and torch's, from the same parameters; torch's on the CPU."""
    ours = make_params(SIZES, torch.float64)
    theirs = [torch.nn.Parameter(p.detach().cpu().clone()) for p in ours]
    return case.fused(ours, **{"lr": 0.05, **options}), case.torch(theirs, **{"lr": 0.05, **options})


def assert_equal(ours: Any, theirs: Any) -> None:
    for p, q in zip(params_of(ours), params_of(theirs), strict=True):
        assert_within(p, q.detach(), TIGHT * (1 + q.detach().abs()), "parameter")
        for key, expected in theirs.state.get(q, {}).items():
            if expected is not None:
                tolerance = TIGHT * (1 + expected.double().abs())
                assert_within(ours.state[p][key], expected.double(), tolerance, key)
