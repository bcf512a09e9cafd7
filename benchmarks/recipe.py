"""The usual recipe on any device, by five calls of torch or one of ours: unscale, clip, AdamW, schedule, average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from implementations import LR, RESTARTS
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sgdr_fused import EMA, FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts

MAX_NORM, DECAY = 1.0, 0.999
# The gradients are read for their norm; then they, parameters, two moments and averages are read and written.
BYTES = 4 + 8 * 5

FORMS = {"torch for-loop": {"foreach": False}, "torch foreach": {"foreach": True}, "torch fused": {"fused": True}}


class Recipe(NamedTuple):
    """One implementation and its parameters, whose gradients are `scale` times too large."""

    params: list[nn.Parameter]
    step: Callable[[], None]
    averages: Callable[[], list[Tensor]]
    opt: Any


def grad_scaler(params: list[nn.Parameter], scale: float) -> torch.amp.GradScaler:
    device = params[0].device
    scaler = torch.amp.GradScaler(device.type, init_scale=scale)
    scaler.scale(torch.zeros((), device=device))  # makes its tensors
    return scaler


def by_torch(params: list[nn.Parameter], scale: float, form: dict[str, bool]) -> Recipe:
    opt = torch.optim.AdamW(params, lr=LR, **form)
    scheduler = CosineAnnealingWarmRestarts(opt, **RESTARTS)
    scaler = grad_scaler(params, scale)
    averages = [param.detach().clone() for param in params]
    average = get_ema_multi_avg_fn(DECAY)
    detached = [param.detach() for param in params]
    started = False

    def step() -> None:
        nonlocal started
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=form.get("foreach") is not False)
        scaler.step(opt)
        scaler.update()
        scheduler.step()
        if started:
            average(averages, detached, None)
        else:  # the first average is a copy, as in AveragedModel
            torch._foreach_copy_(averages, detached)
            started = True

    return Recipe(params, step, lambda: averages, opt)


def by_us(params: list[nn.Parameter], scale: float, through_scaler: bool = False) -> Recipe:
    opt = FusedAdamW(
        params,
        lr=CosineWarmRestarts(LR, **RESTARTS),
        max_grad_norm=MAX_NORM,
        average=EMA(DECAY),
        skip_nonfinite=not through_scaler,
    )
    if through_scaler:
        scaler = grad_scaler(params, scale)

        def step() -> None:
            scaler.step(opt)  # reads and writes all gradients, to see whether they are finite
            scaler.update()
    else:
        # GradScaler sets it so. The step itself finds gradients that are not finite.
        opt.grad_scale = torch.tensor(scale, device=params[0].device)
        step = opt.step
    assert opt.backend == params[0].device.type, opt.backend
    return Recipe(params, step, lambda: [opt.state[param]["average"] for param in params], opt)
