"""The step as an operator in traced graphs, and beside the modes that look at operators."""

from __future__ import annotations

import contextlib
import copy
import gc
from typing import Any

import pytest
import torch
from bits import bits, snapshot
from cases import TYPICAL, Case, ids, params_of, values
from networks import model
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch_features import needs_export_of_steps

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once
SCHEDULE = CosineWarmRestarts(0.1, T_0=3)
NAME = "sgdr_fused.step.default"


class Seen(TorchDispatchMode):
    """Logs the operators that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def trained(case: Case, mode: Any, **options: Any) -> dict[str, Any]:
    """Five steps, each while the mode is active."""
    network = model()
    opt = case.fused(network.parameters(), lr=SCHEDULE, **options)
    for t in range(5):
        opt.zero_grad()
        network(values((6, 4), t)).square().sum().backward()
        with mode:
            assert opt.step(lambda: 5.0) == 5.0
    return snapshot(opt)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5}], ids=str)
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_a_mode_that_logs_operators_changes_nothing(case: Case, options: dict[str, Any]) -> None:
    mode = Seen()
    assert trained(case, mode, **options) == trained(case, contextlib.nullcontext(), **options)
    assert mode.names.count(NAME) == 0  # it sees what a step calls


def traced(network: Any, opt: Any) -> torch.fx.GraphModule:
    """A graph of a whole step of training; tracing takes the step once."""

    def train(x: Tensor) -> Tensor:
        loss = network(x).square().sum()
        for param, grad in zip(params_of(opt), torch.autograd.grad(loss, params_of(opt)), strict=True):
            param.grad = grad
        opt.step()
        return loss.detach()

    return make_fx(train)(values((6, 4), 0))


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_a_traced_graph_takes_the_step(case: Case) -> None:
    network = model()
    eager = copy.deepcopy(network)
    opt, plain = (case.fused(each.parameters(), lr=SCHEDULE) for each in (network, eager))
    graph = traced(network, opt)
    nodes = [node for node in graph.graph.nodes if str(node.target) == NAME]
    assert [node.op for node in nodes] == ["call_function"]
    assert NAME.removesuffix(".default") in graph.code
    for t in range(6):  # through restarts: the rate moves in the graph too
        if t > 0:
            grads = [p.grad for p in network.parameters()]
            graph(values((6, 4), t))
            assert all(p.grad is grad for p, grad in zip(network.parameters(), grads, strict=True))
        plain.zero_grad()
        eager(values((6, 4), t)).square().sum().backward()
        plain.step()
        assert [bits(p) for p in network.parameters()] == [bits(p) for p in eager.parameters()], t
    assert int(opt.clock) == 6


def test_a_graph_whose_optimizer_is_gone() -> None:
    network = model()
    opt = FusedAdam(network.parameters(), lr=0.1)
    graph = traced(network, opt)
    before = [bits(p) for p in network.parameters()]
    del opt
    gc.collect()
    with pytest.raises(RuntimeError, match=r"optimizer \d+, whose step was traced, does not exist any more"):
        graph(values((6, 4), 1))
    assert [bits(p) for p in network.parameters()] == before


def test_a_graph_whose_optimizer_has_other_parameters() -> None:
    network = model()
    opt = FusedSGD(network.parameters(), lr=0.1)
    graph = traced(network, opt)
    opt.param_groups[0]["params"].pop()
    before = snapshot(opt)
    with pytest.raises(RuntimeError, match="the 4 params must be the 3 of the optimizer that was traced"):
        graph(values((6, 4), 1))
    assert snapshot(opt) == before


class TrainsItself(nn.Module):
    """A module that steps its own optimizer, with gradients that it computes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.network = model()
        self.optimizers = [FusedSGD(self.network.parameters(), lr=0.1)]

    def forward(self, x: Tensor) -> Tensor:
        loss = self.network(x).square().sum()
        self.optimizers[0].step()
        return loss


@needs_export_of_steps
def test_an_exported_program_holds_the_step() -> None:
    """torch.export traces with tensors that have no values, and so takes no step; the program takes one."""
    module = TrainsItself()
    program = torch.export.export(module, (values((6, 4), 0),), strict=False)
    targets = [str(node.target) for each in program.graph_module.modules() for node in each.graph.nodes]
    assert targets.count(NAME) == 1
    assert int(module.optimizers[0].clock) == 0
    program.module()(values((6, 4), 0))
    assert int(module.optimizers[0].clock) == 1
