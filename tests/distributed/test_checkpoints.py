"""Checkpoints of torch.distributed.checkpoint: saved on some processes and loaded on others, as if never stopped."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dcp
import pytest
import torch
from dcp import WAYS
from dcp_recipes import RECIPES, SEED
from worlds import World

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),  # DCP's, in a process alone
]
# Where a training stops: before the first step, at a restart, in the middle of a cycle, at a restart, and at its end.
STOPS = (0, 3, 5, 9, 11)
# On how many processes it goes to each stop: from 4 on to 4, 2 and 1, from 2 and from 1 back. On 1 the tensors are
# plain ones, and there is no process group.
JOURNEYS = {"fsdp": (4, 4, 2, 1, 4), "hsdp": (4, 1, 4, 2, 4), "tensor_parallel": (4, 2, 1, 4, 4)}


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[int, World]]:
    worlds = {size: World(size) for size in (4, 2)}
    yield worlds
    for world in worlds.values():
        world.close()


@functools.cache
def uninterrupted(recipe: str) -> dict[int, dict[str, Any]]:
    return dcp.uninterrupted(recipe, STOPS)


def assert_same(got: dict[str, Any], expected: dict[str, Any], rtol: float = 0.0) -> None:
    assert got["schedules"] == expected["schedules"]
    without = [{key: value for key, value in each.items() if key != "schedules"} for each in (got, expected)]
    torch.testing.assert_close(*without, rtol=rtol, atol=0.0)


def travel(worlds: dict[int, World], folder: Path, recipe: str, layout: str, way: str) -> None:
    """Trains from stop to stop, on another number of processes each time, through a checkpoint between them."""
    expected, at, ended, loaded = uninterrupted(recipe), 0, [], None
    for number, (size, stop) in enumerate(zip(JOURNEYS[layout], STOPS, strict=True)):
        saved = folder / str(number)
        arguments = recipe, layout, way, loaded, saved, at, stop
        results = [dcp.leg(*arguments)] if size == 1 else worlds[size].run(dcp.leg, *arguments)
        ended = ended + results[0]["ended"]  # a new optimizer announces what ends from then on
        for got in results:
            assert got["ended"] == results[0]["ended"]
            assert_same(got | {"ended": ended}, expected[stop], RECIPES[recipe].rtol)
            # Between the processes there is no tolerance.
            assert_same(got, results[0])
        at, loaded = stop, saved


@pytest.mark.parametrize("layout", JOURNEYS)
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "stochastic"])
def test_goes_on_as_if_never_stopped(worlds: dict[int, World], tmp_path: Path, recipe: str, layout: str) -> None:
    travel(worlds, tmp_path, recipe, layout, "flattened" if layout == "fsdp" else "nested")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("recipe", "layout"), [("adamw_amsgrad", "fsdp"), ("master_weights", "hsdp"), ("adamw_amsgrad", "tensor_parallel")]
)
def test_each_way(worlds: dict[int, World], tmp_path: Path, recipe: str, layout: str, way: str) -> None:
    travel(worlds, tmp_path, recipe, layout, way)


def test_the_oracle_is_no_trivial_one() -> None:
    """What the checkpoints have to bring along is there: each recipe has it in its last state."""
    ends = {name: uninterrupted(name)[STOPS[-1]] for name in RECIPES}
    assert ends["cycle_average"]["counts"][0] == {"clock": 10, "n_averaged": 2, "rounding_seed": -1, "skipped_steps": 1}
    assert ends["adamw_amsgrad"]["counts"][0]["n_averaged"] > 0
    assert ends["stochastic"]["counts"][0]["rounding_seed"] == SEED != 0
    assert ends["sgd_nesterov"]["ended"] == [0, 1]
    assert ends["wide_states"]["states"]["0.weight"]["exp_avg"].dtype == torch.float32
    assert ends["master_weights"]["states"]["0.weight"]["remainder"].dtype == torch.int16
    assert ends["master_weights"]["states"]["0.weight"]["remainder"].any()
    assert set(ends["rmsprop_centered"]["states"]["0.weight"]) >= {"square_avg", "grad_avg", "momentum_buffer"}
    assert "max_exp_avg_sq" in ends["adamw_amsgrad"]["states"]["0.weight"]


@pytest.mark.parametrize("way", ["nested", "flattened", "full on the first process"])
@pytest.mark.parametrize("layout", JOURNEYS)
def test_seed_of_stochastic_rounding(worlds: dict[int, World], tmp_path: Path, layout: str, way: str) -> None:
    """On as many processes as before, the bits are those of a training that never stopped.

    An element's random bits depend on its number among those of its process, so on another number of processes they
    are others, and of the checkpoint the seed alone is compared.
    """
    expected = worlds[4].run(dcp.uninterrupted, "stochastic", STOPS, layout)[0]
    saved = tmp_path / "saved"
    for got in worlds[4].run(dcp.leg, "stochastic", layout, way, None, saved, 0, 5):
        assert_same(got, expected[5])
    for got in worlds[4].run(dcp.leg, "stochastic", layout, way, saved, None, 5, 11):
        assert_same(got | {"ended": []}, expected[11] | {"ended": []})
    arguments = "stochastic", layout, way, saved, None, 5, 5
    for got in [*worlds[2].run(dcp.leg, *arguments), dcp.leg(*arguments)]:
        assert_same(got | {"ended": []}, expected[5] | {"ended": []})


@pytest.mark.parametrize("way", ["nested", "flattened"])
def test_before_the_first_step_nothing_happens(worlds: dict[int, World], way: str) -> None:
    """torch sets the rates to 0, steps and puts them back; and then once more. Training goes on as without it."""
    expected = uninterrupted("cycle_average")
    for asked, after in worlds[4].run(dcp.asked_before_the_first_step, "cycle_average", "fsdp", way, 5):
        assert_same(asked | {"states": {}}, expected[0] | {"states": {}})
        assert_same(after, expected[5])


# ---- what a checkpoint lacks


def test_without_the_states_of_a_parameter(worlds: dict[int, World]) -> None:
    """strict=False loads what there is; the parameter whose states are missing starts anew, as with one process.

    Without strict=False, torch raises before it gives the optimizer anything.
    """
    expected = dcp.partly_loaded("adamw_amsgrad", "2.weight")
    assert "Missing optimizer state for parameter '2.weight'" in expected["error"]
    assert expected["steps"] == {"2.weight": 2, "0.weight": 5}
    for got in worlds[4].run(dcp.partly_loaded, "adamw_amsgrad", "2.weight"):
        assert got["error"] == expected["error"]
        assert got["steps"] == expected["steps"]
        assert_same(got["unchanged"], uninterrupted("adamw_amsgrad")[0] | {"states": got["unchanged"]["states"]})
        assert_same(got["after"], expected["after"])


def test_full_and_flattened_is_torchs_fault(worlds: dict[int, World]) -> None:
    """torch 2.14.1 cannot load what it gives with full_state_dict and flatten_optimizer_state_dict, ours or its own.

    The state dict itself is right. A user who wants a whole one leaves the flattening out, or flattens without
    full_state_dict. When torch does load it, this test fails, and WAYS gets one more.
    """
    for optimizer in (None, torch.optim.AdamW):
        for error in worlds[2].run(dcp.full_and_flattened, "adamw_numbers", optimizer):
            assert error.startswith("KeyError('param_groups")


# ---- from torch's optimizers, and to them

# The sums are the same, in another order: torch multiplies and adds in other places. In float64 a few roundings of
# 2**-53 for each of the 8 steps, relative to numbers that are made of larger ones: at most 4 ulp were seen.
TORCHS_RTOL, TORCHS_ATOL = 1e-13, 1e-14
COUNTERPARTS = [("adamw_numbers", torch.optim.AdamW), ("sgd_numbers", torch.optim.SGD)]


@pytest.mark.parametrize("way", ["nested", "flattened"])
@pytest.mark.parametrize("size", [4, 2, 1])
@pytest.mark.parametrize(("recipe", "theirs"), COUNTERPARTS)
def test_from_torchs_optimizer(
    worlds: dict[int, World], tmp_path: Path, recipe: str, theirs: Any, size: int, way: str
) -> None:
    """Ours goes on with a checkpoint of torch's optimizer, at any number of processes.

    torch's checkpoint has no clock, no Schedules and no counts, and ours asks for them. So the user has to

    1. load with ``planner=DefaultLoadPlanner(allow_partial_load=True)``; without it DCP raises, naming what it misses;
    2. call ``opt.clock.fill_(n)`` if the checkpoint is of n steps and Schedules are to go on from there. AdamW's states
       count their steps, so there a warning says so; SGD's do not. An optimizer without a Schedule does not depend on
       its clock.
    """
    saved = tmp_path / "saved"
    worlds[4].run(dcp.with_class, recipe, theirs, way, None, saved, 0, 4)
    expected = dcp.with_class(recipe, theirs, way, None, None, 0, 8)
    arguments = recipe, None, way, saved, None, 4, 8
    results = [dcp.with_class(*arguments)] if size == 1 else worlds[size].run(dcp.with_class, *arguments)
    for got in results:
        assert got["missing"] is not None
        assert "Missing key in checkpoint state_dict" in got["missing"]
        assert_alike(got, expected)
        assert ["opt.clock.fill_(4)" in each for each in got["warned"]] == [True] * (theirs is torch.optim.AdamW)
        assert [counts["clock"] for counts in got["counts"]] == [4 + 4, 4 + 4]


@pytest.mark.parametrize("way", ["nested", "flattened"])
@pytest.mark.parametrize("size", [4, 2, 1])
@pytest.mark.parametrize(("recipe", "theirs"), COUNTERPARTS)
def test_to_torchs_optimizer(
    worlds: dict[int, World], tmp_path: Path, recipe: str, theirs: Any, size: int, way: str
) -> None:
    """torch's optimizer goes on with a checkpoint of ours. The user has to do nothing: what ours holds beside torch's
    entries is not asked for. A rate with a Schedule arrives as the number that it was for the next step."""
    saved = tmp_path / "saved"
    worlds[4].run(dcp.with_class, recipe, None, way, None, saved, 0, 4)
    expected = dcp.with_class(recipe, theirs, way, None, None, 0, 8)
    arguments = recipe, theirs, way, saved, None, 4, 8
    results = [dcp.with_class(*arguments)] if size == 1 else worlds[size].run(dcp.with_class, *arguments)
    for got in results:
        assert got["missing"] is None
        assert_alike(got, expected)


def assert_alike(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Parameters, states and rates; a count of steps is a float32 for torch, and a float64 for us."""
    for part in ("params", "states", "rates"):
        torch.testing.assert_close(
            got[part], expected[part], rtol=TORCHS_RTOL, atol=TORCHS_ATOL, check_dtype=part == "params"
        )
