"""Checkpoints whose names do not fit: what is refused, and that nothing is changed by it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from bits import bits
from named import grouped, parameters, train
from torch import Tensor

from sgdr_fused import FusedSGD

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("error")]


def everything(opt: Any) -> Any:
    """All that a load could change, for a comparison."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return bits(value)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(opt.state_dict()), [plain(group["params"]) for group in opt.param_groups]


def names_in(*groups: Sequence[str]) -> Callable[[Any], None]:
    """Other names in the groups of a checkpoint, and as many parameters there as names."""

    def change(data: Any) -> None:
        number = itertools.count()
        for group, names in zip(data["param_groups"], groups, strict=True):
            group.update(param_names=list(names), params=[next(number) for _ in names])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (names_in(["a", "b", "x"], ["c.bias", "d"]), r"missing: 'c\.weight'; unexpected: 'x'; to load by position"),
        (names_in(["a", "b"], ["c.bias", "d"]), r"must be those of the optimizer; missing: 'c\.weight'; to load"),
        (names_in(["a", "b", "c.weight", "x"], ["c.bias", "d"]), r"must be those of the optimizer; unexpected: 'x';"),
        (
            names_in(["p", "q", "r"], ["s", "t"]),
            r"missing: 'a', 'b', 'c\.weight' and 2 more; unexpected: 'p', 'q', 'r'",
        ),
        (names_in(["module.a", "module.x", "c.weight"], ["c.bias", "d"]), r"missing: 'b'; unexpected: 'module\.x';"),
        (names_in(["module.a", "a", "c.weight"], ["c.bias", "d"]), r"missing: 'b'; unexpected: 'module\.a';"),
        (names_in(["a", "a", "b"], ["c.bias", "d"]), r"param_names of the state_dict must have each name once.*: 'a';"),
        (
            names_in(["a", "c.bias"], ["b", "c.weight", "d"]),
            r"group 1 of the optimizer \('c\.bias' is in group 0 there, 'd' is in group 1 there\) has no counterpart",
        ),
        (
            names_in(["c.bias"], ["a", "b", "c.weight", "d"]),
            r"group 1 of the optimizer \('c\.bias' is in group 0 there, ",
        ),
        (
            names_in(["c.weight", "b", "a"], ["c.bias", "d"]),
            r"state\['momentum_buffer'\] of parameter 2 of group 0, 'c\.weight', \(shape \(2, 2\).*got \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(change: Callable[[Any], None], message: str) -> None:
    params = parameters()
    opt = FusedSGD(grouped(params, [["a", "b", "c.weight"], ["c.bias", "d"]], [0.1, 0.0]), lr=0.1, momentum=0.9)
    train(opt, params, range(2))
    data = opt.state_dict()
    train(opt, params, range(2, 4))
    before = everything(opt)
    change(data)
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(data)
    assert everything(opt) == before


def test_a_name_that_is_twice_in_the_optimizer() -> None:
    first, second = parameters(("a", "b")).values()
    opt = FusedSGD([("a", first), ("a", second)], lr=0.1)
    data = FusedSGD(list(parameters(("a", "b")).items()), lr=0.1).state_dict()
    with pytest.raises(ValueError, match=r"param_names of the optimizer must have each name once.*more than once: 'a'"):
        opt.load_state_dict(data)


def test_a_refused_checkpoint_does_not_warn_of_what_has_moved() -> None:
    params = parameters()
    opt = FusedSGD(grouped(params, [["a", "b", "c.weight"], ["c.bias", "d"]], [0.1, 0.0]), lr=0.1)
    data = opt.state_dict()
    names_in(["a", "b"], ["c.weight", "c.bias", "d"])(data)
    data["param_groups"][0]["clock"] = torch.tensor(7)  # another one than in the other group
    with pytest.raises(ValueError, match="clock"):  # a warning would be another error
        opt.load_state_dict(data)
