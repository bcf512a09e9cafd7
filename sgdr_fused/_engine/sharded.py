"""Parameters that are shared out among processes: torch's DTensor, of which each process has a part."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from .._messages import shown


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor. Where torch.distributed.tensor was never imported, there is none.

    In torch 2.4 the class is private. There it is refused, as other subclasses of Tensor are.
    """
    dtensor: Any = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return dtensor is not None and isinstance(tensor, dtensor)


def local_part(tensor: Tensor) -> Tensor:
    """The part of the tensor that is in this process; the tensor itself where it is not shared out."""
    if not is_sharded(tensor):
        return tensor
    shared: Any = tensor
    if type(shared._local_tensor) is not Tensor:  # what a collective has not delivered yet
        with torch.no_grad():
            shared._local_tensor = torch.ops._c10d_functional.wait_tensor(shared._local_tensor.elem)
    return shared._local_tensor


def check_placements(tensor: Tensor, described: str) -> None:
    """Raises for a tensor that processes have summands of."""
    placements = getattr(tensor, "placements", ())
    if any(placement.is_partial() for placement in placements):
        raise ValueError(
            f"{described} must be sharded or replicated, got placements {shown(placements)}: what is partial has to be "
            "added up first, by redistribute()"
        )


def check_placed_as(param: Tensor, tensor: Tensor, described: str) -> None:
    """Raises for a gradient or a state that is on other processes than its parameter, or is no DTensor like it."""
    if not is_sharded(param):
        if is_sharded(tensor):
            raise ValueError(f"{described} must be a plain tensor, as the parameter is, got a DTensor")
        return
    if not is_sharded(tensor):
        raise ValueError(f"{described} must be a DTensor, as the parameter is, got a plain {type(tensor).__name__}")
    check_placements(tensor, described)
    ours: Any = param
    other: Any = tensor
    if other.placements != ours.placements or other.device_mesh != ours.device_mesh:
        raise ValueError(
            f"{described} must be placed as the parameter is, by {shown(ours.placements)} on {ours.device_mesh}, got "
            f"{shown(other.placements)} on {other.device_mesh}"
        )


def placed_as(param: Tensor, value: Tensor) -> Tensor:
    """The value, of which each process takes its part where it is whole and the parameter is shared out.

    A whole one is the same in all processes: what a checkpoint of one process holds, say.
    """
    if not is_sharded(param) or is_sharded(value) or value.shape != param.shape:
        return value
    shared: Any = param
    module: Any = sys.modules["torch.distributed.tensor"]
    return module.distribute_tensor(value.to(param.device), shared.device_mesh, shared.placements, src_data_rank=None)


def with_part(like: Tensor, part: Tensor) -> Tensor:
    """What has this part in this process, and is placed as the other tensor; the part itself where that is plain."""
    if not is_sharded(like):
        return part
    shared: Any = like
    module: Any = sys.modules["torch.distributed.tensor"]
    return module.DTensor.from_local(
        part, shared.device_mesh, shared.placements, run_check=False, shape=shared.shape, stride=shared.stride()
    )


def as_saved(value: Any) -> Any:
    """A state as a checkpoint holds it: gloo and NCCL, which gather the parts of it, have no int16."""
    if isinstance(value, Tensor) and value.dtype == torch.int16 and is_sharded(value):
        return value.to(torch.int32)
    return value


def as_loaded(value: Tensor, dtypes: tuple[torch.dtype, ...]) -> Tensor:
    """A state that a checkpoint holds in int32, in the dtype that it may have while it is in use."""
    return value.to(torch.int16) if dtypes == (torch.int16,) else value
