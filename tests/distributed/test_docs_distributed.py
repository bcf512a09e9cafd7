"""Every Python block of docs/distributed.md runs as it is written, in order, in several processes."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from installs import ROOT
from worlds import World

pytestmark = pytest.mark.once
PAGE = ROOT / "docs" / "distributed.md"
BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SHARED = "What all examples share"  # the examples go on from the block of this section
EXAMPLES = (
    "DDP",
    "FSDP2",
    "HSDP and tensor parallelism",
    "ZeRO",
    "Distributed checkpoints",
    "From a checkpoint of torch.optim",
)
NAMESPACE: dict[str, Any] = {"__name__": "__main__"}  # of the page, in each of the processes


def sections() -> dict[str, str]:
    """The blocks by the titles of their sections, each at its line of the page, which an error then names."""
    text = PAGE.read_text()
    found: dict[str, str] = {}
    for block in BLOCK.finditer(text):
        title = HEADING.findall(text[: block.start()])[-1]
        assert title not in found, f"{title} has two blocks"
        found[title] = "\n" * text[: block.start(1)].count("\n") + block.group(1)
    return found


def start(port: int, folder: Path) -> None:
    """Makes of this process what torchrun makes of one: the page itself makes the process group."""
    variables = {"RANK": dist.get_rank(), "WORLD_SIZE": dist.get_world_size(), "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
    dist.destroy_process_group()
    os.chdir(folder)


def execute(code: str) -> None:
    exec(compile(code, PAGE.name, "exec"), NAMESPACE)


def started(size: int, folder: Path) -> World:
    """Processes that have run what all examples share."""
    world = World(size)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world.run(start, port, folder)
    world.run(execute, sections()[SHARED])
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = started(4, tmp_path_factory.mktemp("page"))
    yield world
    world.close()


@pytest.fixture(scope="module")
def ran() -> set[str]:
    """The examples that the world of this module has run."""
    return set()


def test_all_blocks_are_known() -> None:
    assert tuple(sections()) == (SHARED, *EXAMPLES)
    for title in EXAMPLES:
        assert "assert_trained_as_plain(model, optimizer" in sections()[title], f"{title} compares nothing"


@pytest.mark.parametrize("title", EXAMPLES)
def test_example_runs_as_written(world: World, ran: set[str], title: str) -> None:
    """After those before it on the page, some of whose functions it uses, whichever cases are selected."""
    for earlier in EXAMPLES[: EXAMPLES.index(title) + 1]:
        if earlier not in ran:
            world.run(execute, sections()[earlier])
            ran.add(earlier)


@pytest.mark.slow
def test_hsdp_and_tensor_parallelism_on_eight_processes(tmp_path: Path) -> None:
    """On four, one of the mesh's three dimensions is 1."""
    world = started(8, tmp_path)
    try:
        world.run(execute, sections()["FSDP2"])
        world.run(execute, sections()["HSDP and tensor parallelism"])
    finally:
        world.close()


WRONG_NORM = {  # what the page warns of: without it, or with it, the norm is that of something else
    "ZeRO without norm_group": ("ZeRO", ", norm_group=dist.group.WORLD", ""),
    "DDP with norm_group": ("DDP", "**OPTIONS", "**OPTIONS, norm_group=dist.group.WORLD"),
}


@pytest.mark.parametrize("mistake", WRONG_NORM)
def test_norm_group_has_to_be_right(world: World, mistake: str) -> None:
    """So the comparison at the end of an example finds a wrong norm in every process."""
    title, old, new = WRONG_NORM[mistake]
    assert sections()[title].count(old) == 1
    with pytest.raises(RuntimeError) as error:
        world.run(execute, sections()[title].replace(old, new))
    assert len(re.findall(r"rank \d: ", str(error.value))) == world.size
    assert str(error.value).count("AssertionError: Scalars are not close!") == world.size
