"""Save, load, go on: the bits of never having stopped. What does not fit changes nothing."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import (
    CASES,
    DEVICE,
    HALVES,
    MEASURING,
    PRETEND,
    SCHEDULES,
    TYPICAL,
    Case,
    gradient,
    ids,
    make_params,
    params_of,
    rate,
    set_gradients,
    train,
)

from sgdr_fused import FusedAdam, FusedRMSprop, FusedSGD
from sgdr_fused.schedules import Constant

pytestmark = pytest.mark.untracked

STEPS = 14  # past the restarts at 3 and 9 of the first schedule, at 2, 5 and 9 or 10 of the third
SIZES = (5, 33)


def saved(opt: Any) -> Any:
    """The optimizer's state after a trip through a file that executes no code."""
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def three_groups(case: Case, dtype: torch.dtype) -> Any:
    groups = [{"params": make_params(SIZES, dtype, seed=g), "lr": s} for g, s in enumerate(SCHEDULES)]
    return case.fused(groups)


def fresh(case: Case, like: Any) -> Any:
    """An optimizer of another rate with copies of the parameters: all else has to come from the checkpoint."""
    groups = [
        {"params": [torch.nn.Parameter(p.detach().clone()) for p in group["params"]]} for group in like.param_groups
    ]
    return case.fused(groups, lr=1.0)


def without_gradients(opt: Any) -> Any:
    return {k: v for k, v in snapshot(opt).items() if k != "grads"}


def what_steps_use(opt: Any) -> Any:
    """Also without the displayed rates, which the host fills in until a step does; it may round otherwise."""
    return {k: v for k, v in without_gradients(opt).items() if k != "groups"}


def check_resume(case: Case, dtype: torch.dtype) -> None:
    straight = three_groups(case, dtype)
    stops = []
    for t in range(STEPS):
        resumed = fresh(case, straight)
        resumed.load_state_dict(saved(straight))
        assert what_steps_use(resumed) == what_steps_use(straight), f"at step {t}"
        stops.append((t, resumed))
        train(straight, [t])
    for t, resumed in stops:
        train(resumed, range(t, STEPS))
        assert without_gradients(resumed) == without_gradients(straight), f"stopped at step {t}"


@pytest.mark.parametrize("case", ids(TYPICAL if PRETEND else CASES))
def test_resume_at_every_step(case: Case) -> None:
    check_resume(case, torch.float32)


@pytest.mark.parametrize("dtype", ids([torch.float64, *HALVES]))
@pytest.mark.parametrize("case", ids(TYPICAL[1:3] if PRETEND else (*TYPICAL, *MEASURING)))
def test_resume_at_every_step_in_other_dtypes(case: Case, dtype: torch.dtype) -> None:
    check_resume(case, dtype)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("case", ids(CASES))
def test_resume_before_some_parameters_had_their_first_step(case: Case, stop: int) -> None:
    """Parameter 0 from step 0, 1 from step 3, 2 never; step 1 is skipped by the scaler."""

    def go(opt: Any, steps: range) -> None:
        for t in steps:
            set_gradients(params_of(opt), t)
            params_of(opt)[2].grad = None
            if t < 3:
                params_of(opt)[1].grad = None
            opt.grad_scale, opt.found_inf = None, torch.tensor(float(t == 1), device=DEVICE)
            opt.step()
            del opt.grad_scale, opt.found_inf

    straight = case.fused(make_params((5, 7, 9)), lr=SCHEDULES[0])
    go(straight, range(stop))
    resumed = fresh(case, straight)
    resumed.load_state_dict(saved(straight))
    for opt in (straight, resumed):
        go(opt, range(stop, 8))
    assert [bits(p) for p in params_of(straight)] == [bits(p) for p in params_of(resumed)]
    assert straight.clock.item() == resumed.clock.item() == 7


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
@pytest.mark.parametrize("case", ids(TYPICAL if PRETEND else CASES))
def test_copies_of_the_optimizer_go_on_by_themselves(case: Case, how: str) -> None:
    straight = three_groups(case, torch.float32)
    for t in range(STEPS):
        if t in (0, 1, 5):
            other = pickle.loads(pickle.dumps(straight)) if how == "pickle" else copy.deepcopy(straight)
            assert type(other) is type(straight)
            assert other.backend == straight.backend
            assert other.clock.data_ptr() != straight.clock.data_ptr()
            assert not {id(p) for p in params_of(other)} & {id(p) for p in params_of(straight)}
            before = without_gradients(straight)
            train(other, range(t, STEPS))
            assert without_gradients(straight) == before
        train(straight, [t])
    assert without_gradients(other) == without_gradients(straight)


def test_deepcopy_together_with_the_model_keeps_them_together() -> None:
    model = torch.nn.Linear(3, 2, device=DEVICE)
    opt = FusedAdam(model.parameters(), lr=SCHEDULES[0])
    train(opt, range(2))
    other_model, other = copy.deepcopy((model, opt))
    assert all(p is q for p, q in zip(other_model.parameters(), params_of(other), strict=True))
    before = [bits(p) for p in model.parameters()]
    train(other, range(2, 4))
    assert [bits(p) for p in model.parameters()] == before != [bits(p) for p in other_model.parameters()]


# ------------------------------------------------------------------------ schedules and the clock


def test_schedules_and_clock_in_the_checkpoint() -> None:
    opt = three_groups(TYPICAL[0], torch.float32)
    opt.add_param_group({"params": make_params((3,), seed=9), "lr": 0.25})
    train(opt, range(5))
    for schedule, group in zip([*SCHEDULES, None], saved(opt)["param_groups"], strict=True):
        assert (group["clock"].item(), group["clock"].dtype, group["clock"].shape) == (5, torch.int64, ())
        assert group["lr_schedule"] == (json.dumps(schedule.to_dict()) if schedule else "")
        assert type(group["lr"]) is float
        assert group["lr"] == pytest.approx(rate(schedule or 0.25, 5), rel=1e-12)
        assert group["momentum_schedule"] == group["betas_schedule"] == group["weight_decay_schedule"] == ""


def test_schedules_of_every_hyperparameter_are_restored() -> None:
    rows: list[tuple[Any, dict[str, Any]]] = [
        (FusedSGD, {"lr": SCHEDULES[0], "momentum": SCHEDULES[1], "weight_decay": SCHEDULES[2]}),
        (FusedAdam, {"lr": SCHEDULES[0], "betas": (SCHEDULES[1], 0.5), "weight_decay": SCHEDULES[2]}),
        (FusedRMSprop, {"lr": SCHEDULES[0], "momentum": SCHEDULES[1], "weight_decay": SCHEDULES[2]}),
    ]
    for fused, hyper in rows:
        opt = fused(make_params(SIZES), **hyper)
        train(opt, range(4))
        data = saved(opt)
        for name, value in hyper.items():
            schedule = value[0] if name == "betas" else value
            entry = data["param_groups"][0][name]
            assert json.loads(data["param_groups"][0][f"{name}_schedule"]) == schedule.to_dict()
            assert type(entry[0] if name == "betas" else entry) is float
        again = fused([torch.nn.Parameter(p.detach().clone()) for p in params_of(opt)])
        again.load_state_dict(data)
        for each in (opt, again):
            train(each, range(4, 9))
        assert without_gradients(again) == without_gradients(opt)


@pytest.mark.parametrize("own", [SCHEDULES[1], 0.5], ids=["schedule", "number"])
@pytest.mark.parametrize("loaded", [SCHEDULES[0], 0.25], ids=["from_schedule", "from_number"])
def test_the_checkpoints_rate_replaces_the_groups(loaded: Any, own: Any) -> None:
    source = FusedSGD(make_params(SIZES), lr=loaded)
    train(source, range(4))
    opt = FusedSGD(make_params(SIZES), lr=own)
    opt.load_state_dict(saved(source))
    group = opt.param_groups[0]
    assert group["lr_schedule"] == (None if loaded == 0.25 else loaded)
    assert float(group["lr"]) == pytest.approx(rate(loaded, 4), rel=1e-12)
    assert isinstance(group["lr"], float if loaded == 0.25 else torch.Tensor)


def test_tensor_rate_is_saved_as_a_tensor() -> None:
    lr = torch.tensor(0.25, dtype=torch.float64, device=DEVICE)
    opt = FusedSGD(make_params(SIZES), lr=lr, momentum=0.9)
    train(opt, range(2))
    again = FusedSGD([torch.nn.Parameter(p.detach().clone()) for p in params_of(opt)])
    again.load_state_dict(saved(opt))
    lr.fill_(0.125)  # another tensor than the loaded one
    assert again.param_groups[0]["lr"].item() == 0.25
    again.param_groups[0]["lr"].fill_(0.125)
    for each in (opt, again):
        train(each, range(2, 5))
    assert [bits(p) for p in params_of(again)] == [bits(p) for p in params_of(opt)]


def test_clock_is_written_in_place() -> None:
    source = FusedSGD(make_params(SIZES), lr=SCHEDULES[0])
    train(source, range(5))
    opt = FusedSGD(make_params(SIZES), lr=SCHEDULES[0])
    clock = opt.clock
    address = clock.data_ptr()
    opt.load_state_dict(saved(source))
    assert opt.clock is clock
    assert clock.data_ptr() == address
    assert clock.item() == 5
    train(opt, [5])
    assert clock.item() == 6


def test_state_goes_to_the_parameters_device() -> None:
    opt = FusedAdam(make_params(SIZES), lr=SCHEDULES[0])
    train(opt, range(2))
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    opt.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    for p in params_of(opt):
        assert all(state.device == p.device for state in opt.state[p].values())
    assert opt.clock.device == params_of(opt)[0].device


def test_loading_leaves_the_checkpoint_alone() -> None:
    opt = three_groups(TYPICAL[2], torch.float32)
    train(opt, range(3))
    data = saved(opt)
    before = pickle.dumps(data)
    again = fresh(TYPICAL[2], opt)
    again.load_state_dict(data)
    assert pickle.dumps(data) == before


def test_names_of_parameters_are_kept() -> None:
    named = [(f"layer.{i}", p) for i, p in enumerate(make_params(SIZES))]
    opt = FusedSGD(named, lr=SCHEDULES[0])
    assert opt.param_groups[0]["param_names"] == ["layer.0", "layer.1"]
    train(opt, range(2))
    data = saved(opt)
    assert data["param_groups"][0]["param_names"] == ["layer.0", "layer.1"]
    opt.load_state_dict(data)
    assert opt.param_groups[0]["param_names"] == ["layer.0", "layer.1"]


# ------------------------------------------------------------------------------- what does not fit


def _first_state(data: Any) -> dict[str, Any]:
    return next(iter(data["state"].values()))


def _set_clock(value: Any) -> Callable[[Any], None]:
    return lambda data: data["param_groups"][1].update(clock=value)


def _set_schedule(value: Any) -> Callable[[Any], None]:
    return lambda data: data["param_groups"][1].update(lr_schedule=value)


MISFITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a_group_less": (lambda data: data["param_groups"].pop(), "group"),
    "a_group_more": (lambda data: data["param_groups"].append(data["param_groups"][0]), "group"),
    "a_parameter_less": (lambda data: data["param_groups"][1]["params"].pop(), "group"),
    "unknown_schedule": (_set_schedule({"kind": "Sawtooth", "max_lr": 0.1}), "Sawtooth"),
    "unknown_field": (_set_schedule({**SCHEDULES[0].to_dict(), "T_7": 5}), "T_7"),
    "bad_schedule": (_set_schedule({**SCHEDULES[0].to_dict(), "T_0": 0}), "T_0"),
    "schedule_is_a_number": (_set_schedule(3), "3"),
    "clocks_differ": (_set_clock(torch.tensor(77)), "clock"),
    "clock_is_a_vector": (_set_clock(torch.tensor([1, 2])), "clock"),
    "shape_of_a_state": (lambda d: _first_state(d).update(exp_avg=torch.ones(99)), "exp_avg"),
    "shape_of_a_step": (lambda d: _first_state(d).update(step=torch.ones(2)), "step"),
    "state_is_text": (lambda d: _first_state(d).update(exp_avg="x"), "exp_avg"),
    "no_groups": (lambda d: d.pop("param_groups"), "param_groups"),
    "no_state": (lambda d: d.pop("state"), "state"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_checkpoint_that_does_not_fit(misfit: str) -> None:
    case = TYPICAL[2]
    opt, untroubled = three_groups(case, torch.float32), three_groups(case, torch.float32)
    for each in (opt, untroubled):
        train(each, range(3))
    source = three_groups(case, torch.float32)
    train(source, range(7))
    data = saved(source)
    change, says = MISFITS[misfit]
    change(data)
    before, clock = snapshot(opt), opt.clock
    with pytest.raises((ValueError, TypeError, RuntimeError, KeyError), match=says):
        opt.load_state_dict(data)
    assert snapshot(opt) == before
    assert opt.clock is clock
    for each in (opt, untroubled):
        train(each, range(3, 6))
    assert snapshot(opt) == snapshot(untroubled)


# ------------------------------------------------------------------------------------------- hooks


def test_state_dict_hooks() -> None:
    opt = FusedSGD(make_params(SIZES), lr=Constant(0.25))
    seen: list[str] = []
    opt.register_state_dict_pre_hook(lambda o: seen.append(f"pre {o.clock.item()}"))
    opt.register_state_dict_post_hook(lambda o, data: {**data, "extra": len(seen)})
    train(opt, range(2))
    assert opt.state_dict()["extra"] == 1
    assert seen == ["pre 2"]


def test_load_state_dict_hooks() -> None:
    source = FusedSGD(make_params(SIZES), lr=0.25)
    opt = FusedSGD(make_params(SIZES), lr=SCHEDULES[0])
    seen: list[Any] = []

    def halve(o: Any, data: Any) -> Any:
        data = copy.deepcopy(data)
        data["param_groups"][0]["lr"] /= 2
        return data

    opt.register_load_state_dict_pre_hook(halve)
    opt.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    train(source, range(1))
    opt.load_state_dict(saved(source))
    assert seen == [0.125]
    param = params_of(opt)[0]
    before = param.detach().clone()
    params_of(opt)[1].grad = None
    param.grad = gradient(param, 0)
    opt.step()
    torch.testing.assert_close(param.detach(), before - 0.125 * param.grad)
