"""What is on the device meta has no values: in a checkpoint, or given to a step, it is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import snapshot
from cases import DEVICE, make_params, params_of, train

from sgdr_fused import EMA, FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts

ON_META = torch.ones((), device="meta")


def of_state(name: str) -> Callable[[Any], Any]:
    def change(data: Any) -> None:
        state = data["state"][0]
        state[name] = torch.ones(5, device="meta") if name == "mine" else state[name].to("meta")

    return change


def of_groups(name: str) -> Callable[[Any], Any]:
    return lambda data: [group.update({name: ON_META}) for group in data["param_groups"]]


def stepped() -> FusedAdamW:
    params = make_params((5, 7))
    opt = FusedAdamW(params, lr=CosineWarmRestarts(0.1, T_0=3), average=EMA(0.9), skip_nonfinite=True)
    train(opt, range(2))
    return opt


STATE = r"state\['{}'\] of parameter 0 of group 0 must have"
PARTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    **{name: (of_state(name), STATE.format(name)) for name in ("exp_avg", "average", "step", "mine")},
    **{name: (of_groups(name), f"{name} of the state_dict must") for name in ("clock", "n_averaged", "skipped_steps")},
    "eps": (of_groups("eps"), "eps must be"),
}


@pytest.mark.parametrize("part", PARTS)
def test_in_a_checkpoint(part: str) -> None:
    change, message = PARTS[part]
    opt = stepped()
    data, before = opt.state_dict(), snapshot(opt)
    data["state"] = {key: dict(state) for key, state in data["state"].items()}
    change(data)
    with pytest.raises((ValueError, TypeError), match=f"{message}.*meta"):
        opt.load_state_dict(data)
    assert snapshot(opt) == before


@pytest.mark.parametrize("name", ["grad_scale", "found_inf"])
def test_given_to_a_step(name: str) -> None:
    opt = stepped()
    for param in params_of(opt):
        param.grad = torch.ones_like(param)
    before = snapshot(opt)
    opt.grad_scale, opt.found_inf = torch.ones((), device=DEVICE), torch.zeros((), device=DEVICE)
    setattr(opt, name, ON_META)
    with pytest.raises(ValueError, match=f"{name} must have a value, got a tensor on the device meta"):
        opt.step()
    assert snapshot(opt) == before
