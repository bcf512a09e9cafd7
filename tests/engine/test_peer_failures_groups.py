"""Failures that this package has had, by the number that they have in our list: what stands in groups and states.

Those of schedules, of the training tools and of memory stand in test_peer_failures_schedules.py,
test_peer_failures_training.py and test_guards.py.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, make_params, params_of, set_gradients, train
from rates import OTHER, SCHEDULE, TIGHT, expected, rates_of, sgd

from sgdr_fused import FusedSGD

pytestmark = pytest.mark.untracked

# ------------------------------------------------------------------------------ 24: a step without any gradient


@pytest.mark.parametrize("found_inf", [0, 0.0, torch.tensor(0.0)], ids=["int", "float", "tensor"])
def test_peer_24_found_inf_of_no_gradient_at_all(found_inf: Any) -> None:
    """GradScaler sums up an empty list: accelerate#328."""
    opt = sgd(0.1)
    before = [bits(p) for p in params_of(opt)]
    opt.grad_scale, opt.found_inf = torch.tensor(1024.0, device=DEVICE), found_inf
    opt.step()
    assert [bits(p) for p in params_of(opt)] == before
    opt.found_inf = 1  # a number that says no
    set_gradients(params_of(opt), 0)
    opt.step()
    assert [bits(p) for p in params_of(opt)] == before


# ------------------------------------------------------------- 25, 26, 36, 37: copies and aliases of mappings


@pytest.mark.parametrize("other", [False, True], ids=["onto_itself", "onto_another"])
def test_peer_25_entries_copied_one_by_one(other: bool) -> None:
    one, two = make_params((3, 4), torch.float64)
    opt = FusedSGD([{"params": [one]}, {"params": [two], "lr": 0.25}], lr=SCHEDULE, momentum=OTHER)
    source = opt.param_groups[0]
    target = opt.param_groups[int(other)]
    for key in source:
        if key != "params":
            target[key] = source[key]
    assert (target["lr_schedule"], target["momentum_schedule"]) == (SCHEDULE, OTHER)
    train(opt, range(3))
    assert opt.get_last_lr() == pytest.approx([SCHEDULE(3), SCHEDULE(3) if other else 0.25], rel=TIGHT)
    with pytest.raises(ValueError, match="read-only"):
        target["lr_schedule"] = OTHER


@pytest.mark.parametrize(
    "rebuild",
    [
        lambda v: type(v)(OrderedDict(v)),
        lambda v: type(v)(v.items()),
        lambda v: type(v)(**{str(k): x for k, x in v.items()}) if all(isinstance(k, str) for k in v) else type(v)(v),
        copy.copy,
        copy.deepcopy,
        lambda v: pickle.loads(pickle.dumps(v)),
        lambda v: v | {},
    ],
    ids=["type", "items", "keywords", "copy", "deepcopy", "pickle", "union"],
)
def test_peer_26_mappings_are_rebuilt_as_dicts_are(rebuild: Any) -> None:
    """Lightning#11741: containers are rebuilt by their type."""
    opt, twin = sgd(), sgd()
    for each in (opt, twin):
        train(each, range(3))
    params = params_of(opt)
    state = {param: rebuild(opt.state[param]) for param in params}
    assert all(isinstance(each, dict) and each.keys() == {"momentum_buffer"} for each in state.values())
    opt.state = type(opt.state)(dict, state)
    opt.param_groups = [{**rebuild(group), "params": group["params"]} for group in opt.param_groups]
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE
    for each in (opt, twin):
        train(each, range(3, 7))
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(twin)]
    assert type(opt.state[params[0]]).fromkeys(["a"], 1) == {"a": 1}
    assert type(opt.param_groups[0]).fromkeys(["a"], 1) == {"a": 1}


def test_peer_36_another_value_beats_a_copied_schedule_key() -> None:
    opt = sgd(momentum=0.0)
    group = opt.param_groups[0]
    with pytest.warns(UserWarning, match="had a Schedule"):
        opt.param_groups = [{**group, "lr": 0.5}]
    assert opt.param_groups[0]["lr_schedule"] is None
    assert rates_of(opt, 2) == [0.5, 0.5]

    opt = sgd(momentum=0.0)
    opt.param_groups[0] = {**opt.param_groups[0], "lr": OTHER}
    with pytest.warns(UserWarning, match="had a Schedule"):
        assert rates_of(opt, 2) == expected(OTHER, range(2))

    opt = sgd(momentum=0.0)
    opt.param_groups[0] = {**opt.param_groups[0], "weight_decay": 0.0}  # the display goes with its Schedule
    assert rates_of(opt, 2) == expected(SCHEDULE, range(2))
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE


def test_peer_37_the_users_dict_is_the_group() -> None:
    params = make_params((3,), torch.float64)
    groups: list[dict[str, Any]] = [{"params": params, "lr": 1.0}]
    opt = FusedSGD(groups)
    assert groups[0]["momentum"] == 0  # completed, as by torch
    groups[0]["lr"] = 10.0
    assert opt.param_groups[0]["lr"] == 10.0
    assert rates_of(opt, 1) == [10.0]
    for rate in (0.5, 0.25):
        groups[0]["lr"] = rate
        assert rates_of(opt, 1) == [rate]
    groups[0].update(lr=SCHEDULE)
    assert rates_of(opt, 1) == expected(SCHEDULE, range(3, 4))
    assert groups[0]["lr"].item() == SCHEDULE(4)
    opt.param_groups[0]["lr"] = OTHER
    assert groups[0]["lr_schedule"] == OTHER
    groups[0]["params"] = make_params((4,), torch.float64, seed=3)
    assert rates_of(opt, 1) == expected(OTHER, range(4, 5))
    groups[0]["lr"] = "fast"
    before = bits(params_of_dict := groups[0]["params"][0])
    with pytest.raises(TypeError, match="lr must be a number"):
        opt.step()
    assert bits(params_of_dict) == before


def test_peer_37_groups_that_two_optimizers_share() -> None:
    """In torch they share one dict. A displayed rate goes by the clock of the optimizer that stepped last."""
    one = sgd(0.5, momentum=0.0)
    two = FusedSGD(one.param_groups)
    two.param_groups[0]["lr"] = 0.125
    assert one.param_groups[0] is two.param_groups[0]
    assert rates_of(one, 1) == [0.125] and rates_of(two, 1) == [0.125]
    one.param_groups[0]["lr"] = 0.25
    assert rates_of(one, 1) == [0.25] and rates_of(two, 1) == [0.25]


class Outer(torch.optim.Optimizer):
    """A wrapper that shares groups with its base, as SAM's does."""

    def __init__(self, params: Any, base: Any, **arguments: Any) -> None:
        super().__init__(params, dict(arguments))
        self.base = base(self.param_groups, **arguments)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)

    def step(self, closure: Any = None) -> None:
        self.base.step()

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base.param_groups = self.param_groups


def test_peer_37_a_wrapper_whose_groups_were_loaded() -> None:
    opt = Outer(make_params((3,), torch.float64), FusedSGD, lr=0.5)
    opt.param_groups[0]["lr"] = 0.25
    assert rates_of(opt, 1) == [0.25]
    opt.load_state_dict(opt.state_dict())
    for rate in (0.125, 0.75):
        opt.param_groups[0]["lr"] = rate
        assert rates_of(opt, 1) == [rate]
    opt.add_param_group({"params": make_params((4,), torch.float64, seed=1), "lr": 0.25})
    assert rates_of(opt, 1) == [0.75]
    with_schedule = Outer(make_params((3,), torch.float64), FusedSGD, lr=SCHEDULE)
    assert rates_of(with_schedule, 2) == expected(SCHEDULE, range(2))
    with_schedule.load_state_dict(with_schedule.state_dict())
    assert rates_of(with_schedule, 2) == expected(SCHEDULE, range(2, 4))


def test_peer_37_a_state_that_the_user_holds() -> None:
    opt, twin = sgd(0.1), sgd(0.1)
    for each in (opt, twin):
        train(each, range(2))
    param = params_of(opt)[0]
    mine = {"momentum_buffer": torch.full_like(param, 2.0)}
    opt.state[param] = mine
    twin.state[params_of(twin)[0]] = {"momentum_buffer": torch.full_like(param, 3.0)}
    opt.step()
    assert not torch.equal(mine["momentum_buffer"], torch.full_like(param, 2.0))  # the step wrote to it
    params_of(opt)[0].data.copy_(params_of(twin)[0].data)
    mine["momentum_buffer"] = torch.full_like(param, 3.0)
    for each in (opt, twin):
        train(each, range(2, 4))
    assert bits(params_of(opt)[0]) == bits(params_of(twin)[0])


# ------------------------------------------------------------------------- 27 to 29: parameters


def test_peer_27_parameters_that_were_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.__future__, "_swap_module_params_on_conversion", True
    )  # else the module gets other parameters
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).to("meta")
    opt = FusedSGD(model.parameters(), lr=SCHEDULE)
    assert opt.get_last_lr() == [SCHEDULE(0)]
    model.to_empty(device=DEVICE)
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(1.0)
            param.grad = torch.ones_like(param)
    opt.step()
    assert opt.param_groups[0]["lr"].device.type == DEVICE.type and opt.get_last_lr() == [SCHEDULE(1)]
    assert all(torch.all(param == 1.0 - SCHEDULE(0)) for param in model.parameters())


@pytest.mark.once
def test_peer_28_a_parameter_in_two_places_is_numbered_by_the_first() -> None:
    params = make_params((3, 4))
    ours, theirs = FusedSGD(params, lr=0.1), torch.optim.SGD(params, lr=0.1)
    for opt in (ours, theirs):
        opt.param_groups[0]["params"] += [params[0]]
        opt.param_groups.append({**opt.param_groups[0], "params": [params[1]]})
    numbers = [[g["params"] for g in opt.state_dict()["param_groups"]] for opt in (ours, theirs)]
    assert numbers[0] == numbers[1]


def test_peer_29_a_parameter_twice_in_a_group() -> None:
    """torch goes on, and updates it twice. Ours updates it once, and says so."""
    (param,), (alone,) = make_params((3,), torch.float64), make_params((3,), torch.float64)
    with pytest.warns(UserWarning, match="a step updates it once") as caught:
        opt = FusedSGD([param, param], lr=0.1, momentum=0.9)
    assert caught[0].filename == __file__
    twin = FusedSGD([alone], lr=0.1, momentum=0.9)
    for t in range(3):
        set_gradients([param], t)
        set_gradients([alone], t)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opt.step()
        twin.step()
    assert bits(param) == bits(alone)
    assert opt.state_dict()["param_groups"][0]["params"] == [1, 1]  # as torch numbers them
    fresh = torch.optim.SGD([{"params": [alone]}], lr=0.1)
    fresh.param_groups[0]["params"] = [alone, alone]
    fresh.load_state_dict(opt.state_dict())
    opt.param_groups.append({**opt.param_groups[0], "params": [param]})
    with pytest.raises(ValueError, match="in the groups twice, in group 0 and in group 1"):
        opt.step()
