"""Parameters that processes share, beside the same training in one process with plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from algorithms import CASES
from cases import SCHEDULES, expected_backend, ids
from sharding import LAYOUTS, trained
from worlds import World

pytestmark = pytest.mark.skipif(
    expected_backend() not in ("cpu", "emulated_cuda"),
    reason="the processes have the CPU (test_sharded_gpu.py has the GPU's part); the reference adds up no norms",
)
STEPS = 10
RATE = SCHEDULES[0]
KINDS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "bfloat16 with float32 states": (torch.bfloat16, {"state_dtype": torch.float32}),
    "master weights": (torch.bfloat16, {"master_weights": True}),
}


@pytest.fixture(scope="module", params=[2, 4])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.param)
    yield world
    world.close()


def assert_equal(got: dict[str, Any], expected: dict[str, Any], rtol: float = 0.0) -> None:
    """Within rtol, and, for what is left of larger summands and has their error, within rtol of 0.01."""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=0.01 * rtol, equal_nan=True)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [each.id for each in CASES if not each.algorithm.per_tensor])
def test_elementwise_rules_have_the_same_bits(world: World, case: str, layout: str, kind: str) -> None:
    dtype, options = KINDS[kind]
    options = {"lr": RATE, **options}
    expected = trained(case, None, dtype, options, STEPS)
    for got in world.run(trained, case, layout, dtype, options, STEPS):
        assert_equal(got, expected)


NORMS: dict[str, dict[str, Any]] = {
    "clipped": {"max_grad_norm": 0.5},
    "clamped and clipped": {"max_grad_norm": 2.0, "max_grad_value": 0.7},
    "guarded": {"skip_nonfinite": True},
}
# Sums of a few hundred numbers in float64, in another order: each addition rounds by half of 2**-52, and the norm is
# rounded to the float32 that the update takes.
RTOL = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", ["sgd_nesterov", "adamw"])
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64]))
def test_norms_are_those_of_all_parts(world: World, case: str, layout: str, norm: str, dtype: torch.dtype) -> None:
    options = {"lr": RATE, **NORMS[norm]}
    expected = trained(case, None, dtype, options, STEPS)
    results = world.run(trained, case, layout, dtype, options, STEPS)
    for got in results:
        assert_equal(got, expected, RTOL[dtype])
        assert_equal(got, results[0])  # the same bits on all processes
    assert expected["norms"][0] > 1


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.5}], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [each.id for each in CASES if each.algorithm.per_tensor])
@pytest.mark.parametrize("dtype", ids([torch.float32, torch.float64]))
def test_rates_by_norms_of_whole_parameters(
    world: World, case: str, layout: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    options = {"lr": RATE, **options}
    expected = trained(case, None, dtype, options, STEPS)
    results = world.run(trained, case, layout, dtype, options, STEPS)
    for got in results:
        assert_equal(got, expected, 10 * RTOL[dtype])
        assert_equal(got, results[0])  # the same bits on all processes


MEASURED = [pytest.param(each.id, {"max_grad_norm": 0.5}, id=f"{each.id}-clipped") for each in CASES]
MEASURED += [pytest.param(each.id, {}, id=each.id) for each in CASES if each.algorithm.per_tensor]


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("case", "options"), MEASURED)
def test_the_order_of_additions_is_not_seen_in_32_bits(
    world: World, case: str, layout: str, kind: str, options: dict[str, Any]
) -> None:
    """It changes the last of the 53 bits of a norm, of which the update takes the first 24."""
    dtype, storage = KINDS[kind]
    options = {"lr": RATE, **storage, **options}
    expected = trained(case, None, dtype, options, STEPS)
    norms = expected.pop("norms")
    assert min(norms) > 0.5 or "max_grad_norm" not in options
    for got in world.run(trained, case, layout, dtype, options, STEPS):
        torch.testing.assert_close(got.pop("norms"), norms, rtol=1e-13, atol=0.0)
        assert_equal(got, expected)
