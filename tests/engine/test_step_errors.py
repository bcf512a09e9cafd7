"""A step that cannot be taken says why, and leaves parameters, states, clock and groups as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import snapshot
from cases import DEVICE, SCHEDULES, TYPICAL, Case, ids, make_params, params_of, set_gradients, train
from torch_features import needs_grad_dtype

from sgdr_fused import FusedSGD

pytestmark = pytest.mark.untracked

NAN = float("nan")
BAD = (ValueError, TypeError, RuntimeError)

# The last of several parameters is the bad one: those in front of it must not have moved.


def _sparse(param: Any) -> None:
    param.grad = torch.ones_like(param).to_sparse()


def _complex(param: Any) -> None:
    param.grad_dtype = None
    param.grad = torch.ones_like(param, dtype=torch.complex64)


def _other_dtype(param: Any) -> None:
    param.grad_dtype = None
    param.grad = torch.ones_like(param, dtype=torch.float64)


def _other_shape(param: Any) -> None:
    param.grad = torch.ones_like(param)
    param.data = torch.ones(param.numel() + 1, device=DEVICE)


def _other_shape_of_same_size(param: Any) -> None:
    param.grad = torch.ones_like(param)
    param.data = torch.ones(1, param.numel(), device=DEVICE)


def _parameter_of_another_dtype(param: Any) -> None:
    param.data = param.data.double()


def _parameter_that_overlaps(param: Any) -> None:
    param.data = param.data[:1].expand(param.shape)


BROKEN: dict[str, tuple[Callable[[Any], None], str]] = {
    "sparse": (_sparse, "sparse"),
    "complex": (_complex, "complex64"),
    "dtype": (_other_dtype, "float64"),
    "shape": (_other_shape, "6"),
    "shape_of_same_size": (_other_shape_of_same_size, "1, 5"),
    "parameter_dtype": (_parameter_of_another_dtype, "float64"),
    "parameter_overlaps": (_parameter_that_overlaps, "overlap|share memory"),
}

MARKS = {"complex": needs_grad_dtype, "dtype": needs_grad_dtype}


@pytest.mark.parametrize("steps", [0, 2], ids=["first_step", "third_step"])
@pytest.mark.parametrize("how", [pytest.param(how, marks=MARKS.get(how, ())) for how in BROKEN])
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_step_with_a_bad_gradient(case: Case, how: str, steps: int) -> None:
    break_it, says = BROKEN[how]
    groups = [{"params": make_params((4, 7))}, {"params": make_params((1025, 5), seed=1)}]
    opt = case.fused(groups, lr=SCHEDULES[0])
    train(opt, range(steps))
    set_gradients(params_of(opt), steps)
    break_it(params_of(opt)[-1])
    before = snapshot(opt)
    with pytest.raises(BAD, match=rf"(?i)(?s)(?=.*grad|.*param)(?=.*({says}))"):
        opt.step()
    assert snapshot(opt) == before


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_step_goes_on_after_a_bad_gradient_is_replaced(case: Case) -> None:
    ours, untroubled = (case.fused(make_params((4, 5)), lr=SCHEDULES[0]) for _ in range(2))
    for t in range(4):
        if t == 2:
            set_gradients(params_of(ours), t)
            _sparse(params_of(ours)[-1])
            with pytest.raises(RuntimeError, match="sparse"):
                ours.step()
        train(ours, [t])
        train(untroubled, [t])
    # Compared without the gradients: those of step 3 are equal anyway.
    assert snapshot(ours) == snapshot(untroubled)


@pytest.mark.parametrize("key", ["momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"])
@pytest.mark.parametrize("how", ["shape", "integer", "not_a_tensor"])
def test_step_with_a_state_that_does_not_fit(key: str, how: str) -> None:
    case = next(c for c in TYPICAL if c.id == ("sgd_nesterov" if key == "momentum_buffer" else "adam_amsgrad"))
    opt = case.fused(make_params((4, 5)), lr=SCHEDULES[0])
    train(opt, range(2))
    shape = (3,) if key == "step" else (6,)
    if how == "integer" and key == "step":
        pytest.skip("a count may be an integer")
    bad = {"shape": torch.ones(shape), "integer": torch.ones(5, dtype=torch.int32), "not_a_tensor": "x"}[how]
    opt.state[params_of(opt)[-1]][key] = bad.to(DEVICE) if isinstance(bad, torch.Tensor) else bad
    set_gradients(params_of(opt), 2)
    before = snapshot(opt)
    with pytest.raises(BAD, match=key):
        opt.step()
    assert snapshot(opt) == before


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_in_place_write_to_a_scheduled_rate(case: Case) -> None:
    """It would be overwritten: refused until the group gets a number, a tensor or a Schedule."""
    opt = case.fused(make_params((4,)), lr=SCHEDULES[0])
    train(opt, range(2))
    set_gradients(params_of(opt), 2)
    opt.param_groups[0]["lr"].fill_(0.125)
    before = snapshot(opt)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"\blr\b"):
            opt.step()
        assert snapshot(opt) == before
    opt.param_groups[0]["lr"] = 0.125
    train(opt, [2])
    assert opt.clock.item() == 3
    assert opt.param_groups[0]["lr_schedule"] is None


def test_torch_scheduler_on_top_of_a_schedule_is_refused_at_the_next_step() -> None:
    opt = FusedSGD(make_params((4,)), lr=SCHEDULES[0])

    def train_with_a_scheduler() -> None:
        scheduler = torch.optim.lr_scheduler.StepLR(opt, 1)
        train(opt, [0])
        scheduler.step()
        train(opt, [1])

    with pytest.raises(BAD, match=r"\blr\b"):
        train_with_a_scheduler()


BAD_ASSIGNMENTS = {
    "two_elements": torch.tensor([0.25, 0.5]),
    "complex": torch.tensor(1j),
    "text": "fast",
    "none": None,
    "nan": NAN,
}


@pytest.mark.parametrize("bad", BAD_ASSIGNMENTS.values(), ids=list(BAD_ASSIGNMENTS))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_bad_rate_assigned_later(case: Case, bad: Any) -> None:
    opt = case.fused([{"params": make_params((4,))}, {"params": make_params((5,), seed=1)}], lr=SCHEDULES[0])
    train(opt, range(2))
    set_gradients(params_of(opt), 2)
    before = snapshot(opt)

    def assign_and_step() -> None:  # either may refuse
        opt.param_groups[1]["lr"] = bad
        opt.step()

    with pytest.raises(BAD, match=r"\blr\b"):
        assign_and_step()
    opt.param_groups[1]["lr"] = SCHEDULES[0]
    assert snapshot(opt) == before
    train(opt, [2])


@pytest.mark.skipif(DEVICE.type != "cuda", reason="captures a CUDA graph")
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_first_step_in_a_graph_capture(case: Case) -> None:
    """Building a plan copies and allocates, which a capture forbids."""
    opt = case.fused(make_params((4, 5)), lr=SCHEDULES[0])
    set_gradients(params_of(opt), 0)
    before = snapshot(opt)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="one step before capturing"):  # noqa: SIM117
        with torch.cuda.graph(graph):
            opt.step()
    assert snapshot(opt) == before
    train(opt, range(2))
    assert opt.clock.item() == 2
