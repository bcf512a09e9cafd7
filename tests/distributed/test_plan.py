"""The plan in docs/distributed.md: its tables are those of the script, whose figures are those that were counted."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from cases import gradient, make_params
from installs import ROOT
from sharding import LAYOUTS, SHAPES, collectives, distributed
from torch.distributed.tensor.debug import CommDebugMode
from worlds import World

from sgdr_fused import FusedAdamW

pytestmark = pytest.mark.once

SCRIPT = ROOT / "benchmarks" / "plan_distributed.py"
spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
assert spec is not None and spec.loader is not None
plan: Any = importlib.util.module_from_spec(spec)
sys.modules[SCRIPT.stem] = plan  # where its dataclasses look for their annotations
spec.loader.exec_module(plan)


def test_the_page_has_the_tables() -> None:
    page = plan.PAGE.read_text()
    for name, text in plan.parts(plan.BANDWIDTH).items():
        assert f"<!-- {name} -->\n{text}\n<!-- end -->" in page, f"{name}: run benchmarks/plan_distributed.py --write"
    assert f"{plan.BANDWIDTH / 1e12} TB/s" in page


# ---- models


def test_models_have_their_published_sizes() -> None:
    """Llama 2's by its model cards' configurations, as Hugging Face counts their parameters."""
    sizes = {model.name: model.parameters for model in plan.MODELS}
    assert (sizes["7 B"], sizes["70 B"]) == (6_738_415_616, 68_976_648_192)
    assert round(sizes["1 T"], -10) == 1_010_000_000_000
    assert [len([*model.tensors()]) for model in plan.MODELS] == [291, 723, 1083]


@pytest.mark.parametrize("model", plan.MODELS, ids=lambda model: model.name)
def test_the_first_device_has_what_torch_gives_it(model: Any) -> None:
    """FSDP2 cuts by torch.chunk()."""
    most_of = {
        rows: len(torch.arange(rows).chunk(model.devices)[0]) for rows in {shape[0] for _, shape in model.tensors()}
    }
    expected = [most_of[shape[0]] * math.prod(shape[1:]) for _, shape in model.tensors()]
    assert model.local_sizes() == expected
    for by_layer in (False, True):
        assert sorted(itertools.chain.from_iterable(model.local_groups(by_layer))) == sorted(expected)


# ---- launches


def test_torch_launches_are_those_that_docs_cuda_publishes() -> None:
    """Of Adam over a whole Llama-7B in one group: those of the update, and those that count its steps."""
    row = r"\| torch, CUDA {} build \| \d+ \+ \d+ \| (\d+) \+ (\d+) \|"
    sizes = [math.prod(shape) for _, shape in plan.MODELS[0].tensors()]
    for build in plan.BUILDS:
        (published,) = re.findall(row.format(build.name[-2:]), (ROOT / "docs" / "cuda.md").read_text())
        _, step = plan.torch_launches(sizes, [sizes], build)
        assert step == sum(map(int, published))


def test_constants_are_those_of_torch() -> None:
    header = Path(torch.__file__).with_name("include") / "ATen" / "native" / "cuda" / "MultiTensorApply.cuh"
    if not header.is_file():
        pytest.skip("this torch has no headers of its CUDA code")
    text = header.read_text()
    assert re.findall(r"kChunkSize = (\d+);", text) == [str(plan.CHUNK)]
    tensors = re.findall(r"depth_to_max_tensors\[5\] = \{(.*?)\}", text, re.DOTALL)
    blocks = re.findall(r"depth_to_max_blocks\[5\] =\s*\{(\d+),", text)
    found = [(tuple(map(int, of_one.split(","))), int(most)) for of_one, most in zip(tensors, blocks, strict=True)]
    assert [(build.max_tensors, build.max_blocks) for build in plan.BUILDS] == found


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1] * 36, 1),  # as many tensors as fit
        ([1] * 37, 2),
        ([0] * 100 + [1] * 36, 1),  # those without elements are left out
        ([320 * 65536], 1),  # as many blocks as fit
        ([320 * 65536 + 1], 2),
        ([320 * 65536, 1], 2),
        ([319 * 65536, 2 * 65536, 65536], 2),  # a tensor in two launches
    ],
)
def test_launches_over_lists_of_tensors(sizes: list[int], expected: int) -> None:
    """Four lists, in a build for CUDA 12: 36 tensors and 320 blocks to a launch."""
    assert plan.list_launches(sizes, 4, plan.BUILDS[1]) == expected


def test_our_launches() -> None:
    """tests/engine/test_step_in_parts.py counts three in a step with clipping that is taken in parts."""
    assert plan.our_launches(2, 1) == plan.our_launches(3996, 1) == plan.our_launches(291, 67) == 3
    assert plan.our_launches(3997, 1) == plan.our_launches(3600, 101) == 5


# ---- bytes


@pytest.mark.parametrize("storage", plan.STORAGES, ids=lambda storage: storage.name)
def test_bytes_are_the_least(storage: Any) -> None:
    """The gradient is read twice; parameter, states and remainder are read and written."""
    least = 2 * storage.grad + 2 * (storage.param + 2 * storage.state + storage.remainder)
    assert plan.our_bytes(storage) == least


def test_torch_bytes() -> None:
    """Four for the norm, eight to scale the gradient, and 28 for the update, all in float32."""
    assert plan.STORAGES[0].torch_bytes == 4 + 8 + 28


# ---- collectives, counted


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World(4)
    yield world
    world.close()


def torch_collectives(layout: str, copies: int) -> tuple[int, set[tuple[int, ...]]]:
    """Those of torch's clipping in float32, and the shapes of what it reduces."""
    plain = [param.detach() for param in make_params(SHAPES * copies)]
    place = LAYOUTS[layout](dist.get_world_size())
    params = [torch.nn.Parameter(distributed(param, place(index, param))) for index, param in enumerate(plain)]
    for index, (param, like) in enumerate(zip(params, plain, strict=True)):
        param.grad = distributed(gradient(like, 1, index), place(index, like))
    with torch.profiler.profile(record_shapes=True) as profile, CommDebugMode() as counts:
        norm = torch.nn.utils.clip_grad_norm_(params, 0.5)
    assert norm.dtype == torch.float32
    events = [event for event in profile.events() if event.name == "_c10d_functional::all_reduce"]
    return counts.get_total_counts(), {tuple(event.input_shapes[0]) for event in events}


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize(("layout", "dimensions"), [("fsdp", 1), ("hsdp", 1), ("tensor_parallel", 2)])
def test_torch_reduces_the_norm_of_each_tensor_for_each_dimension_that_cuts(
    world: World, layout: str, dimensions: int, copies: int
) -> None:
    for count, shapes in world.run(torch_collectives, layout, copies):
        assert (count, shapes) == (dimensions, {(copies * len(SHAPES),)})


@pytest.mark.parametrize("layout", ["fsdp", "hsdp", "tensor_parallel"])
def test_we_reduce_sixteen_bytes_once(world: World, layout: str) -> None:
    for sizes, count in world.run(collectives, "adamw", layout, {"max_grad_norm": 1.0}):
        assert (sizes, count) == ([16], 1)


def scaled_collectives(layout: str) -> list[int]:
    """The bytes of each collective of a step under a GradScaler, which leaves its found_inf."""
    plain = [param.detach() for param in make_params(SHAPES)]
    place = LAYOUTS[layout](dist.get_world_size())
    params = [torch.nn.Parameter(distributed(param, place(index, param))) for index, param in enumerate(plain)]
    for index, (param, like) in enumerate(zip(params, plain, strict=True)):
        param.grad = distributed(gradient(like, 1, index), place(index, like))
    opt: Any = FusedAdamW(params, lr=0.1, max_grad_norm=1.0)
    opt.found_inf = torch.zeros(())
    opt.step()
    sizes: list[int] = []
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, *args: Any) -> None:
        sizes.append(tensor.nbytes)
        all_reduce(tensor, *args)

    dist.all_reduce = counted
    try:
        opt.step()
    finally:
        dist.all_reduce = all_reduce
    return sizes


def test_a_scaler_takes_four_bytes_more(world: World) -> None:
    for sizes in world.run(scaled_collectives, "hsdp"):
        assert sorted(sizes) == [4, 16]


def test_torch_refuses_plain_tensors_beside_sharded_ones(world: World) -> None:
    with pytest.raises(RuntimeError, match=r"got mixed torch\.Tensor and DTensor"):
        world.run(torch_collectives, "mixed", 1)
