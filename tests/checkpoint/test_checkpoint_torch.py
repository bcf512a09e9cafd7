"""Checkpoints move between torch.optim and ours, in both directions, and look alike."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from cases import (
    CASES,
    DEVICE,
    NUMBERS,
    SCHEDULES,
    SGD,
    TYPICAL,
    Case,
    Oracle,
    assert_within,
    ids,
    make_params,
    params_of,
    rate,
    set_gradients,
    train,
)
from torch_features import needs_named_parameters

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.untracked

SIZES = (5, 33, 7)
COUNTS = {"clock", "n_averaged", "rounding_seed", "skipped_steps"}
OURS = {*COUNTS, "lr_schedule", "momentum_schedule", "betas_schedule", "weight_decay_schedule"}
# Each case with each implementation that torch has of it.
IMPLEMENTATIONS = [
    pytest.param(case, {option: True} if option else {}, id=f"{case.id}-{option or 'default'}")
    for case in CASES
    for option in ("", "foreach", "fused")
    if not option or case.algorithm.takes(option)
]
TIGHT = 1e-12  # of float64


def pair(case: Case, **options: Any) -> tuple[Any, Any]:
    """Ours and torch's, from the same parameters; torch's on the CPU."""
    ours = make_params(SIZES, torch.float64)
    theirs = [torch.nn.Parameter(p.detach().cpu().clone()) for p in ours]
    return case.fused(ours, lr=0.05), case.torch(theirs, lr=0.05, **options)


def checkpoint(opt: Any) -> Any:
    """What a file would hold of the optimizer, read on a machine without the device."""
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")


def partly_train(opt: Any, steps: range, torch_fused: bool = False) -> None:
    """Parameter 1 has its first gradient at step 2, parameter 2 none at all.

    torch's fused SGD fails on parameters that start late; beside it, all have gradients.
    """
    for t in steps:
        set_gradients(params_of(opt), t)
        if not torch_fused:
            params_of(opt)[2].grad = None
            if t < 2:
                params_of(opt)[1].grad = None
        opt.step()


def assert_equal_parameters(ours: Any, theirs: Any) -> None:
    for p, q in zip(params_of(ours), params_of(theirs), strict=True):
        expected = q.detach().cpu()
        assert_within(p, expected, 100 * TIGHT * (1 + expected.abs()), "parameter")


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("case", ids(CASES))
def test_layout_is_torchs(case: Case, steps: int) -> None:
    ours, theirs = pair(case)
    for opt in (ours, theirs):
        partly_train(opt, range(steps))
    data, expected = ours.state_dict(), theirs.state_dict()
    assert set(data) == set(expected)
    assert {i: set(s) for i, s in data["state"].items()} == {i: set(s) for i, s in expected["state"].items()}
    for group, peer in zip(data["param_groups"], expected["param_groups"], strict=True):
        beyond = {key: case.hyper.get(key, value) for key, value in case.algorithm.beyond_torch.items()}
        assert set(group) == {*peer, *OURS, *beyond}
        assert {k: v for k, v in group.items() if k not in OURS} == {**peer, **beyond}
    for i, state in expected["state"].items():
        for key, value in state.items():
            got = data["state"][i][key]
            assert got.shape == value.shape
            assert got.dtype == (torch.float64 if key in NUMBERS else value.dtype)
            torch.testing.assert_close(got.cpu().double(), value.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ids(CASES))
def test_layout_after_a_skipped_first_step(case: Case) -> None:
    """No step is behind any parameter, and the checkpoint says so."""
    ours, theirs = pair(case)
    set_gradients(params_of(ours), 0)
    ours.grad_scale, ours.found_inf = None, torch.tensor(1.0, device=DEVICE)
    ours.step()
    del ours.grad_scale, ours.found_inf
    data = checkpoint(ours)
    assert not any("momentum_buffer" in state for state in data["state"].values() if "step" not in state)
    assert all(state["step"].item() == 0 for state in data["state"].values() if "step" in state)
    theirs.load_state_dict(data)
    again = case.fused([torch.nn.Parameter(p.detach().clone()) for p in params_of(ours)], lr=1.0)
    again.load_state_dict(data)
    for opt in (ours, theirs, again):
        train(opt, range(3))
    assert_equal_parameters(ours, theirs)
    assert_equal_parameters(again, theirs)


@pytest.mark.filterwarnings("ignore:.*fill_")  # how to set the clock; no schedule reads it here
@pytest.mark.parametrize(("case", "options"), IMPLEMENTATIONS)
def test_from_torch(case: Case, options: dict[str, Any]) -> None:
    ours, theirs = pair(case, **options)
    partly_train(theirs, range(4), torch_fused="fused" in options)
    ours = case.fused([torch.nn.Parameter(p.detach().to(DEVICE)) for p in params_of(theirs)], lr=1.0)
    ours.load_state_dict(checkpoint(theirs))
    assert all(s[key].dtype == torch.float64 for s in ours.state.values() for key in NUMBERS if key in s)
    for opt in (ours, theirs):
        train(opt, range(4, 8))
    assert_equal_parameters(ours, theirs)


@pytest.mark.parametrize(("case", "options"), IMPLEMENTATIONS)
def test_to_torch(case: Case, options: dict[str, Any]) -> None:
    """Also from a schedule, whose next value is then the rate."""
    ours, theirs = pair(case)
    for group in ours.param_groups:
        group.update(options, lr=SCHEDULES[0])  # torch takes its implementation from the checkpoint
    partly_train(ours, range(4), torch_fused="fused" in options)
    theirs = case.torch([torch.nn.Parameter(p.detach().cpu().clone()) for p in params_of(ours)], lr=1.0)
    theirs.load_state_dict(checkpoint(ours))
    assert theirs.param_groups[0]["lr"] == pytest.approx(rate(SCHEDULES[0], 4), rel=TIGHT)
    assert all(theirs.param_groups[0][k] == v for k, v in options.items())
    theirs.param_groups[0]["lr"] = 0.05
    ours.param_groups[0]["lr"] = 0.05
    for opt in (ours, theirs):
        train(opt, range(4, 8))
    assert_equal_parameters(ours, theirs)


@pytest.mark.parametrize("case", ids(CASES))
def test_there_and_back(case: Case) -> None:
    """Through torch, the schedules and the clock come back too: its groups carry what they do not know."""
    ours, theirs = pair(case)
    ours.param_groups[0]["lr"] = SCHEDULES[0]
    train(ours, range(4))
    theirs.load_state_dict(checkpoint(ours))
    again = case.fused([torch.nn.Parameter(p.detach().clone()) for p in params_of(ours)], lr=1.0)
    again.load_state_dict(checkpoint(theirs))
    assert again.param_groups[0]["lr_schedule"] == SCHEDULES[0]
    assert again.clock.item() == 4
    for opt in (ours, again):
        train(opt, range(4, 8))
    assert_equal_parameters(ours, again)


@pytest.mark.parametrize("case", ids(c for c in TYPICAL if c.algorithm is not SGD))
def test_torchs_adam_keeps_our_schedules_and_sets_the_clock(case: Case) -> None:
    """The clock becomes the largest step, because parameters that are unfrozen later have counted fewer."""
    _, theirs = pair(case)
    partly_train(theirs, range(5))
    params = [torch.nn.Parameter(p.detach().to(DEVICE)) for p in params_of(theirs)]
    ours, oracle = case.fused(params, lr=SCHEDULES[0]), Oracle(case, params)
    clock = ours.clock
    ours.load_state_dict(checkpoint(theirs))
    oracle.states = [{k: v.double() for k, v in theirs.state.get(q, {}).items()} for q in params_of(theirs)]
    assert ours.clock is clock
    assert clock.item() == 5
    assert ours.param_groups[0]["lr_schedule"] == SCHEDULES[0]
    assert float(ours.param_groups[0]["lr"]) == pytest.approx(rate(SCHEDULES[0], 5), rel=TIGHT)
    for t in range(5, 11):
        set_gradients(params, t)
        oracle.step([p.grad for p in params], [rate(SCHEDULES[0], t)] * len(params))
        ours.step()
    for p, expected in zip(params, oracle.params, strict=True):
        assert_within(p, expected, 100 * TIGHT * (1 + expected.abs()), "parameter")


@pytest.mark.parametrize("case", ids(c for c in TYPICAL if c.algorithm is SGD))
def test_torchs_sgd_keeps_our_schedules_and_warns_about_the_clock(case: Case) -> None:
    ours, theirs = pair(case)
    ours.param_groups[0]["lr"] = SCHEDULES[0]
    train(ours, range(2))
    train(theirs, range(5))
    with pytest.warns(UserWarning, match=r"opt\.clock\.fill_\(n\)"):
        ours.load_state_dict(checkpoint(theirs))
    assert ours.clock.item() == 2
    assert ours.param_groups[0]["lr_schedule"] == SCHEDULES[0]
    ours.clock.fill_(5)
    assert float(ours.param_groups[0]["lr"]) == pytest.approx(rate(SCHEDULES[0], 5), rel=TIGHT)


def test_adamw_stays_adamw_whatever_it_loads() -> None:
    """torch's does: a checkpoint of Adam, or one from before the option was there, does not couple its decay."""
    adam, adamw = (next(c for c in TYPICAL if c.id == name) for name in ("adam_amsgrad", "adamw"))
    for forget in (False, True):
        theirs = adam.torch(make_params(SIZES), lr=0.05)
        train(theirs, range(2))
        data = theirs.state_dict()
        if forget:
            data["param_groups"][0].pop("decoupled_weight_decay", None)  # new in torch 2.7
        ours = adamw.fused(make_params(SIZES), lr=0.05)
        ours.load_state_dict(data)
        assert ours.param_groups[0]["decoupled_weight_decay"] is True


def test_our_own_checkpoints_are_loaded_without_a_warning() -> None:
    for case in TYPICAL:
        ours, _ = pair(case)
        train(ours, range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours.load_state_dict(checkpoint(ours))


def test_states_of_torch_beside_our_clock() -> None:
    """So does a distributed checkpoint of torch.optim load, which is read into a state dict of ours."""
    theirs = torch.optim.AdamW(make_params(SIZES))
    train(theirs, range(3))
    ours = FusedAdamW(make_params(SIZES), lr=CosineWarmRestarts(0.1, T_0=5))
    mixed = ours.state_dict() | {"state": theirs.state_dict()["state"]}
    with pytest.warns(UserWarning, match=r"clock is 0, while its states have 3 steps.*opt\.clock\.fill_\(3\)"):
        ours.load_state_dict(mixed)
    assert (int(ours.clock), ours.param_groups[0]["lr"].item()) == (0, 0.1)


@pytest.mark.parametrize("make", [pytest.param(torch.optim.SGD, marks=needs_named_parameters), FusedSGD])
def test_entries_that_the_checkpoint_lacks(make: Any) -> None:
    """A scheduler's entries of another time go, as in torch. Names of parameters, and our scale of the rate, stay."""
    opt = make([("weight", torch.nn.Parameter(torch.ones(2)))], lr=0.5)
    saved = opt.state_dict()
    del saved["param_groups"][0]["param_names"]
    opt.param_groups[0].update(initial_lr=5.0, swa_lr=0.1, lr_scale=0.25)
    opt.load_state_dict(saved)
    group = opt.param_groups[0]
    assert not {"initial_lr", "swa_lr"} & set(group)
    assert group["param_names"] == ["weight"]
    assert group.get("lr_scale") == (0.25 if make is FusedSGD else None)
