"""Parameters that are shared out among processes in many ways, and the same training with them and without."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from algorithms import CASE_OF
from cases import gradient, make_params
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from sgdr_fused._engine.reduction import Reduction

# With four processes: even and uneven parts, some of them empty, and one that cannot be sharded.
SHAPES: tuple[tuple[int, ...], ...] = ((8, 6), (5, 3), (7,), (1, 4), (3, 130), (), (4, 4, 2))

Placed = tuple[Any, Sequence[Any]] | None  # mesh and placements; None: a plain tensor


@functools.cache  # each makes process groups
def _mesh(*sizes: int, names: tuple[str, ...]) -> Any:
    return init_device_mesh("cpu", sizes, mesh_dim_names=names)


def fsdp(size: int) -> Callable[[int, Tensor], Placed]:
    """As FSDP2 places parameters: along their first dimension."""
    mesh = _mesh(size, names=("shard",))
    return lambda _, param: (mesh, [Shard(0)] if param.dim() else [Replicate()])


def hsdp(size: int) -> Callable[[int, Tensor], Placed]:
    """Replicas of what is sharded."""
    mesh = _mesh(2, size // 2, names=("replicate", "shard"))
    return lambda _, param: (mesh, [Replicate(), Shard(0) if param.dim() else Replicate()])


def tensor_parallel(size: int) -> Callable[[int, Tensor], Placed]:
    """Sharded by columns within, by rows without; vectors are replicated within."""
    mesh = _mesh(size // 2, 2, names=("dp", "tp"))

    def placed(_: int, param: Tensor) -> Placed:
        within = Shard(1) if param.dim() > 1 else Replicate()
        return mesh, [Shard(0) if param.dim() else Replicate(), within]

    return placed


def mixed(size: int) -> Callable[[int, Tensor], Placed]:
    """Every other parameter is a plain tensor."""
    mesh = _mesh(size, names=("shard",))
    return lambda index, param: None if index % 2 else (mesh, [Shard(param.dim() - 1) if param.dim() else Replicate()])


def two_meshes(size: int) -> Callable[[int, Tensor], Placed]:
    """Some parameters over all processes, the others over a part of them, beside plain tensors."""
    mesh = _mesh(size // 2, 2, names=("outer", "inner"))

    def placed(index: int, param: Tensor) -> Placed:
        if index % 3 == 0:
            return None
        if index % 3 == 1:
            return mesh["inner"], [Shard(0) if param.dim() else Replicate()]
        return mesh, [Shard(0) if param.dim() else Replicate(), Replicate()]

    return placed


LAYOUTS = {layout.__name__: layout for layout in (fsdp, hsdp, tensor_parallel, mixed, two_meshes)}


def distributed(tensor: Tensor, placed: Placed) -> Tensor:
    """A part of the tensor in each process."""
    if placed is None:
        return tensor.clone()
    mesh, placements = placed
    return distribute_tensor(tensor.clone(), mesh, list(placements), src_data_rank=None)


def whole(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.int16:  # gloo gathers none
        return whole(tensor.int()).short()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def course(opt: Any, params: list[Any], plain: list[Tensor], placed: list[Placed], steps: int) -> dict[str, Any]:
    """Trains, and returns all that came of it, whole."""
    norms = []
    for step in range(steps):
        for index, (param, like, place) in enumerate(zip(params, plain, placed, strict=True)):
            param.grad = distributed(gradient(like, step, index), place)
        opt.step()
        norms.append(getattr(opt, "grad_norm", torch.zeros(())).item())
    return {
        "params": [whole(param) for param in params],
        "states": [{name: whole(value) for name, value in opt.state[param].items()} for param in params],
        "clock": int(opt.clock),
        "norms": norms,
        "skipped": int(getattr(opt, "skipped_steps", 0)),
    }


def trained(case: str, layout: str | None, dtype: torch.dtype, options: dict[str, Any], steps: int) -> dict[str, Any]:
    """The course of an optimizer in this process, which a layout makes one of several."""
    plain = [param.detach() for param in make_params(SHAPES, dtype)]
    place = LAYOUTS[layout](dist.get_world_size()) if layout else lambda *_: None
    placed = [place(index, param) for index, param in enumerate(plain)]
    params = [torch.nn.Parameter(distributed(param, where)) for param, where in zip(plain, placed, strict=True)]
    opt = CASE_OF[case].fused(params, **options)
    return course(opt, params, plain, placed, steps)


# ---- what a process does in the tests of test_sharded_together.py


def overflows(case: str, layout: str, how: str, bad_rank: int) -> dict[str, Any]:
    """Three steps, in the second of which one process alone sees a gradient that is not finite."""
    plain = [param.detach() for param in make_params(SHAPES)]
    place = LAYOUTS[layout](dist.get_world_size())
    placed = [place(index, param) for index, param in enumerate(plain)]
    params: list[Any] = [
        torch.nn.Parameter(distributed(param, where)) for param, where in zip(plain, placed, strict=True)
    ]
    opt = CASE_OF[case].fused(params, lr=0.1, **({"skip_nonfinite": True} if how == "skip_nonfinite" else {}))
    seen = []
    for step in range(3):
        for index, (param, like, where) in enumerate(zip(params, plain, placed, strict=True)):
            param.grad = distributed(gradient(like, step, index), where)
        is_bad = step == 1 and dist.get_rank() == bad_rank
        if is_bad and how == "skip_nonfinite":
            here = next(part for param in params if (part := local_of(param.grad)).numel())
            here.view(-1)[:1] = float("inf")
        if how == "found_inf":
            opt.found_inf = torch.tensor(float(is_bad))
        opt.step()
        seen.append((int(opt.clock), [whole(param) for param in params]))
    return {"clocks": [clock for clock, _ in seen], "params": [params for _, params in seen]}


def parts_without_gradients(case: str, missing: list[int], is_replaced: bool) -> dict[str, Any]:
    """Two steps, in the second of which some processes have no gradients, and its norm beside that of those there are.

    Args:
        is_replaced: whether a new optimizer, which has measured nothing yet, takes the second step.
    """
    plain = [param.detach() for param in make_params([shape for shape in SHAPES if shape])]  # each has parts
    place = fsdp(dist.get_world_size())
    params: list[Any] = [
        torch.nn.Parameter(distributed(param, place(index, param))) for index, param in enumerate(plain)
    ]
    opt = CASE_OF[case].fused(params, lr=0.1, max_grad_norm=0.5)
    course(opt, params, plain, [place(index, param) for index, param in enumerate(plain)], 1)
    if is_replaced:
        state_dict = opt.state_dict()
        opt = CASE_OF[case].fused(params, lr=0.1, max_grad_norm=0.5)
        opt.load_state_dict(state_dict)
    squares = torch.zeros((), dtype=torch.float64)
    for index, (param, like) in enumerate(zip(params, plain, strict=True)):
        grad = distributed(gradient(like, 1, index), place(index, like))
        param.grad = None if dist.get_rank() in missing else grad
        squares += 0.0 if param.grad is None else local_of(grad).double().square().sum()
    opt.step()
    dist.all_reduce(squares)
    params = [whole(param) for param in params]
    return {"params": params, "norms": [float(squares.sqrt()), float(opt.grad_norm)], "clock": int(opt.clock)}


def error_of_a_step(layout: str, bad_rank: int) -> str:
    """The message, where one process alone has a gradient that is not finite."""
    plain = [param.detach() for param in make_params(SHAPES)]
    place = LAYOUTS[layout](dist.get_world_size())
    params: list[Any] = [
        torch.nn.Parameter(distributed(param, place(index, param))) for index, param in enumerate(plain)
    ]
    opt = CASE_OF["adamw"].fused(params, lr=0.1, max_grad_norm=0.5, error_if_nonfinite=True)
    for index, (param, like) in enumerate(zip(params, plain, strict=True)):
        param.grad = distributed(gradient(like, 0, index), place(index, like))
    if dist.get_rank() == bad_rank:
        next(part for param in params if (part := local_of(param.grad)).numel()).view(-1)[0] = math.nan
    try:
        opt.step()
    except RuntimeError as error:
        assert int(opt.clock) == 0
        assert all(torch.equal(whole(param), like) for param, like in zip(params, plain, strict=True))
        return str(error)
    return ""


def local_of(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def collectives(case: str, layout: str, options: dict[str, Any]) -> tuple[list[int], int]:
    """The bytes that each all_reduce of one step gets, and how many collectives a profile shows."""
    plain = [param.detach() for param in make_params(SHAPES)]
    place = LAYOUTS[layout](dist.get_world_size())
    placed = [place(index, param) for index, param in enumerate(plain)]
    params: list[Any] = [
        torch.nn.Parameter(distributed(param, where)) for param, where in zip(plain, placed, strict=True)
    ]
    opt = CASE_OF[case].fused(params, lr=0.1, **options)
    course(opt, params, plain, placed, 1)
    for index, (param, like, where) in enumerate(zip(params, plain, placed, strict=True)):
        param.grad = distributed(gradient(like, 1, index), where)
    sizes: list[int] = []
    all_reduce = dist.all_reduce

    def counted(tensor: Tensor, *args: Any) -> None:
        sizes.append(tensor.nbytes)
        all_reduce(tensor, *args)

    dist.all_reduce = counted
    try:
        with torch.profiler.profile() as profile:
            opt.step()
    finally:
        dist.all_reduce = all_reduce
    return sizes, sum(event.name.startswith(("c10d::", "_c10d_functional::")) for event in profile.events())


def added_up(order: list[list[int]]) -> Tensor:
    """Sums of the parts of three parameters, in another order in each process: the second parameter is a plain one."""
    mesh = _mesh(dist.get_world_size(), names=("shard",))
    params = [distributed(torch.zeros(8), placed) for placed in ((mesh, [Shard(0)]), None, (mesh, [Replicate()]))]
    reduction = Reduction(params)
    ours = order[dist.get_rank()]
    sums = torch.tensor([[10.0 ** (index + 1), 1.0] for index in ours], dtype=torch.float64)
    for share in reduction.shares(ours, [reduction.place(param) for param in params], sums.device):
        share.add_up(sums)
    return sums[[ours.index(index) for index in range(3)]]


def rounded_replicas() -> list[Tensor]:
    """A parameter that is rounded at random. Every process has a replica, and a generator with a seed of its own."""
    torch.manual_seed(dist.get_rank())
    param = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
    opt = CASE_OF["sgd"].fused([param], lr=1e-3, stochastic_rounding=True)
    for _ in range(3):
        param.grad = torch.ones_like(param)
        opt.step()
    return [param.detach().clone(), torch.tensor(opt.param_groups[0]["rounding_seed"])]


def overflows_by_reference(layout: str) -> dict[str, Any]:
    with mock.patch.dict(os.environ, SGDR_FUSED_BACKEND="reference"):
        return overflows("adamw", layout, "found_inf", 0)
