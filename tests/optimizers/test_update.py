"""The arithmetic: every optimizer, dtype and size against the reference in float64, and against torch.

Parameters and states are compared element by element, after each step from equal inputs and after
all of them; the rates of the oracle come from the plain formulas in the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    CASES,
    DEVICE,
    DTYPES,
    EMULATED,
    HALVES,
    MANY_SMALL,
    NUMBERS,
    PRETEND,
    SCHEDULES,
    SIZES,
    SMALL_SIZES,
    TYPICAL,
    Case,
    Oracle,
    assert_within,
    expected_backend,
    gradient,
    ids,
    make_params,
    one_step_tolerance,
    params_of,
    rate,
    set_gradients,
    train,
    trajectory_tolerance,
)
from torch import Tensor

from sgdr_fused._native import backends

Tensors = dict[str, Tensor]
STEPS = 6 if PRETEND else 12  # past a restart of each schedule


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The oracle's tensors are too small to share; the last tests here are about threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_three_groups(sizes: Sequence[int]) -> list[Sequence[int]]:
    return [sizes[i::3] for i in range(3)]


# (name, sizes of each group's tensors, cases): each size alone with each kernel, all together with each configuration.
# Emulators are slow; test_emulation.py holds the emulated kernels to the CPU's bits at the large sizes, too.
GRID: list[tuple[str, list[Sequence[int]], Sequence[Case]]] = [
    ("together", in_three_groups(SMALL_SIZES if PRETEND or EMULATED else SIZES), CASES),
    ("65537", [(65537,)], TYPICAL[1:3] if PRETEND else TYPICAL),
]
if not PRETEND:
    GRID += [(str(n), [(n,)], TYPICAL) for n in SMALL_SIZES] + [("200_small", in_three_groups(MANY_SMALL), TYPICAL)]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors that are updated alike, in one piece, in float64: the arithmetic is elementwise."""
    return torch.cat([t.detach().reshape(-1).cpu().double() for t in tensors])


def pieces(opt: Any, group: Sequence[Tensor]) -> Tensors:
    """The parameters and each kind of state of a group, flat; without the counts of steps."""
    states = [opt.state[p] for p in group]
    assert all(set(state) == set(states[0]) for state in states)
    keys = [key for key in states[0] if key not in NUMBERS]
    return {"param": flat(group), **{key: flat([state[key] for state in states]) for key in keys}}


class Trajectory:
    """The oracle's own run: how far each element travelled, and how large it became."""

    def __init__(self, case: Case, params: Sequence[Tensor]) -> None:
        self.oracle = Oracle(case, params)
        self.now: list[Tensors] = [{"param": p.clone()} for p in params]
        self.travelled: list[Tensors] = [{} for _ in params]
        self.largest: list[Tensors] = [{} for _ in params]

    def step(self, grads: Sequence[Tensor], rates: Sequence[float]) -> None:
        self.oracle.step(grads, rates)
        for i, (param, state) in enumerate(zip(self.oracle.params, self.oracle.states, strict=True)):
            before = self.now[i]
            self.now[i] = {k: v.clone() for k, v in {"param": param, **state}.items() if k not in NUMBERS}
            for key, now in self.now[i].items():
                moved = (now - before.get(key, torch.zeros_like(now))).abs()
                self.travelled[i][key] = self.travelled[i].get(key, torch.zeros_like(now)) + moved
                self.largest[i][key] = torch.maximum(self.largest[i].get(key, now.abs()), now.abs())

    def check(self, after: Sequence[Tensors], dtype: torch.dtype) -> None:
        for i, tensors in enumerate(after):
            for key, actual in tensors.items():
                travelled, largest = self.travelled[i][key], self.largest[i][key]
                tolerance = trajectory_tolerance(travelled, largest, STEPS, dtype)
                assert_within(actual, self.now[i][key], tolerance, f"after {STEPS} steps, group {i}, {key}")


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize(
    ("sizes", "case"),
    [pytest.param(sizes, c, id=f"{c.id}-{name}") for name, sizes, cases in GRID for c in cases],
)
def test_against_reference(case: Case, sizes: Sequence[Sequence[int]], dtype: torch.dtype) -> None:
    schedules = SCHEDULES[: len(sizes)]
    groups = [make_params(of_group, dtype, seed=g) for g, of_group in enumerate(sizes)]
    opt = case.fused([{"params": g, "lr": s} for g, s in zip(groups, schedules, strict=True)])
    params = params_of(opt)
    if case.algorithm.per_tensor:  # none are updated alike
        schedules = tuple(s for s, group in zip(schedules, groups, strict=True) for _ in group)
        groups = [[p] for p in params]
    after: list[Tensors] = [{"param": flat(group)} for group in groups]
    trajectory = None if dtype in HALVES else Trajectory(case, [tensors["param"] for tensors in after])
    numbers: Tensors = {}
    for t in range(STEPS):
        rates = [rate(schedule, t) for schedule in schedules]
        set_gradients(params, t)
        grads = [flat([p.grad for p in group]) for group in groups]
        before = after
        expected = Oracle(case, [tensors["param"] for tensors in before])
        for state, tensors in zip(expected.states, before, strict=True):
            state.update({key: tensor.clone() for key, tensor in tensors.items() if key != "param"})
            state.update({key: number.clone() for key, number in numbers.items()})

        opt.step()
        expected.step(grads, rates)
        if trajectory is not None:
            trajectory.step(grads, rates)
        after = [pieces(opt, group) for group in groups]
        numbers = {key: value for key, value in expected.states[0].items() if key in NUMBERS}
        for p in params:
            state = opt.state[p]
            assert set(state) == set(expected.states[0])
            assert all(state[k].dtype == (torch.float64 if k in NUMBERS else dtype) for k in state)
            assert "step" not in state or state["step"].item() == t + 1
            for key, number in numbers.items():
                assert state[key].item() == pytest.approx(number.item(), rel=1e-14), key
        for i, tensors in enumerate(after):
            new = {"param": expected.params[i], **expected.states[i]}
            operand = case.largest_operand(rates[i], before[i], grads[i], new, t + 1)
            for key, actual in tensors.items():
                tolerance = one_step_tolerance(new[key], operand[key], dtype)
                assert_within(actual, new[key], tolerance, f"step {t}, group {i}, {key}")
    if trajectory is not None:
        trajectory.check(after, dtype)


@pytest.mark.untracked
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64]))
@pytest.mark.parametrize("case", ids(CASES))
def test_against_torch(case: Case, dtype: torch.dtype) -> None:
    """torch.optim in float64, its rate written by hand, from the same parameters and gradients."""
    ours = make_params(SMALL_SIZES, dtype)
    theirs = [torch.nn.Parameter(p.detach().cpu().double().clone()) for p in ours]
    opt, oracle = case.fused(ours, lr=SCHEDULES[0]), case.torch(theirs, lr=1.0)
    travelled = [torch.zeros_like(p) for p in theirs]
    for t in range(STEPS):
        before = [p.detach().clone() for p in theirs]
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = gradient(p, t, i)
            q.grad = p.grad.cpu().double()
        oracle.param_groups[0]["lr"] = rate(SCHEDULES[0], t)
        opt.step()
        oracle.step()
        for total, p, old in zip(travelled, theirs, before, strict=True):
            total.add_((p.detach() - old).abs())
    for p, q, total in zip(ours, theirs, travelled, strict=True):
        tolerance = trajectory_tolerance(total, q.detach().abs() + total, STEPS, dtype)
        assert_within(p, q.detach(), tolerance, "parameter")
        for key, expected in oracle.state[q].items():
            size = expected.abs() * STEPS + 1  # the sums of gradients of size 1 in a state
            tolerance = trajectory_tolerance(size, size, STEPS, dtype)
            assert_within(opt.state[p][key], expected.double(), tolerance, key)


@pytest.mark.parametrize("dtype", ids(HALVES))
@pytest.mark.parametrize("case", ids(CASES))
def test_low_precision_error_is_at_most_twice_torchs(case: Case, dtype: torch.dtype) -> None:
    ours = make_params((4099,), dtype)
    theirs = [torch.nn.Parameter(p.detach().cpu().clone()) for p in ours]
    opt, peer = case.fused(ours, lr=0.05), case.torch(theirs, lr=0.05)
    oracle = Oracle(case, ours)
    for t in range(STEPS):
        grads = [gradient(p, t) for p in ours]
        ours[0].grad, theirs[0].grad = grads[0], grads[0].cpu().clone()
        opt.step()
        peer.step()
        oracle.step(grads, [0.05])
    expected = {"param": oracle.params[0], **oracle.states[0]}
    for key, exact in expected.items():
        if key in NUMBERS:
            continue
        got = ours[0] if key == "param" else opt.state[ours[0]][key]
        peers = theirs[0] if key == "param" else peer.state[theirs[0]][key]
        error, bound = ((x.detach().cpu().double() - exact).abs().max().item() for x in (got, peers))
        assert error <= 2 * bound, key


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(CASES))
def test_every_element_moves(case: Case, dtype: torch.dtype) -> None:
    params = make_params(SMALL_SIZES if PRETEND else SIZES, dtype)
    before = [p.detach().clone() for p in params]
    opt = case.fused(params, lr=0.1)
    train(opt, range(1))
    for p, old in zip(params, before, strict=True):
        assert bool((p != old).all())
        assert all(bool((state != 0).all()) for state in opt.state[p].values())


@pytest.mark.parametrize("dtype", ids([torch.float32, *HALVES]))
@pytest.mark.parametrize("case", ids(CASES))
def test_special_values_propagate_as_in_torch(case: Case, dtype: torch.dtype) -> None:
    """NaN, infinities and zeros of both signs, in parameter and gradient; compared as classes.

    torch computes in float32 here: in float16 its eps is 0, and it makes NaN of a zero gradient.
    """
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.0])
    start, first = torch.cartesian_prod(special, special).t().contiguous()
    ours = torch.nn.Parameter(start.to(DEVICE, dtype, copy=True))
    theirs = torch.nn.Parameter(start.clone())
    opt, peer = case.fused([ours], lr=0.1), case.torch([theirs], lr=0.1)
    for t in range(3):  # the special gradients, then plain ones
        ours.grad = first.to(DEVICE, dtype) if t == 0 else gradient(ours, t)
        theirs.grad = ours.grad.cpu().float()
        opt.step()
        peer.step()
        pairs = [(ours, theirs)] + [(opt.state[ours][k], peer.state[theirs][k]) for k in opt.state[ours]]
        for got, expected in pairs:
            a, b = got.detach().cpu().float(), expected.detach().float()
            assert torch.equal(a.isnan(), b.isnan())
            assert torch.equal(a.isinf(), b.isinf())
            finite = b.isfinite()
            torch.testing.assert_close(a[finite], b[finite], rtol=0.05, atol=0.01)
            assert torch.equal(a[b.isinf()].sign(), b[b.isinf()].sign())


@pytest.mark.parametrize("case", ids(CASES))
def test_denormal_numbers_are_kept(case: Case) -> None:
    """Nothing flushes to zero: a denormal parameter with a denormal gradient gives what torch gives."""
    tiny = torch.finfo(torch.float32).tiny
    start = torch.tensor([tiny / 4, -tiny / 8, tiny * 3, 2.0**-149])
    ours, theirs = (torch.nn.Parameter(start.clone().to(device)) for device in (DEVICE, "cpu"))
    changed = {"lr": 0.5, "weight_decay": 0.0, **case.algorithm.denormal}
    opt, peer = case.fused([ours], **changed), case.torch([theirs], **changed)
    for t in range(3):
        theirs.grad = torch.tensor([tiny / 2, tiny / 4, tiny, 2.0**-148]) * (t + 1)
        ours.grad = theirs.grad.to(DEVICE, copy=True)
        opt.step()
        peer.step()
    # In this range the distance between neighbours is 2**-149 whatever the magnitude.
    torch.testing.assert_close(ours.detach().cpu(), theirs.detach().cpu(), rtol=1e-6, atol=8 * 2.0**-149)
    assert bool((ours.detach().cpu() != start).any())


@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_same_bits_again(case: Case, dtype: torch.dtype) -> None:
    results = []
    for _ in range(2):
        opt = case.fused(make_params(SMALL_SIZES, dtype), lr=SCHEDULES[1])
        train(opt, range(STEPS))
        results.append([bits(x) for p in params_of(opt) for x in (p, *opt.state[p].values())])
    assert results[0] == results[1]


@pytest.mark.skipif(expected_backend() != "cpu", reason="the CPU backend alone shares the work among threads")
@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_same_bits_whatever_the_thread_count(case: Case, dtype: torch.dtype) -> None:
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        opt = case.fused(make_params(SIZES, dtype), lr=SCHEDULES[0])
        train(opt, range(3))
        results.append([bits(x) for p in params_of(opt) for x in (p, *opt.state[p].values())])
    assert results[0] == results[1] == results[2]


@pytest.mark.skipif(expected_backend() != "cpu", reason="the CPU backend alone chooses among instruction sets")
@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(CASES))
def test_same_bits_whatever_the_instruction_set(case: Case, dtype: torch.dtype) -> None:
    extension: Any = backends.load()
    names = extension.instruction_sets()
    results = []
    try:
        for name in names:
            extension.use_instruction_set(name)
            opt = case.fused(make_params(SMALL_SIZES, dtype), lr=SCHEDULES[0])
            train(opt, range(4))
            results.append([bits(x) for p in params_of(opt) for x in (p, *opt.state[p].values())])
    finally:
        extension.use_instruction_set(names[-1])
    assert all(result == results[0] for result in results[1:])


@pytest.mark.untracked
@pytest.mark.skipif(DEVICE.type != "cuda", reason="compares cuda with cpu")
@pytest.mark.parametrize("dtype", ids(DTYPES))
@pytest.mark.parametrize("case", ids(CASES))
def test_cuda_gives_the_bits_of_the_cpu(case: Case, dtype: torch.dtype) -> None:
    """At a constant rate, where the scalars of a step are the same on both.

    But for Adam and its kin in float64: host and device round pow() differently, so bias corrections may differ
    in the last place; in the narrower types they are rounded to the same number. 1e-13 is a few hundred times that last
    place.
    """
    results = []
    for device in ("cpu", DEVICE):
        params = [torch.nn.Parameter(p.detach().to(device)) for p in make_params(SMALL_SIZES, dtype)]
        opt = case.fused(params, lr=0.05)
        train(opt, range(STEPS))
        results.append([x.detach().cpu() for p in params for x in (p, *opt.state[p].values())])
    if not case.algorithm.takes_powers:
        assert [bits(x) for x in results[0]] == [bits(x) for x in results[1]]
        return
    for on_cpu, on_cuda in zip(*results, strict=True):
        if on_cpu.dtype == torch.float64:
            torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-13, atol=1e-15)
        else:
            assert bits(on_cuda) == bits(on_cpu)
