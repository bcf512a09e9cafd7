"""Trains the transformer of fsdp2.py with DistributedDataParallel, and adds up the gradients of two batches a step.

torchrun --nproc-per-node 2 examples/ddp.py --checkpoint out/ddp.pt
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from characters import Log, Transformer, batch, join_world, leave_world, load_text
from torch.nn.parallel import DistributedDataParallel

from sgdr_fused import FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts

SCHEDULE = CosineWarmRestarts(3e-3, T_0=20, T_mult=2, eta_min=1e-5)  # cycles of 20, 40, 80, ... steps
STEPS = 140  # three cycles


def save(file: Path, model: DistributedDataParallel, optimizer: FusedAdamW) -> None:
    """Saves from the first process, for all have the same; the file takes the place of the earlier one at the end."""
    if dist.get_rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.partial")
        torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, partial)
        partial.replace(file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the whole training; default: %(default)s")
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after N steps, to go on at the next call")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="save there, and go on from what is there")
    parser.add_argument("--save-every", type=int, default=20, metavar="N", help="steps; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="losses.csv", help="write the loss and the rate of each step")
    options = parser.parse_args(arguments)

    device = join_world()
    rank, processes = dist.get_rank(), dist.get_world_size()
    text = load_text()
    model = DistributedDataParallel(Transformer().to(device))
    optimizer = FusedAdamW(model.parameters(), lr=SCHEDULE, max_grad_norm=0.3)

    if options.checkpoint and options.checkpoint.exists():
        checkpoint = torch.load(options.checkpoint, map_location=device)
        model.module.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    start = int(optimizer.clock)  # the steps taken, which the checkpoint holds as it holds the schedule
    stop = min(options.steps, start + options.stop_after) if options.stop_after else options.steps
    log = Log(optimizer, start, options.steps, options.out)
    for step in range(start, stop):
        inputs, targets = (part.to(device).chunk(2) for part in batch(text, step, rank, processes))
        optimizer.zero_grad()
        losses = []
        for i in range(len(inputs)):
            is_last = i == len(inputs) - 1  # whose backward pass adds up the gradients over the processes
            with nullcontext() if is_last else model.no_sync():
                loss = model(inputs[i], targets[i]) / len(inputs)
                loss.backward()
                losses.append(loss.detach())
        optimizer.step()
        log.add(torch.stack(losses).sum())
        if options.checkpoint and ((step + 1) % options.save_every == 0 or step + 1 == stop):
            log.write()
            save(options.checkpoint, model, optimizer)
    log.close()
    leave_world()


if __name__ == "__main__":
    main()
