"""All processes step, or none; what is not placed as its parameter is, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sharding import collectives, overflows
from worlds import World

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World(4)
    yield world
    world.close()


@pytest.mark.parametrize("how", ["skip_nonfinite", "found_inf"])
@pytest.mark.parametrize("layout", ["fsdp", "hsdp", "tensor_parallel", "mixed"])
@pytest.mark.parametrize("bad_rank", [0, 3])
def test_one_process_overflows(world: World, layout: str, how: str, bad_rank: int) -> None:
    for got in world.run(overflows, "adamw", layout, how, bad_rank):
        assert got["clocks"] == [1, 1, 2]
        first, second, third = got["params"]
        assert all(map(torch.equal, first, second))
        assert not any(torch.equal(a, b) for a, b in zip(second, third, strict=True) if a.numel())


@pytest.mark.parametrize(
    ("case", "options", "expected"),
    [
        ("adamw", {}, []),
        ("adamw", {"max_grad_norm": 1.0}, [16]),
        ("adamw", {"max_grad_norm": 1.0, "skip_nonfinite": True}, [16]),
        ("lamb", {}, [7 * 16]),
        ("lamb", {"max_grad_norm": 1.0}, [16, 7 * 16]),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", ["fsdp", "hsdp", "tensor_parallel", "mixed"])
def test_collectives_of_a_step(
    world: World, layout: str, case: str, options: dict[str, Any], expected: list[int]
) -> None:
    for sizes, count in world.run(collectives, case, layout, options):
        assert (sizes, count) == (expected, len(expected))
