"""torch's wrappers for several processes: the same training as in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wrapped
from algorithms import CASE_OF
from torch.distributed.optim import _apply_optimizer_in_backward
from worlds import World

from sgdr_fused import FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once
SCHEDULE = CosineWarmRestarts(0.1, T_0=2, T_mult=2)
WRAPPERS = (
    "ddp",
    "ddp with views",
    "zero",
    "zero with views",
    "fsdp2",
    "fsdp2 offloaded",
    "fsdp1",
    "fsdp1 with flat parameters",
)
# The processes' gradients, which are equal, are added up and divided in another order than in one process; all is
# float64, and Adam divides by roots that are as small as its gradients.
RTOL = 1e-9


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World(2)
    yield world
    world.close()


@pytest.fixture(scope="module")
def alone() -> Iterator[World]:
    world = World(1)
    yield world
    world.close()


@pytest.mark.parametrize("lr", [0.05, SCHEDULE], ids=["number", "schedule"])
@pytest.mark.parametrize("case", ["sgd_nesterov", "adamw"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_trains_as_one_process(world: World, wrapper: str, case: str, lr: Any) -> None:
    expected = wrapped.trained("none", case, {"lr": lr}, 6)
    for got in world.run(wrapped.trained, wrapper, case, {"lr": lr}, 6):
        torch.testing.assert_close(got, expected, rtol=RTOL, atol=1e-12)


@pytest.mark.parametrize("case", ["adamw", "lamb", "lars"])
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2", "fsdp1"])
def test_norms(world: World, wrapper: str, case: str) -> None:
    options = {"lr": SCHEDULE, "max_grad_norm": 0.5}
    expected = wrapped.trained("none", case, options, 6)
    for got in world.run(wrapped.trained, wrapper, case, options, 6):
        torch.testing.assert_close(got, expected, rtol=RTOL, atol=1e-12)
    assert max(expected["norms"]) > 0.5


def test_accumulation_without_synchronizing(world: World) -> None:
    options = {"lr": SCHEDULE, "max_grad_norm": 0.5}
    expected = wrapped.accumulated_alone("adamw", options)
    for got in world.run(wrapped.accumulated, "adamw", options):
        torch.testing.assert_close(got, expected, rtol=RTOL, atol=1e-12)


@pytest.mark.parametrize("lr", [0.05, SCHEDULE], ids=["number", "schedule"])
def test_zero_goes_on_from_a_checkpoint(world: World, lr: Any) -> None:
    expected = wrapped.trained("none", "adamw", {"lr": lr}, 6)["params"]
    for got in world.run(wrapped.zero_resumed, {"lr": lr}, 3):
        torch.testing.assert_close(got, expected, rtol=RTOL, atol=1e-12)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # DCP's, in a process alone
@pytest.mark.parametrize("way", ["nested", "flattened", "nested through the CPU", "full on each process"])
@pytest.mark.parametrize("case", ["sgd_nesterov", "adamw"])
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp1", "fsdp1 with flat parameters"])
def test_goes_on_from_a_distributed_checkpoint(world: World, tmp_path: Path, wrapper: str, case: str, way: str) -> None:
    """From two processes to two, to one with plain tensors, and back to two."""
    options = {"lr": SCHEDULE, "average": "cycle"}
    if wrapper.startswith("fsdp1"):
        options["max_grad_norm"] = 0.5
    plain = wrapped.leg("none", case, options, way, None, None, range(8))
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    world.run(wrapped.leg, wrapper, case, options, way, None, first, range(2))
    world.run(wrapped.leg, wrapper, case, options, way, first, second, range(2, 4))
    wrapped.leg("none", case, options, way, second, third, range(4, 6))
    for got in world.run(wrapped.leg, wrapper, case, options, way, third, None, range(6, 8)):
        torch.testing.assert_close(got, plain, rtol=RTOL, atol=1e-12)


def test_flat_parameters_have_no_rates_of_their_own(world: World) -> None:
    with pytest.raises(RuntimeError, match=r"needs parameters one by one.*use_orig_params=True"):
        world.run(wrapped.trained, "fsdp1 with flat parameters", "lamb", {"lr": 0.1}, 1)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5}], ids=str)
@pytest.mark.parametrize("case", ["sgd_nesterov", "adamw"])
def test_mixed_precision(world: World, alone: World, case: str, options: dict[str, Any]) -> None:
    """The mean of two equal gradients is each of them, so two processes have the bits of one under the same policy.

    With a norm they have not: its squares are added up in another order.
    """
    options = {"lr": SCHEDULE, **options}
    (expected,) = alone.run(wrapped.trained, "fsdp2 in bfloat16", case, options, 6)
    for got in world.run(wrapped.trained, "fsdp2 in bfloat16", case, options, 6):
        torch.testing.assert_close(got, expected, rtol=0.0 if len(options) == 1 else RTOL, atol=0.0)


@pytest.mark.parametrize("case", ["sgd_nesterov", "adamw"])
def test_a_step_per_parameter_within_backward(world: World, case: str) -> None:
    expected = wrapped.trained("none", case, {"lr": SCHEDULE}, 6)
    for got in world.run(wrapped.stepped_in_backward, case, {"lr": SCHEDULE}):
        torch.testing.assert_close(got["params"], expected["params"], rtol=RTOL, atol=1e-12)
        assert got["clocks"] == [6] * len(got["clocks"])


@pytest.mark.parametrize("lr", [0.05, SCHEDULE], ids=["number", "schedule"])
def test_torch_puts_optimizers_into_backward(lr: Any) -> None:
    """Without processes: DistributedDataParallel takes a stream of an accelerator for these, and FSDP2 ignores them."""
    expected = wrapped.trained("none", "adamw", {"lr": lr}, 6)
    model = wrapped.network()
    _apply_optimizer_in_backward(FusedAdamW, model.parameters(), {"lr": lr, **CASE_OF["adamw"].hyper})
    for t in range(6):
        wrapped.backward(model, t)
    assert all(torch.equal(got, like) for got, like in zip(wrapped.whole(model), expected["params"], strict=True))
    assert all(param.grad is None for param in model.parameters())
