"""``lr_scale`` of a group, as timm's layer decay sets it: it multiplies a Schedule for lr, and nothing else."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, make_params, params_of, train
from courses import SIZES

from sgdr_fused import FusedAdam, FusedSGD, lr_find
from sgdr_fused.schedules import CosineWarmRestarts, LinearRamp
from sgdr_fused.training import InStepScheduler

SCHEDULE = CosineWarmRestarts(0.1, T_0=3, T_mult=2, eta_min=0.01)
SCALES = (0.25, 0.7, None)  # of the three parameters, each in a group of its own; the last has no entry


def made(make: Any = FusedSGD, lr: Any = SCHEDULE, **options: Any) -> Any:
    params = make_params(SIZES, torch.float64)
    groups: list[dict[str, Any]] = [
        {"params": [param]} if scale is None else {"params": [param], "lr_scale": scale}
        for param, scale in zip(params, SCALES, strict=True)
    ]
    return make(groups, lr=lr, **options)


def expected(t: int, scales: Any = SCALES) -> list[float]:
    return [SCHEDULE(t) if scale is None else scale * SCHEDULE(t) for scale in scales]


@pytest.mark.parametrize("make", [FusedSGD, FusedAdam])
def test_a_step_takes_the_scaled_rate(make: Any) -> None:
    """Through two restarts, as with the numbers, which are written before each step."""
    opt, by_hand = made(make), made(make, lr=1.0)
    for t in range(11):
        assert opt.get_last_lr() == expected(t)
        assert [float(group["lr"]) for group in opt.param_groups] == expected(t)
        for group, rate in zip(by_hand.param_groups, expected(t), strict=True):
            group["lr"] = rate  # numbers are taken as they are, as in torch
        for each in (opt, by_hand):
            train(each, range(t, t + 1))
        assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(by_hand)]
    assert [group["lr_schedule"] for group in opt.param_groups] == [SCHEDULE] * 3


def test_a_tensor_is_not_scaled() -> None:
    opt = made(lr=torch.tensor(0.5, dtype=torch.float64))
    assert opt.get_last_lr() == [0.5] * 3


def test_other_hyperparameters_are_not_scaled() -> None:
    opt = made(momentum=LinearRamp(0.5, 0.9, 4), weight_decay=LinearRamp(0.1, 0.0, 4))
    for group in opt.param_groups:
        assert (float(group["momentum"]), float(group["weight_decay"])) == (0.5, 0.1)


def test_what_is_assigned_later() -> None:
    """The scale, its absence, another Schedule, and the scaled display itself."""
    opt = made()
    train(opt, range(2))
    first, second, third = opt.param_groups
    first["lr_scale"] = 0.5
    del second["lr_scale"]
    third.update(lr_scale=2)
    assert opt.get_last_lr() == expected(2, (0.5, None, 2))
    train(opt, range(2, 4))
    assert opt.get_last_lr() == expected(4, (0.5, None, 2))
    first["lr"] = 2 * SCHEDULE
    assert opt.get_last_lr()[0] == SCHEDULE(4)
    first["lr"] = second["lr"]  # the display of another group: its Schedule, scaled as this group says
    assert first["lr"] is not second["lr"]
    assert opt.get_last_lr() == expected(4, (0.5, None, 2))
    assert second.pop("lr_scale", "none") == "none"
    assert first.pop("lr_scale") == 0.5
    opt.clock.fill_(1)
    assert opt.get_last_lr() == expected(1, (None, None, 2))


def test_a_step_follows_what_is_assigned_later() -> None:
    opt, other = made(), made()
    for each in (opt, other):
        train(each, range(2))
    opt.param_groups[0]["lr_scale"] = 0.125
    other.param_groups[0]["lr"] = 0.5 * SCHEDULE
    for each in (opt, other):
        train(each, range(2, 4))
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(other)]


def _saved_and_loaded(opt: Any) -> Any:
    """Into groups that have no scales."""
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    fresh = FusedSGD([{"params": [param]} for param in params_of(opt)], lr=SCHEDULE)
    fresh.load_state_dict(torch.load(file))
    return fresh


def _groups_of_a_wrapper(opt: Any) -> Any:
    """What torch.load gives of saved groups, put in place of a fresh optimizer's."""
    file = io.BytesIO()
    torch.save([{key: v for key, v in group.items() if key != "params"} for group in opt.param_groups], file)
    file.seek(0)
    fresh = FusedSGD([{"params": [param]} for param in params_of(opt)], lr=1.0)
    for group, loaded in zip(fresh.param_groups, torch.load(file), strict=True):
        for key, value in loaded.items():
            if not key.endswith("_schedule"):
                group[key] = value
    return fresh


COPIES = {
    "checkpoint": _saved_and_loaded,
    "deepcopy": copy.deepcopy,
    "pickle": lambda opt: pickle.loads(pickle.dumps(opt)),
    "groups of a wrapper": _groups_of_a_wrapper,
    "groups copied": lambda opt: FusedSGD([dict(group) for group in opt.param_groups], lr=1.0),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_copies_are_scaled_once(copied: Any) -> None:
    opt = made()
    train(opt, range(4))
    other = copied(opt)
    other.clock.fill_(4)
    assert other.get_last_lr() == expected(4)
    assert [group["lr_schedule"] for group in other.param_groups] == [SCHEDULE] * 3
    train(other, range(4, 6))
    assert other.get_last_lr() == expected(6)


def test_a_checkpoint_holds_the_scaled_rate() -> None:
    """torch's optimizer, which reads it, goes on with the rate of the next step."""
    opt = made()
    train(opt, range(4))
    theirs = torch.optim.SGD([{"params": [param]} for param in params_of(opt)], lr=1.0)
    theirs.load_state_dict(opt.state_dict())
    assert [group["lr"] for group in theirs.param_groups] == expected(4)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), "0.5", None, True, torch.tensor(0.5)], ids=repr)
def test_refuses_what_is_no_scale(wrong: Any) -> None:
    opt = made()
    train(opt, range(2))
    with pytest.raises((TypeError, ValueError), match="lr_scale must be"):
        opt.param_groups[0]["lr_scale"] = wrong
    assert opt.param_groups[0]["lr_scale"] == SCALES[0]
    assert opt.get_last_lr() == expected(2)
    with pytest.raises((TypeError, ValueError), match="lr_scale must be"):
        FusedSGD([{"params": make_params(SIZES, torch.float64), "lr_scale": wrong}], lr=SCHEDULE)


def test_the_range_test_keeps_the_ratios() -> None:
    """Of the scaled rates; the rates that it tries are not scaled once more."""
    model = torch.nn.Linear(3, 1, dtype=torch.float64, device=DEVICE)
    groups = [{"params": [model.weight], "lr_scale": 0.25}, {"params": [model.bias], "lr": 0.2, "lr_scale": 0.5}]
    opt = FusedSGD(groups, lr=LinearRamp(0.4, 0.4, 10))
    tried = []
    opt.register_step_pre_hook(lambda opt, *rest: tried.append(opt.get_last_lr()))
    batch = (torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))
    result = lr_find(model, opt, torch.nn.functional.mse_loss, [batch], start_lr=1e-4, end_lr=1e-2, num_steps=5)
    assert result.ratios == (0.5, 1.0)
    assert [rates[1] for rates in tried] == pytest.approx(
        result.lrs.tolist(), rel=1e-12
    )  # two roundings in the product
    assert [rates[0] for rates in tried] == pytest.approx([0.5 * lr for lr in result.lrs.tolist()], rel=1e-12)
    assert opt.get_last_lr() == [0.1, 0.2]


def test_the_scheduler_for_frameworks_tells_the_scaled_rates() -> None:
    opt = made()
    train(opt, range(2))
    scheduler = InStepScheduler(opt)
    assert scheduler.base_lrs == expected(0)
    assert scheduler.get_last_lr() == expected(2)
