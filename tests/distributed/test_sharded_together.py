"""All processes step, or none; what is not placed as its parameter is, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import expected_backend
from sharding import (
    added_up,
    collectives,
    error_of_a_step,
    overflows,
    overflows_by_reference,
    parts_without_gradients,
    rounded_replicas,
)
from worlds import World

pytestmark = pytest.mark.skipif(
    expected_backend() not in ("cpu", "emulated_cuda"),
    reason="the processes have the CPU (test_sharded_gpu.py has the GPU's part); the reference adds up no norms",
)


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


@pytest.mark.parametrize("bad_rank", [0, 3])
@pytest.mark.parametrize("layout", ["fsdp", "hsdp"])
def test_all_processes_raise(world: World, layout: str, bad_rank: int) -> None:
    first, *others = world.run(error_of_a_step, layout, bad_rank)
    assert "norm of the gradients is nan" in first
    assert others == [first] * 3


@pytest.mark.parametrize("missing", [[0], [1, 3], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("case", ["adamw", "lamb"])
def test_processes_without_gradients_take_part(world: World, case: str, missing: list[int]) -> None:
    first, *others = world.run(parts_without_gradients, case, missing, False)
    assert first["norms"][1] == pytest.approx(first["norms"][0], rel=1e-13)
    assert first["clock"] == 2
    assert (first["norms"][0] > 0) == (len(missing) < 4)
    for other in (*others, *world.run(parts_without_gradients, case, missing, True)):
        torch.testing.assert_close(other, first, rtol=0.0, atol=0.0)


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


def test_parameters_may_stand_in_another_order_in_each_process(world: World) -> None:
    """A plan sorts its tensors by dtypes, and the states that decide on them may be missing on one process."""
    expected = torch.tensor([[40.0, 4.0], [100.0, 1.0], [1000.0, 1.0]], dtype=torch.float64)
    for got in world.run(added_up, [[0, 1, 2], [2, 0, 1], [1, 0, 2], [2, 1, 0]]):
        assert torch.equal(got, expected)


def test_replicas_are_rounded_alike(world: World) -> None:
    first, *others = world.run(rounded_replicas)
    assert 0 < first[0].ne(1.0).sum() < 1000  # 0.003 is less than a unit in the last place of 1
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.once  # it is about the reference
def test_the_reference_refuses_what_it_cannot_add_up(world: World) -> None:
    """Else each process would go by the overflows that it has seen itself."""
    with pytest.raises(RuntimeError, match="found_inf of parameters on several processes needs the extension"):
        world.run(overflows_by_reference, "fsdp")
