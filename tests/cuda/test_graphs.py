"""Steps captured in a CUDA graph: a replay is what an eager step would have been.

A first step in a capture is refused: tests/engine/test_step_errors.py.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from captures import captured
from cases import (
    CASE_OF,
    DEVICE,
    SCHEDULES,
    SGD,
    TYPICAL,
    Case,
    gradient,
    ids,
    make_params,
    params_of,
    rate,
    train,
)

from sgdr_fused import EMA
from sgdr_fused.schedules import OneCycle, Sequential

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="captures CUDA graphs")

SIZES = (5, 0, 33)
REPLAYS = 1000


def refresh_gradients(opt: Any, step: int) -> None:
    """The gradients of this step, at the addresses that the graph knows."""
    for i, param in enumerate(params_of(opt)):
        param.grad.copy_(gradient(param, step, i))


def optimizer_with_graph(case: Case, lr: Any) -> tuple[Any, torch.cuda.CUDAGraph]:
    """After one eager step; the graph is of the next."""
    opt = case.fused(make_params(SIZES), lr=lr)
    train(opt, [0])
    return opt, captured(opt.step)


@pytest.mark.untracked
@pytest.mark.parametrize(
    "case",
    [
        *ids(TYPICAL[1:2]),
        *(pytest.param(CASE_OF[id], id=id, marks=pytest.mark.alike) for id in ("adam_amsgrad", "lamb")),
    ],
)
def test_a_thousand_replays(case: Case) -> None:
    """Through warm restarts, growing cycles and steps that a gradient scaler skips."""

    def make() -> Any:
        groups = [{"params": make_params(SIZES, seed=i), "lr": s} for i, s in enumerate(SCHEDULES)]
        opt = case.fused(groups)
        opt.found_inf = torch.zeros((), device=DEVICE)
        opt.grad_scale = torch.ones((), device=DEVICE)
        train(opt, [0])
        return opt

    replayed, eager = make(), make()
    graph = captured(replayed.step)
    gradients = [[gradient(p, t, i) for i, p in enumerate(params_of(eager))] for t in range(5)]
    taken = 1
    for t in range(REPLAYS):
        skip = t % 11 == 0  # the first replay among them
        taken += not skip
        for opt, step in ((replayed, graph.replay), (eager, eager.step)):
            opt.found_inf.fill_(float(skip))
            opt.grad_scale.fill_(1.0 + t % 4)
            if t % 5 == 0:
                for param, new in zip(params_of(opt), gradients[t % 25 // 5], strict=True):
                    param.grad.copy_(new)
            step()
        for schedule, group, other in zip(SCHEDULES, replayed.param_groups, eager.param_groups, strict=True):
            assert bits(group["lr"]) == bits(other["lr"]), f"rate after replay {t}"
            assert group["lr"].item() == pytest.approx(rate(schedule, taken), rel=1e-12)
        if t % 100 == 0 or t == REPLAYS - 1:
            assert replayed.clock.item() == taken
            assert snapshot(replayed) == snapshot(eager), f"after replay {t}"


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_replays_with_clipping_and_skipped_steps(case: Case) -> None:
    """The norm is measured anew by each replay, and so is whether it is finite."""

    def make() -> Any:
        params = [*make_params((*SIZES, 16384 + 2049)), *make_params((7,), torch.bfloat16)]
        opt = case.fused(params, lr=SCHEDULES[0], max_grad_norm=2.0, max_grad_value=1.2, skip_nonfinite=True)
        train(opt, [0])
        return opt

    replayed, eager = make(), make()
    norm, skipped = replayed.grad_norm, replayed.skipped_steps
    graph = captured(replayed.step)
    for t in range(1, 9):
        for opt, step in ((replayed, graph.replay), (eager, eager.step)):
            refresh_gradients(opt, t)
            for param in params_of(opt):
                param.grad.mul_(10.0 ** (t % 3 - 2))  # some below the limit
            if t % 4 == 2:
                params_of(opt)[t % 3 * 2].grad.view(-1)[-1] = float("inf")
            step()
        assert snapshot(replayed) == snapshot(eager), f"after replay {t}"
        assert (bits(norm), bits(skipped)) == (bits(eager.grad_norm), bits(eager.skipped_steps))
    assert skipped.item() == 2
    assert (replayed.grad_norm is norm, replayed.skipped_steps is skipped) == (True, True)


def test_an_error_for_a_norm_cannot_be_captured() -> None:
    opt = SGD.fused(make_params(SIZES), lr=0.1, error_if_nonfinite=True)
    train(opt, [0])
    with pytest.raises(RuntimeError, match="error_if_nonfinite: the host has to read the norm"):
        captured(opt.step)
    train(opt, [1])
    assert opt.clock.item() == 2


@pytest.mark.untracked
@pytest.mark.parametrize("average", ids(["cycle", EMA(0.9), EMA(0.9, warmup=3, start=1)]))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_replays_through_one_cycle_with_averages(case: Case, average: Any) -> None:
    """The rate, the momentum that moves against it, and the average of the weights where cycles end."""
    cycle = OneCycle(0.1, total_steps=9)
    schedule = Sequential([(cycle, 9), (SCHEDULES[0], 20), cycle])

    def make() -> Any:
        momentum: dict[str, Any] = {}
        if case.algorithm is not SGD:
            momentum = {"betas": (cycle.momentum, 0.9)}
        elif case.hyper.get("momentum"):
            momentum = {"momentum": cycle.momentum}
        opt = case.fused(make_params(SIZES), lr=schedule, average=average, **momentum)
        train(opt, [0])
        return opt

    replayed, eager = make(), make()
    graph = captured(replayed.step)
    for t in range(1, 60):
        refresh_gradients(replayed, t)
        refresh_gradients(eager, t)
        graph.replay()
        eager.step()
        assert snapshot(replayed) == snapshot(eager), f"after replay {t}"
        assert bits(replayed.n_averaged) == bits(eager.n_averaged)
    # Ends: of the first cycle, of two and a cut third, and of the last.
    assert int(eager.n_averaged) == (5 if average == "cycle" else 60 - average.start)
    with replayed.swap_average(), eager.swap_average():
        assert snapshot(replayed)["params"] == snapshot(eager)["params"]
    refresh_gradients(replayed, 60)
    refresh_gradients(eager, 60)
    graph.replay()
    eager.step()
    assert snapshot(replayed) == snapshot(eager), "after the averages stood for the weights"


# The first rate and the one after the capture are the same in each of these dtypes.
RATE, NEW_RATE = 0.0625, 0.25
FORMS: dict[str, Callable[[], Any]] = {
    "number": lambda: RATE,
    "tensor": lambda: torch.tensor(RATE, device=DEVICE),
    "bfloat16_tensor": lambda: torch.tensor(RATE, device=DEVICE, dtype=torch.bfloat16),
    "schedule": lambda: SCHEDULES[0],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_peer_16_what_a_capture_freezes(case: Case, form: str) -> None:
    """A number, but neither a tensor nor a Schedule. An eager step takes the new number."""
    lr = FORMS[form]()
    opt, graph = optimizer_with_graph(case, lr)
    twin = case.fused(make_params(SIZES), lr=lr if form == "schedule" else RATE)
    train(twin, [0])
    if form == "number":
        opt.param_groups[0]["lr"] = NEW_RATE
    elif form != "schedule":
        lr.fill_(NEW_RATE)
        twin.param_groups[0]["lr"] = NEW_RATE
    for t in (1, 2, 3):
        refresh_gradients(opt, t)
        graph.replay()
        train(twin, [t])
        assert snapshot(opt)["params"] == snapshot(twin)["params"], f"after replay {t}"
    if form == "number":
        twin.param_groups[0]["lr"] = NEW_RATE
    for each in (opt, twin):
        train(each, [4])
    for what in ("params", "states", "clock"):
        assert snapshot(opt)[what] == snapshot(twin)[what]


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_clock_that_is_written_between_replays(case: Case) -> None:
    opt, graph = optimizer_with_graph(case, SCHEDULES[0])
    twin = case.fused(make_params(SIZES), lr=SCHEDULES[0])
    train(twin, [0])
    for each in (opt, twin):
        each.clock.fill_(7)
    refresh_gradients(opt, 1)
    graph.replay()
    train(twin, [1])
    assert opt.clock.item() == 8
    assert snapshot(opt) == snapshot(twin)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_two_graphs_of_one_optimizer(case: Case) -> None:
    """Each with gradients of its own, replayed in turns, with eager steps in between."""
    opt, twin = (case.fused(make_params(SIZES), lr=SCHEDULES[0]) for _ in range(2))
    graphs = []
    for t in (0, 1):
        train(opt, [t])
        train(twin, [t])
        graphs.append((captured(opt.step), [p.grad for p in params_of(opt)]))  # which the graph does not keep
    for t in range(2, 12):
        if t % 3 == 2:
            train(opt, [t])
        else:
            graph, gradients = graphs[t % 3]
            for i, grad in enumerate(gradients):
                grad.copy_(gradient(params_of(opt)[i], t, i))
            graph.replay()
        train(twin, [t])
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(twin)]
    assert (opt.clock.item(), bits(opt.param_groups[0]["lr"])) == (12, bits(twin.param_groups[0]["lr"]))


# ---- plans made anew after a capture


def _group_added(opt: Any) -> None:
    opt.add_param_group({"params": make_params((7,), seed=9), "lr": SCHEDULES[1]})


def _states_replaced(opt: Any) -> None:
    for param in params_of(opt):
        for key, value in list(opt.state[param].items()):
            opt.state[param][key] = value.clone()


def _rate_replaced(opt: Any) -> None:
    opt.param_groups[0]["lr"] = 0.5


def _checkpoint_loaded(opt: Any) -> None:
    opt.load_state_dict(opt.state_dict())


@pytest.mark.parametrize("change", [_group_added, _states_replaced, _rate_replaced, _checkpoint_loaded])
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_graph_after_its_plan_was_replaced(case: Case, change: Callable[[Any], None]) -> None:
    """It goes on with what it was captured with: parameters, states, rate and clock. Nothing else moves."""
    opt, graph = optimizer_with_graph(case, SCHEDULES[0])
    twin = case.fused(make_params(SIZES), lr=SCHEDULES[0])
    train(twin, [0])
    params, gradients = params_of(opt), [p.grad for p in params_of(opt)]
    states = [dict(opt.state[p]) for p in params]
    change(opt)
    for param in params_of(opt):  # nothing happens to parameters and states, and the clock moves
        param.grad = None
    opt.step()
    twin.clock.fill_(2)
    gc.collect()
    junk = [torch.full((n,), float("nan"), device=DEVICE) for n in range(1, 3000, 7)]  # over what has been freed
    before = snapshot(opt)

    for i, (param, grad) in enumerate(zip(params, gradients, strict=True)):
        grad.copy_(gradient(param, 2, i))
    graph.replay()
    train(twin, [2])
    assert opt.clock.item() == 3
    for param, state, expected in zip(params, states, params_of(twin), strict=True):
        assert bits(param) == bits(expected)
        assert {k: bits(v) for k, v in state.items()} == {k: bits(v) for k, v in twin.state[expected].items()}
    after = snapshot(opt)
    assert before["params"][len(params) :] == after["params"][len(params) :]
    if change in (_states_replaced, _checkpoint_loaded):
        assert before["states"] == after["states"]  # those that the graph does not know
    assert all(bool(tensor.isnan().all()) for tensor in junk)
