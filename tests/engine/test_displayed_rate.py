"""What a group shows of a schedule: the rate that the next step will use, on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    DEVICE,
    SCHEDULES,
    TYPICAL,
    Case,
    Oracle,
    assert_within,
    gradient,
    ids,
    make_params,
    params_of,
    rate,
    set_gradients,
    train,
)

from sgdr_fused import FusedAdam, FusedSGD

pytestmark = pytest.mark.untracked

COSINE, TRIANGLE, DECAYING = SCHEDULES
SIZES = (5, 33)


def shown(opt: Any) -> list[float]:
    return [float(group["lr"]) for group in opt.param_groups]


def two_groups(case: Case) -> Any:
    return case.fused(
        [{"params": make_params(SIZES), "lr": COSINE}, {"params": make_params(SIZES, seed=1), "lr": TRIANGLE}]
    )


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_rate_of_the_next_step(case: Case) -> None:
    opt = two_groups(case)
    for t in range(20):
        for group, schedule in zip(opt.param_groups, (COSINE, TRIANGLE), strict=True):
            lr = group["lr"]
            assert (lr.dtype, lr.shape, lr.device) == (torch.float64, (), params_of(opt)[0].device)
            assert DEVICE.type != "cpu" or lr.item() == schedule(t)  # elsewhere, sin and pow may round otherwise
            assert lr.item() == pytest.approx(rate(schedule, t), rel=1e-12)
        train(opt, [t])


def test_rate_is_one_tensor_all_along() -> None:
    opt = two_groups(TYPICAL[0])
    lr = opt.param_groups[0]["lr"]
    train(opt, range(1))
    assert opt.param_groups[0]["lr"] is lr
    assert lr.item() == COSINE(1)


def test_step_uses_the_rate_that_was_shown() -> None:
    params = make_params(SIZES, torch.float64)
    opt = FusedSGD(params, lr=DECAYING)
    for t in range(12):
        lr = float(opt.param_groups[0]["lr"])
        expected = [p.detach().clone() for p in params]
        set_gradients(params, t)
        opt.step()
        for p, old in zip(params, expected, strict=True):
            assert_within(p, (old - lr * p.grad).cpu(), 1e-15 * torch.ones(p.shape), f"step {t}")


@pytest.mark.parametrize("write", ["fill_", "copy_", "zero_", "add_", "iadd", "slice"])
def test_clock_that_is_written(write: str) -> None:
    """Honoured by the next step, and by what is shown at once."""
    opt = two_groups(TYPICAL[1])
    train(opt, range(2))
    clock = opt.clock
    if write == "fill_":
        clock.fill_(7)
    elif write == "copy_":
        clock.copy_(torch.tensor(7))
    elif write == "zero_":
        clock.zero_()
    elif write == "add_":
        clock.add_(5)
    elif write == "iadd":
        clock += 5
    else:
        clock[...] = 7
    now = 0 if write == "zero_" else 7
    assert opt.clock is clock
    assert clock.item() == now
    assert shown(opt) == [COSINE(now), TRIANGLE(now)]
    params = params_of(opt)
    oracle = Oracle(TYPICAL[1], params)
    oracle.states = [{k: v.detach().cpu().double().clone() for k, v in opt.state[p].items()} for p in params]
    set_gradients(params, 2)
    oracle.step([p.grad for p in params], [COSINE(now)] * 2 + [TRIANGLE(now)] * 2)
    opt.step()
    assert clock.item() == now + 1
    for p, expected in zip(params, oracle.params, strict=True):
        assert_within(p, expected, 1e-6 * (1 + expected.abs()), "parameter")


def test_clock_that_is_written_after_a_group_was_replaced_by_a_plain_dict() -> None:
    opt = FusedSGD(make_params((3,)), lr=SCHEDULES[0])
    train(opt, range(2))
    opt.param_groups[0] = {**opt.param_groups[0]}
    opt.clock.fill_(5)
    train(opt, [5])
    assert opt.clock.item() == 6
    assert float(opt.param_groups[0]["lr"]) == pytest.approx(rate(SCHEDULES[0], 6), rel=1e-12)


def test_clock_is_a_count_of_64_bits() -> None:
    opt = two_groups(TYPICAL[0])
    assert isinstance(opt.clock, torch.Tensor)
    assert (opt.clock.dtype, opt.clock.shape, opt.clock.item()) == (torch.int64, (), 0)
    assert opt.clock.device == params_of(opt)[0].device
    opt.clock.fill_(10**12)
    train(opt, range(1))
    assert opt.clock.item() == 10**12 + 1
    assert shown(opt) == pytest.approx([rate(s, 10**12 + 1) for s in (COSINE, TRIANGLE)], rel=1e-12)


def test_clock_cannot_be_replaced_unnoticed() -> None:
    """Assigning another tensor is refused, or it becomes the clock; never ignored."""
    opt = two_groups(TYPICAL[0])
    try:
        opt.clock = torch.tensor(7, device=DEVICE)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        assert opt.clock.item() == 0
    else:
        assert opt.clock.item() == 7
        assert shown(opt) == [COSINE(7), TRIANGLE(7)]
        train(opt, [0])
        assert opt.clock.item() == 8


def test_results_of_operations_on_the_clock_are_plain_numbers() -> None:
    opt = two_groups(TYPICAL[0])
    train(opt, range(3))
    later = opt.clock + 4
    assert later.item() == 7
    assert opt.clock.item() == 3
    later.fill_(100)
    assert opt.clock.item() == 3
    assert shown(opt) == [COSINE(3), TRIANGLE(3)]
    assert int(opt.clock) == 3
    assert opt.clock == 3
    assert f"{opt.clock.item()}" == "3"


def test_schedule_follows_assignments() -> None:
    opt = FusedSGD(make_params(SIZES), lr=COSINE)
    group = opt.param_groups[0]
    train(opt, range(2))
    for value in (0.25, TRIANGLE, torch.tensor(0.125, device=DEVICE), DECAYING, COSINE):
        group["lr"] = value
        set_gradients(params_of(opt), 0)
        now = opt.clock.item()
        opt.step()
        is_schedule = value in SCHEDULES if not isinstance(value, torch.Tensor) else False
        assert group["lr_schedule"] == (value if is_schedule else None)
        if is_schedule:
            assert group["lr"].item() == value(now + 1)
        else:
            assert group["lr"] is value or group["lr"] == value


def test_schedule_assigned_shows_its_rate_before_the_step() -> None:
    opt = FusedSGD(make_params(SIZES), lr=0.25)
    train(opt, range(4))
    opt.param_groups[0]["lr"] = COSINE
    assert opt.param_groups[0]["lr_schedule"] == COSINE
    assert float(opt.param_groups[0]["lr"]) == COSINE(4)


@pytest.mark.parametrize("key", ["lr_schedule", "momentum_schedule", "weight_decay_schedule", "betas_schedule"])
def test_schedule_keys_are_read_only(key: str) -> None:
    fused = FusedAdam if key == "betas_schedule" else FusedSGD
    opt = fused(make_params(SIZES), lr=COSINE)
    train(opt, range(2))
    set_gradients(params_of(opt), 2)
    before = [bits(p) for p in params_of(opt)]

    def assign_and_step() -> None:  # either may refuse
        opt.param_groups[0][key] = TRIANGLE
        opt.step()

    with pytest.raises((TypeError, ValueError, RuntimeError, KeyError), match=key):
        assign_and_step()
    assert [bits(p) for p in params_of(opt)] == before
    assert opt.clock.item() == 2


def test_rate_can_be_read_while_training_without_disturbing_it() -> None:
    watched, alone = (two_groups(TYPICAL[2]) for _ in range(2))
    for t in range(6):
        for opt in (watched, alone):
            for i, p in enumerate(params_of(opt)):
                p.grad = gradient(p, t, i)
        str(watched), watched.param_groups[0]["lr"] * 2, watched.state_dict(), shown(watched)
        watched.step()
        alone.step()
    assert [bits(p) for p in params_of(watched)] == [bits(p) for p in params_of(alone)]
