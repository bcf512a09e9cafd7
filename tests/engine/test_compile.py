"""Optimizers and torch.compile: a step is left alone, gives the same bits, and nothing is compiled anew for it.

Compiled with a backend that runs each graph as it is, and so gives the bits of an eager run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import bits
from cases import TYPICAL, Case, ids, params_of, values
from compiling import LOOKS_INTO_CALLS, Compiled, attempts, fresh_compiler, pair
from networks import model
from torch import Tensor, nn

import sgdr_fused
from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

# What the compiler sees does not depend on what the step runs on.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
compiler = pytest.fixture(autouse=True)(fresh_compiler)
PACKAGE = Path(sgdr_fused.__file__).parent
SCHEDULE = CosineWarmRestarts(0.1, T_0=3)


def _schedule(opt: Any, t: int) -> None:
    pass


def _number(opt: Any, t: int) -> None:
    opt.param_groups[0]["lr"] = 0.1 / (1 + t)


def _tensor(opt: Any, t: int) -> None:
    opt.param_groups[0]["lr"] = torch.tensor(0.1 / (1 + t))


def _clock(opt: Any, t: int) -> None:
    opt.clock.fill_(7 * t)


def _some_gradients(opt: Any, t: int) -> None:
    params_of(opt)[t % 4].grad = None


def _new_group(opt: Any, t: int) -> None:
    if t == 3:
        opt.add_param_group({"params": [opt.param_groups[0]["params"].pop()], "lr": 0.2})


CHANGES = [_schedule, _number, _tensor, _clock, _some_gradients, _new_group]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_compiled_step(case: Case, change: Any) -> None:
    """``torch.compile(opt.step)`` is the step."""
    (_, eager), (_, compiled) = pair(lambda params: case.fused(params, lr=SCHEDULE))
    step = Compiled(compiled.step)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for t in range(8):
            for opt in (eager, compiled):
                for i, p in enumerate(params_of(opt)):
                    p.grad = values(p.shape, 31 * t + i)
                change(opt, t)
            eager.step()
            step()
    assert [bits(p) for p in params_of(eager)] == [bits(p) for p in params_of(compiled)]
    assert step.graphs == 0
    assert LOOKS_INTO_CALLS or attempts() == 0


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("case", ids(TYPICAL[1:3]))
def test_step_in_a_compiled_function(case: Case, change: Any) -> None:
    """A whole step of training: forward, backward, the optimizer's step in the middle of other things, zero_grad."""

    def training(model: nn.Module, opt: Any) -> Callable[[Tensor, int], Tensor]:
        def train(x: Tensor, t: int) -> Tensor:
            loss = model(x).square().sum()
            loss.backward()
            change(opt, t)
            opt.step()
            opt.zero_grad()
            return loss.detach() * 2 + 1

        return train

    (first, eager), (second, compiled) = pair(lambda params: case.fused(params, lr=SCHEDULE))
    plain, function = training(first, eager), Compiled(training(second, compiled))
    for t in range(8):
        x = values((6, 4), t)
        assert bits(plain(x, t)) == bits(function(x, t))
    assert [bits(p) for p in params_of(eager)] == [bits(p) for p in params_of(compiled)]
    assert function.graphs >= 1


def test_nothing_is_compiled_anew() -> None:
    """After the first steps the compiler looks at nothing more, whatever moves: the Schedule, a number, the clock."""
    network = model()
    opt = FusedSGD(network.parameters(), lr=SCHEDULE, momentum=0.9)

    def train(x: Tensor) -> Tensor:
        loss = network(x).square().sum()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss.detach() * 2

    function = Compiled(train)
    for t in range(2):
        function(values((6, 4), t))
    seen, graphs = attempts(), function.graphs
    with torch._dynamo.config.patch(error_on_recompile=True):
        for t in range(2, 12):
            if t == 5:
                opt.param_groups[0]["momentum"] = 0.8
            if t == 7:
                opt.clock.fill_(100)
            if t == 9:
                opt.register_step_post_hook(lambda *_: None)
            function(values((6, 4), t))
    assert function.graphs == graphs
    assert LOOKS_INTO_CALLS or attempts() == seen
    assert opt.clock.item() == 105
    breaks = sum("disable()`d function" in reason for reason in torch._dynamo.utils.counters["graph_break"])
    assert LOOKS_INTO_CALLS or breaks == 1


def test_no_frame_of_the_package_is_compiled() -> None:
    """The compiler calls not only the step as it is, but also loading, saving, groups and the clock."""
    network = model()
    opt = FusedAdam(network.parameters(), lr=SCHEDULE)

    def train(x: Tensor) -> Tensor:
        network(x).sum().backward()
        opt.step()
        opt.clock.fill_(3)
        opt.param_groups[0]["weight_decay"] = 0.1
        opt.param_groups[0].update(eps=1e-6)
        opt.load_state_dict(opt.state_dict())
        opt.zero_grad()
        return x + opt.clock

    function = Compiled(train)
    for t in range(3):
        assert torch.equal(function(values((6, 4), t)), values((6, 4), t) + 3)
    tried = [code() for code in torch._dynamo.convert_frame.input_codes.seen]
    ours = {code.co_name for code in tried if code and Path(code.co_filename).parent == PACKAGE}
    assert tried
    assert ours <= {"param_groups", "state"}  # which read one attribute
    assert opt.param_groups[0]["eps"] == 1e-6


# ---- around a step


def test_closure() -> None:
    def training(model: nn.Module, opt: Any) -> Callable[[Tensor], Tensor]:
        def train(x: Tensor) -> Tensor:
            def closure() -> Tensor:
                opt.zero_grad()
                loss = model(x).square().sum()
                loss.backward()
                return loss

            return opt.step(closure) * 2

        return train

    (first, eager), (second, compiled) = pair(lambda params: FusedSGD(params, lr=SCHEDULE, momentum=0.9))
    plain, function = training(first, eager), Compiled(training(second, compiled))
    for t in range(5):
        assert bits(plain(values((6, 4), t))) == bits(function(values((6, 4), t)))
    assert [bits(p) for p in params_of(eager)] == [bits(p) for p in params_of(compiled)]


def test_step_that_a_scheduler_has_wrapped() -> None:
    """torch's schedulers put a function of theirs in the place of ``opt.step``."""
    (_, eager), (_, compiled) = pair(lambda params: FusedSGD(params, lr=0.1, momentum=0.9))
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(opt, 0.9) for opt in (eager, compiled)]

    def function(x: Tensor) -> Tensor:
        compiled.step()
        return x.sin().cos()

    step = Compiled(function)
    for t in range(5):
        for opt in (eager, compiled):
            for i, p in enumerate(params_of(opt)):
                p.grad = values(p.shape, 31 * t + i)
        eager.step()
        step(values(3, t))
        for scheduler in schedulers:
            scheduler.step()
    assert [bits(p) for p in params_of(eager)] == [bits(p) for p in params_of(compiled)]
    assert eager.param_groups[0]["lr"] == compiled.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**5)


def test_step_in_a_hook_of_compiled_backward() -> None:
    """A parameter's hook steps its optimizer while backward runs; with autograd compiled too."""
    results = []
    for compiled_autograd in (False, True):
        network = model()
        opts = {p: FusedSGD([p], lr=SCHEDULE, momentum=0.9) for p in network.parameters()}

        def hook(p: Any, opts: dict[Any, Any] = opts) -> None:
            opts[p].step()
            opts[p].zero_grad()

        for p in network.parameters():
            p.register_post_accumulate_grad_hook(hook)

        def train(x: Tensor, network: nn.Module = network) -> None:
            network(x).square().sum().backward()

        with torch._dynamo.config.patch(compiled_autograd=compiled_autograd):
            function = Compiled(train) if compiled_autograd else train
            for t in range(4):
                function(values((6, 4), t))
        assert all(opt.clock.item() == 4 for opt in opts.values())
        results.append([bits(p) for p in network.parameters()])
    assert results[0] == results[1]


def test_compiled_model_and_eager_step() -> None:
    """The step sees only parameters and gradients: nothing of it is compiled."""
    (first, eager), (second, compiled) = pair(lambda params: FusedAdam(params, lr=SCHEDULE))
    function = Compiled(second)
    for t in range(5):
        for network, opt in ((first, eager), (function, compiled)):
            network(values((6, 4), t)).square().sum().backward()
            opt.step()
            opt.zero_grad()
    assert [bits(p) for p in params_of(eager)] == [bits(p) for p in params_of(compiled)]
    assert (function.graphs, attempts()) == (1, 1)


def test_made_in_a_compiled_function() -> None:
    weight = nn.Parameter(values(3, 0))

    def function(x: Tensor) -> Any:
        y = x.sin().cos()
        opt = FusedSGD([weight], lr=SCHEDULE)
        return opt, y + 1

    opt, _ = Compiled(function)(values(3, 0))
    weight.grad = torch.ones_like(weight)
    opt.step()
    assert bits(weight) == bits(values(3, 0) - 0.1)


def test_users_subclass() -> None:
    """A class of the user's, whose own step is compiled as far as it goes."""

    class Counting(FusedSGD):
        count = 0

        def step(self, closure: Any = None) -> Any:
            self.count += 1
            return super().step(closure)

    opt = Counting(model().parameters(), lr=SCHEDULE)
    plain = FusedSGD(model().parameters(), lr=SCHEDULE)
    step = Compiled(opt.step)
    for t in range(4):
        for each in (opt, plain):
            for i, p in enumerate(params_of(each)):
                p.grad = values(p.shape, 31 * t + i)
        step()
        plain.step()
    assert opt.count == opt.clock.item() == 4
    assert [bits(p) for p in params_of(opt)] == [bits(p) for p in params_of(plain)]


def test_compiler_is_not_imported() -> None:
    """It takes seconds; an import of the package must not."""
    code = "import sys, sgdr_fused; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
