"""Bad input: an error that names the argument and its value, and nothing has changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import snapshot
from cases import ALGORITHMS_OF_TORCH, DEVICE, EVERY_ALGORITHM, SCHEDULES, make_params, params_of, train

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import Constant, CosineWarmRestarts, Triangular

pytestmark = pytest.mark.untracked

NAN, INF = float("nan"), float("inf")
BAD = (ValueError, TypeError)


def names(argument: str, value: Any = "") -> str:
    """A pattern: both the argument's name and its value, in whatever order."""
    return rf"(?s)(?=.*\b{re.escape(argument)})(?=.*{re.escape(str(value))})"


# -------------------------------------------------------------------------------------- constructors

ARGUMENTS = [
    pytest.param(algorithm.fused, arguments, name, value, id=f"{algorithm.fused.__name__}-{label}")
    for algorithm in EVERY_ALGORITHM.values()
    for label, arguments, name, value in algorithm.bad_arguments
]


@pytest.mark.parametrize(("fused", "arguments", "name", "value"), ARGUMENTS)
def test_constructor_argument(fused: Any, arguments: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(BAD, match=names(name, value)):
        fused(make_params((3,)), **arguments)


@pytest.mark.parametrize(("fused", "arguments", "name", "value"), ARGUMENTS)
def test_argument_of_a_group_added_later(fused: Any, arguments: dict[str, Any], name: str, value: Any) -> None:
    opt = fused(make_params((3,)), lr=SCHEDULES[0])
    train(opt, range(2))
    before = snapshot(opt)
    with pytest.raises(BAD, match=names(name, value)):
        opt.add_param_group({"params": make_params((5,), seed=1), **arguments})
    assert snapshot(opt) == before
    train(opt, range(2, 4))
    assert opt.clock.item() == 4


def _non_leaf() -> Any:
    return make_params((3,))[0] * 2


def _in_two_groups() -> Any:
    params = make_params((3, 4))
    return [{"params": params}, {"params": params[1:]}]


def _integer() -> Any:
    return [torch.nn.Parameter(torch.tensor([1, 2], device=DEVICE), requires_grad=False)]


def _expanded() -> Any:
    return [torch.nn.Parameter(torch.ones(1, device=DEVICE).expand(4))]


def _sliding_window() -> Any:
    return [torch.nn.Parameter(torch.ones(8, device=DEVICE).as_strided((6, 3), (1, 1)))]


PARAMETERS: list[tuple[str, Callable[[], Any], str]] = [
    ("no_parameters", lambda: [], "empty"),
    ("in_two_groups", _in_two_groups, "parameter"),
    ("non_leaf", lambda: [_non_leaf()], "leaf"),
    ("integer", _integer, "int64"),
    (
        "boolean",
        lambda: [torch.nn.Parameter(torch.tensor([True], device=DEVICE), requires_grad=False)],
        "bool",
    ),
    ("expanded", _expanded, "overlap|share memory"),
    ("sliding_window", _sliding_window, "overlap|share memory"),
    ("a_tensor", lambda: make_params((3,))[0], "param"),
    ("a_set", lambda: [{"params": set(make_params((3, 4)))}], "ordered"),
    ("a_number", lambda: [3.0], "float|3.0"),
]


@pytest.mark.parametrize("fused", [a.fused for a in ALGORITHMS_OF_TORCH.values()], ids=list(ALGORITHMS_OF_TORCH))
@pytest.mark.parametrize(("make", "says"), [pytest.param(m, s, id=i) for i, m, s in PARAMETERS])
def test_parameters(fused: Any, make: Callable[[], Any], says: str) -> None:
    with pytest.raises((*BAD, RuntimeError), match=rf"(?i){says}"):
        fused(make(), lr=0.1)


@pytest.mark.parametrize(
    "make",
    [pytest.param(m, id=i) for i, m, _ in PARAMETERS if i in ("non_leaf", "integer", "expanded")],
)
def test_parameters_added_later(make: Callable[[], Any]) -> None:
    opt = FusedSGD(make_params((3,), seed=9), lr=SCHEDULES[0], momentum=0.9)
    train(opt, range(2))
    before = snapshot(opt)
    with pytest.raises((*BAD, RuntimeError)):
        opt.add_param_group({"params": make()})
    with pytest.raises(BAD):
        opt.add_param_group({"params": params_of(opt)})  # a second time
    assert snapshot(opt) == before
    train(opt, range(2, 4))


# ---------------------------------------------------------------------------------------- schedules

BAD_SCHEDULES: list[tuple[Callable[..., Any], dict[str, Any], str, Any]] = [
    (Constant, {"value": -0.25}, "value", -0.25),
    (Constant, {"value": NAN}, "value", "nan"),
    (Constant, {"value": "1"}, "value", "1"),
    (CosineWarmRestarts, {"max_lr": -0.25, "T_0": 3}, "max_lr", -0.25),
    (CosineWarmRestarts, {"max_lr": INF, "T_0": 3}, "max_lr", "inf"),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 0}, "T_0", 0),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 2.5}, "T_0", 2.5),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 3, "T_mult": 0}, "T_mult", 0),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 3, "T_mult": 0.75}, "T_mult", 0.75),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 3, "T_mult": NAN}, "T_mult", "nan"),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 3, "eta_min": 0.75}, "eta_min", 0.75),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 3, "eta_min": -0.25}, "eta_min", -0.25),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 3, "max_decay": 1.25}, "max_decay", 1.25),
    (CosineWarmRestarts, {"max_lr": 0.5, "T_0": 3, "min_decay": -0.25}, "min_decay", -0.25),
    (Triangular, {"base_lr": 0.75, "max_lr": 0.5, "step_size_up": 3}, "base_lr", 0.75),
    (Triangular, {"base_lr": -0.25, "max_lr": 0.5, "step_size_up": 3}, "base_lr", -0.25),
    (Triangular, {"base_lr": 0.1, "max_lr": NAN, "step_size_up": 3}, "max_lr", "nan"),
    (Triangular, {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 0}, "step_size_up", 0),
    (Triangular, {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 1.5}, "step_size_up", 1.5),
    (
        Triangular,
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "step_size_down": 0},
        "step_size_down",
        0,
    ),
    (
        Triangular,
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "step_size_down": 1.5},
        "step_size_down",
        1.5,
    ),
    (Triangular, {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "mode": "saw"}, "mode", "saw"),
    (Triangular, {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "gamma": 1.25}, "gamma", 1.25),
    (Triangular, {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "gamma": 0}, "gamma", 0),
]


@pytest.mark.parametrize(
    ("make", "arguments", "name", "value"),
    [pytest.param(*row, id=f"{row[0].__name__}-{row[2]}-{row[3]}") for row in BAD_SCHEDULES],
)
def test_schedule_argument(make: Callable[..., Any], arguments: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(BAD, match=names(name, value)):
        make(**arguments)


def test_complex_parameters_are_as_torchs_or_refused() -> None:
    start = torch.complex(*torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    ours, theirs = (torch.nn.Parameter(start.clone().to(device)) for device in (DEVICE, "cpu"))
    try:
        opt = FusedAdam([ours], lr=0.1)
    except (*BAD, RuntimeError):
        return
    peer = torch.optim.Adam([theirs], lr=0.1)
    for _ in range(3):
        ours.grad, theirs.grad = torch.full_like(ours, 1 - 2j), torch.full_like(theirs, 1 - 2j)
        opt.step()
        peer.step()
    torch.testing.assert_close(ours.detach().cpu(), theirs.detach())
