"""Groups, states and rates can be read and written in compiled code, as those of torch's optimizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import bits
from cases import SGD, params_of, values
from compiling import Compiled, fresh_compiler
from networks import model
from torch import Tensor

import sgdr_fused
from sgdr_fused import FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

# What the compiler sees does not depend on what the step runs on.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
compiler = pytest.fixture(autouse=True)(fresh_compiler)
PACKAGE = Path(sgdr_fused.__file__).parent
SCHEDULE = CosineWarmRestarts(0.1, T_0=3)


def _rate(opt: Any, x: Tensor) -> Tensor:
    return x.sin().cos() * opt.param_groups[0]["lr"] + 1


def _rates(opt: Any, x: Tensor) -> Tensor:
    y = x.sin().cos()
    for group in opt.param_groups:
        y = y * group["lr"] * group["momentum"]
    return y


def _entries(opt: Any, x: Tensor) -> Tensor:
    y = x.sin().cos()
    for group in opt.param_groups:
        for key, value in group.items():
            if key in ("lr", "weight_decay"):
                y = y + value
        y = y + len(group["params"]) + group.get("dampening", 0)
    return y


def _state(opt: Any, x: Tensor) -> Tensor:
    y = x.sin().cos()
    for group in opt.param_groups:
        for p in group["params"]:
            y = y + opt.state[p]["momentum_buffer"].sum() + p.sum()
    return y


def _saved(opt: Any, x: Tensor) -> Tensor:
    return x.sin().cos() + opt.state_dict()["param_groups"][0]["lr"]


def _defaults(opt: Any, x: Tensor) -> Tensor:
    return x.sin().cos() + opt.defaults["momentum"]


READINGS = [_rate, _rates, _entries, _state, _saved, _defaults]


@pytest.mark.parametrize("read", READINGS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("lr", [0.1, SCHEDULE], ids=["number", "schedule"])
def test_reading(read: Any, lr: Any) -> None:
    """What is read in compiled code is what is there, at each step; torch's optimizer can be read so, too."""
    oracle = SGD.torch(model().parameters(), lr=0.1, momentum=0.9)
    for opt in (oracle, FusedSGD(model().parameters(), lr=lr, momentum=0.9)):
        torch._dynamo.reset()
        function = Compiled(lambda x, opt=opt: read(opt, x))
        for t in range(5):
            for i, p in enumerate(params_of(opt)):
                p.grad = values(p.shape, 31 * t + i)
            opt.step()
            if not isinstance(opt.param_groups[0]["lr"], Tensor):
                opt.param_groups[0]["lr"] = 0.1 * (t + 1)
            x = values(3, t)
            assert bits(function(x)) == bits(read(opt, x))


def test_what_comes_before_reading_is_compiled() -> None:
    opt = FusedSGD(model().parameters(), lr=SCHEDULE)

    def function(x: Tensor) -> Tensor:
        y = x.sin().cos().tan()
        return y * opt.param_groups[0]["lr"]

    compiled = Compiled(function)
    x = values(3, 0)
    assert bits(compiled(x)) == bits(function(x))
    assert compiled.graphs >= 1


def test_writing_a_rate() -> None:
    opts = [FusedSGD(model().parameters(), lr=0.1, momentum=0.9) for _ in range(2)]

    def write(opt: Any) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            y = x.sin().cos()
            for group in opt.param_groups:
                group["lr"] = group["lr"] * 0.5
            opt.step()
            return y

        return function

    compiled = Compiled(write(opts[1]))
    for t in range(4):
        for opt in opts:
            for i, p in enumerate(params_of(opt)):
                p.grad = values(p.shape, 31 * t + i)
        assert bits(write(opts[0])(values(3, t))) == bits(compiled(values(3, t)))
    assert opts[1].param_groups[0]["lr"] == 0.1 * 0.5**4
    assert [bits(p) for p in params_of(opts[0])] == [bits(p) for p in params_of(opts[1])]


def test_fullgraph_says_why_not() -> None:
    opt = FusedSGD(model().parameters(), lr=0.1)

    def function(x: Tensor) -> Tensor:
        opt.step()
        return x + 1

    # Up to torch 2.7, the compiler names the function and has no room for a reason.
    step = "fused optimizer is not traced|<function FusedOptimizer.step"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=step):
        Compiled(function, fullgraph=True)(values(3, 0))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="fused optimizer is not traced"):
        Compiled(lambda x: x * opt.param_groups[0]["lr"], fullgraph=True)(values(3, 0))
