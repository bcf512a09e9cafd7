"""register_cycle_end_hook: called after the last step of each cycle, and cheap until then."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from cases import DEVICE, TYPICAL, Case, ids, make_params, train

from sgdr_fused import FusedSGD, lr_find
from sgdr_fused._engine.host_clock import HostClock
from sgdr_fused.schedules import CosineWarmRestarts, Schedule, Triangular, Warmup

GROWING = CosineWarmRestarts(0.1, T_0=2, T_mult=2)


class Calls:
    """A hook that writes down what it is called with: (index, clock, the parameter then)."""

    def __init__(self, opt: Any) -> None:
        self.calls: list[tuple[int, int, float]] = []
        self.handle = opt.register_cycle_end_hook(self)

    def __call__(self, opt: Any, index: int) -> None:
        self.calls.append((index, int(opt.clock), float(opt.param_groups[0]["params"][0].detach().flatten()[0])))

    @property
    def ends(self) -> list[tuple[int, int]]:
        return [(index, clock) for index, clock, _ in self.calls]


def optimizer(lr: Any = GROWING) -> Any:
    return FusedSGD(make_params((5,)), lr=lr, momentum=0.9)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock at each time that it was read for the hooks."""
    read: list[int] = []
    look = HostClock._look

    def looked(self: HostClock, opt: FusedSGD) -> object:
        known = look(self, opt)
        read.append(known.count)
        return known

    monkeypatch.setattr(HostClock, "_look", looked)
    return read


@pytest.mark.parametrize(
    ("schedule", "ends"),
    [
        (GROWING, [(0, 2), (1, 6), (2, 14)]),
        (CosineWarmRestarts(0.1, T_0=1), [(i, i + 1) for i in range(20)]),
        (Triangular(0.0, 0.1, step_size_up=2, step_size_down=5), [(0, 7), (1, 14)]),
        (GROWING.shifted(1), [(0, 1), (1, 5), (2, 13)]),
    ],
    ids=str,
)
def test_called_after_the_last_step_of_each_cycle(schedule: Schedule, ends: list[tuple[int, int]]) -> None:
    opt = optimizer(schedule)
    calls = Calls(opt)
    values = []
    for t in range(20):
        train(opt, [t])
        values.append(float(opt.param_groups[0]["params"][0].detach()[0]))
    assert calls.ends == ends
    assert calls.ends == [(schedule.cycle(t)[0], t + 1) for t in range(20) if schedule.is_cycle_end(t)]
    assert [value for _, _, value in calls.calls] == [values[clock - 1] for _, clock in ends]  # after the update


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_skipped_steps_put_it_off(case: Case, looks: list[int]) -> None:
    opt = case.fused(make_params((5,)), lr=GROWING)
    calls = Calls(opt)
    skipped = (1, 2, 4, 7)
    taken = []
    for t in range(12):
        opt.found_inf = torch.tensor(float(t in skipped), device=DEVICE)
        train(opt, [t])
        taken.append(int(opt.clock))
    assert taken[-1] == 8
    assert calls.ends == [(0, 2), (1, 6)]


def test_clock_is_read_once_per_cycle(looks: list[int]) -> None:
    opt = optimizer(CosineWarmRestarts(0.1, T_0=10))
    Calls(opt)
    train(opt, range(35))
    assert looks == [0, 10, 20, 30]


def test_without_hooks_the_clock_is_not_read(looks: list[int]) -> None:
    opt = optimizer()
    Calls(opt).handle.remove()
    train(opt, range(10))
    assert looks == []


def test_hooks_registered_in_the_middle_removed_and_in_order() -> None:
    opt = optimizer()
    train(opt, range(3))
    order: list[str] = []
    first = opt.register_cycle_end_hook(lambda opt, index: order.append(f"first {index}"))
    opt.register_cycle_end_hook(lambda opt, index: order.append(f"second {index}"))
    train(opt, range(3, 6))
    assert order == ["first 1", "second 1"]
    first.remove()
    train(opt, range(6, 14))
    assert order == ["first 1", "second 1", "second 2"]


def test_hook_that_removes_itself_and_one_that_raises() -> None:
    opt = optimizer(CosineWarmRestarts(0.1, T_0=2))
    calls: list[int] = []

    def once(opt: Any, index: int) -> None:
        calls.append(index)
        handle.remove()
        raise KeyError("mine")

    handle = opt.register_cycle_end_hook(once)
    train(opt, [0])
    with pytest.raises(KeyError, match="mine"):
        train(opt, [1])
    assert opt.clock.item() == 2
    train(opt, range(2, 6))
    assert calls == [0]


def test_clock_and_schedule_that_are_changed() -> None:
    opt = optimizer()
    calls = Calls(opt)
    train(opt, [0])
    opt.clock.fill_(12)
    train(opt, range(2))
    assert calls.ends == [(2, 14)]
    opt.param_groups[0]["lr"] = CosineWarmRestarts(0.1, T_0=5)
    train(opt, range(5))
    assert calls.ends == [(2, 14), (2, 15)]
    opt.param_groups[0]["lr"] = 0.1
    train(opt, range(5))
    assert len(calls.ends) == 2
    other = optimizer()
    train(other, range(5))
    opt.load_state_dict(other.state_dict())  # its Schedule included
    train(opt, range(3))
    assert calls.ends == [(2, 14), (2, 15), (1, 6)]


def test_the_first_schedule_decides() -> None:
    params = make_params((3, 4, 5))
    groups = [
        {"params": [p], "lr": lr} for p, lr in zip(params, (0.1, Warmup(GROWING, 1), Triangular(0, 1, 1)), strict=True)
    ]
    opt = FusedSGD(groups)
    calls = Calls(opt)
    train(opt, range(7))
    assert [clock for _, clock in calls.ends] == [t + 1 for t in range(7) if Warmup(GROWING, 1).is_cycle_end(t)]


def test_needs_a_schedule() -> None:
    opt = optimizer(0.25)
    with pytest.raises(ValueError, match=r"needs a Schedule for lr, got 0\.25"):
        opt.register_cycle_end_hook(print)


def test_copies_have_no_hooks() -> None:
    opt = optimizer()
    calls = Calls(opt)
    train(opt, [0])
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        train(other, range(3))
    assert calls.ends == []


def test_a_range_test_calls_nothing_and_the_steps_after_it_do() -> None:
    param = torch.nn.Linear(3, 1).to(DEVICE)
    opt = FusedSGD(param.parameters(), lr=GROWING)
    calls: list[int] = []
    opt.register_cycle_end_hook(lambda opt, index: calls.append(int(opt.clock)))
    opt.step()
    batch = torch.ones(2, 3), torch.ones(2, 1)
    lr_find(param, opt, torch.nn.functional.mse_loss, [batch], 1e-6, 1e-3, num_steps=20, progress=False)
    assert (calls, opt.clock.item()) == ([], 1)
    for _ in range(5):
        opt.step()
    assert calls == [2, 6]


@pytest.mark.skipif(DEVICE.type != "cuda", reason="captures a CUDA graph")
def test_replays_call_nothing_and_steps_after_them_do() -> None:
    opt = optimizer(CosineWarmRestarts(0.1, T_0=4))
    train(opt, [0])
    calls = Calls(opt)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    for _ in range(5):
        graph.replay()
    assert opt.clock.item() == 6
    assert calls.ends == []
    train(opt, range(6))
    assert calls.ends == [(1, 8), (2, 12)]
