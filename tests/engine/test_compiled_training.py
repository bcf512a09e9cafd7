"""A whole step of training, compiled: the compiler sees forward and backward, and calls the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import bits
from cases import TYPICAL, Case, ids, values
from compiling import Compiled, attempts, fresh_compiler, pair
from torch import Tensor, nn

from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
compiler = pytest.fixture(autouse=True)(fresh_compiler)
SCHEDULE = CosineWarmRestarts(0.1, T_0=3)
STEPS = 8


def training(model: nn.Module, opt: Any) -> Callable[[Tensor], Tensor]:
    def train(x: Tensor) -> Tensor:
        loss = model(x).square().sum()
        loss.backward()
        value = loss.detach()
        del loss  # torch traces a backward pass of nothing that lives on
        opt.step()
        return value

    return train


def compiled_backward(compiler: Any) -> Any:
    """A context in which this compiles the backward pass."""
    module: Any = torch._dynamo.compiled_autograd
    enable = getattr(module, "_enable", None) or module.enable  # the name of torch 2.4
    return enable(compiler)


def breaks() -> dict[str, int]:
    return dict(torch._dynamo.utils.counters["graph_break"])


@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch does not trace a backward pass"
)
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_the_step_is_the_only_graph_break(case: Case) -> None:
    """One graph has forward and backward. It is compiled once, while the rate moves, falls and starts again."""
    (first, eager), (second, compiled) = pair(lambda params: case.fused(params, lr=SCHEDULE))
    plain, function = training(first, eager), Compiled(training(second, compiled))
    seen = []
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for t in range(STEPS):
            first.zero_grad()
            second.zero_grad()
            assert bits(plain(values((6, 4), t))) == bits(function(values((6, 4), t)))
            seen.append((function.graphs, attempts(), sum(breaks().values())))
    assert [bits(p) for p in first.parameters()] == [bits(p) for p in second.parameters()]
    assert seen == [(1, seen[0][1], 1)] * STEPS
    assert all("a fused optimizer is not traced" in reason for reason in breaks())


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_compiled_autograd(case: Case) -> None:
    """The backward pass alone is compiled, once; the step that follows sees its gradients."""
    (first, eager), (second, compiled) = pair(lambda params: case.fused(params, lr=SCHEDULE))
    plain, function = training(first, eager), training(second, compiled)
    graphs = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(module)
        return module.forward

    for t in range(STEPS):
        first.zero_grad()
        second.zero_grad()
        expected = plain(values((6, 4), t))
        with compiled_backward(torch.compile(backend=backend)):
            assert bits(function(values((6, 4), t))) == bits(expected)
    assert [bits(p) for p in first.parameters()] == [bits(p) for p in second.parameters()]
    assert torch._dynamo.utils.counters["compiled_autograd"]["captures"] == len(graphs) == 1
    assert breaks() == {}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_profile_shows_the_step(compiled: bool) -> None:
    (network, opt), _ = pair(lambda params: TYPICAL[0].fused(params, lr=SCHEDULE))
    function: Any = training(network, opt)
    function = Compiled(function) if compiled else function
    function(values((6, 4), 0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for t in range(1, 4):
            function(values((6, 4), t))
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["sgdr_fused::step"] == 3
