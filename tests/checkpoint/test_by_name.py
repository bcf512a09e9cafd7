"""Checkpoints whose parameters are in another order: each state goes to the parameter of its name."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from bits import bits
from hypothesis import given, settings
from hypothesis import strategies as st
from named import SHAPES, Groups, grouped, parameters, states, train
from torch import nn
from torch.distributed.checkpoint import state_dict as distributed
from torch_features import needs_named_parameters

from sgdr_fused import EMA, FusedAdam, FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts, LinearRamp

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("error")]

MAKERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda groups: FusedSGD(groups, lr=LinearRamp(0.1, 0.0, 9), momentum=0.9, average=EMA(0.5)),
    "adamw": lambda groups: FusedAdamW(groups, lr=CosineWarmRestarts(0.1, 3), amsgrad=True),
}


@st.composite
def regrouped(draw: st.DrawFn) -> tuple[Groups, Groups, list[int]]:
    """Groups of names; the same in another order, groups and members; and which group has become which."""
    names = draw(st.permutations(list(SHAPES)))
    cuts = sorted(draw(st.sets(st.integers(1, len(names) - 1), max_size=3)))
    before = [names[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(names)])]
    order = draw(st.permutations(range(len(before))))
    return before, [draw(st.permutations(before[i])) for i in order], list(order)


@given(found=regrouped(), maker=st.sampled_from(sorted(MAKERS)), prefixes=st.sampled_from([("", ""), ("", "module.")]))
@settings(deadline=None)
def test_any_order_of_parameters_and_groups(
    found: tuple[Groups, Groups, list[int]], maker: str, prefixes: tuple[str, str]
) -> None:
    """It goes on bit for bit as the optimizer that was saved: states, averages, rates, the groups' weight decays."""
    before, after, order = found
    decays = [0.01 * (i + 1) for i in range(len(before))]
    params = parameters(prefix=prefixes[0])
    opt = MAKERS[maker](grouped(params, [[prefixes[0] + n for n in names] for names in before], decays))
    train(opt, params, range(3))
    others = {
        prefixes[1] + name.removeprefix(prefixes[0]): nn.Parameter(p.detach().clone()) for name, p in params.items()
    }
    renamed = [[prefixes[1] + n for n in names] for names in after]
    loaded = MAKERS[maker](grouped(others, renamed, [0.5] * len(after)))
    loaded.load_state_dict(opt.state_dict())
    assert [group["param_names"] for group in loaded.param_groups] == renamed
    assert [group["weight_decay"] for group in loaded.param_groups] == [decays[i] for i in order]
    assert list(states(loaded, others).values()) == list(states(opt, params).values())
    assert int(loaded.clock) == 3
    train(opt, params, range(3, 6))
    train(loaded, others, range(3, 6))
    assert [bits(p) for p in others.values()] == [bits(p) for p in params.values()]
    assert list(states(loaded, others).values()) == list(states(opt, params).values())


@needs_named_parameters
def test_a_checkpoint_of_torch_optim() -> None:
    params, others = parameters(), parameters()
    theirs = torch.optim.Adam(list(params.items()), lr=0.1)
    train(theirs, params, range(2))
    ours = FusedAdam([(name, others[name]) for name in reversed(SHAPES)], lr=0.5)
    ours.load_state_dict(theirs.state_dict())
    for name, param in others.items():
        expected = theirs.state[params[name]]
        assert {"step", "exp_avg", "exp_avg_sq"} == set(ours.state[param])
        assert all(torch.equal(ours.state[param][key], value.double()) for key, value in expected.items())
    assert ours.param_groups[0]["lr"] == 0.1


def test_a_parameter_in_another_group_keeps_its_state_and_gets_the_groups_hyperparameters() -> None:
    params, others = parameters(), parameters()
    opt = FusedSGD(grouped(params, [["a", "b", "c.weight"], ["c.bias", "d"]], [0.1, 0.0]), lr=0.1, momentum=0.9)
    train(opt, params, range(2))
    loaded = FusedSGD(grouped(others, [["d", "b", "c.bias"], ["c.weight", "a"]], [0.0, 0.1]), lr=0.1, momentum=0.9)
    message = r"parameter 'b' is in group 0, and was in another one, group 0 of the state_dict: its state was loaded"
    with pytest.warns(UserWarning, match=message):
        loaded.load_state_dict(opt.state_dict())
    assert [group["weight_decay"] for group in loaded.param_groups] == [0.0, 0.1]
    assert states(loaded, others) == states(opt, params)


def test_a_group_without_parameters_takes_what_is_left() -> None:
    params, others = parameters(), parameters()
    opt = FusedSGD([*grouped(params, [[*SHAPES]], [0.1]), {"params": [], "param_names": [], "lr": 0.7}], momentum=0.9)
    train(opt, params, range(2))
    loaded = FusedSGD([{"params": [], "param_names": []}, *grouped(others, [[*reversed(SHAPES)]], [0.3])], momentum=0.9)
    loaded.load_state_dict(opt.state_dict())
    assert [(group["lr"], group["weight_decay"]) for group in loaded.param_groups] == [(0.7, 0), (1e-3, 0.1)]
    assert states(loaded, others) == states(opt, params)


def compiled_inside() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Linear(2, 3)))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))),
        lambda: torch.compile(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))),
        compiled_inside,
        lambda: nn.DataParallel(compiled_inside()),
    ],
    ids=["data parallel", "compiled", "compiled inside", "both"],
)
@pytest.mark.parametrize("reverse", [False, True], ids=["saved wrapped", "loaded wrapped"])
def test_names_in_wrappers(wrap: Callable[[], nn.Module], reverse: bool) -> None:
    models = [wrap(), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))]
    names = [dict(model.named_parameters()) for model in models]
    assert not set(names[0]) <= set(names[1])
    saved, own = reversed(names) if reverse else names
    opt = FusedSGD(list(saved.items()), lr=0.1, momentum=0.9)
    for i, param in enumerate(saved.values()):
        param.grad = torch.full_like(param, i + 1.0)
    opt.step()
    loaded = FusedSGD(list(reversed(own.items())), lr=0.1, momentum=0.9)
    loaded.load_state_dict(opt.state_dict())
    assert [loaded.state[p]["momentum_buffer"].unique().tolist() for p in own.values()] == [[1.0], [2.0], [3.0], [4.0]]
    assert loaded.param_groups[0]["param_names"] == list(reversed(own))


# -------------------------------------------------------------------------------------- by position


def swapped(change: Callable[[Any, Any], Any]) -> list[str]:
    """Which state the parameters b and a have after a load, where the checkpoint has a and b."""
    params, others = parameters(("a", "b")), parameters(("b", "a"))
    opt = FusedSGD(list(params.items()), lr=0.1, momentum=0.9)
    train(opt, params, range(1))
    loaded = FusedSGD(list(others.items()), lr=0.1, momentum=0.9)
    data = opt.state_dict()
    loaded.load_state_dict(change(loaded, data) or data)
    known = {bits(opt.state[param]["momentum_buffer"]): name for name, param in params.items()}
    return [known[bits(loaded.state[param]["momentum_buffer"])] for param in loaded.param_groups[0]["params"]]


def test_where_the_names_are_complete() -> None:
    assert swapped(lambda opt, data: None) == ["b", "a"]


def by_fqn(opt: Any, data: Any) -> Any:
    """As torch's distributed state dicts hand it over: in our order, with the checkpoint's param_names."""
    state = {name: data["state"][i] for i, name in enumerate(["a", "b"])}
    group = {**data["param_groups"][0], "params": ["b", "a"]}
    return {"state": {"b": state["b"], "a": state["a"]}, "param_groups": [group]}


def cut_by_fsdp(opt: Any, data: Any) -> None:
    for param in opt.param_groups[0]["params"]:
        param._fsdp_flattened = True


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda opt, data: data["param_groups"][0].pop("param_names") and None, ["a", "b"]),
        (lambda opt, data: opt.param_groups[0].pop("param_names") and None, ["a", "b"]),
        (lambda opt, data: data["param_groups"][0].update(param_names=["a", "b", "c"]), ["a", "b"]),
        (lambda opt, data: data["param_groups"][0].update(param_names=[1, 2]), ["a", "b"]),
        (cut_by_fsdp, ["a", "b"]),
        (by_fqn, ["b", "a"]),
    ],
    ids=["checkpoint without", "optimizer without", "names of others", "no names", "FSDP1", "in our order already"],
)
def test_by_position_as_before(change: Callable[[Any, Any], Any], expected: list[str]) -> None:
    assert swapped(change) == expected


def test_names_that_are_twice_in_the_same_places() -> None:
    """Two models in one optimizer may have the same names."""
    params = [("weight", param) for param in parameters(("a", "b")).values()]
    opt, loaded = (FusedSGD(params, lr=0.1, momentum=0.9) for _ in range(2))
    for t, (_, param) in enumerate(params):
        param.grad = torch.full_like(param, t + 1.0)
    opt.step()
    loaded.load_state_dict(opt.state_dict())
    assert all(torch.equal(loaded.state[p]["momentum_buffer"], opt.state[p]["momentum_buffer"]) for _, p in params)


class Network(nn.Module):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        for name, param in parameters(names).items():
            self.register_parameter(name, param)


@pytest.mark.parametrize("options", [{}, {"full_state_dict": True}, {"flatten_optimizer_state_dict": True}], ids=str)
def test_a_distributed_state_dict_in_another_order(options: Any) -> None:
    """torch matches by its own names, and leaves those of the checkpoint in its order; the next save is right too."""
    how = distributed.StateDictOptions(**options)
    network, other = Network(("a", "b", "d")), Network(("d", "b", "a"))
    opt, loaded = (FusedSGD(each.named_parameters(), lr=0.1, momentum=0.9) for each in (network, other))
    train(opt, dict(network.named_parameters()), range(2))
    expected = states(opt, dict(network.named_parameters()))
    saved = copy.deepcopy(distributed.get_optimizer_state_dict(network, opt, options=how))
    distributed.set_optimizer_state_dict(other, loaded, saved, options=how)
    assert states(loaded, dict(other.named_parameters())) == expected
    assert loaded.param_groups[0]["param_names"] == ["d", "b", "a"]
    opt.load_state_dict(loaded.state_dict())
    assert states(opt, dict(network.named_parameters())) == expected


def test_a_hook_that_adapts_the_checkpoint_to_other_names() -> None:
    """As torch's tutorial on optimizer hooks has it: what the hook returns has our names at our places."""
    params = parameters(("a", "b"))
    opt = FusedSGD(list(params.items()), lr=0.25, momentum=0.9)
    train(opt, params, range(2))
    own = {name: nn.Parameter(torch.zeros(3, dtype=torch.float64)) for name in ("x", "y")}
    loaded = FusedSGD(list(own.items()), lr=0.1, momentum=0.9)

    def adapt(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        adapted, (group,) = copy.deepcopy(optimizer.state_dict()), state_dict["param_groups"]
        adapted["param_groups"][0].update({k: v for k, v in group.items() if k not in ("params", "param_names")})
        lookup = {"x": "b", "y": "a"}
        for number, name in enumerate(optimizer.param_groups[0]["param_names"]):
            adapted["state"][number] = state_dict["state"][group["param_names"].index(lookup[name])]
        return adapted

    loaded.register_load_state_dict_pre_hook(adapt)
    loaded.load_state_dict(opt.state_dict())
    assert bits(loaded.state[own["x"]]["momentum_buffer"]) == bits(opt.state[params["b"]]["momentum_buffer"])
    assert bits(loaded.state[own["y"]]["momentum_buffer"]) == bits(opt.state[params["a"]]["momentum_buffer"])
    assert loaded.param_groups[0]["lr"] == 0.25
    assert loaded.param_groups[0]["param_names"] == ["x", "y"]
