"""Averages of the weights, kept inside the step: the mean of those at the ends of cycles, and an exponential one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import (
    DEVICE,
    DTYPES,
    EMULATED,
    PRETEND,
    SCHEDULES,
    SMALL_SIZES,
    TYPICAL,
    Case,
    assert_within,
    ids,
    make_params,
    params_of,
    set_gradients,
    train,
    ulp,
    values,
)
from torch import Tensor, nn

from sgdr_fused import EMA, FusedSGD, lr_find
from sgdr_fused.schedules import Constant, CosineWarmRestarts

STEPS = 13  # three cycles of SCHEDULES[0], of 3, 6 and 12 steps, but for the last steps of the third
SGDR = SCHEDULES[0]
AVERAGES = ("cycle", EMA(0.7), EMA(0.7, warmup=4), EMA(0.7, start=3), EMA(0.9, warmup=2.5, start=2))
SIZES = (5, 0, 33)


def due(average: Any, t: int) -> bool:
    """Whether step t is averaged: computed from the lengths of the cycles, not by the schedule."""
    return t in (2, 8, 20) if average == "cycle" else t >= average.start


def decay_at(average: EMA, t: int) -> float:
    n = t - average.start
    return average.decay if average.warmup is None else min(average.decay, (1 + n) / (average.warmup + n))


class Expected:
    """The average of one parameter, in float64, from what was seen of the parameter after each step."""

    def __init__(self, average: Any) -> None:
        self.average = average
        self.seen: list[Tensor] = []
        self.steps: list[int] = []

    def see(self, param: Tensor, t: int) -> None:
        if due(self.average, t):
            self.seen.append(param.detach().cpu().double().clone())
            self.steps.append(t)

    def value(self) -> Tensor:
        if self.average == "cycle":
            return torch.stack(self.seen).mean(0)
        value = self.seen[0]
        for t, each in zip(self.steps[1:], self.seen[1:], strict=True):
            decay = decay_at(self.average, t)
            value = decay * value + (1 - decay) * each
        return value

    def check(self, actual: Tensor, name: str) -> None:
        dtype = torch.float64 if actual.dtype == torch.float64 else torch.float32
        assert actual.dtype == dtype
        if not self.seen:
            return
        # Each interpolation rounds three times, at the size of the largest operand.
        operand = torch.stack(self.seen).abs().amax(0)
        assert_within(actual, self.value(), 2 * len(self.seen) * ulp(operand, dtype), name)


@pytest.mark.parametrize("average", ids(AVERAGES))
@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_against_what_was_seen(case: Case, dtype: torch.dtype, average: Any) -> None:
    several_chunks = 16385 if EMULATED else 65537
    sizes = (*SMALL_SIZES, several_chunks) if case in TYPICAL[1:3] and not PRETEND else SMALL_SIZES
    params = make_params(sizes, dtype)
    opt = case.fused(params, lr=SGDR, average=average)
    expected = [Expected(average) for _ in params]
    for t in range(STEPS):
        train(opt, [t])
        for param, each in zip(params, expected, strict=True):
            each.see(param, t)
            each.check(opt.state[param]["average"], f"size {param.numel()}, step {t}")
        assert int(opt.n_averaged) == len(expected[0].seen)
    assert len(expected[0].seen) == (2 if average == "cycle" else STEPS - average.start)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_the_steps_are_those_without_averages(case: Case) -> None:
    results = []
    for average in (None, *AVERAGES):
        opt = case.fused(make_params(SMALL_SIZES), lr=SGDR, average=average)
        train(opt, range(STEPS))
        results.append(
            [[bits(v) for v in (p, *(s for k, s in opt.state[p].items() if k != "average"))] for p in params_of(opt)]
        )
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("kind", ["cycle", "ema"])
def test_against_torch(kind: str) -> None:
    """torch.optim.swa_utils.AveragedModel, told by hand when to look."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = "cycle" if kind == "cycle" else EMA(0.7)
    model = nn.ParameterList(make_params(SIZES))
    theirs = AveragedModel(model, multi_avg_fn=None if kind == "cycle" else get_ema_multi_avg_fn(0.7))
    opt = FusedSGD(model.parameters(), lr=SGDR, momentum=0.9, average=average)
    for t in range(STEPS):
        train(opt, [t])
        if due(average, t):
            theirs.update_parameters(model)
    for param, expected in zip(model.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(opt.state[param]["average"], expected.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("average", ids(AVERAGES))
@pytest.mark.parametrize("layout", ["transposed", "every_second", "odd_address"])
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.bfloat16]))
def test_layouts_give_the_bits_of_dense_tensors(dtype: torch.dtype, layout: str, average: Any) -> None:
    layouts: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed": lambda base: base.view(40, 60).t()[:, 3:],
        "every_second": lambda base: base[::2],
        "odd_address": lambda base: base[1:2050],
    }
    results = []
    for dense in (True, False):
        view = layouts[layout](values(2400, 1, dtype).to(DEVICE))
        param = nn.Parameter(view.contiguous() if dense else view)
        opt = FusedSGD([param], lr=SGDR, momentum=0.9, average=average)
        train(opt, range(STEPS))
        results.append([bits(param), bits(opt.state[param]["average"])])
    assert results[0] == results[1]


@pytest.mark.parametrize("average", ids(AVERAGES))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_parameters_without_gradients(case: Case, average: Any) -> None:
    """One that has none at some steps is averaged as it stands; one that comes late counts with its first value."""
    params = make_params((33, 33, 33, 70))
    params[3] = nn.Parameter(params[3].detach().view(7, 10).t())  # one with a layout
    opt = case.fused(params, lr=SGDR, average=average)
    expected = [Expected(average) for _ in params]
    for t in range(STEPS):
        set_gradients(params, t)
        for param in (params[0], params[3]):
            param.grad = None if t in (2, 5, 8) else param.grad
        params[1].grad = None if t < 6 else params[1].grad
        params[2].grad = None
        opt.step()
        for param, each in zip(params, expected, strict=True):
            each.see(param, t)
            if param in opt.state:
                each.check(opt.state[param]["average"], f"step {t}")
    assert params[2] not in opt.state
    with opt.swap_average():
        assert bits(params[2]) == bits(expected[2].seen[-1].float())


@pytest.mark.parametrize("average", ids(AVERAGES))
def test_skipped_steps_do_not_count(average: Any) -> None:
    results = []
    for skips in (False, True):
        opt = FusedSGD(make_params(SIZES), lr=SGDR, momentum=0.9, average=average)
        for t in range(STEPS):
            if skips:
                opt.found_inf = torch.ones((), device=DEVICE)
                train(opt, [100 + t])
                del opt.found_inf
            train(opt, [t])
        results.append(snapshot(opt))
        assert int(opt.n_averaged) == (2 if average == "cycle" else STEPS - average.start)
    assert results[0] == results[1]


def test_two_dtypes_are_counted_once() -> None:
    """They take two launches on a GPU."""
    params = make_params(SIZES) + make_params(SIZES, torch.bfloat16)
    opt = FusedSGD([{"params": params[:3]}, {"params": params[3:], "lr": 0.1}], lr=SGDR, average="cycle")
    expected = [Expected("cycle") for _ in params]
    for t in range(STEPS):
        train(opt, [t])
        for param, each in zip(params, expected, strict=True):
            each.see(param, t)
    assert int(opt.n_averaged) == 2
    for param, each in zip(params, expected, strict=True):
        each.check(opt.state[param]["average"], str(param.dtype))


def test_counts_without_any_gradient() -> None:
    """A cycle that ends without one is of the mean all the same."""
    params = make_params((5,))
    opt = FusedSGD(params, lr=SGDR, average="cycle")
    before = params[0].detach().cpu().double()
    for _ in range(3):
        opt.step()
    assert int(opt.n_averaged) == 1
    train(opt, range(3, 9))
    expected = (before + params[0].detach().cpu().double()) / 2
    assert_within(opt.state[params[0]]["average"], expected, 4 * ulp(before, torch.float32), "mean of two cycles")


# ---------------------------------------------------------------------------- what is kept, and what is not


@pytest.mark.untracked
@pytest.mark.parametrize("stop", [1, 3, 4, 9])
@pytest.mark.parametrize("average", ids(AVERAGES))
@pytest.mark.parametrize("way", ["checkpoint", "pickle", "deepcopy"])
def test_goes_on_as_if_it_had_not_stopped(way: str, average: Any, stop: int) -> None:
    def make() -> Any:
        return FusedSGD(make_params(SIZES), lr=SGDR, momentum=0.9, average=average)

    whole, opt = make(), make()
    train(whole, range(STEPS))
    train(opt, range(stop))
    if way == "checkpoint":
        resumed = make()
        for param, value in zip(params_of(resumed), params_of(opt), strict=True):
            param.data.copy_(value)
        resumed.load_state_dict(opt.state_dict())
    else:
        resumed = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
    assert resumed.average == average
    train(resumed, range(stop, STEPS))
    assert snapshot(resumed) == snapshot(whole)
    assert bits(resumed.n_averaged) == bits(whole.n_averaged)


def test_checkpoints_move_between_optimizers_with_and_without() -> None:
    params = make_params(SIZES)
    opt = FusedSGD(params, lr=SGDR, momentum=0.9, average="cycle")
    train(opt, range(4))
    saved = opt.state_dict()
    assert [group["n_averaged"].item() for group in saved["param_groups"]] == [1]
    theirs = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    theirs.load_state_dict({**saved, "param_groups": [{**saved["param_groups"][0], "lr": 0.1}]})
    theirs.step()
    without = FusedSGD(params, lr=SGDR, momentum=0.9)
    without.load_state_dict(saved)
    train(without, [4])
    assert int(without.state_dict()["param_groups"][0]["n_averaged"]) == 0
    assert int(without.param_groups[0]["n_averaged"]) == 0

    plain = FusedSGD(params, lr=SGDR, momentum=0.9)
    train(plain, range(4))
    opt.load_state_dict(plain.state_dict())  # starts anew
    assert int(opt.n_averaged) == 0
    train(opt, range(4, 9))
    assert [bits(opt.state[p]["average"]) for p in params] == [bits(p) for p in params]


def test_starts_anew_where_the_count_is_set_to_0() -> None:
    opt = FusedSGD(make_params(SIZES), lr=SGDR, average="cycle")
    train(opt, range(3))
    opt.n_averaged.zero_()
    train(opt, range(3, 9))
    assert int(opt.n_averaged) == 1
    assert [bits(opt.state[p]["average"]) for p in params_of(opt)] == [bits(p) for p in params_of(opt)]


def test_a_replaced_average_is_honoured_or_refused() -> None:
    params = make_params((33,))
    opt = FusedSGD(params, lr=SGDR, average=EMA(0.75))
    train(opt, [0])
    opt.state[params[0]]["average"] = torch.zeros_like(params[0].detach())
    train(opt, [1])
    expected = 0.25 * params[0].detach().cpu().double()
    assert_within(opt.state[params[0]]["average"], expected, ulp(expected, torch.float32), "from zeros")
    before = snapshot(opt)["params"]
    opt.state[params[0]]["average"] = torch.zeros(33, dtype=torch.float64, device=DEVICE)
    with pytest.raises(TypeError, match=r"state\['average'\] of parameter 0 of group 0 .* must be torch.float32, got"):
        train(opt, [2])
    assert snapshot(opt)["params"] == before


def test_a_range_test_leaves_averages_alone() -> None:
    model = nn.Linear(4, 3).to(DEVICE)
    opt = FusedSGD(model.parameters(), lr=Constant(0.1), momentum=0.9, average=EMA(0.9))
    loader = [(values((8, 4), i, torch.float32), torch.arange(8) % 3) for i in range(4)]
    for x, y in loader:
        nn.functional.cross_entropy(model(x.to(DEVICE)), y.to(DEVICE)).backward()
        opt.step()
    before, count = snapshot(opt), bits(opt.n_averaged)
    lr_find(model, opt, nn.CrossEntropyLoss(), loader, 1e-4, 1e-1, num_steps=5, progress=False)
    assert snapshot(opt) == before
    assert bits(opt.n_averaged) == count


def test_versions_tell_autograd() -> None:
    opt = FusedSGD(make_params((5,)), lr=0.1, average=EMA(0.9))
    train(opt, [0])
    average = opt.state[params_of(opt)[0]]["average"]
    version = average._version
    train(opt, [1])
    assert average._version > version


# ----------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize("average", ["swa", "", 0.9, True, ("cycle",), EMA])
def test_bad_averages(average: Any) -> None:
    with pytest.raises(ValueError, match='average must be "cycle", an EMA or None, got'):
        FusedSGD(make_params((5,)), lr=SGDR, average=average)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan"), float("inf"), "0.9", None, True])
def test_bad_decays(decay: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="decay must be"):
        EMA(decay)


@pytest.mark.parametrize("warmup", [0, 0.99, -10, float("nan"), float("inf"), "10", True])
def test_bad_warmups(warmup: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="warmup must be"):
        EMA(0.9, warmup=warmup)


@pytest.mark.parametrize("start", [-1, 1.5, 2**62, None, "3", True])
def test_bad_starts(start: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="start must be"):
        EMA(0.9, start=start)


@pytest.mark.once
@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("warmup", [None, 1, 1 + 1e-9, 1.5, 10, 1e6, 1e300])
@pytest.mark.parametrize("decay", [0.0, 0.1, 0.5, 0.9, 0.999, 1 - 2**-53])
def test_weight_of_each_step(decay: float, warmup: float | None, start: int) -> None:
    """In exact fractions. Near the end of the warm-up both branches are nearly equal."""
    weight = EMA(decay, warmup, start)._weight
    last = int(max(0.0, min((decay * (warmup or 1) - 1) / (1 - decay), 1e15)))
    for n in {*range(-start, 30), *range(max(last - 3, 0), last + 4), 10**17}:
        actual = weight if isinstance(weight, float) else weight(start + n)
        if n < 0:
            assert actual == 0.0
            continue
        d = Fraction(decay)
        if warmup is not None:
            d = min(d, Fraction(1 + n) / (Fraction(warmup) + n))
        assert abs(Fraction(actual) - (1 - d)) <= Fraction(2e-15) * (1 - d), n


def test_cycles_need_a_schedule() -> None:
    with pytest.raises(ValueError, match=r'average="cycle" needs a Schedule for lr, got 0.1'):
        FusedSGD(make_params((5,)), lr=0.1, average="cycle")
    opt = FusedSGD(make_params((5,)), lr=SGDR, average="cycle")
    train(opt, [0])
    before = snapshot(opt)
    opt.param_groups[0]["lr"] = 0.1
    with pytest.raises(ValueError, match=r'average="cycle" needs a Schedule for lr, got 0.1'):
        train(opt, [1])
    for what in ("params", "states", "clock"):
        assert snapshot(opt)[what] == before[what]
    opt.param_groups[0]["lr"] = CosineWarmRestarts(0.1, T_0=1)
    train(opt, [1])
    assert int(opt.n_averaged) == 1
