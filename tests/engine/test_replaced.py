"""What the user replaces behind the optimizer's back counts at the next step, as in torch; never a stale copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    ADAM,
    CASES,
    DEVICE,
    RMSPROP,
    TYPICAL,
    Case,
    Oracle,
    assert_within,
    ids,
    make_params,
    params_of,
    set_gradients,
    train,
)

SIZES = ((5, 5), 33)
TIGHT = 1e-11  # of float64, over some ten steps


def pair(case: Case) -> tuple[Any, Any]:
    """Ours and torch's, from the same parameters; torch's on the CPU."""
    ours = make_params(SIZES, torch.float64)
    theirs = [torch.nn.Parameter(p.detach().cpu().clone()) for p in ours]
    return case.fused(ours, lr=0.05), case.torch(theirs, lr=0.05)


def assert_equal(ours: Any, theirs: Any) -> None:
    for p, q in zip(params_of(ours), params_of(theirs), strict=True):
        assert_within(p, q.detach(), TIGHT * (1 + q.detach().abs()), "parameter")


def _new_data(opt: Any, p: Any) -> None:
    p.data = p.data * 2


def _data_written(opt: Any, p: Any) -> None:
    p.data.mul_(2)


def _strided_data(opt: Any, p: Any) -> None:
    p.data = torch.stack([p.data, p.data * 2], 1)[:, 1]


def _strided_gradient(opt: Any, p: Any) -> None:
    p.grad = torch.stack([p.grad, p.grad * 2], 1)[:, 1]


def _state_moved(opt: Any, p: Any) -> None:
    for key in [k for k in opt.state[p] if k != "step"]:
        opt.state[p][key].data = opt.state[p][key] * 2


def _state_strided(opt: Any, p: Any) -> None:
    for key in [k for k in opt.state[p] if k != "step"]:
        state = opt.state[p][key]
        opt.state[p][key] = torch.stack([state, state * 2], 1)[:, 1]


def _state_transposed(opt: Any, p: Any) -> None:
    for key in [k for k in opt.state[p] if k != "step"]:
        opt.state[p][key].data = opt.state[p][key].data.t()


def _step_moved(opt: Any, p: Any) -> None:
    if "step" in opt.state[p]:
        opt.state[p]["step"].data = opt.state[p]["step"] + 100


def _step_written(opt: Any, p: Any) -> None:
    if "step" in opt.state[p]:
        opt.state[p]["step"].fill_(100)


def _new_gradient(opt: Any, p: Any) -> None:
    p.grad = p.grad * 2


def _new_state(opt: Any, p: Any) -> None:
    for key in [k for k in opt.state[p] if k != "step"]:
        opt.state[p][key] = opt.state[p][key] * 2


def _state_written(opt: Any, p: Any) -> None:
    for key in [k for k in opt.state[p] if k != "step"]:
        opt.state[p][key].mul_(2)


def _state_updated(opt: Any, p: Any) -> None:
    opt.state[p].update({k: v * 2 for k, v in opt.state[p].items() if k != "step"})


def _new_mapping(opt: Any, p: Any) -> None:
    opt.state[p] = {k: v * 1 if k == "step" else v * 2 for k, v in opt.state[p].items()}


def _later_step(opt: Any, p: Any) -> None:
    if "step" in opt.state[p]:
        opt.state[p]["step"] = opt.state[p]["step"] + 100


def _state_cleared(opt: Any, p: Any) -> None:
    opt.state[p].clear()


def _state_popped(opt: Any, p: Any) -> None:
    opt.state.pop(p, None)


def _all_state_cleared(opt: Any, p: Any) -> None:
    opt.state.clear()


def _state_deleted(opt: Any, p: Any) -> None:
    if p in opt.state:
        del opt.state[p]


def _group_option(opt: Any, p: Any) -> None:
    opt.param_groups[0]["weight_decay"] = 0.3


def _group_direction(opt: Any, p: Any) -> None:
    opt.param_groups[0]["maximize"] = not opt.param_groups[0]["maximize"]


def _group_updated(opt: Any, p: Any) -> None:
    opt.param_groups[0].update(lr=0.01)


def _parameters_swapped(opt: Any, p: Any) -> None:
    opt.param_groups[0]["params"].reverse()


def _parameter_removed(opt: Any, p: Any) -> None:
    opt.param_groups[0]["params"] = [q for q in opt.param_groups[0]["params"] if q is not p]


def _part_of_itself(opt: Any, p: Any) -> None:
    """At the same address, but with fewer elements; a buffer of the old size does not fit in torch either."""
    gradient, p.grad = p.grad[:3].clone(), None
    p.data = p.data[:3]
    p.grad = gradient


def _group_replaced(opt: Any, p: Any) -> None:
    opt.param_groups[0] = {**opt.param_groups[0], "lr": 0.01}


REPLACEMENTS = [
    _strided_data, _strided_gradient, _state_moved, _state_strided, _state_transposed, _step_moved, _step_written,
    _new_data, _data_written, _new_gradient, _new_state, _state_written, _state_updated, _new_mapping, _later_step,
    _state_cleared, _state_popped, _all_state_cleared, _state_deleted, _group_option, _group_direction,
    _group_updated,
]  # fmt: skip
STRUCTURE = [_parameters_swapped, _parameter_removed, _part_of_itself, _group_replaced]


@pytest.mark.parametrize("replace", REPLACEMENTS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_honoured_at_the_next_step(case: Case, replace: Any) -> None:
    ours, theirs = pair(case)
    for t in range(6):
        for opt in (ours, theirs):
            set_gradients(params_of(opt), t)
            if t == 3:
                replace(opt, params_of(opt)[0])
            opt.step()
    assert_equal(ours, theirs)


@pytest.mark.parametrize("replace", STRUCTURE, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_honoured_or_refused(case: Case, replace: Any) -> None:
    ours, theirs = pair(case)
    removed = params_of(ours)[0]
    for t in range(6):
        for opt in (ours, theirs):
            set_gradients(params_of(opt), t)
            if t == 3:
                replace(opt, params_of(opt)[0])
        before = [bits(p) for p in params_of(ours)], bits(removed)
        try:
            ours.step()
        except (ValueError, TypeError, RuntimeError):
            assert t == 3
            assert before == ([bits(p) for p in params_of(ours)], bits(removed))
            return
        theirs.step()
    assert_equal(ours, theirs)
    assert replace is not _parameter_removed or bits(removed) == before[1]


@pytest.mark.parametrize("key", ["momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"])
def test_one_state_deleted(key: str) -> None:
    """A missing buffer means a first step of SGD; a hole in Adam's state is an error in torch, too."""
    case = next(c for c in CASES if c.id == ("sgd_dampening" if key == "momentum_buffer" else "adam_amsgrad"))
    ours, theirs = pair(case)
    for t in range(6):
        for opt in (ours, theirs):
            set_gradients(params_of(opt), t)
            if t == 3:
                del opt.state[params_of(opt)[0]][key]
        if t == 3 and case.algorithm is ADAM:
            before = [bits(p) for p in params_of(ours)]
            with pytest.raises((KeyError, ValueError, RuntimeError), match=key):
                ours.step()
            assert [bits(p) for p in params_of(ours)] == before
            return
        ours.step()
        theirs.step()
    assert_equal(ours, theirs)


OFF_AND_ON = [0.9, 0.9, 0.0, 0.0, 0.9, 0.5], [0.0, 0.0, 0.9, 0.9, 0.0, 0.9]


@pytest.mark.parametrize("form", ["number", "tensor"])
@pytest.mark.parametrize("case", ids(c for c in CASES if c.hyper.get("momentum")))
def test_momentum_switched_off_and_on(case: Case, form: str) -> None:
    """The buffer waits, as in torch; SGD's that never was is made when momentum is."""
    for values in OFF_AND_ON[:1] if case.algorithm is RMSPROP else OFF_AND_ON:
        ours, theirs = pair(case)
        momentum = torch.tensor(0.9, dtype=torch.float64, device=DEVICE)
        for t, value in enumerate(values):
            momentum.fill_(value)
            ours.param_groups[0]["momentum"] = value if form == "number" else momentum
            theirs.param_groups[0]["momentum"] = value
            for opt in (ours, theirs):
                train(opt, [t])
            assert_equal(ours, theirs)


@pytest.mark.parametrize("case", ids(c for c in CASES if c.hyper.get("momentum") and not c.hyper.get("nesterov")))
def test_buffer_that_waits_is_not_read(case: Case) -> None:
    """While a tensor says 0 the steps are those without a buffer, whatever is in it."""
    momentum = torch.tensor(0.9, dtype=torch.float64, device=DEVICE)
    opt = case.fused(make_params(SIZES, torch.float64), lr=0.05, momentum=momentum)
    train(opt, range(2))
    momentum.fill_(0)
    for p in params_of(opt):
        opt.state[p]["momentum_buffer"].fill_(float("nan"))
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params_of(opt)]
    plain = case.fused(copies, lr=0.05, momentum=0.0)
    for p, q in zip(params_of(opt), copies, strict=True):
        plain.state[q] = {key: state.clone() for key, state in opt.state[p].items() if key != "momentum_buffer"}
    for each in (opt, plain):
        train(each, range(2, 4))
    assert [bits(p) for p in params_of(opt)] == [bits(q) for q in copies]
    assert all(bool(opt.state[p]["momentum_buffer"].isnan().all()) for p in params_of(opt))


@pytest.mark.parametrize(
    ("key", "value", "missing"), [("momentum", 0.5, "momentum_buffer"), ("centered", True, "grad_avg")]
)
def test_rmsprops_option_switched_on(key: str, value: Any, missing: str) -> None:
    """Before the first step it is as if it had been given; later a state is missing, an error in torch too."""
    case = next(c for c in CASES if c.id == "rmsprop")
    optimizers = pair(case)
    for opt in optimizers:
        opt.param_groups[0][key] = value
        train(opt, range(2))
    assert_equal(*optimizers)
    late, _ = pair(case)
    train(late, range(2))
    late.param_groups[0][key] = value
    set_gradients(params_of(late), 2)
    before = [bits(p) for p in params_of(late)]
    with pytest.raises(ValueError, match=missing):
        late.step()
    assert [bits(p) for p in params_of(late)] == before


def test_amsgrad_switched_on_before_the_first_step() -> None:
    optimizers = pair(next(c for c in CASES if c.id == "adam"))
    for opt in optimizers:
        opt.param_groups[0]["amsgrad"] = True
        opt.param_groups[0]["betas"] = (0.9, 0.5)
        train(opt, range(6))
    assert_equal(*optimizers)


def test_oracle_notices_a_wrong_rate() -> None:
    """The comparison that these tests lean on can fail."""
    case = TYPICAL[1]
    params = make_params(SIZES, torch.float64)
    opt, oracle = case.fused(params, lr=0.05 * (1 + 1e-9)), Oracle(case, params)
    set_gradients(params, 0)
    oracle.step([p.grad for p in params], [0.05] * 2)
    opt.step()
    with pytest.raises(AssertionError, match="elements off"):
        assert_within(params[0], oracle.params[0], TIGHT * (1 + oracle.params[0].abs()), "parameter")
