"""An optimizer under a Schedule, and the rates that its steps use."""

from __future__ import annotations

from typing import Any

import torch
from cases import make_params, params_of

from sgdr_fused import FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts, Triangular

SCHEDULE = CosineWarmRestarts(0.5, T_0=7, eta_min=0.01)
TIGHT = 1e-12  # a GPU's sines and powers are not the host's to the last bit
OTHER = Triangular(0.1, 0.25, step_size_up=3)


def sgd(lr: Any = SCHEDULE, sizes: tuple[int, ...] = (3,), **options: Any) -> FusedSGD:
    return FusedSGD(make_params(sizes, torch.float64), lr=lr, **{"momentum": 0.5, **options})


def rates_of(opt: Any, steps: int) -> list[float]:
    """The rates that the next steps use, read off the weights: without momentum an update is rate times gradient."""
    used = []
    for _ in range(steps):
        param = params_of(opt)[0]
        before = param.detach().clone()
        param.grad = torch.ones_like(param)
        opt.step()
        used.append(round((before - param.detach())[0].item(), 9))
    return used


def expected(schedule: Any, steps: range) -> list[float]:
    return [round(schedule(t), 9) for t in steps]
