"""NAdam's product of momenta: an entry of the state, one number, which only the steps that are taken advance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import snapshot
from cases import CASES, DEVICE, Case, assert_within, make_params, params_of, set_gradients, train

from sgdr_fused import FusedNAdam

CASE: Case = next(c for c in CASES if c.id == "nadam_low_betas")
SIZES = (5, 33)
TIGHT = 1e-12  # of float64


def pair() -> tuple[Any, Any]:
    """Ours and torch's, from the same parameters; torch's on the CPU."""
    ours = make_params(SIZES, torch.float64)
    theirs = [torch.nn.Parameter(p.detach().cpu().clone()) for p in ours]
    return CASE.fused(ours, lr=0.05), CASE.torch(theirs, lr=0.05)


def assert_equal(ours: Any, theirs: Any) -> None:
    for p, q in zip(params_of(ours), params_of(theirs), strict=True):
        assert_within(p, q.detach(), TIGHT * (1 + q.detach().abs()), "parameter")
        for key, expected in theirs.state[q].items():
            assert_within(ours.state[p][key], expected.double(), TIGHT * (1 + expected.double().abs()), key)


def test_it_is_each_parameters_own() -> None:
    """One parameter gets its first gradient at step 2, and another misses some gradients."""
    ours, theirs = pair()
    for t in range(9):
        for opt in (ours, theirs):
            set_gradients(params_of(opt), t)
            if t < 2:
                params_of(opt)[1].grad = None
            elif t in (4, 5):
                params_of(opt)[0].grad = None
            opt.step()
    assert_equal(ours, theirs)
    products = [ours.state[p]["mu_product"] for p in params_of(ours)]
    assert all((p.dtype, p.shape, p.device.type) == (torch.float64, (), DEVICE.type) for p in products)
    assert 0 < products[0] == products[1] < 0.4**5  # seven steps each


def test_a_skipped_step_leaves_it_alone() -> None:
    ours, theirs = pair()
    for t in range(6):
        set_gradients(params_of(ours), t)
        set_gradients(params_of(theirs), t)
        skipped = t in (0, 3)
        ours.grad_scale, ours.found_inf = None, torch.tensor(float(skipped), device=DEVICE)
        before = snapshot(ours)["states"]
        ours.step()
        del ours.grad_scale, ours.found_inf
        if skipped:
            assert not t or snapshot(ours)["states"] == before
        else:
            theirs.step()
    assert_equal(ours, theirs)


def _replaced(state: dict[str, Any]) -> None:
    state["mu_product"] = state["mu_product"] * 0.5


def _as_a_number(state: dict[str, Any]) -> None:
    state["mu_product"] = 0.125  # as in checkpoints of older torch


def _in_place(state: dict[str, Any]) -> None:
    state["mu_product"].mul_(0.5)


def _new_memory(state: dict[str, Any]) -> None:
    state["mu_product"].data = state["mu_product"] * 0.5


@pytest.mark.parametrize("change", [_replaced, _as_a_number, _in_place, _new_memory])
def test_what_is_put_there_counts_from_the_next_step(change: Callable[[dict[str, Any]], None]) -> None:
    ours, theirs = pair()
    for t in range(6):
        for opt in (ours, theirs):
            set_gradients(params_of(opt), t)
            state = opt.state[params_of(opt)[0]]
            if t == 3:
                change(state)
                state["mu_product"] = torch.as_tensor(state["mu_product"], dtype=torch.float64)
            opt.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("bad", [-0.5, 1.5, "x", torch.ones(2), None, float("nan")], ids=str)
def test_what_is_none_is_refused(bad: Any) -> None:
    opt = pair()[0]
    train(opt, range(2))
    state = opt.state[params_of(opt)[1]]
    if bad is None:
        del state["mu_product"]
    else:
        state["mu_product"] = bad
    set_gradients(params_of(opt), 2)
    before = [p.detach().clone() for p in params_of(opt)]
    with pytest.raises((ValueError, TypeError), match="mu_product"):
        opt.step()
    assert all(torch.equal(p, q) for p, q in zip(params_of(opt), before, strict=True))
    assert opt.clock.item() == 2


@pytest.mark.parametrize("bad", [-0.5, 1.5, "x", torch.ones(2)], ids=str)
def test_checkpoint_without_a_product_that_fits(bad: Any) -> None:
    opt = pair()[0]
    train(opt, range(2))
    data = opt.state_dict()
    data["state"][1]["mu_product"] = bad
    before = snapshot(opt)
    with pytest.raises((ValueError, TypeError), match="mu_product"):
        opt.load_state_dict(data)
    assert snapshot(opt) == before


def test_its_version_is_bumped() -> None:
    opt = FusedNAdam(make_params(SIZES), lr=0.1)
    train(opt, [0])
    products = [opt.state[p]["mu_product"] for p in params_of(opt)]
    versions = [product._version for product in products]
    train(opt, [1])
    assert all(product._version > version for product, version in zip(products, versions, strict=True))
