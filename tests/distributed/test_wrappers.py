"""torch's wrappers for several processes: the same training as in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import wrapped
from worlds import World

from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once
SCHEDULE = CosineWarmRestarts(0.1, T_0=2, T_mult=2)
WRAPPERS = ("ddp", "ddp with views", "zero", "zero with views", "fsdp2", "fsdp1", "fsdp1 with flat parameters")
# The processes' gradients, which are equal, are added up and divided in another order than in one process; all is
# float64, and Adam divides by roots that are as small as its gradients.
RTOL = 1e-9


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World(2)
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


def test_flat_parameters_have_no_rates_of_their_own(world: World) -> None:
    with pytest.raises(RuntimeError, match=r"needs parameters one by one.*use_orig_params=True"):
        world.run(wrapped.trained, "fsdp1 with flat parameters", "lamb", {"lr": 0.1}, 1)
