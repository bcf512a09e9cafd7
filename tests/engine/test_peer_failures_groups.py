"""Failures that this package has had, by the number that they have in our list: what stands in groups and states.

Those of schedules, of the training tools and of memory stand in test_peer_failures_schedules.py,
test_peer_failures_training.py and test_guards.py.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections import OrderedDict
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import ALGORITHMS, DEVICE, make_params, params_of, set_gradients, train
from torch.optim import lr_scheduler as torch_schedulers

from sgdr_fused import EMA, FusedAdam, FusedAdamW, FusedLAMB, FusedRMSprop, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts, Exponential, OneCycle, Table, Triangular

SCHEDULE = CosineWarmRestarts(0.5, T_0=7, eta_min=0.01)
TIGHT = 1e-12  # a GPU's sines and powers are not the host's to the last bit
OTHER = Triangular(0.1, 0.25, step_size_up=3)


def sgd(lr: Any = SCHEDULE, sizes: tuple[int, ...] = (3,), **options: Any) -> FusedSGD:
    return FusedSGD(make_params(sizes, torch.float64), lr=lr, **{"momentum": 0.5, **options})


def rates_of(opt: Any, steps: int) -> list[float]:
    """The rates that the next steps use, read off the weights: without momentum an update is rate times gradient."""
    used = []
    for _ in range(steps):
        param = params_of(opt)[0]
        before = param.detach().clone()
        param.grad = torch.ones_like(param)
        opt.step()
        used.append(round((before - param.detach())[0].item(), 9))
    return used


def expected(schedule: Any, steps: range) -> list[float]:
    return [round(schedule(t), 9) for t in steps]


# ------------------------------------------------------------------- 21, 22: displays and their Schedules


@pytest.mark.filterwarnings("ignore:group.'lr'. had a Schedule")
@pytest.mark.parametrize("between", [0.0, torch.tensor(0.0), OTHER], ids=["number", "tensor", "schedule"])
def test_peer_21_a_display_that_is_put_back_is_its_schedule(between: Any) -> None:
    opt = sgd(momentum=0.0)
    group = opt.param_groups[0]
    assert rates_of(opt, 2) == expected(SCHEDULE, range(2))
    display = group["lr"]
    group["lr"] = between
    used = rates_of(opt, 1)
    assert used == (expected(OTHER, range(2, 3)) if between is OTHER else [0.0])
    group["lr"] = display
    assert group["lr"] is display and group["lr_schedule"] == SCHEDULE
    assert display.item() == SCHEDULE(3)  # the clock has moved meanwhile
    assert rates_of(opt, 3) == expected(SCHEDULE, range(3, 6))
    assert display.item() == SCHEDULE(6)


@pytest.mark.filterwarnings("ignore:group.'.*'. had a Schedule")
@pytest.mark.parametrize("key", ["momentum", "weight_decay"])
def test_peer_21_other_hyperparameters(key: str) -> None:
    opt = sgd(0.1, **{key: SCHEDULE})
    group = opt.param_groups[0]
    display, group[key] = group[key], 0.25
    train(opt, range(2))
    group[key] = display
    assert group[key] is display and group[f"{key}_schedule"] == SCHEDULE and display.item() == SCHEDULE(2)


@pytest.mark.filterwarnings("ignore:group.'betas'. had a Schedule")
def test_peer_21_betas() -> None:
    opt = FusedAdam(make_params((3,)), lr=0.1, betas=(SCHEDULE, 0.999))
    group = opt.param_groups[0]
    pair, group["betas"] = group["betas"], (0.5, 0.9)
    train(opt, range(2))
    group["betas"] = pair
    assert group["betas"][0] is pair[0] and group["betas_schedule"] == SCHEDULE and pair[0].item() == SCHEDULE(2)


def test_peer_21_a_display_in_another_group_brings_its_schedule() -> None:
    """Each group then has a display of its own, for the other may be given another rate."""
    one, two = make_params((3, 4), torch.float64)
    opt = FusedSGD([{"params": [one]}, {"params": [two], "lr": 0.25}], lr=SCHEDULE)
    first, second = opt.param_groups
    second["lr"] = first["lr"]
    assert second["lr_schedule"] == SCHEDULE and second["lr"] is not first["lr"]
    train(opt, range(3))
    assert [group["lr"].item() for group in (first, second)] == pytest.approx([SCHEDULE(3)] * 2, rel=TIGHT)
    with pytest.warns(UserWarning, match="had a Schedule"):
        first["lr"] = 0.125
    train(opt, range(3, 5))
    assert first["lr"] == 0.125 and second["lr"].item() == SCHEDULE(5)


@pytest.mark.filterwarnings("ignore:group.'lr'. had a Schedule")
@pytest.mark.once
def test_peer_21_as_torch_distributed_does() -> None:
    """torch.distributed.checkpoint.state_dict._init_optim_state, in its own words: pytorch#164929."""
    opt = sgd()
    lrs = []
    for group in opt.param_groups:
        lrs.append(group["lr"])
        group["lr"] = torch.tensor(0.0) if isinstance(group["lr"], torch.Tensor) else 0.0
    set_gradients(params_of(opt), 0)
    opt.step(closure=None)
    for group in opt.param_groups:
        group["lr"] = lrs.pop(0)
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE
    assert opt.param_groups[0]["lr"].item() == SCHEDULE(int(opt.clock))


def _multiply(group: Any, key: str) -> None:
    group[key] *= 0.1


def _subtract(group: Any, key: str) -> None:
    group[key] -= 0.1


def _fill(group: Any, key: str) -> None:
    display = group[key]
    display.fill_(0.25)
    group[key] = display


def _by_update(group: Any, key: str) -> None:
    group.update({key: group[key].mul_(0.5)})


@pytest.mark.parametrize("write", [_multiply, _subtract, _fill, _by_update])
@pytest.mark.parametrize("key", ["lr", "momentum", "weight_decay"])
def test_peer_22_a_display_that_was_written_is_refused_where_it_is_assigned(key: str, write: Any) -> None:
    opt = sgd(**{"lr": 0.1, key: SCHEDULE})
    train(opt, range(2))
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match=rf'0\.1 \* g\["{key}_schedule"\]'):
        write(opt.param_groups[0], key)
    assert opt.param_groups[0][key].item() == SCHEDULE(2)  # as before
    assert snapshot(opt) == before
    train(opt, range(2, 4))
    assert opt.param_groups[0][key].item() == SCHEDULE(4)


def test_peer_22_a_copy_that_was_written_is_refused_too() -> None:
    opt = sgd()
    group = copy.deepcopy(opt.param_groups[0])
    group["lr"] *= 0.1
    with pytest.raises(RuntimeError, match="was written in place"):
        opt.param_groups = [{**group, "params": params_of(opt)}]
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE


def test_peer_22_what_the_error_names_works() -> None:
    opt = sgd(momentum=0.0)
    group = opt.param_groups[0]
    group["lr"] = 0.1 * group["lr_schedule"]
    assert rates_of(opt, 3) == expected(0.1 * SCHEDULE, range(3))


def test_a_number_in_place_of_a_schedule_warns_once_a_group() -> None:
    one, two = make_params((3, 4))
    opt = FusedSGD([{"params": [one]}, {"params": [two]}], lr=SCHEDULE, weight_decay=OTHER)
    for group in opt.param_groups:
        with pytest.warns(UserWarning, match=r'0\.1 \* g\["lr_schedule"\]') as caught:
            group["lr"] = group["lr"] * 0.1
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            group["lr"] = 0.2
            group["weight_decay"] = 0.0
            group["lr"] = SCHEDULE
            group["lr"] = 0.3
    assert [group["lr_schedule"] for group in opt.param_groups] == [None, None]


def test_a_warning_that_is_an_error_changes_nothing() -> None:
    opt = sgd()
    before = snapshot(opt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="had a Schedule"):
            opt.param_groups[0]["lr"] = 0.1
    assert snapshot(opt) == before and opt.param_groups[0]["lr_schedule"] == SCHEDULE


# ----------------------------------------------------------------------- 23: negative rates of torch's schedulers


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("fused", [FusedSGD, FusedAdam])
@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch_schedulers.OneCycleLR(o, 0.1, total_steps=200, anneal_strategy="linear"),
        lambda o: torch_schedulers.LinearLR(o, start_factor=0.3, end_factor=0.0, total_iters=199),
        lambda o: torch_schedulers.LambdaLR(o, lambda t: 1 - t / 100),
    ],
    ids=["OneCycleLR", "LinearLR", "LambdaLR"],
)
def test_peer_23_a_scheduler_that_dips_below_zero(fused: Any, make: Any) -> None:
    algorithm = next(a for a in ALGORITHMS.values() if a.fused is fused)
    params, theirs = make_params((3,), torch.float64), make_params((3,), torch.float64)
    ours, peer = fused(params, lr=0.1), algorithm.torch(theirs, lr=0.1, foreach=False)
    schedulers = make(ours), make(peer)
    lowest = 0.0
    for t in range(201):
        for opt, each in ((ours, params), (peer, theirs)):
            set_gradients(each, t)
            opt.step()
        if t < 200:  # the last of them brings the rate below 0
            for scheduler in schedulers:
                scheduler.step()
        lowest = min(lowest, ours.param_groups[0]["lr"])
        assert ours.param_groups[0]["lr"] == peer.param_groups[0]["lr"]
    assert lowest < 0.0
    assert torch.allclose(params[0], theirs[0], rtol=1e-11, atol=0)  # 200 steps' rounding
    fused(make_params((3,), torch.float64), lr=0.1).load_state_dict(peer.state_dict())
    with pytest.raises(ValueError, match=r"lr must be finite and >= 0, got -0\.5"):
        ours.add_param_group({"params": make_params((4,)), "lr": -0.5})
    with pytest.raises(ValueError, match="lr must be finite, got nan"):
        ours.param_groups[0]["lr"] = math.nan


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
    """In torch they are one dict. So is the clock that a displayed rate goes by: of the last step."""
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


# --------------------------------------------------------------------------- 32, 33, 38, 43, 44


@pytest.mark.once
def test_peer_32_a_default_device_decides_on_nothing_of_ours() -> None:
    params = make_params((3,), torch.float64)
    gradient = torch.ones_like(params[0])
    low = make_params((3,), torch.bfloat16)
    with torch.device("meta"):
        opt = FusedAdam(params, lr=SCHEDULE, max_grad_norm=1.0, stochastic_rounding=False, average=EMA(0.9))
        params[0].grad = gradient
        for _ in range(3):
            opt.step()
        state = opt.state_dict()
        opt.load_state_dict(state)
        rates = opt.get_last_lr()
        again = pickle.loads(pickle.dumps(opt))
        FusedSGD(low, lr=0.1, stochastic_rounding=True)
    assert rates == [SCHEDULE(3)] and int(opt.clock) == int(again.clock) == 3
    tensors = [value for entry in state["state"].values() for value in entry.values()]
    tensors += [opt.clock, opt.grad_norm, opt.n_averaged, state["param_groups"][0]["clock"]]
    assert {tensor.device.type for tensor in tensors} <= {"cpu", DEVICE.type}


def test_peer_33_another_schedule_in_the_checkpoint_is_said_once() -> None:
    source = sgd(OTHER, weight_decay=OTHER)
    train(source, range(2))
    opt = sgd(SCHEDULE)
    with pytest.warns(UserWarning, match="takes the place of CosineWarmRestarts") as caught:
        opt.load_state_dict(source.state_dict())
    assert len(caught) == 1 and caught[0].filename == __file__
    assert opt.param_groups[0]["lr_schedule"] == OTHER
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.load_state_dict(source.state_dict())  # the same
        sgd(0.1).load_state_dict(source.state_dict())  # none before
    with pytest.warns(UserWarning, match="takes the place of"):
        opt.load_state_dict(sgd(0.1).state_dict())


def _data(opt: Any, value: int) -> None:
    opt.clock.data = torch.tensor(value, device=DEVICE)


def _set_item(opt: Any, value: int) -> None:
    opt.clock[()] = value


def _in_place(opt: Any, value: int) -> None:
    clock = opt.clock
    clock += value - int(clock)


CLOCK_WRITES = [
    lambda opt, value: opt.clock.fill_(value),
    lambda opt, value: opt.clock.copy_(torch.tensor(value)),
    lambda opt, value: torch.add(torch.tensor(value, device=DEVICE), 0, out=opt.clock),
    lambda opt, value: torch._foreach_add_([opt.clock], [value - int(opt.clock)]),
    _data,
    _set_item,
    _in_place,
]


@pytest.mark.parametrize("write", CLOCK_WRITES, ids=["fill", "copy", "out", "foreach", "data", "setitem", "iadd"])
@pytest.mark.parametrize("schedule", [SCHEDULE, Table([0.5, 0.25, 0.125])], ids=["cosine", "table"])
def test_peer_38_the_clock_takes_steps_alone(schedule: Any, write: Any) -> None:
    opt = sgd(schedule, momentum=0.0)
    rates_of(opt, 2)
    write(opt, 5)
    assert int(opt.clock) == 5 and opt.get_last_lr() == [schedule(5)]
    for wrong in (-1, -(10**13), 2**61 + 1, -(2**62)):
        with pytest.raises(ValueError, match=rf"clock must be in \[0, 2\*\*61\], got {wrong}"):
            write(opt, wrong)
        assert int(opt.clock) == 5 and opt.get_last_lr() == [schedule(5)]
    assert rates_of(opt, 2) == expected(schedule, range(5, 7))
    write(opt, 2**61)
    assert opt.get_last_lr() == [schedule(2**61)]


@pytest.mark.parametrize("attribute", ["clock", "grad_norm", "n_averaged"])
def test_peer_34_what_a_user_can_reach_may_move(attribute: str) -> None:
    opt, twin = (sgd(max_grad_norm=10.0, average=EMA(0.5)) for _ in range(2))
    for each in (opt, twin):
        train(each, range(2))
    getattr(opt, attribute).share_memory_()
    opt.param_groups[0]["lr"].share_memory_()
    for each in (opt, twin):
        train(each, range(2, 5))
    assert snapshot(opt) == snapshot(twin)
    assert opt.get_last_lr() == twin.get_last_lr() == [SCHEDULE(5)]
    assert int(opt.n_averaged) == int(twin.n_averaged) == 5 and bits(opt.grad_norm) == bits(twin.grad_norm)


@pytest.mark.once
def test_peer_43_errors_are_named_early_and_short() -> None:
    opt = sgd()
    train(opt, range(2))
    state = opt.state_dict()
    before = snapshot(opt)
    without = {**state, "param_groups": [{k: v for k, v in state["param_groups"][0].items() if k != "params"}]}
    with pytest.raises(ValueError, match="group 0 of the state_dict must be a dict with a list 'params'"):
        opt.load_state_dict(without)
    with pytest.raises(TypeError, match="maximize must be True or False, got 'yes'"):
        opt.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], "maximize": "yes"}]})
    with pytest.raises(TypeError, match="nesterov must be True or False, got 'yes'"):
        opt.param_groups[0]["nesterov"] = "yes"
    huge = {**state, "param_groups": [{**state["param_groups"][0], "lr": "x" * 10**6, "lr_schedule": None}]}
    with pytest.raises(TypeError, match="lr must be") as caught:
        opt.load_state_dict(huge)
    assert len(str(caught.value)) < 1000
    wide = {0: {"momentum_buffer": torch.zeros(1, dtype=torch.float64).expand(2**40)}}
    with pytest.raises(ValueError, match="momentum_buffer"):
        opt.load_state_dict({**state, "state": wide})
    unknown = {0: {**state["state"][0], "of_a_hook": torch.zeros(1).expand(2**40)}}
    with pytest.raises(ValueError, match="must have memory for each element"):
        opt.load_state_dict({**state, "state": unknown})
    assert snapshot(opt) == before
    averaged = sgd(average="cycle")
    train(averaged, range(2))
    del averaged.param_groups[0]
    with pytest.raises(ValueError, match="needs a Schedule for lr"):
        averaged.step()
    for key in ("lr", "params", "dampening"):
        opt = sgd()
        opt.param_groups[0].pop(key)
        with pytest.raises(ValueError, match=rf"lacks \['{key}'\]|must have 'params'"):
            opt.step()


@pytest.mark.parametrize("max_grad_value", [None, 4.0])
def test_peer_44_an_infinite_bound_only_measures(max_grad_value: float | None) -> None:
    opt, twin = (sgd(0.1, max_grad_value=max_grad_value, **options) for options in ({"max_grad_norm": math.inf}, {}))
    for each in (opt, twin):
        for param in params_of(each):
            param.grad = torch.tensor([1.0, math.inf, 2.0], dtype=torch.float64, device=DEVICE)
        each.step()
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(twin)]
    assert opt.grad_norm.item() == (math.inf if max_grad_value is None else math.sqrt(1 + 16 + 4))


@pytest.mark.parametrize("fused", [FusedSGD, FusedAdam])
def test_peer_44_the_first_step_leaves_everything(fused: Any) -> None:
    opt = fused(make_params((3,), torch.float64), lr=SCHEDULE, error_if_nonfinite=True, average=EMA(0.5))
    param = params_of(opt)[0]
    param.grad = torch.full_like(param, math.nan)
    before = bits(param)
    with pytest.raises(RuntimeError, match="the step was not taken"):
        opt.step()
    assert not opt.state and bits(param) == before and int(opt.clock) == 0
    twin = fused(make_params((3,), torch.float64), lr=SCHEDULE, error_if_nonfinite=True, average=EMA(0.5))
    for each in (opt, twin):
        train(each, range(3))
    assert snapshot(opt) == snapshot(twin)


# ---------------------------------------------------------------------------------- without a number


@pytest.mark.parametrize(
    ("make", "loads"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), FusedAdam),
        (lambda p: torch.optim.Adam(p, lr=0.1), FusedSGD),
        (lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9), FusedSGD),
        (lambda p: FusedRMSprop(p, lr=0.1, momentum=0.9), FusedSGD),
        (lambda p: FusedSGD(p, lr=0.1, momentum=0.9), FusedRMSprop),
        (lambda p: torch.optim.Adamax(p, lr=0.1), FusedAdam),
        (lambda p: torch.optim.NAdam(p, lr=0.1), FusedAdamW),
    ],
    ids=["sgd-adam", "adam-sgd", "rmsprop-sgd", "ours-rmsprop-sgd", "ours-sgd-rmsprop", "adamax-adam", "nadam-adamw"],
)
def test_a_checkpoint_of_another_algorithm_is_refused(make: Any, loads: Any) -> None:
    source = make(make_params((3,)))
    train(source, range(2))
    opt = loads(make_params((3,)), lr=0.1)
    train(opt, range(1))
    before = snapshot(opt)
    name = "Fused" + type(source).__name__.removeprefix("Fused")
    with pytest.raises(ValueError, match=rf"must be of {loads.__name__}, got one of .*{name}"):
        opt.load_state_dict(source.state_dict())
    assert snapshot(opt) == before


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, FusedAdam, FusedLAMB])
@pytest.mark.parametrize("loads", [FusedAdam, FusedAdamW, FusedLAMB])
def test_checkpoints_go_from_one_form_of_adam_to_another(make: Any, loads: Any) -> None:
    source = make(make_params((3,)), lr=0.1)
    train(source, range(2))
    opt = loads(make_params((3,)), lr=0.1)
    opt.load_state_dict(source.state_dict())
    assert bits(opt.state[params_of(opt)[0]]["exp_avg"]) == bits(source.state[params_of(source)[0]]["exp_avg"])


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_algorithm_knows_its_own_checkpoints(name: str) -> None:
    algorithm = ALGORITHMS[name]
    for make in (algorithm.fused, algorithm.torch):
        source = make(make_params((3,)), lr=0.1)
        train(source, range(2))
        algorithm.fused(make_params((3,)), lr=0.1).load_state_dict(source.state_dict())


def test_last_rates_are_numbers() -> None:
    import json

    one, two = make_params((3, 4))
    opt = FusedSGD([{"params": [one]}, {"params": [two], "lr": 0.25}], lr=SCHEDULE)
    history = []
    for t in range(4):
        history.append(opt.get_last_lr())
        train(opt, range(t, t + 1))
    read = json.loads(json.dumps(history))
    assert read == [pytest.approx([SCHEDULE(t), 0.25], rel=TIGHT) for t in range(4)]


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_past_the_end_of_a_schedule_it_warns_once() -> None:
    lr, momentum = OneCycle(0.1, total_steps=5)
    opt = sgd(lr, momentum=momentum)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(opt, range(5))
    with pytest.warns(UserWarning, match=r"step 5 is past the end of OneCycle.*epochs") as caught:
        train(opt, range(5, 6))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(opt, range(6, 12))
        plateau = sgd(Exponential(0.1, 0.5))
        train(plateau, range(12))


def test_past_the_end_skipped_steps_do_not_count() -> None:
    lr, _ = OneCycle(0.1, total_steps=3)
    opt = sgd(lr)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t, found_inf in enumerate((0.0, 1.0, 1.0, 0.0, 0.0)):
            opt.found_inf = torch.tensor(found_inf, device=DEVICE)
            train(opt, range(t, t + 1))
    assert int(opt.clock) == 3
    with pytest.warns(UserWarning, match="step 3 is past the end"):
        train(opt, range(5, 6))


def test_the_clock_cannot_be_replaced() -> None:
    opt = sgd()
    with pytest.raises(TypeError, match=r"opt\.clock\.fill_\(5\)"):
        opt.clock = 5


@pytest.mark.once
def test_representation() -> None:
    opt = sgd(max_grad_norm=1.0, average=EMA(0.5))
    train(opt, range(2))
    text = repr(opt)
    for shown in (f"lr: {SCHEDULE!r}", "max_grad_norm: 1.0", "average: EMA(decay=0.5)", "clock: 2", "momentum: 0.5"):
        assert shown in text
    assert "_schedule" not in text and "skip_nonfinite" not in text
