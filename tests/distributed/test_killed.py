"""A process that dies or stands still: the others get torch's error in time, and nothing is half done."""

from __future__ import annotations

import signal
from pathlib import Path

import dying
import pytest
import torch
from dcp import leg, load, uninterrupted
from dcp_recipes import Training
from torch.distributed.checkpoint.api import CheckpointException

pytestmark = [
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),  # DCP's, in a process alone
]
SIZE = 4
# What a process may need beside the time-out, in which torch's own threads look every few seconds, on a busy machine.
SLACK = 20.0


def assert_torch_has_raised(seen: dying.Seen) -> None:
    """A time-out or a lost connection, which a line of torch.distributed has raised, within the group's time-out."""
    assert seen.error is not None
    assert seen.error.startswith(("RuntimeError", "DistBackendError"))
    assert "Connection" in seen.error or "Timed out" in seen.error
    assert Path(seen.raised_in).match("torch/distributed/*.py")
    assert seen.seconds < dying.TIMEOUT.total_seconds() + SLACK


@pytest.mark.parametrize(
    ("recipe", "way", "dies", "when"),
    [
        ("sgd_nesterov", "flattened", 0, "before"),  # the process that coordinates a save
        ("cycle_average", "nested", 2, "behind"),
        ("cycle_average", "flattened in the background", 2, "before"),
    ],
    ids=str,
)
def test_a_process_is_killed_during_a_save(tmp_path: Path, recipe: str, way: str, dies: int, when: str) -> None:
    """The others get torch's error, and the earlier checkpoint goes on as if nothing had happened."""
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    results = dying.run(SIZE, dying.killed_in_save, recipe, way, earlier, later, dies, when, dies=dies)
    for rank, result in enumerate(results):
        if rank == dies:
            continue
        seen, is_as_before = result
        assert_torch_has_raised(seen)
        assert is_as_before
    expected = uninterrupted(recipe, (3, 5))
    arguments = recipe, "fsdp", way, earlier, None, 3, 5
    for got in [leg(*arguments), *dying.run(2, leg, *arguments)]:
        assert got.pop("ended") == []  # the restart was at step 3
        assert got.pop("schedules") == expected[5]["schedules"]
        rest = {key: value for key, value in expected[5].items() if key in got}
        torch.testing.assert_close(got, rest, rtol=0, atol=0)
    training = Training(recipe)
    before = dying.local_result(training)
    with pytest.raises(CheckpointException, match="metadata"):  # which DCP writes last, so that the later one has none
        load(training, later, way)
    after = dying.local_result(training)
    assert after | {"states": {}} == before  # DCP has asked for states to read into, and has read nothing
    assert set(map(str, later.iterdir())) == {str(later / f"__{rank}_0.distcp") for rank in range(SIZE)}


@pytest.mark.parametrize(
    ("recipe", "layout", "steps", "at"),
    [
        ("clipped", "fsdp", 0, 0),  # the first step, which makes the states
        ("clipped", "fsdp", 3, 0),
        ("cycle_average", "hsdp", 5, 0),
        ("lamb_clipped", "fsdp", 3, 0),
        ("lamb_clipped", "hsdp", 3, 1),  # between the sum for clipping and the sums of each parameter
        ("lamb_clipped", "fsdp", 0, 1),
    ],
    ids=str,
)
def test_a_process_dies_in_a_step(recipe: str, layout: str, steps: int, at: int) -> None:
    """The others have begun the same sum, cannot end it, and have not begun their update."""
    for seen in seen_by_the_others(recipe, layout, steps, at, signal.SIGKILL):
        assert "Connection" in (seen.error or "")


def test_a_process_stands_still_in_a_step() -> None:
    """Its connections live on, so that only the time-out tells. Then the first to notice closes its own ones."""
    seen = seen_by_the_others("lamb_clipped", "fsdp", 3, 1, signal.SIGSTOP)
    assert any("Timed out" in (each.error or "") for each in seen)
    assert min(each.seconds for each in seen) > dying.TIMEOUT.total_seconds() / 2  # it has not died at once


def seen_by_the_others(recipe: str, layout: str, steps: int, at: int, sign: int) -> list[dying.Seen]:
    dies, others = 1, []
    results = dying.run(SIZE, dying.lost_in_step, recipe, layout, steps, dies, at, sign, dies=dies)
    for rank, result in enumerate(results):
        if rank == dies:
            continue
        seen, is_as_before, begun = result
        assert_torch_has_raised(seen)
        assert is_as_before
        assert begun == at + 1
        others.append(seen)
    return others
