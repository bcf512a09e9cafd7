"""Failures that this package has had, by the number that they have in our list: displayed rates and their Schedules."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from bits import snapshot
from cases import ALGORITHMS_OF_TORCH, make_params, params_of, set_gradients, train
from rates import OTHER, SCHEDULE, TIGHT, expected, rates_of, sgd
from torch.optim import lr_scheduler as torch_schedulers

from sgdr_fused import FusedAdam, FusedSGD

pytestmark = pytest.mark.untracked

# ------------------------------------------------------------------- 21, 22: displays and their Schedules


@pytest.mark.filterwarnings("ignore:group.'lr'. had a Schedule")
@pytest.mark.parametrize("between", [0.0, torch.tensor(0.0), OTHER], ids=["number", "tensor", "schedule"])
def test_peer_21_a_display_that_is_put_back_is_its_schedule(between: Any) -> None:
    opt = sgd(momentum=0.0)
    group = opt.param_groups[0]
    assert rates_of(opt, 2) == expected(SCHEDULE, range(2))
    display = group["lr"]
    group["lr"] = between
    used = rates_of(opt, 1)
    assert used == (expected(OTHER, range(2, 3)) if between is OTHER else [0.0])
    group["lr"] = display
    assert group["lr"] is display and group["lr_schedule"] == SCHEDULE
    assert display.item() == SCHEDULE(3)  # the clock has moved meanwhile
    assert rates_of(opt, 3) == expected(SCHEDULE, range(3, 6))
    assert display.item() == SCHEDULE(6)


@pytest.mark.filterwarnings("ignore:group.'.*'. had a Schedule")
@pytest.mark.parametrize("key", ["momentum", "weight_decay"])
def test_peer_21_other_hyperparameters(key: str) -> None:
    opt = sgd(0.1, **{key: SCHEDULE})
    group = opt.param_groups[0]
    display, group[key] = group[key], 0.25
    train(opt, range(2))
    group[key] = display
    assert group[key] is display and group[f"{key}_schedule"] == SCHEDULE and display.item() == SCHEDULE(2)


@pytest.mark.filterwarnings("ignore:group.'betas'. had a Schedule")
def test_peer_21_betas() -> None:
    opt = FusedAdam(make_params((3,)), lr=0.1, betas=(SCHEDULE, 0.999))
    group = opt.param_groups[0]
    pair, group["betas"] = group["betas"], (0.5, 0.9)
    train(opt, range(2))
    group["betas"] = pair
    assert group["betas"][0] is pair[0] and group["betas_schedule"] == SCHEDULE and pair[0].item() == SCHEDULE(2)


def test_peer_21_a_display_in_another_group_brings_its_schedule() -> None:
    """Each group then has a display of its own, for the other may be given another rate."""
    one, two = make_params((3, 4), torch.float64)
    opt = FusedSGD([{"params": [one]}, {"params": [two], "lr": 0.25}], lr=SCHEDULE)
    first, second = opt.param_groups
    second["lr"] = first["lr"]
    assert second["lr_schedule"] == SCHEDULE and second["lr"] is not first["lr"]
    train(opt, range(3))
    assert [group["lr"].item() for group in (first, second)] == pytest.approx([SCHEDULE(3)] * 2, rel=TIGHT)
    with pytest.warns(UserWarning, match="had a Schedule"):
        first["lr"] = 0.125
    train(opt, range(3, 5))
    assert first["lr"] == 0.125 and second["lr"].item() == SCHEDULE(5)


@pytest.mark.filterwarnings("ignore:group.'lr'. had a Schedule")
@pytest.mark.once
def test_peer_21_as_torch_distributed_does() -> None:
    """torch.distributed.checkpoint.state_dict._init_optim_state, in its own words: pytorch#164929."""
    opt = sgd()
    lrs = []
    for group in opt.param_groups:
        lrs.append(group["lr"])
        group["lr"] = torch.tensor(0.0) if isinstance(group["lr"], torch.Tensor) else 0.0
    set_gradients(params_of(opt), 0)
    opt.step(closure=None)
    for group in opt.param_groups:
        group["lr"] = lrs.pop(0)
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE
    assert opt.param_groups[0]["lr"].item() == SCHEDULE(int(opt.clock))


def _multiply(group: Any, key: str) -> None:
    group[key] *= 0.1


def _subtract(group: Any, key: str) -> None:
    group[key] -= 0.1


def _fill(group: Any, key: str) -> None:
    display = group[key]
    display.fill_(0.25)
    group[key] = display


def _by_update(group: Any, key: str) -> None:
    group.update({key: group[key].mul_(0.5)})


@pytest.mark.parametrize("write", [_multiply, _subtract, _fill, _by_update])
@pytest.mark.parametrize("key", ["lr", "momentum", "weight_decay"])
def test_peer_22_a_display_that_was_written_is_refused_where_it_is_assigned(key: str, write: Any) -> None:
    opt = sgd(**{"lr": 0.1, key: SCHEDULE})
    train(opt, range(2))
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match=rf'0\.1 \* g\["{key}_schedule"\]'):
        write(opt.param_groups[0], key)
    assert opt.param_groups[0][key].item() == SCHEDULE(2)  # as before
    assert snapshot(opt) == before
    train(opt, range(2, 4))
    assert opt.param_groups[0][key].item() == SCHEDULE(4)


def test_peer_22_a_copy_that_was_written_is_refused_too() -> None:
    opt = sgd()
    group = copy.deepcopy(opt.param_groups[0])
    group["lr"] *= 0.1
    with pytest.raises(RuntimeError, match="was written in place"):
        opt.param_groups = [{**group, "params": params_of(opt)}]
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE


def test_peer_22_what_the_error_names_works() -> None:
    opt = sgd(momentum=0.0)
    group = opt.param_groups[0]
    group["lr"] = 0.1 * group["lr_schedule"]
    assert rates_of(opt, 3) == expected(0.1 * SCHEDULE, range(3))


def test_a_number_in_place_of_a_schedule_warns_once_a_group() -> None:
    one, two = make_params((3, 4))
    opt = FusedSGD([{"params": [one]}, {"params": [two]}], lr=SCHEDULE, weight_decay=OTHER)
    for group in opt.param_groups:
        with pytest.warns(UserWarning, match=r'0\.1 \* g\["lr_schedule"\]') as caught:
            group["lr"] = group["lr"] * 0.1
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            group["lr"] = 0.2
            group["weight_decay"] = 0.0
            group["lr"] = SCHEDULE
            group["lr"] = 0.3
    assert [group["lr_schedule"] for group in opt.param_groups] == [None, None]


def test_a_warning_that_is_an_error_changes_nothing() -> None:
    opt = sgd()
    before = snapshot(opt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="had a Schedule"):
            opt.param_groups[0]["lr"] = 0.1
    assert snapshot(opt) == before and opt.param_groups[0]["lr_schedule"] == SCHEDULE


# ----------------------------------------------------------------------- 23: negative rates of torch's schedulers


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("fused", [FusedSGD, FusedAdam])
@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch_schedulers.OneCycleLR(o, 0.1, total_steps=200, anneal_strategy="linear"),
        lambda o: torch_schedulers.LinearLR(o, start_factor=0.3, end_factor=0.0, total_iters=199),
        lambda o: torch_schedulers.LambdaLR(o, lambda t: 1 - t / 100),
    ],
    ids=["OneCycleLR", "LinearLR", "LambdaLR"],
)
def test_peer_23_a_scheduler_that_dips_below_zero(fused: Any, make: Any) -> None:
    algorithm = next(a for a in ALGORITHMS_OF_TORCH.values() if a.fused is fused)
    params, theirs = make_params((3,), torch.float64), make_params((3,), torch.float64)
    ours, peer = fused(params, lr=0.1), algorithm.torch(theirs, lr=0.1, foreach=False)
    schedulers = make(ours), make(peer)
    lowest = 0.0
    for t in range(201):
        for opt, each in ((ours, params), (peer, theirs)):
            set_gradients(each, t)
            opt.step()
        if t < 200:  # the last of them brings the rate below 0
            for scheduler in schedulers:
                scheduler.step()
        lowest = min(lowest, ours.param_groups[0]["lr"])
        assert ours.param_groups[0]["lr"] == peer.param_groups[0]["lr"]
    assert lowest < 0.0
    assert torch.allclose(params[0], theirs[0], rtol=1e-11, atol=0)  # 200 steps' rounding
    fused(make_params((3,), torch.float64), lr=0.1).load_state_dict(peer.state_dict())
    with pytest.raises(ValueError, match=r"lr must be finite and >= 0, got -0\.5"):
        ours.add_param_group({"params": make_params((4,)), "lr": -0.5})
    with pytest.raises(ValueError, match="lr must be finite, got nan"):
        ours.param_groups[0]["lr"] = math.nan
