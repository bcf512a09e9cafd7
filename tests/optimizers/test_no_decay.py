"""no_decay_groups: which parameters have weight decay, under which names, in any optimizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sgdr_fused import FusedAdamW, FusedLAMB, FusedSGD, no_decay_groups
from sgdr_fused.schedules import LinearRamp, OneCycle

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("error")]


class OwnNorm(nn.LayerNorm):
    """A norm of a library's own, whose parameters have three dimensions and names of their own."""

    def __init__(self) -> None:
        super().__init__((2, 2, 2))
        self.gate = nn.Parameter(torch.ones(2, 2, 2))
        self.inner = nn.Linear(2, 2)


class OwnGroupNorm(nn.GroupNorm):
    def __init__(self) -> None:
        super().__init__(1, 2)
        self.gate = nn.Parameter(torch.ones(2, 2))


class OwnBatchNorm(nn.BatchNorm1d):
    def __init__(self) -> None:
        super().__init__(2)
        self.gate = nn.Parameter(torch.ones(2, 2))


class Pooling(nn.Module):
    """Biases under other names than "bias", with more than one dimension; and a scale with none."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(1, 1, 4))
        self.position_bias = nn.Parameter(torch.ones(1, 4, 4))
        self.bias_table = nn.Parameter(torch.ones(3, 4))
        self.scale = nn.Parameter(torch.ones(()))


# A module, and those of its parameters that have weight decay; written down by hand.
KINDS: list[tuple[Callable[[], nn.Module], set[str]]] = [
    (lambda: nn.Linear(2, 3), {"weight"}),
    (lambda: nn.Conv2d(2, 3, 1), {"weight"}),
    (lambda: nn.Bilinear(2, 2, 2), {"weight"}),
    (lambda: nn.Embedding(3, 2), {"weight"}),
    (lambda: nn.LSTM(2, 2, proj_size=1), {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0"}),
    (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), {"in_proj_weight", "out_proj.weight"}),
    (lambda: nn.BatchNorm2d(3), set()),
    (lambda: nn.SyncBatchNorm(3), set()),
    (lambda: nn.InstanceNorm1d(3, affine=True), set()),
    (lambda: nn.GroupNorm(1, 3), set()),
    (lambda: nn.LayerNorm((2, 3)), set()),
    (lambda: nn.RMSNorm((2, 3)), set()),
    (OwnNorm, set()),
    (OwnGroupNorm, set()),
    (OwnBatchNorm, set()),
    (lambda: nn.LocalResponseNorm(2), set()),
    (lambda: nn.PReLU(3), set()),
    (Pooling, {"query", "bias_table"}),
    (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)), {"parametrizations.weight.original"}),
    (lambda: nn.Sequential(), set()),
]


def names(groups: list[dict[str, Any]]) -> list[list[str]]:
    return [group["param_names"] for group in groups]


def small() -> nn.Sequential:
    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4))


@given(st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=6), st.data())
@settings(deadline=None)
def test_every_parameter_is_once_in_its_group_and_in_order(kinds: list[int], data: st.DataObject) -> None:
    model = nn.Sequential(*(KINDS[kind][0]() for kind in kinds))
    named = dict(model.named_parameters())
    frozen = set(data.draw(st.lists(st.sampled_from(sorted(named) or [""]), unique=True)))
    for name in frozen & set(named):
        named[name].requires_grad_(False)
    trained = [name for name in named if name not in frozen]
    if not trained:
        with pytest.raises(ValueError, match="model must have parameters that require gradients, got none in a Seq"):
            no_decay_groups(model, 0.1)
        return
    decayed = {f"{i}.{name}" for i, kind in enumerate(kinds) for name in KINDS[kind][1]}
    expected = [[n for n in trained if n in decayed], [n for n in trained if n not in decayed]]
    groups = no_decay_groups(model, 0.1)
    assert names(groups) == [each for each in expected if each]
    assert [group["weight_decay"] for group in groups] == [
        d for d, each in zip((0.1, 0.0), expected, strict=True) if each
    ]
    for group in groups:
        assert all(param is named[name] for param, name in zip(group["params"], group["param_names"], strict=True))
        assert set(group) == {"params", "param_names", "weight_decay"}


@pytest.mark.parametrize("weight_decay", [0.1, 0, torch.tensor(0.1), LinearRamp(0.1, 0.0, 9)], ids=repr)
@pytest.mark.parametrize("make", [FusedAdamW, FusedSGD, FusedLAMB, torch.optim.AdamW, torch.optim.SGD])
def test_any_optimizer_takes_them(make: Any, weight_decay: Any) -> None:
    """With the groups as they are, and a step: weights decay, where the gradient is 0, and nothing else moves."""
    if make.__module__.startswith("torch") and isinstance(weight_decay, LinearRamp):
        pytest.skip("a Schedule is for our optimizers")
    model = small()
    groups = no_decay_groups(model, weight_decay)
    opt = make(groups, lr=0.5)
    assert names(opt.param_groups) == [["0.weight", "1.weight"], ["1.bias", "2.weight", "2.bias"]]
    assert opt.state_dict()["param_groups"][1]["param_names"] == ["1.bias", "2.weight", "2.bias"]
    before = [param.detach().clone() for param in model.parameters()]
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    opt.step()
    moved = [not torch.equal(param, old) for param, old in zip(model.parameters(), before, strict=True)]
    assert moved == [bool(weight_decay != 0)] * 2 + [False] * 3


@pytest.mark.parametrize("make", [FusedAdamW, torch.optim.AdamW])
def test_a_group_without_parameters_is_left_out(make: Any) -> None:
    """An optimizer that was given one would warn, and a step of it is not needed."""
    for model, weight_decay in ((nn.LayerNorm(3), 0.0), (nn.Linear(2, 2, bias=False), 0.1)):
        groups = no_decay_groups(model, 0.1)
        assert [group["weight_decay"] for group in groups] == [weight_decay]
        make(groups, lr=0.1)


def test_a_checkpoint_fits_whichever_way_the_layers_are_ordered() -> None:
    """The names that the groups keep are those by which load_state_dict finds its parameters."""
    layers = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}
    model, other = nn.ModuleDict(layers), nn.ModuleDict(dict(reversed(layers.items())))
    opt, loaded = (FusedSGD(no_decay_groups(each, 0.1), lr=0.1, momentum=0.9) for each in (model, other))
    for i, param in enumerate(model.parameters()):
        param.grad = torch.full_like(param, float(i))
    opt.step()
    loaded.load_state_dict(opt.state_dict())
    for param in model.parameters():
        assert torch.equal(loaded.state[param]["momentum_buffer"], opt.state[param]["momentum_buffer"])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((2, 2))
        self.wte = nn.Embedding(3, 2)
        self.body = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3)
        self.head.weight = self.wte.weight
        self.scale = self.norm.weight  # two dimensions, and a norm's under its other name


def test_tied_parameters_are_there_once_under_their_first_name() -> None:
    assert names(no_decay_groups(Tied(), 0.1)) == [
        ["wte.weight", "body.weight"],
        ["scale", "norm.bias", "body.bias", "head.bias"],
    ]


@pytest.mark.parametrize("skip", ["wte.weight", "head.weight", nn.Embedding, lambda name, param: name == "head.weight"])
def test_a_tied_parameter_is_skipped_under_any_of_its_names(skip: Any) -> None:
    assert names(no_decay_groups(Tied(), 0.1, skip))[0] == ["body.weight"]


class Timm(nn.Module):
    """As timm's models do; the second name is of a variant that has such a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.ones(1, 4, 2))
        self.cls_token = nn.Parameter(torch.ones(1, 1, 2))
        self.proj = nn.Linear(2, 2)

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed", "dist_token", "cls_*"}


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda model: model, ""),
        (lambda model: nn.Sequential(nn.Identity(), model), "1."),
        (nn.DataParallel, "module."),
        (torch.compile, "_orig_mod."),
    ],
    ids=["bare", "inside", "data parallel", "compiled"],
)
def test_what_a_model_of_timms_lists_itself(wrap: Any, prefix: str) -> None:
    found = names(no_decay_groups(wrap(Timm()), 0.1))
    expected = [["proj.weight"], ["pos_embed", "cls_token", "proj.bias"]]
    assert found == [[prefix + name for name in group] for group in expected]


SKIPS: list[tuple[Any, list[str]]] = [
    ((), []),
    ("0.weight", ["0.weight"]),
    ("?.weight", ["0.weight", "1.weight"]),
    (["[01].weight", nn.LayerNorm], ["0.weight", "1.weight"]),
    ({nn.Embedding}, ["0.weight"]),
    (nn.Embedding, ["0.weight"]),
    ({"1.*": "a dict is an iterable of its keys"}, ["1.weight"]),
    (nn.Module, ["0.weight", "1.weight"]),
    (nn.Sequential, ["0.weight", "1.weight"]),
    (lambda name, param: param.shape == (9, 4), ["0.weight"]),
    (lambda name, param: re.search(r"1\.w", name), ["1.weight"]),
]


@pytest.mark.parametrize(("skip", "also"), SKIPS, ids=[str(i) for i in range(len(SKIPS))])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_skip(prefix: str, skip: Any, also: list[str]) -> None:
    """With and without a wrapper, whose prefix need not be given."""
    found = names(no_decay_groups(nn.DataParallel(small()) if prefix else small(), 0.1, skip))
    order = ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]
    expected = [[n for n in order[:2] if n not in also], [n for n in order if n in also or n in order[2:]]]
    assert found == [[prefix + name for name in group] for group in expected if group]


def test_an_iterator_of_names() -> None:
    """It is read once."""
    groups = no_decay_groups(small(), 0.1, iter(["0.weight", "1.weight"]))
    assert names(groups) == [["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]]


def test_a_name_of_a_frozen_parameter_is_no_mistake() -> None:
    model = small()
    model[0].requires_grad_(False)
    assert names(no_decay_groups(model, 0.1, ["0.weight", nn.Embedding]))[0] == ["1.weight"]


def test_a_function_is_not_asked_for_frozen_parameters() -> None:
    model, asked = small(), []
    model[0].requires_grad_(False)
    no_decay_groups(model, 0.1, lambda name, param: asked.append(name))
    assert asked == ["1.weight", "1.bias", "2.weight", "2.bias"]


def test_a_name_that_is_also_a_pattern() -> None:
    model = nn.ModuleDict({"a[0]": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    assert names(no_decay_groups(model, 0.1, "a[0].weight"))[0] == ["b.weight"]


def test_no_weight_decay_that_is_no_method_is_passed_over() -> None:
    model = nn.Linear(2, 2)
    model.no_weight_decay = ["weight"]
    assert names(no_decay_groups(model, 0.1)) == [["weight"], ["bias"]]


def flat(mark: str) -> nn.Module:
    model = nn.Linear(2, 2)
    setattr(model.weight, mark, True)
    return model


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((small().parameters(), 0.1), TypeError, r"model must be a torch\.nn\.Module, got <generator"),
        ((small(), -0.1), ValueError, r"weight_decay must be .*, got -0\.1"),
        ((small(), "0.1"), TypeError, r"weight_decay must be a number, a tensor .*, got '0\.1'"),
        ((small(), OneCycle(0.1, 9)), TypeError, r"weight_decay must not be a OneCycle"),
        (
            (small(), 0.1, "0.wieght"),
            ValueError,
            r"skip must .*, got '0\.wieght', .*; did you mean '0\.weight'\?",
        ),
        ((small(), 0.1, ["1.bias", "nope"]), ValueError, r"skip must .*, got 'nope', which none has$"),
        ((small(), 0.1, "0"), ValueError, r"got '0', which none has; for all .* of that module, pass '0\.\*'"),
        ((small(), 0.1, ["bias"]), ValueError, r"got 'bias', .*; for all names with that in them, pass '\*bias\*'"),
        ((small(), 0.1, nn.Conv2d), ValueError, r"skip must fit .* modules, got Conv2d, a class that none has"),
        ((small(), 0.1, [nn.Embedding(1, 1)]), TypeError, r"got Embedding\(1, 1\); pass the class, Embedding"),
        ((small(), 0.1, nn.Embedding(1, 1)), TypeError, r"skip must be names, .*, got Embedding\(1, 1\)"),
        ((small(), 0.1, None), TypeError, r"skip must be names, .*, got None"),
        ((small(), 0.1, [int]), TypeError, r"skip must have names, .*, got <class 'int'>"),
        ((small(), 0.1, [3]), TypeError, r"skip must have names, .*, got 3"),
        ((nn.Sequential(nn.Linear(1, 1), nn.LazyLinear(2)), 0.1), ValueError, r"initialized, got .* '1\.weight'"),
        ((flat("_fsdp_flattened"), 0.1), ValueError, r"own shapes, got 'weight', which FullyShardedDataParallel"),
        ((flat("_is_flat_param"), 0.1), ValueError, r"own shapes, got 'weight', which FullyShardedDataParallel"),
        ((nn.DataParallel(small()), 0.1, "0"), ValueError, r"got '0', .*; for all .* module, pass '0\.\*'"),
        ((small(), 0.1, torch.ones(2)), TypeError, r"skip must be names, .*, got tensor"),
        ((small(), 0.1, b"0.weight"), TypeError, r"skip must be names, .*, got b'0\.weight'"),
        ((nn.Identity(), 0.1), ValueError, r"require gradients, got none in a Identity"),
    ],
)
def test_what_is_refused(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        no_decay_groups(*arguments)
