"""A small network under torch's wrappers for several processes, trained on the same data in all of them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dcp
import torch
import torch.distributed as dist
from algorithms import CASE_OF
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

CPU = torch.device("cpu")
MIXED = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
POLICIES: dict[str, dict[str, Any]] = {
    "fsdp2": {},
    "fsdp2 offloaded": {"offload_policy": CPUOffloadPolicy(pin_memory=False)},  # pinning memory takes a GPU
    "fsdp2 in bfloat16": {"mp_policy": MIXED},
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 7), nn.LayerNorm(7)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (10, 7))  # type: ignore[return-value]


def train(model: nn.Module, opt: Any, steps: range) -> list[float]:
    norms = []
    for step in steps:
        x, y = batch(step)
        opt.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()
        norms.append(float(getattr(opt, "grad_norm", 0.0)))
    return norms


def whole(model: nn.Module) -> list[Tensor]:
    full = [param.full_tensor() if hasattr(param, "full_tensor") else param for param in model.parameters()]
    return [param.detach().clone() for param in full]


def made(wrapper: str, case: str, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    model: nn.Module = network()
    fused, hyper = CASE_OF[case].algorithm.fused, dict(CASE_OF[case].hyper)
    if wrapper == "ddp":
        model = DistributedDataParallel(model)
    elif wrapper == "ddp with views":
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    elif wrapper in ("zero", "zero with views"):
        model = DistributedDataParallel(model)
        views = wrapper == "zero with views"
        sharing = ZeroRedundancyOptimizer(
            model.parameters(), fused, parameters_as_bucket_view=views, **hyper, **options
        )
        return model, sharing
    elif wrapper.startswith("fsdp2"):
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in list(model.children())[::2]:
            fully_shard(layer, mesh=mesh, **POLICIES[wrapper])
        fully_shard(model, mesh=mesh, **POLICIES[wrapper])
    elif wrapper in ("fsdp1", "fsdp1 with flat parameters"):
        model = FullyShardedDataParallel(model, use_orig_params=wrapper == "fsdp1", device_id=CPU)
        options = {**options, "norm_group": dist.group.WORLD}
    return model, fused(model.parameters(), **hyper, **options)


def parameters(wrapper: str, model: nn.Module) -> list[Tensor]:
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model):
            return whole(model.module)
    return whole(model)


def trained(wrapper: str, case: str, options: dict[str, Any], steps: int) -> dict[str, Any]:
    model, opt = made(wrapper, case, options)
    norms = train(model, opt, range(steps))
    inner = getattr(opt, "optim", opt)
    return {"params": parameters(wrapper, model), "norms": norms, "clock": int(inner.clock)}


def stepped_in_backward(case: str, options: dict[str, Any]) -> dict[str, Any]:
    """An optimizer for each parameter, which a hook steps as soon as the gradient is there."""
    model, _ = made("fsdp2", case, options)
    fused, hyper = CASE_OF[case].algorithm.fused, CASE_OF[case].hyper
    opts = {param: fused([param], **hyper, **options) for param in model.parameters()}

    def step(param: Tensor) -> None:
        opts[param].step()
        opts[param].zero_grad()

    for param in opts:
        param.register_post_accumulate_grad_hook(step)
    for t in range(6):
        backward(model, t)
    return {"params": whole(model), "clocks": [int(opt.clock) for opt in opts.values()]}


def accumulated(case: str, options: dict[str, Any]) -> list[Tensor]:
    """Two backward passes a step, of which DistributedDataParallel adds up only the second over the processes."""
    model, opt = made("ddp", case, options)
    assert isinstance(model, DistributedDataParallel)
    for step in range(3):
        opt.zero_grad()
        with model.no_sync():
            backward(model, 2 * step)
        backward(model, 2 * step + 1)
        opt.step()
    return whole(model)


def accumulated_alone(case: str, options: dict[str, Any]) -> list[Tensor]:
    model, opt = made("none", case, options)
    for step in range(3):
        opt.zero_grad()
        backward(model, 2 * step)
        backward(model, 2 * step + 1)
        opt.step()
    return whole(model)


def backward(model: nn.Module, step: int) -> None:
    x, y = batch(step)
    nn.functional.mse_loss(model(x), y).backward()


def leg(
    wrapper: str, case: str, options: dict[str, Any], way: str, loaded: Path | None, saved: Path | None, steps: range
) -> dict[str, Any]:
    """A part of a training: from a checkpoint of torch.distributed.checkpoint to another one."""
    model, opt = made(wrapper, case, options)
    training: Any = SimpleNamespace(model=model, opt=opt)
    if loaded is not None:
        dcp.load(training, loaded, way)
    train(model, opt, steps)
    result = {
        "params": parameters(wrapper, model),
        "clock": int(opt.clock),
        "rates": opt.get_last_lr(),
        "n_averaged": int(opt.param_groups[0]["n_averaged"]),
    }
    if saved is not None:
        dcp.start_save(training, saved, way)
    return result


def zero_resumed(options: dict[str, Any], steps: int) -> list[Tensor]:
    """ZeroRedundancyOptimizer's state goes through a file in the middle."""
    model, opt = made("zero", "adamw", options)
    train(model, opt, range(steps))
    opt.consolidate_state_dict(0)
    file = [None]
    if dist.get_rank() == 0:
        buffer = io.BytesIO()
        torch.save(opt.state_dict(), buffer)
        file = [buffer.getvalue()]  # type: ignore[list-item]
    dist.broadcast_object_list(file)
    assert file[0] is not None
    state_dict = torch.load(io.BytesIO(file[0]), weights_only=True)
    again, loaded = made("zero", "adamw", options)
    again.load_state_dict(model.state_dict())
    loaded.load_state_dict(state_dict)
    train(again, loaded, range(steps, 2 * steps))
    return whole(again)
