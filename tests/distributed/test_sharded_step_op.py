"""The step of sharded parameters as an operator in traced graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import make_params
from sharding import LAYOUTS, SHAPES, distributed, whole
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from worlds import World

from sgdr_fused import FusedAdam
from sgdr_fused._engine.sharded import local_part, with_part
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once
SCHEDULE = CosineWarmRestarts(0.1, T_0=3)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World(2)
    yield world
    world.close()


def sharded(layout: str, in_graph: bool) -> dict[str, Any]:
    """Five steps of sharded parameters, of which tracing takes the first."""
    place = LAYOUTS[layout](dist.get_world_size())
    plain = [param.detach() for param in make_params(SHAPES)]
    params: list[Any] = [nn.Parameter(distributed(param, place(index, param))) for index, param in enumerate(plain)]
    opt = FusedAdam(params, lr=SCHEDULE, max_grad_norm=0.5)

    def train(scale: Tensor) -> None:
        for param in params:
            param.grad = with_part(param, local_part(param).detach() * scale)
        opt.step()

    step = make_fx(train)(torch.tensor(2.0)) if in_graph else train
    for t in range(1 if in_graph else 0, 5):
        step(torch.tensor(2.0 + t))
    return {"params": [whole(param) for param in params], "norm": opt.grad_norm, "clock": int(opt.clock)}


@pytest.mark.parametrize("layout", ["fsdp", "mixed"])
def test_a_graph_takes_the_step_of_sharded_parameters(world: World, layout: str) -> None:
    for graph, plain in zip(world.run(sharded, layout, True), world.run(sharded, layout, False), strict=True):
        torch.testing.assert_close(graph, plain, rtol=0.0, atol=0.0)
        assert plain["clock"] == 5
