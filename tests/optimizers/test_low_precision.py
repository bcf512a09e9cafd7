"""Parameters and states in 16 bits: remainders, and states in another type than the parameter's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import (
    DEVICE,
    HALVES,
    MEASURING,
    NUMBERS,
    PRETEND,
    SCHEDULES,
    SGD,
    SMALL_SIZES,
    TYPICAL,
    Case,
    as_double,
    assert_within,
    ids,
    make_params,
    one_step_tolerance,
    params_of,
    set_gradients,
    train,
    ulp,
    values,
)
from torch import Tensor, nn

from sgdr_fused import EMA, FusedAdam, FusedSGD, reference

pytestmark = pytest.mark.formulas

STEPS = 5
SIZES = SMALL_SIZES if PRETEND else (*SMALL_SIZES, 16385, 40001)


def joined(opt: Any) -> list[Tensor]:
    """The parameters in full, by the reference."""
    params = params_of(opt)
    return [reference.join(p.detach().cpu(), opt.state[p]["remainder"].cpu()) for p in params]


# --------------------------------------------------------------------------------------- remainders


@pytest.mark.parametrize("average", [None, EMA(0.7)], ids=["", "average"])
@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids((*TYPICAL, *MEASURING)))
def test_master_weights_are_those_of_float32(case: Case, dtype: torch.dtype, average: Any) -> None:
    """Bit for bit what an optimizer of float32 parameters makes of the same gradients."""
    opt = case.fused(
        make_params(SIZES, dtype), lr=SCHEDULES[0], average=average, master_weights=True, state_dtype=torch.float32
    )
    wide = case.fused([nn.Parameter(p.detach().float()) for p in params_of(opt)], lr=SCHEDULES[0], average=average)
    for t in range(STEPS):
        set_gradients(params_of(opt), t)
        for param, narrow in zip(params_of(wide), params_of(opt), strict=True):
            param.grad = narrow.grad.float()
        opt.step()
        wide.step()
        for param, narrow, full in zip(params_of(wide), params_of(opt), joined(opt), strict=True):
            assert bits(full) == bits(param), f"step {t}"
            assert_within(narrow, full.double(), ulp(full, dtype) / 2, f"the nearest, step {t}")
            state, expected = dict(opt.state[narrow]), opt.state[narrow]
            assert state.pop("remainder").dtype == torch.int16
            expected = wide.state[param]
            assert {k: bits(v) for k, v in state.items()} == {k: bits(v) for k, v in expected.items()}


@pytest.mark.parametrize("view", ["transposed", "every_second", "odd_address"])
@pytest.mark.parametrize("dtype", ids(HALVES))
def test_layouts_give_the_bits_of_dense_tensors(dtype: torch.dtype, view: str) -> None:
    views = {
        "transposed": lambda base: base.view(40, 60).t()[:, 3:],
        "every_second": lambda base: base[::2],
        "odd_address": lambda base: base[1:2050],
    }
    results = []
    for dense in (True, False):
        tensor = views[view](values(2400, 1, dtype).to(DEVICE))
        param = nn.Parameter(tensor.contiguous() if dense else tensor)
        opt = FusedSGD([param], lr=SCHEDULES[0], momentum=0.9, master_weights=True)
        train(opt, range(STEPS))
        results.append([bits(v) for v in (param, *opt.state[param].values())])
    assert results[0] == results[1]


def any_floats() -> Tensor:
    """Numbers of all magnitudes, ties of both roundings, what is not a number."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(-(2**31), 2**31, (4096,), generator=generator, dtype=torch.int64).to(torch.int32)
    ties = (patterns[:512] & ~0xFFFF) | 0x8000
    nearly = torch.cat([ties - 1, ties + 1, (patterns[512:1024] & ~0x1FFF) | 0x1000])
    special = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 1e-45, 65504.0, 65519.9, 6e-8]
    )
    return torch.cat([torch.cat([patterns, ties, nearly]).view(torch.float32), special])


@pytest.mark.parametrize("dtype", ids(HALVES))
def test_nothing_is_lost_in_storage(dtype: torch.dtype) -> None:
    """A step of rate 0 takes every number apart as the reference does, and puts it together again."""
    x = any_floats()
    if dtype == torch.float16:
        x = x[(x.abs() < 65520) | ~x.isfinite()]
    stored, remainder = reference.split(x, dtype)
    param = nn.Parameter(stored.clone().to(DEVICE))
    param.grad = torch.zeros_like(param)
    opt = FusedSGD([param], lr=0.0, master_weights=True)
    opt.step()
    opt.state[param]["remainder"].copy_(remainder)
    for _ in range(2):
        opt.step()
    now = joined(opt)[0]
    assert torch.equal(now.isnan(), x.isnan())
    # Float16 keeps what is subnormal in it to 2**-38; there a tie may then go to the other side.
    exact = ~x.isnan() if dtype == torch.bfloat16 else (x.abs() >= 2**-14) | (x == 0)
    assert exact.sum() > 500
    assert bits(now[exact]) == bits(x[exact])
    assert bits(param.detach().cpu()[exact]) == bits(stored[exact])
    assert bits(opt.state[param]["remainder"].cpu()[exact]) == bits(remainder[exact])
    rest = ~exact & ~x.isnan()
    assert ((now - x)[rest].abs() <= 2**-39).all()


@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("value", [0.0, -0.0, float("inf"), -1.25, 1e-7])
def test_a_parameter_that_is_written_from_outside(value: float, dtype: torch.dtype) -> None:
    """It is what was written, and half a unit in the last place at most: not a NaN."""
    param = make_params((1025,), dtype)[0]
    opt = FusedSGD([param], lr=2**-9, master_weights=True)
    train(opt, range(3))
    with torch.no_grad():
        param.fill_(value)
    param.grad = torch.zeros_like(param)
    opt.step()
    assert torch.equal(param, torch.full_like(param, value))


def test_a_checkpoint_has_the_remainders() -> None:
    def make() -> Any:
        return FusedSGD(make_params((5, 33), torch.bfloat16), lr=SCHEDULES[0], momentum=0.9, master_weights=True)

    whole, opt, resumed = make(), make(), make()
    train(whole, range(6))
    train(opt, range(3))
    for param, value in zip(params_of(resumed), params_of(opt), strict=True):
        param.data.copy_(value)
    resumed.load_state_dict(opt.state_dict())
    train(resumed, range(3, 6))
    assert snapshot(resumed) == snapshot(whole)

    plain = FusedSGD(make_params((5, 33), torch.bfloat16), lr=SCHEDULES[0], momentum=0.9)
    train(plain, range(3))
    resumed.load_state_dict(plain.state_dict())  # begins with remainders of 0
    train(resumed, [3])
    assert all(resumed.state[p]["remainder"].dtype == torch.int16 for p in params_of(resumed))


# --------------------------------------------------------------------------------- the states' type


@pytest.mark.parametrize(
    ("param", "state"),
    [
        pytest.param(torch.float32, torch.bfloat16, id="float32-bfloat16"),
        pytest.param(torch.bfloat16, torch.float32, id="bfloat16-float32"),
        pytest.param(torch.float16, torch.float32, id="float16-float32"),
    ],
)
@pytest.mark.parametrize("case", ids((*TYPICAL[1:], *MEASURING)))
def test_states_in_another_type(case: Case, param: torch.dtype, state: torch.dtype) -> None:
    """Every step from equal inputs against the reference in float64."""
    opt = case.fused(make_params(SIZES, param), lr=0.05, state_dtype=state)
    for t in range(STEPS):
        before = [{"param": p, **{k: v for k, v in opt.state[p].items() if k not in NUMBERS}} for p in params_of(opt)]
        before = [as_double(tensors) for tensors in before]
        train(opt, [t])
        for p, old in zip(params_of(opt), before, strict=True):
            assert all(v.dtype == (torch.float64 if k in NUMBERS else state) for k, v in opt.state[p].items())
            expected, grad = old["param"].clone(), p.grad.detach().cpu().double()
            states = {k: v.clone() for k, v in old.items() if k != "param"}
            if t and "step" in opt.state[p]:
                states["step"] = torch.tensor(float(t), dtype=torch.float64)
            case.reference(expected, grad, states, lr=0.05)
            new = {"param": expected, **states}
            operand = case.largest_operand(0.05, old, grad, new, t + 1)
            for key, actual in {"param": p, **opt.state[p]}.items():
                if key not in NUMBERS:
                    tolerance = one_step_tolerance(new[key], operand[key], actual.dtype)
                    assert_within(actual, new[key], tolerance, f"{key}, step {t}")


def test_what_is_loaded_keeps_its_type() -> None:
    saved = FusedAdam(make_params((5,)), lr=0.1)
    train(saved, range(2))
    opt = FusedAdam(make_params((5,)), lr=0.1, state_dtype=torch.bfloat16)
    opt.load_state_dict(saved.state_dict())
    train(opt, [2])
    assert opt.state[params_of(opt)[0]]["exp_avg"].dtype == torch.float32


# ------------------------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize("name", ["master_weights", "stochastic_rounding"])
@pytest.mark.parametrize("value", [None, 1, "True"])
def test_bad_flags(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, got {value!r}"):
        SGD.fused(make_params((5,)), lr=0.1, **{name: value})


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, "float32", 32])
def test_bad_state_dtypes(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"state_dtype must be one of .* or None, got"):
        FusedSGD(make_params((5,)), lr=0.1, state_dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "state_dtype", "allowed"),
    [
        (torch.float64, torch.float32, "torch.float64"),
        (torch.float32, torch.float16, "torch.float32 or torch.bfloat16"),
        (torch.float16, torch.bfloat16, "torch.float16 or torch.float32"),
    ],
)
def test_types_that_do_not_go_together(dtype: torch.dtype, state_dtype: torch.dtype, allowed: str) -> None:
    with pytest.raises(TypeError, match=f"state_dtype must be {allowed} for params"):
        FusedAdam(make_params((5,), dtype), lr=0.1, state_dtype=state_dtype)


def test_no_stochastic_rounding_of_float16() -> None:
    message = r"stochastic_rounding must be False for params\[0\] of shape \(5,\), torch.float16"
    with pytest.raises(TypeError, match=message):
        FusedAdam(make_params((5,), torch.float16), lr=0.1, stochastic_rounding=True)
    opt = FusedAdam(make_params((5,), torch.bfloat16), lr=0.1, stochastic_rounding=True)
    before = snapshot(opt)
    with pytest.raises(TypeError, match=message):
        opt.add_param_group({"params": make_params((5,), torch.float16)})
    assert snapshot(opt) == before


def test_unknown_options() -> None:
    with pytest.raises(TypeError, match=r"unexpected argument master_weight=True; did you mean master_weights\?"):
        FusedSGD(make_params((5,)), lr=0.1, master_weight=True)
