"""Evaluation with the averages: they stand in for the weights, and everything comes back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import DEVICE, SCHEDULES, TYPICAL, Case, ids, make_params, params_of, train, values
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from sgdr_fused import EMA, FusedSGD, refreshed_batch_norm

pytestmark = pytest.mark.untracked

SIZES = (5, 0, 33)


@pytest.mark.parametrize("dtype", ids([torch.float32, torch.bfloat16]))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_in_and_out(case: Case, dtype: torch.dtype) -> None:
    opt = case.fused(make_params(SIZES, dtype), lr=SCHEDULES[0], average="cycle")
    twin = case.fused(make_params(SIZES, dtype), lr=SCHEDULES[0], average="cycle")
    for each in (opt, twin):
        train(each, range(10))
    before = snapshot(opt)
    addresses = [param.data_ptr() for param in params_of(opt)]
    averages = [bits(opt.state[param]["average"].to(dtype)) for param in params_of(opt)]
    assert averages != before["params"]
    for fails in (False, True):
        with contextlib.suppress(ZeroDivisionError), opt.swap_average():
            assert [bits(param) for param in params_of(opt)] == averages
            assert snapshot(opt)["states"] == before["states"]
            assert 1 / (not fails)
        assert snapshot(opt) == before
    assert [param.data_ptr() for param in params_of(opt)] == addresses
    for each in (opt, twin):
        train(each, range(10, 24))
    assert snapshot(opt) == snapshot(twin)


def test_no_step_inside() -> None:
    opt = FusedSGD(make_params(SIZES), lr=SCHEDULES[0], average=EMA(0.5))
    train(opt, range(3))
    before = snapshot(opt)
    with opt.swap_average():
        with pytest.raises(RuntimeError, match=r"step\(\) inside swap_average\(\)"):
            opt.step()
        opt.param_groups[0]["momentum"] = 0.9  # the plan has to be made anew
        with pytest.raises(RuntimeError, match=r"step\(\) inside swap_average\(\)"):
            opt.step()
        opt.param_groups[0]["momentum"] = 0
        with pytest.raises(RuntimeError, match=r"swap_average\(\) inside swap_average\(\)"), opt.swap_average():
            pass
    assert snapshot(opt) == before
    train(opt, [3])
    assert int(opt.clock) == 4


def test_before_there_are_averages() -> None:
    opt = FusedSGD(make_params(SIZES), lr=SCHEDULES[0])
    with pytest.raises(RuntimeError, match="this one has average=None"), opt.swap_average():
        pass
    for average, what in (("cycle", "no cycle has ended"), (EMA(0.9, start=2), "no step was taken from step 2 on")):
        opt = FusedSGD(make_params(SIZES), lr=SCHEDULES[0], average=average)
        with pytest.raises(RuntimeError, match=f"n_averaged is 0, {what}"), opt.swap_average():
            pass
    train(opt, range(2))
    with pytest.raises(RuntimeError, match="n_averaged is 0"), opt.swap_average():
        pass
    train(opt, [2])
    with opt.swap_average():
        pass


# ------------------------------------------------------------------------------------ batch norm


def batch_norms(model: nn.Module) -> list[Any]:
    """All that batch norm keeps, and the modes."""
    kept: list[Any] = [bits(buffer) for buffer in model.buffers()]
    return [*kept, *((m.training, getattr(m, "momentum", None)) for m in model.modules())]


def model_and_batches() -> tuple[nn.Module, list[Tensor]]:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=0.3), nn.Linear(3, 2)).to(DEVICE)
    batches = [values((8, 4), i, torch.float32).to(DEVICE) for i in range(3)]
    model(batches[0]).sum().backward()
    return model, batches


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_is_refreshed_and_restored(training: bool) -> None:
    model, batches = model_and_batches()
    opt = FusedSGD(model.parameters(), lr=0.1, average=EMA(0.5))
    for _ in range(3):
        opt.step()
    model.train(training)
    before = batch_norms(model)
    with opt.swap_average(), refreshed_batch_norm(model, batches):
        inside = batch_norms(model)
        averaged = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).to(DEVICE)
        averaged.load_state_dict(model.state_dict())
    assert batch_norms(model) == before
    update_bn(batches, averaged)
    assert inside[:3] == [bits(buffer) for buffer in averaged.buffers()]
    assert inside[:2] != before[:2]
    assert inside[3:] == before[3:]


@pytest.mark.parametrize("where", ["in the data", "in the block"])
def test_batch_norm_is_restored_after_an_error(where: str) -> None:
    model, batches = model_and_batches()
    model.eval()
    before = batch_norms(model)

    def broken() -> Any:
        yield batches[0]
        raise KeyboardInterrupt

    def evaluate() -> None:
        with refreshed_batch_norm(model, broken() if where == "in the data" else batches):
            assert where == "in the block"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert batch_norms(model) == before


def test_a_model_without_batch_norm_reads_no_data() -> None:
    def unread() -> Any:
        raise AssertionError("read")
        yield

    model = nn.Linear(2, 2)
    with refreshed_batch_norm(model, unread()):
        pass
