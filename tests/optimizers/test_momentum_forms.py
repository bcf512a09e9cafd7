"""FusedSGD's two forms of momentum: where they agree, where they differ, and that none is taken for the other."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import DEVICE, SCHEDULES, assert_within, make_params, params_of, train

from sgdr_fused import FusedSGD

FORMS = ("torch", "classical")
SIZES = (5, 1025)


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.3}], ids=str)
def test_they_agree_while_the_rate_is_constant(options: dict[str, Any]) -> None:
    """They agree except for rounding, and the classical buffer is torch's buffer times the rate."""
    opts = [
        FusedSGD(make_params(SIZES, torch.float64), lr=0.05, momentum=0.9, momentum_form=form, **options)
        for form in FORMS
    ]
    for opt in opts:
        train(opt, range(12))
    for p, q in zip(*map(params_of, opts), strict=True):
        expected = p.detach().cpu()
        assert_within(q, expected, 1e-12 * (1 + expected.abs()), "parameter")
        buffer = 0.05 * opts[0].state[p]["momentum_buffer"].cpu()
        assert_within(opts[1].state[q]["momentum_buffer"], buffer, 1e-12 * (1 + buffer.abs()), "buffer")


# With gradients of 1, momentum 1/2, and a rate that is 1/4 twice and then 1. By hand, in numbers without rounding.
UPDATES = {
    ("torch", False): (1 / 4 * 1, 1 / 4 * 3 / 2, 7 / 4),
    ("torch", True): (1 / 4 * 3 / 2, 1 / 4 * 7 / 4, 15 / 8),
    ("classical", False): (1 / 4, 3 / 8, 19 / 16),
    ("classical", True): (3 / 8, 7 / 16, 51 / 32),
}


@pytest.mark.parametrize("how", ["number", "tensor"])
@pytest.mark.parametrize(("form", "nesterov"), UPDATES)
def test_what_happens_when_the_rate_rises(form: Any, nesterov: bool, how: str) -> None:
    param = torch.nn.Parameter(torch.zeros(33, device=DEVICE))
    rate = torch.tensor(0.25, device=DEVICE)
    opt = FusedSGD([param], lr=rate, momentum=0.5, nesterov=nesterov, momentum_form=form)
    for value, update in zip((0.25, 0.25, 1.0), UPDATES[form, nesterov], strict=True):
        rate.fill_(value)
        opt.param_groups[0]["lr"] = rate if how == "tensor" else value
        param.grad = torch.ones_like(param)
        before = param.detach().clone()
        opt.step()
        assert (before - param.detach()).tolist() == [update] * 33


def test_a_group_each() -> None:
    """The same bits as with an optimizer for each."""
    together = FusedSGD(
        [{"params": make_params(SIZES, seed=i), "momentum_form": form} for i, form in enumerate(FORMS)],
        lr=SCHEDULES[0],
        momentum=0.9,
    )
    apart = [
        FusedSGD(make_params(SIZES, seed=i), lr=SCHEDULES[0], momentum=0.9, momentum_form=form)
        for i, form in enumerate(FORMS)
    ]
    for t in range(6):
        train(together, [t])
        for i, opt in enumerate(apart):
            for p, q in zip(params_of(opt), together.param_groups[i]["params"], strict=True):
                p.grad = q.grad
            opt.step()
    assert [bits(p) for p in params_of(together)] == [bits(p) for opt in apart for p in params_of(opt)]


# ------------------------------------------------------------------- what a buffer means is never guessed


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(FORMS)))
def test_the_form_cannot_change_while_there_is_a_buffer(old: Any, new: Any) -> None:
    opt = FusedSGD(make_params((5,)), lr=0.1, momentum=0.9, momentum_form=old)
    opt.param_groups[0]["momentum_form"] = new
    opt.param_groups[0]["momentum_form"] = old
    train(opt, range(2))
    before = snapshot(opt)
    opt.param_groups[0]["momentum_form"] = old  # no change
    with pytest.raises(ValueError, match=f"momentum_form .*'{old}' to '{new}'"):
        opt.param_groups[0]["momentum_form"] = new
    assert snapshot(opt) == before
    del opt.state[params_of(opt)[0]]["momentum_buffer"]
    opt.param_groups[0]["momentum_form"] = new
    again = FusedSGD([torch.nn.Parameter(p.detach().clone()) for p in params_of(opt)], lr=0.1, momentum=0.9)
    again.param_groups[0]["momentum_form"] = new
    for each in (opt, again):
        train(each, range(2, 5))
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(again)]


@pytest.mark.parametrize(("saved", "own"), list(itertools.product(FORMS, FORMS)))
def test_a_checkpoint_brings_its_form(saved: Any, own: Any) -> None:
    source = FusedSGD(make_params(SIZES), lr=SCHEDULES[0], momentum=0.9, momentum_form=saved)
    train(source, range(4))
    opt = FusedSGD([torch.nn.Parameter(p.detach().clone()) for p in params_of(source)], lr=0.1, momentum_form=own)
    opt.load_state_dict(copy.deepcopy(source.state_dict()))
    assert opt.param_groups[0]["momentum_form"] == saved
    for each in (source, opt):
        train(each, range(4, 8))
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(source)]


@pytest.mark.parametrize("own", FORMS)
def test_a_checkpoint_of_torchs_is_in_torchs_form(own: Any) -> None:
    theirs = torch.optim.SGD(
        [p.detach().cpu().requires_grad_() for p in make_params(SIZES, torch.float64)], momentum=0.9
    )
    train(theirs, range(4))
    params = [torch.nn.Parameter(p.detach().to(DEVICE)) for p in params_of(theirs)]
    ours = FusedSGD(params, lr=0.1, momentum=0.9, momentum_form=own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["momentum_form"] == "torch"
    for t in range(4, 8):
        for opt in (ours, theirs):
            opt.param_groups[0]["lr"] = 0.01 * t
        train(ours, [t])
        train(theirs, [t])
    for p, q in zip(params, params_of(theirs), strict=True):
        assert_within(p, q.detach(), 1e-12 * (1 + q.detach().abs()), "parameter")
