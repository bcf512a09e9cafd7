"""Gradients that are not finite: steps that are skipped on the device, and errors."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import DEVICE, DTYPES, MEASURING, SCHEDULES, TYPICAL, Case, ids, make_params, params_of, set_gradients, train
from torch import nn

from sgdr_fused import EMA, FusedAdam, FusedSGD, lr_find

SIZES = (5, 0, 33, 2049, 16384 + 2049)
BAD = (math.nan, math.inf, -math.inf)
# (parameter, element): in a vector, in a tail, in a second chunk.
PLACES = ((0, 0), (2, 32), (3, 7), (3, 2048), (4, 16383), (4, -1))


def spoil(opt: Any, place: tuple[int, int], bad: float) -> None:
    params_of(opt)[place[0]].grad.view(-1)[place[1]] = bad


def without_grads(opt: Any) -> dict[str, Any]:
    return {key: value for key, value in snapshot(opt).items() if key != "grads"}


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(TYPICAL[2:3]))
def test_a_step_is_skipped_wherever_the_gradient_is_bad(case: Case, dtype: torch.dtype) -> None:
    params = make_params(SIZES, dtype) + make_params((7,), torch.float64)  # two launches on a GPU
    opt = case.fused(params, lr=SCHEDULES[0], average=EMA(0.9), skip_nonfinite=True)
    skipped = opt.skipped_steps
    train(opt, [0])
    before, averaged = without_grads(opt), bits(opt.n_averaged)
    for i, place in enumerate(PLACES):
        set_gradients(params_of(opt), 1 + i)
        spoil(opt, place, BAD[i % 3])
        opt.step()
        assert without_grads(opt) == before, place
        assert (opt.skipped_steps.item(), bits(opt.n_averaged)) == (i + 1, averaged)
        assert not opt.grad_norm.isfinite()
    assert opt.skipped_steps is skipped
    assert (skipped.dtype, skipped.device) == (torch.int64, params_of(opt)[0].device)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}, {"max_grad_value": 0.5}], ids=str)
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_steps_go_on_as_if_those_had_not_been(case: Case, options: dict[str, Any]) -> None:
    """A first step among them. Infinity is not clamped away before it is seen."""
    results = []
    for skips in (False, True):
        opt = case.fused(make_params(SIZES[:4]), lr=SCHEDULES[0], skip_nonfinite=True, **options)
        for t in range(7):
            if skips:
                set_gradients(params_of(opt), 100 + t)
                spoil(opt, PLACES[t % 4], BAD[t % 3])
                opt.step()
            train(opt, [t])
        results.append(snapshot(opt))
        assert opt.skipped_steps.item() == 7 * skips
    assert results[0] == results[1]


def test_the_largest_numbers_are_finite() -> None:
    """In float64 the norm overflows, but no gradient does."""
    for dtype in DTYPES:
        opt = FusedSGD(make_params((3,), dtype), lr=1.0, skip_nonfinite=True)
        params_of(opt)[0].grad = torch.full_like(params_of(opt)[0], torch.finfo(dtype).max)
        opt.step()
        assert (opt.clock.item(), opt.skipped_steps.item()) == (1, 0), dtype
        assert opt.grad_norm.isinf().item() == (dtype == torch.float64)


def test_what_the_scale_makes_infinite() -> None:
    opt = FusedSGD(make_params((3,)), lr=1.0, skip_nonfinite=True)
    set_gradients(params_of(opt), 0)
    params_of(opt)[0].grad[1] = 1e38
    before = snapshot(opt)
    opt.grad_scale = torch.tensor(1e-3, device=DEVICE)
    opt.step()
    assert snapshot(opt) == before  # the gradients too: nothing is unscaled
    assert opt.skipped_steps.item() == 1


@pytest.mark.parametrize("found", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("bad", [None, math.inf])
def test_with_a_scalers_found_inf(found: float, bad: float | None) -> None:
    opt = FusedSGD(make_params(SIZES[:3]), lr=0.1, momentum=0.9, skip_nonfinite=True, max_grad_norm=1.0)
    train(opt, [0])
    set_gradients(params_of(opt), 1)
    if bad is not None:
        spoil(opt, PLACES[0], bad)
    before = snapshot(opt)
    opt.found_inf = torch.tensor(found, device=DEVICE)
    opt.grad_scale = torch.tensor(4.0, device=DEVICE)
    opt.step()
    skipped = found != 0 or bad is not None
    assert opt.skipped_steps.item() == int(skipped)
    assert (snapshot(opt) == before) == skipped


def test_a_loop_with_a_grad_scaler() -> None:
    """The same parameters, scales and steps as with torch's calls in their usual order."""
    ours = make_params((5, 33))
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    opts = (
        FusedSGD(ours, lr=0.05, momentum=0.9, max_grad_norm=2.0, skip_nonfinite=True),
        torch.optim.SGD(theirs, lr=0.05, momentum=0.9, foreach=False),
    )
    scalers = [torch.amp.GradScaler(DEVICE.type, init_scale=1024.0, growth_interval=3) for _ in opts]
    for t in range(10):
        for opt, scaler in zip(opts, scalers, strict=True):
            scale = scaler.scale(torch.ones((), device=DEVICE))
            set_gradients(params_of(opt), t)
            for param in params_of(opt):
                param.grad.mul_(scale)
            if t in (0, 4):
                params_of(opt)[1].grad[3] = math.inf
            if opt is opts[1]:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(theirs, 2.0)
            scaler.step(opt)
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert (opts[0].clock.item(), opts[0].skipped_steps.item()) == (8, 2)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_an_error_leaves_everything_as_it_was(case: Case, bad: float, options: dict[str, Any]) -> None:
    opt = case.fused(make_params(SIZES[:4]), lr=SCHEDULES[0], average=EMA(0.9), error_if_nonfinite=True, **options)
    train(opt, [0])
    set_gradients(params_of(opt), 1)
    spoil(opt, PLACES[2], bad)
    opt.grad_scale = torch.tensor(4.0, device=DEVICE)
    before = snapshot(opt)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"error_if_nonfinite: the norm of the gradients is (nan|inf); the step"):
            opt.step()
        assert snapshot(opt) == before
    del opt.grad_scale
    train(opt, [1])
    assert opt.clock.item() == 2


def test_no_error_for_what_a_scaler_skips() -> None:
    opt = FusedSGD(make_params((5,)), lr=0.1, error_if_nonfinite=True)
    set_gradients(params_of(opt), 0)
    spoil(opt, (0, 0), math.inf)
    before = snapshot(opt)
    opt.found_inf = torch.ones((), device=DEVICE)
    opt.step()
    assert snapshot(opt) == before


# ------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "checkpoint"])
def test_the_count_goes_along(way: str) -> None:
    opt = FusedAdam(make_params((5,)), lr=0.1, skip_nonfinite=True)
    for t in range(3):
        set_gradients(params_of(opt), t)
        spoil(opt, (0, t), math.nan)
        opt.step()
    if way == "checkpoint":
        saved = opt.state_dict()
        resumed = FusedAdam(make_params((5,)), lr=0.1, skip_nonfinite=True)
        resumed.load_state_dict(saved)
        without = FusedAdam(make_params((5,)), lr=0.1)
        without.load_state_dict(saved)
        assert int(without.param_groups[0]["skipped_steps"]) == 0
        assert int(without.state_dict()["param_groups"][0]["skipped_steps"]) == 0
        resumed.load_state_dict(saved)
    else:
        resumed = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
    assert resumed.skipped_steps.item() == 3
    set_gradients(params_of(resumed), 4)
    spoil(resumed, (0, 4), math.inf)
    resumed.step()
    assert (resumed.skipped_steps.item(), opt.skipped_steps.item(), resumed.clock.item()) == (4, 3, 0)
    resumed.skipped_steps.zero_()
    assert resumed.skipped_steps.item() == 0


def test_a_range_test_leaves_count_and_norm_alone() -> None:
    model = nn.Linear(4, 3).to(DEVICE)
    opt = FusedSGD(model.parameters(), lr=0.1, skip_nonfinite=True)
    set_gradients(model.parameters(), 0)
    opt.step()
    before = bits(opt.grad_norm), bits(opt.skipped_steps)
    loader = [(torch.ones(8, 4), torch.arange(8) % 3) for _ in range(4)]
    lr_find(model, opt, nn.CrossEntropyLoss(), loader, 1e-4, 1e-1, num_steps=5, progress=False)
    assert (bits(opt.grad_norm), bits(opt.skipped_steps)) == before
