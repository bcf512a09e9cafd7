"""Every schedule inside a step: the rate that the kernel uses and shows, and momentum that moves against the rate."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import DEVICE, PRETEND, assert_within, gradient, make_params, params_of, rate, set_gradients, train
from schedule_cases import FAR, SCHEDULES, Row, every_row, every_schedule
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from sgdr_fused import FusedAdam, FusedAdamW, FusedSGD
from sgdr_fused.schedules import (
    CosineWarmRestarts,
    Exponential,
    LinearRamp,
    OneCycle,
    Schedule,
    Sequential,
    Step,
    Table,
    Triangular,
    TriangularMomentum,
    Warmup,
)

FIRST = 8 if PRETEND else 40  # steps from 0
TIGHT = 1e-12  # of float64: what two evaluations of one schedule may differ by


@every_row
def test_the_step_uses_and_shows_the_rate(row: Row) -> None:
    """The clock is put to 0 and to both sides of every turn."""
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64, device=DEVICE))
    opt = FusedSGD([p], lr=row.schedule)
    shown = opt.param_groups[0]["lr"]
    turns = [turn + d for turn in row.turns[:3] for d in (-1, 0, 1) if turn + d >= 0]
    for t in (*range(FIRST), *turns, FAR):
        if opt.clock.item() != t:
            opt.clock.fill_(t)
        expected = rate(row.schedule, t)
        assert shown.item() == pytest.approx(expected, rel=TIGHT, abs=2.0**-1022)
        p.data.zero_()
        p.grad = torch.full_like(p, -1.0)
        used = shown.clone()
        opt.step()
        assert bits(p.detach()) == bits(used.expand(3)), f"step {t}"
    assert opt.param_groups[0]["lr"] is shown


def test_all_schedules_in_one_optimizer() -> None:
    """Segments and tables of many groups lie side by side in a plan: each group reads its own."""
    groups = [{"params": make_params((2,), torch.float64), "lr": schedule} for schedule in SCHEDULES]
    opt = FusedAdam(groups, betas=(Table((0.5, 0.75, 0.25)), 0.9), weight_decay=Step(0.1, 2, 0.5))
    for t in (0, 1, 2, 3, 29, 30, 31, 99, 100):
        opt.clock.fill_(t)
        set_gradients(params_of(opt), t)
        opt.step()
        for group, schedule in zip(opt.param_groups, SCHEDULES, strict=True):
            assert group["lr"].item() == pytest.approx(rate(schedule, t + 1), rel=TIGHT), f"{schedule!r}, step {t + 1}"
            assert group["betas"][0].item() == (0.5, 0.75, 0.25)[min(t + 1, 2)]
            assert group["weight_decay"].item() == pytest.approx(0.1 * 0.5 ** ((t + 1) // 2), rel=TIGHT)


@every_schedule
def test_checkpoint(schedule: Schedule) -> None:
    """Nested schedules and tables through torch.save and weights_only; the run goes on bit for bit."""
    kept = FusedSGD(make_params((3, 5)), lr=schedule, momentum=0.9)
    train(kept, range(5))
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    loaded = FusedSGD([torch.nn.Parameter(p.detach().clone()) for p in params_of(kept)], lr=0.1, momentum=0.9)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.param_groups[0]["lr_schedule"] == schedule
    for opt in (kept, loaded):
        train(opt, range(5, 10))
    assert [bits(p) for p in params_of(loaded)] == [bits(p) for p in params_of(kept)]


# ------------------------------------------------------------------------- momentum against the rate


def trained_by_torch(kind: Any, make: Any, steps: int, **options: Any) -> tuple[list[torch.Tensor], list[float]]:
    """Parameters after `steps` steps under torch's scheduler, in float64 on the CPU, and each step's momentum."""
    params = [torch.nn.Parameter(p.detach().cpu()) for p in make_params((5, 33), torch.float64)]
    opt = kind(params, lr=0.1, **options)
    scheduler, momenta = make(opt), []
    for t in range(steps):
        group = opt.param_groups[0]
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        for p, q in zip(params, make_params((5, 33), torch.float64, seed=100 + t), strict=True):
            p.grad = q.detach().cpu()
        opt.step()
        if t + 1 < steps:
            scheduler.step()
    return [p.detach() for p in params], momenta


KINDS = [
    pytest.param(FusedSGD, torch.optim.SGD, {"momentum": 0.9}, id="sgd"),
    pytest.param(FusedSGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="nesterov"),
    pytest.param(FusedAdam, torch.optim.Adam, {}, id="adam"),
    pytest.param(FusedAdamW, torch.optim.AdamW, {"amsgrad": True}, id="adamw"),
]
TOTAL = 24 if PRETEND else 100
CYCLES: list[Any] = [
    pytest.param(OneCycle(0.05, TOTAL), lambda o: OneCycleLR(o, 0.05, TOTAL), id="cos"),
    pytest.param(
        OneCycle(0.05, TOTAL, 0.4, "linear", 0.5, 0.9),
        lambda o: OneCycleLR(
            o, 0.05, TOTAL, pct_start=0.4, anneal_strategy="linear", base_momentum=0.5, max_momentum=0.9
        ),
        id="linear",
    ),
    pytest.param(
        OneCycle(0.05, TOTAL, 0.45, three_phase=True),
        lambda o: OneCycleLR(o, 0.05, TOTAL, pct_start=0.45, three_phase=True),
        id="three_phases",
    ),
    pytest.param(
        (Triangular(0.01, 0.05, 7, 3), TriangularMomentum(0.8, 0.9, 7, 3)),
        lambda o: CyclicLR(o, 0.01, 0.05, 7, 3),
        id="triangular",
    ),
    pytest.param(
        (Triangular(0.01, 0.05, 5, mode="triangular2"), TriangularMomentum(0.7, 0.95, 5, mode="triangular2")),
        lambda o: CyclicLR(o, 0.01, 0.05, 5, mode="triangular2", base_momentum=0.7, max_momentum=0.95),
        id="triangular2",
    ),
]


@pytest.mark.parametrize(("pair", "make"), CYCLES)
@pytest.mark.parametrize(("fused", "kind", "options"), KINDS)
def test_momentum_against_the_rate_over_a_whole_cycle(
    fused: Any, kind: Any, options: Any, pair: Any, make: Any
) -> None:
    """SGD's momentum and Adam's first beta, as torch's optimizer and scheduler move them, to the end of the cycle.

    To 1e-9: torch finds a cycle's position by a difference, and its parameters have gone through a hundred steps.
    """
    expected, momenta = trained_by_torch(kind, make, TOTAL, **options)
    lr, momentum = pair
    params = make_params((5, 33), torch.float64)
    moved = {"momentum": momentum} if kind is torch.optim.SGD else {"betas": (momentum, 0.999)}
    opt = fused(params, **{**options, "lr": lr, **moved})
    group = opt.param_groups[0]
    for t in range(TOTAL):
        shown = group["momentum"] if kind is torch.optim.SGD else group["betas"][0]
        assert shown.item() == pytest.approx(momenta[t], rel=1e-9)
        for p, q in zip(params, make_params((5, 33), torch.float64, seed=100 + t), strict=True):
            p.grad = q.detach()
        opt.step()
    for p, q in zip(params, expected, strict=True):
        assert_within(p, q, 1e-9 * (1 + q.abs()), "parameter")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="captures CUDA graphs")
@pytest.mark.parametrize(("pair", "make"), CYCLES)
@pytest.mark.parametrize(("fused", "kind", "options"), KINDS)
def test_replays_walk_through_the_cycle(fused: Any, kind: Any, options: Any, pair: Any, make: Any) -> None:
    """Replays go to the end of the cycle and past it, bit for bit as eager steps do."""
    lr, momentum = pair
    moved = {"momentum": momentum} if kind is torch.optim.SGD else {"betas": (momentum, 0.999)}
    eager, replayed = (fused(make_params((5, 33)), **{**options, "lr": lr, **moved}) for _ in range(2))
    train(eager, [0])
    train(replayed, [0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.step()
    for t in range(1, TOTAL + 3):
        train(eager, [t])
        for i, p in enumerate(params_of(replayed)):
            p.grad.copy_(gradient(p, t, i))
        graph.replay()
        assert snapshot(replayed) == snapshot(eager), f"step {t}"


@pytest.mark.parametrize(
    "schedule",
    [
        Warmup(CosineWarmRestarts(0.1, 3, 2), 4),
        Sequential([(LinearRamp(0.0, 0.1, 3), 5), Exponential(0.1, 0.5)]),
        OneCycle(0.1, 10),
    ],
    ids=repr,
)
def test_a_step_that_was_skipped_leaves_the_schedule_where_it_is(schedule: Schedule) -> None:
    opt = FusedSGD(make_params((3,)), lr=schedule, momentum=Table((0.5, 0.6, 0.7)))
    for t in range(8):
        set_gradients(params_of(opt), t)
        opt.found_inf = torch.tensor(float(t % 2), device=DEVICE)
        opt.step()
        taken = t // 2 + 1
        assert opt.clock.item() == taken
        assert opt.param_groups[0]["lr"].item() == pytest.approx(rate(schedule, taken), rel=TIGHT)
