"""Stochastic rounding: right on average, and the same bits wherever and however a step is computed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import DEVICE, EMULATED, PRETEND, TYPICAL, Case, ids, make_params, params_of, train, values
from torch import Tensor, nn

from sgdr_fused import FusedAdam, FusedSGD, reference
from sgdr_fused._native import backends

pytestmark = pytest.mark.formulas

BFLOAT16 = torch.bfloat16
# Around the number of elements that share a key.
SIZES = (1, 7, 16383, 16384, 16385, 40001)
VIEWS = {
    "dense": lambda base: base,
    "transposed": lambda base: base.view(200, 210).t(),
    "every_second": lambda base: base[::2],
    "channels_last": lambda base: base.view(10, 60, 7, 10).permute(0, 3, 1, 2),
}


def sgd(params: list[Any], seed: int = 1, **options: Any) -> Any:
    torch.manual_seed(seed)
    return FusedSGD(params, lr=2**-9, stochastic_rounding=True, **options)


def expected_sgd(param: Tensor, grad: Tensor, seed: int, clock: int, number: int) -> Tensor:
    """A product and a difference in float32, which have one result, and then the lots by the reference."""
    x = param.detach().cpu().float() - 2**-9 * grad.detach().cpu().float()
    lots = reference.random_bits(param.detach().cpu(), 0, seed, clock, number)
    return reference.round_stochastically(x, lots)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # of the authors' known answers
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox(counter: Any, key: Any, words: str) -> None:
    assert " ".join(f"{word:08x}" for word in reference.philox(counter, key)) == words


@pytest.mark.parametrize("view", VIEWS)
def test_the_bits_of_the_reference(view: str) -> None:
    whole = [values(42_000, i, BFLOAT16).to(DEVICE) for i in range(2)]
    params = [nn.Parameter(VIEWS[view](base)) for base in whole]
    params += [] if view != "dense" else make_params(SIZES, BFLOAT16)
    opt = sgd(params)
    seed = opt.state_dict()["param_groups"][0]["rounding_seed"]
    opt.clock.fill_(2**33 + 5)
    for t in range(2):
        before = [param.detach().clone() for param in params]
        train(opt, [t])
        for number, (param, old) in enumerate(zip(params, before, strict=True)):
            expected = expected_sgd(old, param.grad, seed, 2**33 + 5 + t, number)
            assert bits(param) == bits(expected), f"step {t}, parameter {number}"
            assert bits(param) != bits((old.float() - 2**-9 * param.grad.float()).to(BFLOAT16)) or param.numel() < 99


@pytest.mark.skipif(PRETEND, reason="millions of elements; the same sources run on the emulated kernels")
@pytest.mark.parametrize("elements", [2**21 + 3000, 2**22 + 3000])
def test_the_bits_of_the_reference_in_a_large_parameter(elements: int) -> None:
    """On a GPU a block's share grows with the parameters, up to what has a key of its own."""
    params = [nn.Parameter(values(elements, 0, BFLOAT16).to(DEVICE)), *make_params((5,), BFLOAT16)]
    opt = sgd(params)
    seed = opt.state_dict()["param_groups"][0]["rounding_seed"]
    before = params[0].detach().clone()
    train(opt, [0])
    assert bits(params[0]) == bits(expected_sgd(before, params[0].grad, seed, 0, 0))


def test_states_are_rounded_by_lots_of_their_own() -> None:
    """Adam's first step: the moments are the gradient and its square, times what the betas leave."""
    params = make_params((40_001,))
    torch.manual_seed(1)
    opt = FusedAdam(params, lr=0.1, betas=(0.5, 0.75), state_dtype=BFLOAT16, stochastic_rounding=True)
    seed = opt.state_dict()["param_groups"][0]["rounding_seed"]
    train(opt, [0])
    g, state = params[0].grad.cpu(), opt.state[params[0]]
    for operand, key, x in ((1, "exp_avg", 0.5 * g), (2, "exp_avg_sq", 0.25 * g * g)):
        lots = reference.random_bits(g, operand, seed, 0, 0)
        assert bits(state[key]) == bits(reference.round_stochastically(x, lots)), key


@pytest.mark.skipif(PRETEND, reason="a statistic of many elements, of bits that are compared above")
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_right_on_average(part: float) -> None:
    """The mean over many elements and steps, within five of its standard deviations."""
    n, steps = 2**18, 8
    param = nn.Parameter(torch.ones(n, dtype=BFLOAT16, device=DEVICE))
    torch.manual_seed(0)
    opt = FusedSGD([param], lr=part * 2**-7, stochastic_rounding=True)
    for _ in range(steps):
        param.grad = torch.full_like(param, -1.0)
        opt.step()
    moved = (param.detach().double() - 1) / 2**-7  # in units of the last place
    deviation = (steps * part * (1 - part) / n) ** 0.5
    assert abs(moved.mean().item() - steps * part) < 5 * deviation
    # Independent from element to element and from step to step: a binomial's variance, within 2%.
    assert moved.var().item() == pytest.approx(steps * part * (1 - part), rel=0.02)
    for lag in (1, 2, 8, 64, 16384):
        a, b = moved[:-lag] - moved.mean(), moved[lag:] - moved.mean()
        assert abs((a * b).mean().item()) / moved.var().item() < 5 / n**0.5, f"neighbours at a distance of {lag}"


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_what_a_step_depends_on(case: Case) -> None:
    """It depends on the seed, the clock and the parameter's number, and not on threads and instruction sets."""
    extension: Any = backends.load()
    on_cpu = extension is not None and DEVICE.type == "cpu" and not EMULATED
    sets = extension.instruction_sets() if on_cpu else [None]

    def run(seed: int = 1, clock: int = 0) -> list[Any]:
        torch.manual_seed(seed)
        opt = case.fused(make_params((33, 33, 65537), BFLOAT16), lr=0.01, stochastic_rounding=True)
        opt.clock.fill_(clock)
        train(opt, range(2))
        return [bits(v) for p in params_of(opt) for v in (p, *opt.state[p].values())]

    expected, threads = run(), torch.get_num_threads()
    try:
        for name in sets:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                if name is not None:
                    extension.use_instruction_set(name)
                assert run() == expected, f"{name}, {count} threads"
    finally:
        torch.set_num_threads(threads)
        if on_cpu:
            extension.use_instruction_set(sets[-1])
    assert run(seed=2)[0] != expected[0]
    assert run(clock=1)[0] != expected[0]
    equal = [nn.Parameter(torch.ones(999, dtype=BFLOAT16, device=DEVICE)) for _ in range(2)]
    opt = sgd(equal)
    for param in equal:
        param.grad = torch.ones_like(param)
    opt.step()
    assert bits(equal[0]) != bits(equal[1])


@pytest.mark.parametrize("way", ["checkpoint", "pickle", "deepcopy"])
def test_goes_on_as_if_it_had_not_stopped(way: str) -> None:
    whole, opt = sgd(make_params((33,), BFLOAT16), momentum=0.9), sgd(make_params((33,), BFLOAT16), momentum=0.9)
    train(whole, range(8))
    train(opt, range(3))
    if way == "checkpoint":
        resumed = sgd([nn.Parameter(p.detach().clone()) for p in params_of(opt)], seed=99, momentum=0.9)
        resumed.load_state_dict(opt.state_dict())
    else:
        resumed = pickle.loads(pickle.dumps(opt)) if way == "pickle" else copy.deepcopy(opt)
    train(resumed, range(3, 8))
    assert snapshot(resumed) == snapshot(whole)


def test_other_types_are_rounded_to_the_nearest() -> None:
    results = []
    for stochastic in (False, True):
        params = make_params((33,)) + make_params((33,), torch.float64)
        opt = FusedAdam(params, lr=0.1, stochastic_rounding=stochastic)
        train(opt, range(3))
        results.append(snapshot(opt))
    assert results[0] == results[1]
