"""What frameworks do to the optimizers that they are given, each habit named after the one that has it.

The stand-ins do what the framework's code does, with nothing else of it. torch's optimizer goes first through each, so
that a stand-in that asks too much is noticed.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, make_params, params_of, set_gradients, train
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as distributed
from torch.optim import lr_scheduler

from sgdr_fused import FusedAdam, FusedAdamW, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

SCHEDULE = CosineWarmRestarts(0.1, T_0=3, eta_min=0.01)
SIZES = ((5, 4), 5, 3)
PAIRS = {"sgd": (partial(torch.optim.SGD, momentum=0.9), partial(FusedSGD, momentum=0.9)),
         "adam": (torch.optim.Adam, FusedAdam)}  # fmt: skip
KINDS = ["torch", "number", "schedule"]


def made(kind: str, name: str = "sgd", params: Any = None) -> Any:
    theirs, ours = PAIRS[name]
    params = make_params(SIZES, torch.float64) if params is None else params
    return theirs(params, lr=0.1) if kind == "torch" else ours(params, lr=SCHEDULE if kind == "schedule" else 0.1)


def assert_same_course(opt: Any, other: Any, steps: range) -> None:
    """Both go on alike: whatever was done to the one has changed nothing."""
    for each in (opt, other):
        train(each, steps)
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(other)]
    if hasattr(opt, "clock"):
        assert opt.get_last_lr() == other.get_last_lr()
        assert int(opt.clock) == int(other.clock)


def assert_unharmed(habit: Callable[[Any], Any], kind: str, name: str = "sgd") -> None:
    """After three steps the habit, then three more: as without it."""
    opt, other = made(kind, name), made(kind, name)
    for each in (opt, other):
        train(each, range(3))
    habit(opt)
    assert_same_course(opt, other, range(3, 6))


# ---- containers that are taken apart and put together again


def collected(data: Any, function: Callable[[Tensor], Any]) -> Any:
    """Lightning's apply_to_collection: every container is rebuilt by its own type (Lightning#11741)."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, Mapping):
        rebuilt = [(key, collected(value, function)) for key, value in data.items()]
        if isinstance(data, defaultdict):
            return defaultdict(data.default_factory, OrderedDict(rebuilt))
        return type(data)(OrderedDict(rebuilt))
    if isinstance(data, (list, tuple)):
        return type(data)([collected(value, function) for value in data])
    return data


def _lightning_moves_states(opt: Any) -> None:
    """Lightning's _optimizer_to_device."""
    for param, state in opt.state.items():
        opt.state[param] = collected(state, lambda tensor: tensor.to(DEVICE).clone())


def _lightning_reads_everything(opt: Any) -> None:
    assert len(collected(opt.state, lambda tensor: tensor)) == len(SIZES)
    assert collected(opt.param_groups, lambda tensor: tensor)[0]["lr"] is not None


REBUILDS: dict[str, Callable[[Any], Any]] = {
    "by_type": lambda mapping: type(mapping)(dict(mapping)),
    "by_type_of_items": lambda mapping: type(mapping)(mapping.items()),
    "by_type_of_generator": lambda mapping: mapping.__class__((key, value) for key, value in mapping.items()),
    "by_type_then_update": lambda mapping: filled(type(mapping)(), mapping),
    "copy": copy.copy,
    "copy_method": lambda mapping: mapping.copy(),
    "deepcopy": copy.deepcopy,
    "comprehension": lambda mapping: dict(mapping.items()),
    "union": lambda mapping: mapping | {},
    "reverse_union": lambda mapping: {} | mapping,
    "fromkeys": lambda mapping: type(mapping).fromkeys(mapping),
}


def filled(empty: Any, mapping: Any) -> Any:
    for key, value in mapping.items():
        empty[key] = value
    return empty


def _parts(opt: Any) -> list[Any]:
    return [*opt.state.values(), *opt.param_groups]


@pytest.mark.parametrize("rebuild", REBUILDS.values(), ids=REBUILDS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_mappings_are_rebuilt_as_dicts_are(kind: str, rebuild: Any) -> None:
    def habit(opt: Any) -> None:
        for part in _parts(opt):
            rebuilt = rebuild(part)
            assert isinstance(rebuilt, dict)
            assert list(rebuilt) == list(part)
            rebuilt.clear()  # and is another, of which nobody hears

    assert_unharmed(habit, kind)


@pytest.mark.parametrize("rebuild", [r for r in REBUILDS if r not in ("fromkeys", "deepcopy")])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_mappings_are_put_back(kind: str, name: str, rebuild: str) -> None:
    def habit(opt: Any) -> None:
        for param in list(opt.state):
            opt.state[param] = REBUILDS[rebuild](opt.state[param])
        for i, group in enumerate(opt.param_groups):
            opt.param_groups[i] = REBUILDS[rebuild](group)

    assert_unharmed(habit, kind, name)


def _entries_onto_themselves(opt: Any) -> None:
    for group in opt.param_groups:
        for key in group:
            group[key] = group[key]
        for key, value in list(group.items()):
            group[key] = value
        group.update(group)
        group.update(dict(group))


def _groups_onto_themselves(opt: Any) -> None:
    opt.param_groups = [{**group} for group in opt.param_groups]
    opt.param_groups = list(opt.param_groups)


HABITS = [_lightning_moves_states, _lightning_reads_everything, _entries_onto_themselves, _groups_onto_themselves]


@pytest.mark.parametrize("habit", HABITS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_habit(kind: str, name: str, habit: Any) -> None:
    assert_unharmed(habit, kind, name)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_onto_another_optimizer(kind: str) -> None:
    """fastai's and others' way to hand hyperparameters on, key by key; a Schedule goes with its display."""
    opt, other, expected = made(kind), made("torch" if kind == "torch" else "number"), made(kind)
    train(opt, range(2))
    for key in opt.param_groups[0]:
        if key != "params":
            other.param_groups[0][key] = opt.param_groups[0][key]
    if kind == "schedule":
        assert other.param_groups[0]["lr_schedule"] == SCHEDULE
        assert other.get_last_lr() == [SCHEDULE(0)]  # of its own clock
    assert_same_course(other, expected, range(3))


# ---- wrappers that share groups


class SAM(torch.optim.Optimizer):
    """The widespread wrapper of sharpness-aware minimization (davda54/sam), but for its two steps."""

    def __init__(self, params: Any, base: Any, **hypers: Any) -> None:
        super().__init__(params, {"rho": 0.05, **hypers})
        self.base = base(self.param_groups, **hypers)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base.step()

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base.param_groups = self.param_groups


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
@pytest.mark.parametrize("loaded", [False, True])
def test_sam(make: Any, loaded: bool) -> None:
    """Rates that are set on the wrapper reach the optimizer inside, before and after a load."""
    params = make_params(SIZES, torch.float64)
    opt = SAM(params, make, lr=0.1)
    train(opt, range(2))
    if loaded:
        opt.load_state_dict(opt.state_dict())
    for rate, moves in ((0.0, False), (0.5, True), (0.0, False)):
        before = [bits(p) for p in params]
        opt.param_groups[0]["lr"] = rate
        set_gradients(params, 3)
        opt.step()
        assert (before != [bits(p) for p in params]) == moves
        assert opt.base.param_groups[0]["lr"] == rate
    extra = nn.Parameter(torch.zeros(3, dtype=torch.float64, device=DEVICE))
    opt.add_param_group({"params": [extra], "lr": 2.0})
    extra.grad = torch.ones_like(extra)
    opt.step()
    assert extra.tolist() == [-2.0] * 3


class Lookahead:
    """timm's and others' wrapper: no optimizer itself, it holds the other's groups and state."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults

    def step(self) -> None:
        self.base.step()


@pytest.mark.parametrize("kind", KINDS)
def test_lookahead(kind: str) -> None:
    opt = made(kind)
    wrapper = Lookahead(opt)
    train(opt, range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ours says once that the Schedule is gone
        wrapper.param_groups[0]["lr"] = 0.0
    before = [bits(p) for p in params_of(opt)]
    set_gradients(params_of(opt), 2)
    wrapper.step()
    assert before == [bits(p) for p in params_of(opt)]
    assert set(wrapper.state) == set(params_of(opt))


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
def test_dicts_that_the_user_keeps(make: Any) -> None:
    """ZeroRedundancyOptimizer and averaging wrappers keep the dicts that they hand over, and write to them."""
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64, device=DEVICE))
    groups = [{"params": [p], "lr": 1.0}]
    opt = make(groups, lr=0.1)
    assert opt.param_groups[0] is groups[0]
    p.grad = torch.ones_like(p)
    for rate in (10.0, 100.0):
        groups[0]["lr"] = rate
        opt.step()
    assert p.tolist() == [-110.0] * 2
    other = make(opt.param_groups, lr=0.1)  # two optimizers over one group, as with wrappers
    opt.param_groups[0]["lr"] = 1000.0
    other.step()
    assert p.tolist() == [-1110.0] * 2
    other.param_groups[0]["lr"] = 1.0
    opt.step()
    assert p.tolist() == [-1111.0] * 2


# ---- frameworks' schedules


@pytest.mark.parametrize("make", [torch.optim.AdamW, FusedAdamW])
def test_timm_scales_rates(make: Any) -> None:
    """Layer decay: each group has ``lr_scale``, and timm's schedulers write each group's rate, scaled."""
    params = make_params(SIZES, torch.float64)
    opt = make([{"params": [p], "lr_scale": 0.5**i, "weight_decay": 0.0} for i, p in enumerate(params)], lr=0.1)
    for group in opt.param_groups:
        group.setdefault("initial_lr", group["lr"])
    for t in range(4):
        for group in opt.param_groups:
            group["lr"] = group["initial_lr"] * 0.9**t * group["lr_scale"]
        train(opt, range(t, t + 1))
    assert [float(group["lr"]) for group in opt.param_groups] == pytest.approx(
        [0.1 * 0.9**3 * 0.5**i for i in range(3)]
    )
    assert opt.state_dict()["param_groups"][1]["lr_scale"] == 0.5


def test_fastai_wraps() -> None:
    """fastai's OptimWrapper: groups in, hyperparameters copied both ways each time, and states cleared."""
    for make in (torch.optim.SGD, FusedSGD):
        params = make_params(SIZES, torch.float64)
        opt = partial(make, momentum=0.9)([{"params": [p], "lr": 0.1} for p in params])
        for t in range(3):
            for hyper in [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]:
                hyper["lr"] = 0.1 / (1 + t)
                for group in opt.param_groups:
                    for key, value in hyper.items():
                        group[key] = value
            train(opt, range(t, t + 1))
        opt.state = defaultdict(dict, {p: opt.state[p] for p in params[:1]})
        train(opt, range(3, 4))
        assert all(float(group["lr"]) == pytest.approx(0.1 / 3) for group in opt.param_groups)
        assert set(opt.state) == set(params)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "one_cycle_linear": lambda opt: lr_scheduler.OneCycleLR(opt, 0.3, total_steps=10, anneal_strategy="linear"),
    "one_cycle": lambda opt: lr_scheduler.OneCycleLR(opt, 0.3, total_steps=10),
    "linear_to_zero": lambda opt: lr_scheduler.LinearLR(opt, 1.0, 0.0, total_iters=9),
    "swa": lambda opt: torch.optim.swa_utils.SWALR(opt, swa_lr=0.05, anneal_epochs=4),
    "warm_restarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=4),
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=5),
    "plateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, step_size_up=2, cycle_momentum=False),
    "polynomial": lambda opt: lr_scheduler.PolynomialLR(opt, total_iters=9),
    "huggingface_lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda t: max(0.0, 1 - t / 9)),
    "chained": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(opt, 0.9), lr_scheduler.ConstantLR(opt, 0.5, total_iters=4)]
    ),
    "sequential": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*epoch parameter")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
@pytest.mark.parametrize("name", PAIRS)
def test_torch_schedulers_over_numbers(name: str, schedule: Any) -> None:
    """At each step torch's rate, below zero too, where rounding or a straight line ends there."""
    opts = [make(make_params(SIZES, torch.float64), lr=0.1) for make in PAIRS[name]]
    schedulers = [schedule(opt) for opt in opts]
    for t in range(10):  # to the last step that OneCycleLR has, which is one past its end
        for opt, scheduler in zip(opts, schedulers, strict=True):
            train(opt, range(t, t + 1))
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        theirs, ours = ([group["lr"] for group in opt.param_groups] for opt in opts)
        assert theirs == ours == opts[1].get_last_lr()
        copied = made("number", name)
        copied.load_state_dict(opts[1].state_dict())  # what was reached can be loaded
        assert copied.get_last_lr() == ours
    for p, q in zip(*map(params_of, opts), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*epoch parameter")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_torch_scheduler_over_a_schedule(schedule: Any) -> None:
    """Two who set one rate: an error where it is noticed first, or a warning that the Schedule is gone."""
    opt = made("schedule")

    def run() -> None:
        scheduler = schedule(opt)
        for t in range(3):
            train(opt, range(t, t + 1))
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((RuntimeError, ValueError, TypeError, UserWarning), match="Schedule"):
            run()


def test_hugging_face_trainer_reads_the_rate() -> None:
    """It logs ``get_last_lr()``, and saves ``json``: floats, of this moment and not of the last."""
    opt = made("schedule")
    history = []
    for t in range(4):
        train(opt, range(t, t + 1))
        history.append(opt.get_last_lr()[0])
    assert history == [SCHEDULE(t) for t in range(1, 5)]
    assert all(type(rate) is float for rate in history)


# ---- distributed checkpoints, without a process group


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i, param in enumerate(make_params(SIZES, torch.float64)):
            self.register_parameter(f"p{i}", param)


OPTIONS = {
    "plain": {},
    "flat": {"flatten_optimizer_state_dict": True},
    "full": {"full_state_dict": True, "cpu_offload": True},
}


@pytest.mark.once
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("kind", ["number", "schedule"])
def test_distributed_state_dict(kind: str, name: str, options: Any) -> None:
    """torch's functions take a step at rate 0 to have states (pytorch#164929); Schedules and the clock outlive it."""
    how = distributed.StateDictOptions(**options)
    network, other = Network(), Network()
    opt, loaded = made(kind, name, network.parameters()), made(kind, name, other.parameters())
    train(opt, range(4))
    saved = copy.deepcopy(distributed.get_optimizer_state_dict(network, opt, options=how))
    other.load_state_dict(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        distributed.set_optimizer_state_dict(other, loaded, saved, options=how)
    assert int(loaded.clock) == 4
    assert loaded.param_groups[0]["lr_schedule"] == (SCHEDULE if kind == "schedule" else None)
    assert_same_course(loaded, opt, range(4, 7))


@pytest.mark.once
@pytest.mark.parametrize("options", [{}, {"average": "cycle"}, {"max_grad_norm": 1.0}], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_distributed_state_dict_before_the_first_step(name: str, options: Any) -> None:
    """Asked for the state, torch steps at rate 0 and puts the rate back: that is no step of the training."""
    network, other = Network(), Network()
    make = PAIRS[name][1]
    opt, plain = make(network.parameters(), lr=SCHEDULE, **options), make(other.parameters(), lr=SCHEDULE, **options)
    ended: list[int] = []
    opt.register_cycle_end_hook(lambda _, index: ended.append(index))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = distributed.get_optimizer_state_dict(network, opt)
    names = {key for state in saved["state"].values() for key in state}
    assert ("momentum_buffer" if name == "sgd" else "exp_avg") in names  # what a checkpoint is to be read into
    assert int(opt.clock) == 0
    assert ended == []
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE
    if name == "sgd":
        assert_same_course(opt, plain, range(5))


@pytest.mark.once
@pytest.mark.parametrize("lr", [0.0, 0.1, torch.tensor(0.1), SCHEDULE], ids=["zero", "number", "tensor", "schedule"])
@pytest.mark.parametrize("scheduled", [False, True], ids=["step", "wrapped_step"])
def test_distributed_state_dict_of_what_has_no_states(lr: Any, scheduled: bool) -> None:
    """SGD without momentum never has any, so torch steps for each checkpoint."""
    network, other = Network(), Network()
    opt, plain = (FusedSGD(each.parameters(), lr=lr, weight_decay=0.1) for each in (network, other))
    if scheduled and not isinstance(lr, CosineWarmRestarts):
        lr_scheduler.ConstantLR(opt, 1.0)  # which wraps opt.step
    for t in range(5):
        opt.zero_grad()
        distributed.get_optimizer_state_dict(network, opt)
        assert int(opt.clock) == t
        assert_same_course(opt, plain, range(t, t + 1))


@pytest.mark.once
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("saved_kind", ["number", "schedule"])
@pytest.mark.parametrize("loaded_kind", ["number", "schedule"])
def test_distributed_checkpoint_on_disk(loaded_kind: str, saved_kind: str, name: str, tmp_path: Any) -> None:
    """Read into the place of what is there: entries of one shape, with a Schedule and without."""
    from torch.distributed import checkpoint

    network, other = Network(), Network()
    opt, loaded = made(saved_kind, name, network.parameters()), made(loaded_kind, name, other.parameters())
    train(opt, range(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's, that no processes are there; of ours, that Schedules differ
        checkpoint.save({"opt": distributed.get_optimizer_state_dict(network, opt)}, checkpoint_id=tmp_path)
        found = {"opt": distributed.get_optimizer_state_dict(other, loaded)}
        checkpoint.load(found, checkpoint_id=tmp_path)
        distributed.set_optimizer_state_dict(other, loaded, found["opt"])
    other.load_state_dict(network.state_dict())
    assert_same_course(loaded, opt, range(4, 7))


# ---- gradient scaling


@pytest.mark.parametrize("make", [partial(torch.optim.SGD, fused=True), FusedSGD], ids=["torch", "ours"])
@pytest.mark.parametrize("lr", [0.1, SCHEDULE], ids=["number", "schedule"])
def test_scaler_without_any_gradient(make: Any, lr: Any) -> None:
    """The scaler hands over ``found_inf = sum([])``, the integer 0 (accelerate#328)."""
    params = make_params(SIZES)
    opt = make(params, lr=0.1 if not isinstance(make, type) else lr)
    before = [bits(p) for p in params]
    scaler = torch.amp.GradScaler(DEVICE.type)
    scaler.scale(torch.ones((), device=DEVICE, requires_grad=True) * 1).backward()
    scaler.step(opt)
    assert before == [bits(p) for p in params]
    assert not hasattr(opt, "found_inf")


@pytest.mark.parametrize("found_inf", [0, 1, 0.0, 1.0, False, True], ids=repr)
def test_found_inf_that_is_a_number(found_inf: Any) -> None:
    params = make_params(SIZES)
    opt = FusedSGD(params, lr=SCHEDULE)
    set_gradients(params, 0)
    before = [bits(p) for p in params]
    opt.grad_scale, opt.found_inf = None, found_inf
    opt.step()
    assert (before == [bits(p) for p in params]) == bool(found_inf)
    assert int(opt.clock) == (0 if found_inf else 1)


ORDERS = ["step", "unscale step", "unscale clip step", "overflow step", "overflow unscale clip step"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("growth", [1, 2000])
def test_scaler_in_all_orders(order: str, growth: int) -> None:
    """With and without unscaling and clipping between, as torch's optimizer; an overflow on the way skips both."""
    ends = []
    for make in (torch.optim.SGD, FusedSGD):
        params = make_params(SIZES, torch.float32)
        opt = make(params, lr=0.0625, momentum=0.5)
        scaler = torch.amp.GradScaler(DEVICE.type, init_scale=8.0, growth_interval=growth)
        for t in range(4):
            opt.zero_grad()
            scaler.scale(sum((p * (t + 1)).sum() for p in params)).backward()
            for action in order.split():
                if action == "unscale":
                    scaler.unscale_(opt)
                elif action == "overflow" and t == 1:
                    params[1].grad.fill_(float("inf"))
                elif action == "clip":
                    nn.utils.clip_grad_norm_(params, 0.5)
                elif action == "step":
                    scaler.step(opt)
            scaler.update()
        ends.append([p.detach().cpu() for p in params])
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
