"""Pairs of optimizers that have to go on alike, whatever was done to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from bits import bits
from cases import DEVICE, make_params, params_of, train

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

SCHEDULE = CosineWarmRestarts(0.1, T_0=3, eta_min=0.01)
SIZES = ((5, 4), 5, 3)
# torch's class and ours.
PAIRS: dict[str, tuple[Any, Any]] = {
    "sgd": (partial(torch.optim.SGD, momentum=0.9), partial(FusedSGD, momentum=0.9)),
    "adam": (torch.optim.Adam, FusedAdam),
}
KINDS = ["torch", "number", "schedule"]


def made(kind: str, name: str = "sgd", params: Any = None) -> Any:
    """torch's optimizer, or ours with a number or a Schedule for the rate."""
    theirs, ours = PAIRS[name]
    params = make_params(SIZES, torch.float64) if params is None else params
    return theirs(params, lr=0.1) if kind == "torch" else ours(params, lr=SCHEDULE if kind == "schedule" else 0.1)


def assert_same_course(opt: Any, other: Any, steps: Iterable[int]) -> None:
    """Both go on alike: whatever was done to the one has changed nothing."""
    for each in (opt, other):
        train(each, steps)
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(other)]
    if hasattr(opt, "clock"):
        assert opt.get_last_lr() == other.get_last_lr()
        assert int(opt.clock) == int(other.clock)


def assert_unharmed(habit: Callable[[Any], Any], kind: str, name: str = "sgd") -> None:
    """After three steps the habit, then three more: as without it."""
    opt, other = made(kind, name), made(kind, name)
    for each in (opt, other):
        train(each, range(3))
    habit(opt)
    assert_same_course(opt, other, range(3, 6))


def scaled_step(opt: Any, found_inf: float, scale: float = 1.0) -> None:
    """What GradScaler.step does around a step of an optimizer that unscales by itself."""
    opt.grad_scale = torch.tensor(scale, device=DEVICE)
    opt.found_inf = torch.tensor(found_inf, device=DEVICE)
    opt.step()
    del opt.grad_scale, opt.found_inf
