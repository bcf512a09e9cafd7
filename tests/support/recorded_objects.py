"""Pickles and checkpoints that users of an earlier version have.

`python tests/support/recorded_objects.py` writes them to recorded/. They were written once, by the version whose
classes lay in other modules; what is written now must not need that again.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import recorded_bits
import torch
from bits import bits
from cases import CASES, SCHEDULES, Case, make_params, params_of, train
from schedule_cases import ROWS

import sgdr_fused
from sgdr_fused import EMA, GrowingBatchSampler, LRFindResult, schedules

FOLDER = Path(__file__).resolve().parent / "recorded"
PICKLES = FOLDER / "objects.pickle"
CHECKPOINTS = FOLDER / "checkpoints.pt"
EXPECTED = FOLDER / "objects.json"
SIZES = (3, (2, 5))


def optimizer(case: Case) -> Any:
    return case.fused(make_params(SIZES), lr=SCHEDULES[0], average=EMA(0.9), max_grad_norm=1.0)


def goes_on(opt: Any) -> str:
    """A digest of what five more steps make of it."""
    train(opt, range(5, 10))
    found = hashlib.sha256()
    for param in params_of(opt):
        found.update(repr([bits(param), *(bits(value) for _, value in sorted(opt.state[param].items()))]).encode())
    return found.hexdigest()[:16]


def modules() -> dict[str, str]:
    """Where each public class and function says it is."""
    spaces = (
        ("sgdr_fused", sgdr_fused),
        ("sgdr_fused.schedules", schedules),
        ("sgdr_fused.reference", sgdr_fused.reference),
    )
    return {
        f"{path}.{name}": value.__module__
        for path, space in spaces
        for name in sorted(getattr(space, "__all__", None) or vars(space))
        if hasattr(value := getattr(space, name), "__module__") and value.__module__.startswith("sgdr_fused")
    }


def write() -> None:
    pickles: dict[str, Any] = {
        "schedules": [row.schedule for row in ROWS],
        "average": EMA(0.75),
        "result": LRFindResult(torch.ones(3), torch.ones(3), ratios=(1.0,), smoothing=0.5, diverged=False),
        "sampler": GrowingBatchSampler(range(10), 2, schedules.CosineWarmRestarts(0.1, T_0=3), 8),
    }
    checkpoints, expected = {}, {}
    for case in CASES:
        opt = optimizer(case)
        train(opt, range(5))
        pickles[case.id] = opt
        checkpoints[case.id] = {"state": opt.state_dict(), "params": [p.detach().clone() for p in params_of(opt)]}
    PICKLES.write_bytes(pickle.dumps(pickles, protocol=4))
    torch.save(checkpoints, CHECKPOINTS)
    for case in CASES:
        expected[case.id] = goes_on(pickles[case.id])
    EXPECTED.write_text(
        json.dumps({"goes_on": expected, "modules": modules(), "made_with": recorded_bits.made_with()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    write()
