"""A hundred steps beside torch.optim, for every combination of its options, and through checkpoints both ways.

The rate is a Schedule here; torch's is set by hand. Everything is in float64, so that what is left is the order of
the operations.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import (
    DEVICE,
    EVERY_ALGORITHM,
    PRETEND,
    Algorithm,
    assert_within,
    make_params,
    params_of,
    rate,
    train,
)
from torch_features import DECOUPLED_ADAM

from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.skipif(PRETEND, reason="arithmetic that the other grids cover; slow there")

STEPS = 100
RATE = CosineWarmRestarts(0.1, T_0=7, T_mult=2, eta_min=0.001)  # restarts at 7, 21, 49
SIZES = (3, 8)
# A hundred roundings of 1e-16, of numbers up to about 10, some of which the divisions make larger.
TIGHT = 1e-12

COMMON: dict[str, tuple[Any, ...]] = {"weight_decay": (0, 0.1), "maximize": (False, True)}


def rows() -> Iterator[Any]:
    for name, algorithm in EVERY_ALGORITHM.items():
        every = {**algorithm.choices, **COMMON}
        for values in itertools.product(*every.values()):
            options = dict(zip(every, values, strict=True))
            if options.get("nesterov") and (not options["momentum"] or options["dampening"]):
                continue  # refused, by torch too
            shown = "-".join(f"{k}={v}" for k, v in options.items() if v)
            yield pytest.param(algorithm, options, id=f"{name}-{shown}")


def steps_of_both(ours: Any, theirs: Any, steps: range) -> None:
    for t in steps:
        theirs.param_groups[0]["lr"] = rate(RATE, t)
        train(ours, [t])
        train(theirs, [t])


@pytest.mark.parametrize(("algorithm", "options"), list(rows()))
def test_beside_torch(algorithm: Algorithm, options: dict[str, Any]) -> None:
    """After 30 steps torch goes on from our checkpoint, and after 60 we from torch's."""
    params = make_params(SIZES, torch.float64)
    ours = algorithm.fused(params, lr=RATE, **options)
    theirs = algorithm.torch([torch.nn.Parameter(p.detach().cpu().clone()) for p in params], **options)
    steps_of_both(ours, theirs, range(30))
    # Before torch 2.7 it is the class, and no entry of a group, that says whether the decay is decoupled.
    told = {} if DECOUPLED_ADAM else {key: options[key] for key in options if key == "decoupled_weight_decay"}
    theirs = algorithm.torch(params_of(theirs), **told)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    steps_of_both(ours, theirs, range(30, 60))
    ours = algorithm.fused(params, lr=RATE)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert ours.clock.item() == 30  # from our own checkpoint, through torch's
    ours.clock.fill_(60)
    steps_of_both(ours, theirs, range(60, STEPS))
    for p, q in zip(params, params_of(theirs), strict=True):
        for key, expected in {"param": q, **theirs.state[q]}.items():
            if expected is not None:
                got = p if key == "param" else ours.state[p][key]
                expected = expected.detach().double()
                assert_within(got, expected, TIGHT * (1 + expected.abs()), key)
    assert {p.device.type for p in params} == {DEVICE.type}
