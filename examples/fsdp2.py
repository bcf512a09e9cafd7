"""Trains a small transformer on characters with FSDP2: its parameters and states are sharded over the processes.

torchrun --nproc-per-node 2 examples/fsdp2.py --checkpoint out/fsdp2

This runs on the CPU with gloo, and with NCCL where there are GPUs. A training that was stopped goes on from its last
checkpoint, on any number of processes that divides the batch. Several machines need a folder that they share.
`python examples/fsdp2.py` trains in one process.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from characters import Log, Transformer, batch, join_world, leave_world, load_text
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sgdr_fused import FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts

SCHEDULE = CosineWarmRestarts(3e-3, T_0=20, T_mult=2, eta_min=1e-5)  # cycles of 20, 40, 80, ... steps
STEPS = 140  # three cycles


def save(folder: Path, model: nn.Module, optimizer: FusedAdamW) -> None:
    """Saves a checkpoint in a folder that gets its final name when it is complete, and removes the older ones."""
    step = int(optimizer.clock)
    partial, complete = folder / f"partial-{step:08}", folder / f"step-{step:08}"
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=partial)  # all processes write
    if dist.get_rank() == 0:
        partial.rename(complete)
        for other in folder.glob("step-*"):
            if other != complete:
                shutil.rmtree(other)


def load_latest(folder: Path, model: nn.Module, optimizer: FusedAdamW) -> None:
    """Loads the last complete checkpoint, if there is one."""
    latest: list[Path | None] = [None]
    if dist.get_rank() == 0:
        for partial in folder.glob("partial-*"):  # a process was killed while it was saving
            shutil.rmtree(partial)
        latest = [max(folder.glob("step-*"), default=None)]
    dist.broadcast_object_list(latest)
    if latest[0] is None:
        return
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=latest[0])
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the whole training; default: %(default)s")
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after N steps, to go on at the next call")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="save there, and go on from what is there")
    parser.add_argument("--save-every", type=int, default=20, metavar="N", help="steps; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="losses.csv", help="write the loss and the rate of each step")
    options = parser.parse_args(arguments)

    device = join_world()
    rank, processes = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh(device.type, (processes,))
    text = load_text()
    model = Transformer().to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = FusedAdamW(model.parameters(), lr=SCHEDULE, max_grad_norm=0.3)

    if options.checkpoint:
        load_latest(options.checkpoint, model, optimizer)
    start = int(optimizer.clock)  # the steps taken, which the checkpoint holds as it holds the schedule
    stop = min(options.steps, start + options.stop_after) if options.stop_after else options.steps
    log = Log(optimizer, start, options.steps, options.out)
    for step in range(start, stop):
        inputs, targets = batch(text, step, rank, processes)
        optimizer.zero_grad()
        loss = model(inputs.to(device), targets.to(device))
        loss.backward()
        optimizer.step()  # clips by the norm over all processes, and the rate moves on
        log.add(loss)
        if options.checkpoint and ((step + 1) % options.save_every == 0 or step + 1 == stop):
            log.write()
            save(options.checkpoint, model, optimizer)
    log.close()
    leave_world()


if __name__ == "__main__":
    main()
