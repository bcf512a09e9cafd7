"""Errors name the argument and the value, and say what would be right; and they are short."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import snapshot
from cases import ALGORITHMS_OF_TORCH, DEVICE, EVERY_ALGORITHM, make_params, params_of, train
from torch import nn

from sgdr_fused import FusedAdam, FusedSGD, SnapshotEnsemble
from sgdr_fused.schedules import CosineWarmRestarts, MultiStep, OneCycle, Step

pytestmark = pytest.mark.host

LR, MOMENTUM = OneCycle(0.1, total_steps=10)


def scheduler() -> Any:
    return torch.optim.lr_scheduler.StepLR(torch.optim.SGD(make_params((3,)), lr=0.1), 1)


BAD_HYPERS: list[tuple[Any, str]] = [
    (CosineWarmRestarts, r"lr must be .*CosineWarmRestarts.*has to be called"),
    (lambda t: 0.1, r"lr must be .*Table\(function, num_steps\)"),
    ("0.1", r"lr must be .*got '0.1'; convert it with float"),
    (None, r"lr must be a number, a tensor with one element or a Schedule, got None"),
    (scheduler(), r"lr must be .*from_torch\(scheduler\)"),
    ((LR, MOMENTUM), r"lr, momentum = OneCycle"),
    ([0.1], r"lr must be a number"),
    (True, r"lr must be a number"),
    (torch.zeros(10**6), r"lr must have one element, got a tensor of shape \(1000000,\)"),
    ("x" * 10**6, r"lr must be"),
]


@pytest.mark.parametrize("fused", [a.fused for a in ALGORITHMS_OF_TORCH.values()], ids=list(ALGORITHMS_OF_TORCH))
@pytest.mark.parametrize(("value", "says"), BAD_HYPERS, ids=[str(i) for i in range(len(BAD_HYPERS))])
def test_what_is_no_rate(fused: Any, value: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        fused(make_params((3,)), lr=value)
    assert len(str(caught.value)) < 600
    opt = fused(make_params((3,)), lr=0.1)
    train(opt, range(2))
    before = snapshot(opt)
    with pytest.raises((TypeError, ValueError), match=says):
        opt.param_groups[0]["lr"] = value
    with pytest.raises((TypeError, ValueError), match=says):
        opt.add_param_group({"params": make_params((4,)), "lr": value})
    assert snapshot(opt) == before


@pytest.mark.parametrize(
    "make",
    [
        lambda p, pair: FusedSGD(p, lr=0.1, momentum=pair),
        lambda p, pair: FusedAdam(p, lr=0.1, betas=pair),
        lambda p, pair: FusedAdam(p, lr=0.1, betas=(pair, 0.999)),
    ],
    ids=["momentum", "betas", "beta1"],
)
def test_a_one_cycle_that_was_not_unpacked(make: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"lr, momentum = OneCycle\(\.\.\.\)"):
        make(make_params((3,)), OneCycle(0.1, total_steps=10))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"momentun": 0.9}, r"FusedSGD got an unexpected argument momentun=0\.9; did you mean momentum\?"),
        ({"max_norm": 1.0}, r"FusedSGD got an unexpected argument max_norm=1\.0; did you mean max_grad_norm\?"),
        ({"verbose": "x" * 10**6}, r"FusedSGD got an unexpected argument verbose="),
    ],
)
def test_an_argument_that_does_not_exist(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says) as caught:
        FusedSGD(make_params((3,)), lr=0.1, **arguments)
    assert len(str(caught.value)) < 400


def test_an_entry_of_a_group_that_would_be_ignored() -> None:
    with pytest.warns(UserWarning, match="did you mean 'momentum'"):
        FusedSGD([{"params": make_params((3,)), "momentun": 0.9}], lr=0.1)
    with pytest.raises(ValueError, match=r"max_grad_norm must be given to FusedSGD\(\.\.\.\), not to a group"):
        FusedSGD([{"params": make_params((3,)), "max_grad_norm": 1.0}], lr=0.1)
    opt = FusedSGD(make_params((3,)), lr=0.1, max_grad_norm=1.0)
    with pytest.raises(ValueError, match=r"max_grad_norm is an option of the whole optimizer.*got 2\.0 in a group"):
        opt.param_groups[0]["max_grad_norm"] = 2.0
    assert "max_grad_norm" not in opt.param_groups[0]


def used_up() -> Any:
    params = nn.Linear(3, 2).parameters()
    list(params)
    return params


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (nn.Linear(3, 2), r"params must be tensors, got a Linear; pass model\.parameters\(\)"),
        ([{"params": nn.Linear(3, 2)}], r"pass model\.parameters\(\)"),
        (used_up(), r"params must not be empty.*was used up"),
        (iter([]), r"params must not be empty.*was used up"),
        ([], r"params must not be empty, got \[\]"),
        (0.1, r"params must be an ordered collection of tensors or groups, got 0\.1"),
        ("weights", r"params must be an ordered collection"),
        ({"params": make_params((3,))}, r"params must be a list of groups, got a dict(?s:.*)pass \[group\]"),
        (torch.zeros(3), r"params must be a list of tensors.*pass \[tensor\]"),
        ([[torch.zeros(3)]], r"params\[0\] must be a tensor"),
    ],
)
def test_params(params: Any, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        FusedSGD(params, lr=0.1)


def test_a_group_whose_generator_was_used_up() -> None:
    with pytest.warns(UserWarning, match="gave no tensors"):
        FusedSGD([{"params": make_params((3,))}, {"params": used_up()}], lr=0.1)


@pytest.mark.parametrize("fused", [FusedSGD, FusedAdam])
def test_a_parameter_that_was_converted(fused: Any) -> None:
    model = nn.Linear(3, 2, device=DEVICE)
    opt = fused(model.parameters(), **({"lr": 0.1, "momentum": 0.9} if fused is FusedSGD else {"lr": 0.1}))
    train(opt, range(2))
    model.double()
    for param in params_of(opt):
        param.grad = torch.ones_like(param)
    with pytest.raises(TypeError, match="the parameter was converted after its state was made"):
        opt.step()
    opt.state.clear()
    opt.step()
    assert int(opt.clock) == 3


@pytest.mark.parametrize("schedule", [Step(0.1, 5), MultiStep(0.1, (3,)), 0.1], ids=str)
@pytest.mark.parametrize("use", ["average", "hook", "snapshots"])
def test_what_needs_cycles(schedule: Any, use: str, tmp_path: Any) -> None:
    uses = {
        "average": lambda: FusedSGD(make_params((3,)), lr=schedule, average="cycle"),
        "hook": lambda: FusedSGD(make_params((3,)), lr=schedule).register_cycle_end_hook(print),
        "snapshots": lambda: SnapshotEnsemble(
            nn.Linear(3, 2), FusedSGD(make_params((3,)), lr=schedule), tmp_path / "snapshots"
        ),
    }
    with pytest.raises(ValueError, match=r"needs a Schedule (with cycles )?for lr"):
        uses[use]()
    assert not (tmp_path / "snapshots").exists()


@pytest.mark.parametrize("mark", ["_is_flat_param", "_fsdp_flattened"])
@pytest.mark.parametrize(
    ("fused", "options"),
    [
        (FusedSGD, {"max_grad_norm": 1.0}),
        (FusedSGD, {"skip_nonfinite": True}),
        (FusedSGD, {"error_if_nonfinite": True}),
        *((algorithm.fused, {}) for algorithm in EVERY_ALGORITHM.values() if algorithm.per_tensor),
    ],
)
def test_the_norm_of_a_shard(fused: Any, options: dict[str, Any], mark: str) -> None:
    """FullyShardedDataParallel marks the parameters that it shards so; its own FlatParameter has the first mark."""
    params = make_params((3,))
    setattr(params[0], mark, True)
    with pytest.raises(ValueError, match="needs whole parameters"):
        fused(params, lr=0.1, **options)
    FusedSGD(params, lr=0.1, max_grad_value=1.0)
    late = make_params((3,))
    opt = fused(late, lr=0.1, **options)
    train(opt, range(1))
    setattr(late[0], mark, True)
    opt.param_groups[0]["weight_decay"] = torch.tensor(0.1)  # which makes the plan anew
    with pytest.raises(ValueError, match="needs whole parameters"):
        opt.step()


@pytest.mark.once
def test_the_marks_are_those_of_torch() -> None:
    from torch.distributed.fsdp._common_utils import FSDP_FLATTENED
    from torch.distributed.fsdp._flat_param import FlatParameter

    flat = nn.Parameter(torch.zeros(3))
    flat._is_flat_param = True  # type: ignore[attr-defined]
    assert isinstance(flat, FlatParameter) and FSDP_FLATTENED == "_fsdp_flattened"
