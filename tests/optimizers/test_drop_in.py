"""In torch.optim's place: signatures, hooks, closures, profiler, schedulers on top, things replaced."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from bits import bits
from cases import (
    ALGORITHMS_OF_TORCH,
    CASES,
    DEVICE,
    SCHEDULES,
    TYPICAL,
    Case,
    ids,
    make_params,
    params_of,
    set_gradients,
    train,
)
from pairs import SIZES, assert_equal, pair
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sgdr_fused import FusedSGD

pytestmark = pytest.mark.untracked

COUNTS = {"clock", "n_averaged", "rounding_seed", "skipped_steps"}
SCHEDULE_KEYS = {"lr_schedule", "momentum_schedule", "betas_schedule", "weight_decay_schedule"}


@pytest.mark.parametrize("algorithm", ALGORITHMS_OF_TORCH.values(), ids=list(ALGORITHMS_OF_TORCH))
def test_signature_and_defaults(algorithm: Any) -> None:
    def described(cls: Any) -> list[Any]:
        parameters = inspect.signature(cls).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    *arguments, options = described(algorithm.fused)
    taken = {name for name, *_ in arguments}  # others are entries of groups alone
    beyond = [
        (name, inspect.Parameter.KEYWORD_ONLY, value) for name, value in algorithm.beyond_torch.items() if name in taken
    ]
    assert arguments == described(algorithm.torch) + beyond
    assert options[:2] == ("options", inspect.Parameter.VAR_KEYWORD)
    ours, theirs = algorithm.fused(make_params(SIZES)), algorithm.torch(make_params(SIZES))
    assert isinstance(ours, torch.optim.Optimizer)
    assert ours.defaults == {**theirs.defaults, **algorithm.beyond_torch}
    assert set(ours.param_groups[0]) == {*ours.defaults, "params", *SCHEDULE_KEYS, *COUNTS}
    assert not SCHEDULE_KEYS & set(ours.defaults)
    for key, value in theirs.param_groups[0].items():
        assert key == "params" or ours.param_groups[0][key] == value


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        pytest.param(algorithm, {option: value}, id=f"{name}-{option}={value}")
        for name, algorithm in ALGORITHMS_OF_TORCH.items()
        for option, value in (("foreach", True), ("fused", True), ("fused", False), ("capturable", True))
        if algorithm.takes(option)
    ],
)
def test_options_of_implementation_are_accepted_and_change_nothing(algorithm: Any, options: Any) -> None:
    plain, other = algorithm.fused(make_params(SIZES)), algorithm.fused(make_params(SIZES), **options)
    for opt in (plain, other):
        train(opt, range(3))
    assert [bits(p) for p in params_of(plain)] == [bits(p) for p in params_of(other)]
    assert {k: other.param_groups[0][k] for k in options} == options
    assert plain.backend == other.backend


def test_names_for_some_are_refused() -> None:
    model = torch.nn.Linear(2, 3)
    with pytest.raises(
        ValueError, match=r"^params must all have names, or none: params\[1\] has none, params has 1 names"
    ):
        FusedSGD([("weight", model.weight), model.bias], lr=0.1)
    for first, second in ([("weight", model.weight)], [model.bias]), ([model.weight], [("bias", model.bias)]):
        opt = FusedSGD(first, lr=0.1)
        with pytest.raises(ValueError, match=r"^params must have names in all groups, or in none"):
            opt.add_param_group({"params": second})
        assert len(opt.param_groups) == 1


def test_named_parameters_and_named_groups() -> None:
    model = torch.nn.Linear(3, 2, device=DEVICE)
    opt = FusedSGD(model.named_parameters(), lr=0.1)
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    assert params_of(opt) == list(model.parameters())
    opt = FusedSGD([{"params": [("w", model.weight)], "lr": 0.5}, {"params": [("b", model.bias)]}], lr=0.1)
    assert [(g["param_names"], g["lr"]) for g in opt.param_groups] == [(["w"], 0.5), (["b"], 0.1)]


def test_generators_of_parameters_and_of_groups() -> None:
    params = make_params(SIZES)
    assert params_of(FusedSGD(iter(params), lr=0.1)) == params
    opt = FusedSGD(({"params": iter([p])} for p in params), lr=0.1)
    assert [g["params"] for g in opt.param_groups] == [[p] for p in params]
    assert params_of(FusedSGD([{"params": params[0]}], lr=0.1)) == params[:1]


def test_repr_shows_the_groups() -> None:
    text = repr(FusedSGD(make_params(SIZES), lr=0.125, momentum=0.5))
    assert text.startswith("FusedSGD (\nParameter Group 0\n")
    assert "lr: 0.125" in text
    assert "momentum: 0.5" in text


# ------------------------------------------------------------------------------------ around a step


def test_step_hooks_of_the_instance_and_of_all_optimizers() -> None:
    opt = FusedSGD(make_params(SIZES), lr=0.1)
    seen: list[tuple[str, int]] = []

    def note(name: str) -> Any:
        return lambda o, args, kwargs: seen.append((name, o.clock.item()))

    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        opt.register_step_pre_hook(note("pre")),
        opt.register_step_post_hook(note("post")),
    ]
    try:
        train(opt, range(1))
    finally:
        for handle in handles:
            handle.remove()
    train(opt, range(1, 2))
    assert seen == [("global pre", 0), ("pre", 0), ("post", 1), ("global post", 1)]


HOOKS = {
    "pre": lambda opt, hook: opt.register_step_pre_hook(hook),
    "post": lambda opt, hook: opt.register_step_post_hook(hook),
    "global_pre": lambda opt, hook: register_optimizer_step_pre_hook(hook),
    "global_post": lambda opt, hook: register_optimizer_step_post_hook(hook),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_each_kind_of_step_hook_by_itself(kind: str) -> None:
    """Registered after a step without any, and removed again."""
    opt = FusedSGD(make_params(SIZES), lr=0.1)
    seen: list[int] = []
    train(opt, range(1))
    handle = HOOKS[kind](opt, lambda o, args, kwargs: seen.append(o.clock.item()))
    try:
        train(opt, range(1, 3))
    finally:
        handle.remove()
    train(opt, range(3, 4))
    assert seen == ([1, 2] if kind.endswith("pre") else [2, 3])


def test_step_pre_hook_may_change_gradients_and_arguments() -> None:
    opt = FusedSGD(make_params(SIZES), lr=0.5)
    before = [p.detach().clone() for p in params_of(opt)]

    def hook(o: Any, args: Any, kwargs: Any) -> Any:
        for p in params_of(o):
            p.grad = torch.full_like(p, 2.0)
        return (args[0], lambda: "loss"), kwargs

    opt.register_step_pre_hook(hook)
    assert opt.step() == "loss"
    for p, old in zip(params_of(opt), before, strict=True):
        torch.testing.assert_close(p.detach(), old - 1.0)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_closure(case: Case) -> None:
    """It runs with gradients enabled, in front of the update, and its loss is returned."""
    ours, theirs = pair(case)
    for opt in (ours, theirs):
        params = params_of(opt)

        def closure(opt: Any = opt, params: Any = params) -> Any:
            assert torch.is_grad_enabled()
            opt.zero_grad()
            loss = sum((p**2).sum() for p in params)
            loss.backward()
            return loss

        for _ in range(3):
            with torch.no_grad():
                expected = sum((p**2).sum() for p in params)
                loss = opt.step(closure)
                assert not torch.is_grad_enabled()
            assert loss.requires_grad
            assert loss.item() == pytest.approx(expected.item())
    assert_equal(ours, theirs)


def test_step_without_a_closure_returns_none_and_leaves_the_grad_mode() -> None:
    opt = FusedSGD(make_params(SIZES), lr=0.1)
    set_gradients(params_of(opt), 0)
    assert opt.step() is None
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert opt.step() is None
        assert not torch.is_grad_enabled()
    assert all(p.requires_grad and p.is_leaf and p.grad_fn is None for p in params_of(opt))


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_first_step_in_inference_mode(case: Case) -> None:
    """The state it makes is not bound to that mode."""
    opt, plain = (case.fused(make_params(SIZES), lr=SCHEDULES[0]) for _ in range(2))
    for t in range(3):
        for each in (opt, plain):
            set_gradients(params_of(each), t)
        with torch.inference_mode(t == 0):
            opt.step()
        plain.step()
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(plain)]
    assert not any(x.is_inference() for p in params_of(opt) for x in opt.state[p].values())


def test_exception_in_a_closure_leaves_all_as_it_was() -> None:
    opt = FusedSGD(make_params(SIZES), lr=0.1)
    set_gradients(params_of(opt), 0)
    before = [bits(p) for p in params_of(opt)]
    with pytest.raises(ZeroDivisionError):
        opt.step(lambda: 1 / 0)
    assert [bits(p) for p in params_of(opt)] == before
    assert opt.clock.item() == 0
    train(opt, range(1))
    assert opt.clock.item() == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS_OF_TORCH.values(), ids=list(ALGORITHMS_OF_TORCH))
def test_profiler_range(algorithm: Any) -> None:
    opt = algorithm.fused(make_params(SIZES))
    train(opt, range(1))  # a profiler that starts later is noticed
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(opt, range(1, 3))
        opt.zero_grad()
    name = algorithm.fused.__name__
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts[f"Optimizer.step#{name}.step"] == 2
    assert counts[f"Optimizer.zero_grad#{name}.zero_grad"] == 1


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    opt = FusedSGD(make_params(SIZES), lr=0.1)
    train(opt, range(1))
    opt.zero_grad(set_to_none=set_to_none)
    for p in params_of(opt):
        assert p.grad is None if set_to_none else not p.grad.any()


def test_gradients_are_not_written() -> None:
    for case in CASES:
        opt = case.fused(make_params(SIZES), lr=0.1)
        set_gradients(params_of(opt), 0)
        before = [bits(p.grad) for p in params_of(opt)]
        opt.step()
        assert [bits(p.grad) for p in params_of(opt)] == before, case.id


@pytest.mark.parametrize("case", ids(CASES))
def test_training_a_network_with_autograd(case: Case) -> None:
    """Gradients as autograd leaves them, with a frozen layer and one that is not used."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(16, 33), torch.nn.LayerNorm(33), torch.nn.ReLU(), torch.nn.Linear(33, 3)]
    unused = torch.nn.Linear(2, 2)
    model = torch.nn.ModuleList([torch.nn.Sequential(*layers), unused]).double()
    layers[3].bias.requires_grad_(False)
    twin = copy.deepcopy(model).to(DEVICE)
    ours, theirs = case.fused(twin.parameters(), lr=0.01), case.torch(model.parameters(), lr=0.01)
    for _ in range(5):
        x, y = torch.randn(8, 16, dtype=torch.float64), torch.randint(3, (8,))
        for net, opt in ((twin, ours), (model, theirs)):
            device = next(net.parameters()).device
            opt.zero_grad()
            torch.nn.functional.cross_entropy(net[0](x.to(device)), y.to(device)).backward()
            opt.step()
    for p, q in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=1e-8, atol=1e-8)
