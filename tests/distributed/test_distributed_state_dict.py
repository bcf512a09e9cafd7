"""torch.distributed.checkpoint's state dicts, without a process group."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from cases import make_params, train
from courses import PAIRS, SCHEDULE, SIZES, assert_same_course, made
from torch import nn
from torch.distributed.checkpoint import state_dict as distributed
from torch.optim import lr_scheduler

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.untracked


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i, param in enumerate(make_params(SIZES, torch.float64)):
            self.register_parameter(f"p{i}", param)


OPTIONS = {
    "plain": {},
    "full": {"full_state_dict": True, "cpu_offload": True},
}


@pytest.mark.once
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", ["number", "schedule"])
def test_distributed_state_dict(kind: str, name: str, options: Any) -> None:
    """torch's functions take a step at rate 0 to have states (pytorch#164929); Schedules and the clock outlive it."""
    how = distributed.StateDictOptions(**options)
    network, other = Network(), Network()
    opt, loaded = made(kind, name, network.parameters()), made(kind, name, other.parameters())
    train(opt, range(4))
    saved = copy.deepcopy(distributed.get_optimizer_state_dict(network, opt, options=how))
    other.load_state_dict(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        distributed.set_optimizer_state_dict(other, loaded, saved, options=how)
    assert int(loaded.clock) == 4
    assert loaded.param_groups[0]["lr_schedule"] == (SCHEDULE if kind == "schedule" else None)
    assert_same_course(loaded, opt, range(4, 7))


@pytest.mark.once
@pytest.mark.parametrize("options", [{}, {"average": "cycle"}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_distributed_state_dict_before_the_first_step(name: str, options: Any) -> None:
    """Asked for the state, torch steps at rate 0 and puts the rate back: that is no step of the training."""
    network, other = Network(), Network()
    make = PAIRS[name][1]
    opt, plain = make(network.parameters(), lr=SCHEDULE, **options), make(other.parameters(), lr=SCHEDULE, **options)
    ended: list[int] = []
    opt.register_cycle_end_hook(lambda _, index: ended.append(index))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = distributed.get_optimizer_state_dict(network, opt)
    names = {key for state in saved["state"].values() for key in state}
    assert ("momentum_buffer" if name == "sgd" else "exp_avg") in names  # what a checkpoint is to be read into
    assert int(opt.clock) == 0
    assert ended == []
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE
    if name == "sgd":
        assert_same_course(opt, plain, range(5))


@pytest.mark.once
@pytest.mark.parametrize("lr", [0.0, 0.1, torch.tensor(0.1), SCHEDULE], ids=["zero", "number", "tensor", "schedule"])
@pytest.mark.parametrize("scheduled", [False, True], ids=["step", "wrapped_step"])
def test_distributed_state_dict_of_what_has_no_states(lr: Any, scheduled: bool) -> None:
    """SGD without momentum never has any, so torch steps for each checkpoint."""
    network, other = Network(), Network()
    opt, plain = (FusedSGD(each.parameters(), lr=lr, weight_decay=0.1) for each in (network, other))
    if scheduled and not isinstance(lr, CosineWarmRestarts):
        lr_scheduler.ConstantLR(opt, 1.0)  # which wraps opt.step
    for t in range(5):
        opt.zero_grad()
        distributed.get_optimizer_state_dict(network, opt)
        assert int(opt.clock) == t
        assert_same_course(opt, plain, range(t, t + 1))


@pytest.mark.once
def test_the_groups_show_the_seed_that_was_loaded() -> None:
    """Before the next step too: who saves the groups then, and restores them, restores the right seed."""
    networks = Network().bfloat16(), Network().bfloat16()
    opt, loaded = (FusedAdamW(each.parameters(), stochastic_rounding=True) for each in networks)
    seed = opt.param_groups[0]["rounding_seed"]
    assert loaded.param_groups[0]["rounding_seed"] != seed
    distributed.set_optimizer_state_dict(networks[1], loaded, distributed.get_optimizer_state_dict(networks[0], opt))
    assert loaded.param_groups[0]["rounding_seed"] == seed
    copied = [{**group} for group in loaded.param_groups]
    train(loaded, range(1))
    for group, before in zip(loaded.param_groups, copied, strict=True):
        group["rounding_seed"] = before["rounding_seed"]
    assert loaded.state_dict()["param_groups"][0]["rounding_seed"] == seed
