"""What does a step cost on DTensors? They are on a mesh of one process, so that nothing is added up and nobody waits.

What is left is the host's time: looking at each parameter and its gradient, which are objects of Python, and finding
the memory of the parts that are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from implementations import ALGORITHMS, LR, RESTARTS
from racing import CLOCK, OURS, Steps, race
from results import Subject
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from workloads import Group, Workload

from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.benchmark(timer=CLOCK)

FSDP2, TENSOR_PARALLEL = ", FSDP2", ", tensor parallel"
IMPLEMENTATIONS = (OURS, OURS + FSDP2, OURS + TENSOR_PARALLEL, "torch foreach", "torch foreach" + FSDP2)
SIZE, SECONDS = 64, 4.0


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def parameters(implementation: str, tensors: int) -> list[Tensor]:
    torch.manual_seed(0)
    values = [torch.randn(SIZE) for _ in range(tensors)]
    if implementation.endswith((FSDP2, TENSOR_PARALLEL)):
        mesh = init_device_mesh("cpu", (1, 1))
        values = [DTensor.from_local(value, mesh, [Shard(0), Replicate()], run_check=False) for value in values]
    return [torch.nn.Parameter(value) for value in values]


def specs_of_gradients(implementation: str, params: list[Any]) -> list[Any]:
    """FSDP2 gives a gradient the very spec of its parameter. Elsewhere it has an equal one, the same in every step."""
    if implementation.endswith(TENSOR_PARALLEL):
        mesh = params[0].device_mesh
        return [DTensor.from_local(p.to_local(), mesh, [Shard(0), Replicate()], run_check=False)._spec for p in params]
    return [getattr(param, "_spec", None) for param in params]


def new_gradient(spec: Any) -> Tensor:
    """What it costs to make it is not timed."""
    grad = torch.randn(SIZE)
    return grad if spec is None else DTensor(grad, spec, requires_grad=False)


def step_of(algorithm: str, implementation: str, params: list[Tensor]) -> Any:
    torch_class, fused_class, options, _ = ALGORITHMS[algorithm]
    if implementation.startswith(OURS):
        return fused_class(params, lr=CosineWarmRestarts(LR, **RESTARTS), **options).step
    opt = torch_class(params, lr=LR, foreach=True, **options)
    scheduler = CosineAnnealingWarmRestarts(opt, **RESTARTS)

    def step() -> None:
        opt.step()
        scheduler.step()

    return step


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("tensors", [10, 100, 500])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sharded(result_of: Any, pace: Any, smoke: bool, algorithm: str, tensors: int, implementation: str) -> None:
    workload = Workload([Group([(SIZE,)] * (3 if smoke else tensors))])

    def run() -> Any:
        params = {name: parameters(name, workload.tensors) for name in IMPLEMENTATIONS}
        specs = {name: specs_of_gradients(name, of_one) for name, of_one in params.items()}
        steps: Steps = {name: step_of(algorithm, name, of_one) for name, of_one in params.items()}

        def new_gradients(name: str, number: int) -> None:
            for param, spec in zip(params[name], specs[name], strict=True):
                param.grad = new_gradient(spec)

        times = race(steps, new_gradients, pace(SECONDS))
        return times, {}

    result_of(Subject("sharded", algorithm, str(tensors), workload), implementation, run)
