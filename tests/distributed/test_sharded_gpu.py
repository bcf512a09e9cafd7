"""What a step on DTensors costs on the GPU, counted: launches, copies and synchronisations.

torch's fake process group stands for the other processes: its collectives do nothing, so this process alone is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from algorithms import CASE_OF
from bits import bits
from cases import PRETEND, values
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from sgdr_fused.schedules import CosineWarmRestarts

if PRETEND:
    import pretend_gpu

pytestmark = [pytest.mark.skipif(not PRETEND, reason="counts need the pretend GPU's counters"), pytest.mark.untracked]

SIZES = (5, 0, 33, 2049)
SCHEDULE = CosineWarmRestarts(0.1, T_0=3, T_mult=2)


@pytest.fixture(params=[1, 4], ids=["one_process", "four_processes"])
def processes(request: pytest.FixtureRequest) -> Iterator[int]:
    dist.init_process_group("fake", rank=0, world_size=request.param, store=FakeStore())
    yield request.param
    dist.destroy_process_group()


class Training:
    """An optimizer on parts of parameters, or on plain tensors of the same size, that gets the same gradients."""

    def __init__(self, case: str, processes: int | None, **options: Any) -> None:
        self.mesh = None if processes is None else init_device_mesh("cuda", (processes,))
        self.params = [torch.nn.Parameter(self.placed(values(size, i))) for i, size in enumerate(SIZES)]
        self.opt = CASE_OF[case].fused(self.params, lr=SCHEDULE, **options)

    def placed(self, local: Tensor) -> Tensor:
        local = local.cuda()
        return local if self.mesh is None else DTensor.from_local(local, self.mesh, [Shard(0)], run_check=False)

    def new_gradients(self, t: int) -> None:
        for i, (param, size) in enumerate(zip(self.params, SIZES, strict=True)):
            param.grad = self.placed(values(size, 100 * t + i))

    def written(self) -> list[Any]:
        locals_ = [getattr(param, "_local_tensor", param) for param in self.params]
        return [*(bits(part) for part in locals_), bits(self.opt.clock), bits(self.opt.param_groups[0]["lr"])]


def counts_of(step: Any) -> dict[str, int]:
    assert pretend_gpu.errors() == ""  # which reset() would forget
    pretend_gpu.reset()
    step()
    return {name: n for name, n in pretend_gpu.counts().items() if n > 0 and not name.startswith("live")}


@pytest.mark.parametrize("case", ["sgd_nesterov", "adamw"])
def test_one_launch_and_nothing_else(processes: int, case: str) -> None:
    sharded, plain = Training(case, processes), Training(case, None)
    for t in range(4):
        for training in (sharded, plain):
            training.new_gradients(t)
        counts = counts_of(sharded.opt.step)
        plain.opt.step()
        assert sharded.written() == plain.written()
        if t > 0:
            assert counts == {"launches": 1, "submissions": 1}


@pytest.mark.parametrize(
    ("case", "options", "alone", "together"),
    [
        ("adamw", {"max_grad_norm": 0.5}, 2, 3),
        ("sgd_nesterov", {"max_grad_norm": 0.5, "skip_nonfinite": True}, 2, 3),
        ("lamb", {}, 2, 3),
        ("lamb", {"max_grad_norm": 0.5}, 3, 5),
    ],
    ids=str,
)
def test_norms_cost_no_wait(processes: int, case: str, options: dict[str, Any], alone: int, together: int) -> None:
    """Where others add to the sums, one launch more writes the norm of all, and one clears the sums of parameters."""
    sharded, plain = Training(case, processes, **options), Training(case, None, **options)
    launches = alone if processes == 1 else together
    for t in range(4):
        for training in (sharded, plain):
            training.new_gradients(t)
        counts = counts_of(sharded.opt.step)
        plain.opt.step()
        assert sharded.written() == plain.written()
        if t > 0:
            assert counts == {"launches": launches, "submissions": launches}


@pytest.mark.parametrize("case", ["adamw", "lamb"])
def test_a_step_is_captured(processes: int, case: str) -> None:
    eager, replayed = (Training(case, processes, max_grad_norm=0.5) for _ in range(2))
    for training in (eager, replayed):
        training.new_gradients(0)
        training.opt.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.opt.step()
    for t in range(1, 6):
        eager.new_gradients(t)
        eager.opt.step()
        for i, param in enumerate(replayed.params):
            param.grad._local_tensor.copy_(values(SIZES[i], 100 * t + i))
        graph.replay()
    assert replayed.written() == eager.written()
    assert bits(replayed.opt.grad_norm) == bits(eager.opt.grad_norm)
