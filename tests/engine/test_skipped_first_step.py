"""A first step that is skipped, and states that are rebuilt before the first one that counts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES, Case, Oracle, assert_within, ids, make_params, set_gradients
from courses import scaled_step

pytestmark = pytest.mark.untracked

TIGHT = 1e-12  # of float64


def _each_by_type(opt: Any) -> None:
    for p, state in list(opt.state.items()):
        opt.state[p] = type(state)(OrderedDict(state))


def _all_by_type(opt: Any) -> None:
    kind = type(opt.state)
    opt.state = kind(OrderedDict((p, dict(state)) for p, state in opt.state.items()))


def _plain_dicts(opt: Any) -> None:
    opt.state = {p: dict(state) for p, state in opt.state.items()}


def _taken_out_and_put_back(opt: Any) -> None:
    kept = {p: dict(state) for p, state in opt.state.items()}
    opt.state.clear()
    opt.state.update(kept)


def _by_entries(opt: Any) -> None:
    for state in opt.state.values():
        kept = dict(state)
        state.clear()
        for key, value in kept.items():
            state[key] = value


def _without_momentum_for_a_while(opt: Any) -> None:
    group = opt.param_groups[0]
    if not group.get("nesterov", True):  # RMSprop has no such buffer without momentum, and starts another
        kept, group["momentum"] = group["momentum"], 0
        scaled_step(opt, found_inf=1.0)
        group["momentum"] = kept


REBUILDS = (
    _each_by_type,
    _all_by_type,
    _plain_dicts,
    _taken_out_and_put_back,
    _by_entries,
    _without_momentum_for_a_while,
)


@pytest.mark.parametrize("rebuild", REBUILDS)
@pytest.mark.parametrize("case", ids(CASES))
def test_states_rebuilt_after_the_overflow(case: Case, rebuild: Callable[[Any], None]) -> None:
    """Whether a buffer has its first step behind it is known of the buffer, whichever dict holds it."""
    params = make_params((5, 1025), torch.float64)
    opt, oracle = case.fused(params, lr=0.05), Oracle(case, params)
    set_gradients(params, 0)
    scaled_step(opt, found_inf=1.0)
    rebuild(opt)
    for t in range(1, 4):
        set_gradients(params, t)
        oracle.step([p.grad for p in params], [0.05] * 2)
        scaled_step(opt, found_inf=0.0)
        rebuild(opt)
        for i, p in enumerate(params):
            assert_within(p, oracle.params[i], TIGHT * (1 + oracle.params[i].abs()), f"step {t}")
            for key, state in oracle.states[i].items():
                assert_within(opt.state[p][key], state, TIGHT * (1 + state.abs()), f"step {t}, {key}")


@pytest.mark.parametrize("case", ids(CASES))
def test_states_moved_to_another_optimizer_after_the_overflow(case: Case) -> None:
    params = make_params((5, 1025), torch.float64)
    opt, other, oracle = case.fused(params, lr=0.05), case.fused(params, lr=0.05), Oracle(case, params)
    set_gradients(params, 0)
    scaled_step(opt, found_inf=1.0)
    for p in params:
        other.state[p] = dict(opt.state.pop(p, {}))
    set_gradients(params, 1)
    oracle.step([p.grad for p in params], [0.05] * 2)
    other.step()
    for i, p in enumerate(params):
        assert_within(p, oracle.params[i], TIGHT * (1 + oracle.params[i].abs()), "parameter")
