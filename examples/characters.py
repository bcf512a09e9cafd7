"""What the examples for several processes share: a small language model of characters, its text, batches and log.

The text is the reference of the Python language, which every Python has: ``help("for")`` shows a part of it.
"""

from __future__ import annotations

import csv
import os
import pydoc_data.topics
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from tqdm import tqdm

CHARACTERS = 128  # those of ASCII; every other one becomes a question mark
CONTEXT = 64  # the characters that the model sees
BATCH = 32  # sequences in a batch, which the processes share
READ_EVERY = 10  # steps
COLUMNS = ("step", "processes", "loss", "lr", "grad_norm")  # of the log's file


def join_world() -> torch.device:
    """Joins the processes that torchrun has started, and returns the device of this one.

    Without torchrun, this process is the whole world.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
            torch.set_num_threads(1)  # the processes share the cores of this machine
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return device


def leave_world() -> None:
    """Ends the group of processes, as soon as all of them have come here.

    While this process waits, gloo's threads let go of the tensors of earlier collectives, for which they need Python's
    lock. A thread that asks for it when Python ends takes the process down: "terminate called without an active
    exception".
    """
    dist.barrier()
    dist.destroy_process_group()


def load_text() -> Tensor:
    """The codes of all characters of the text."""
    topics = pydoc_data.topics.topics
    text = "".join(topics[name] for name in sorted(topics))
    return torch.tensor(list(text.encode("ascii", "replace")), dtype=torch.uint8)


def batch(text: Tensor, step: int, rank: int, processes: int) -> tuple[Tensor, Tensor]:
    """The part that one process gets of the inputs and targets of a step.

    The batch depends on the step alone, and not on the number of processes.
    """
    if BATCH % processes:
        raise ValueError(f"a batch of {BATCH} sequences cannot be divided evenly among {processes} processes")
    starts = torch.randint(len(text) - CONTEXT, (BATCH,), generator=torch.Generator().manual_seed(step))
    windows = text[starts[rank::processes, None] + torch.arange(CONTEXT + 1)].long()
    return windows[:, :-1], windows[:, 1:]


class Block(nn.Module):
    """Adds to its input what attention to earlier characters makes of it, and then what a feed-forward network does."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        projected = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # each is batch x heads x positions x width of a head
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class Transformer(nn.Module):
    """A decoder that predicts each next character. The same seed gives the same start in all processes."""

    def __init__(self, width: int = 64, heads: int = 4, blocks: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.characters = nn.Embedding(CHARACTERS, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, CHARACTERS)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over all characters of the inputs, in nats."""
        x = self.characters(inputs) + self.positions(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            x = block(x)
        return cross_entropy(self.out(self.norm(x)).flatten(0, 1), targets.flatten())


class Log:
    """The progress bar and the file of a training, which the first process writes.

    The numbers of a step stay on the device, and the host reads those of several steps at once: no step waits.
    """

    def __init__(self, optimizer: Any, start: int, steps: int, file: Path | None) -> None:
        self._optimizer, self._next, self._file = optimizer, start, file
        self._is_first = dist.get_rank() == 0
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=not self._is_first)
        self._pending: list[Tensor] = []
        self._rate = optimizer.param_groups[0]["lr"].clone()  # what the next step uses
        if file is not None and self._is_first:
            earlier = _rows(file)[:start]  # a training that was killed may have gone on after its last checkpoint
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *earlier])

    def add(self, loss: Tensor) -> None:
        """Takes down a step, after optimizer.step()."""
        self._pending.append(torch.stack([loss.detach().double(), self._rate, self._optimizer.grad_norm]))
        self._rate = self._optimizer.param_groups[0]["lr"].clone()
        if len(self._pending) == READ_EVERY:
            self.write()

    def write(self) -> None:
        if not self._pending:
            return
        losses, rates, norms = torch.stack(self._pending).T.contiguous()
        self._pending = []
        dist.all_reduce(losses)  # each process has the loss of its part of the batch
        processes = dist.get_world_size()
        columns = (losses / processes).tolist(), rates.tolist(), norms.tolist()
        rows = [(step, processes, *row) for step, row in enumerate(zip(*columns, strict=True), self._next)]
        self._next += len(rows)
        if not self._is_first:
            return
        loss, norm, rate = rows[-1][2], rows[-1][4], self._optimizer.get_last_lr()[0]
        self._bar.set_postfix(loss=f"{loss:.3f}", lr=f"{rate:.2e}", grad_norm=f"{norm:.2f}", refresh=False)
        self._bar.update(len(rows))
        if self._file is not None:
            with self._file.open("a", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows(rows)

    def close(self) -> None:
        self.write()
        self._bar.close()


def _rows(file: Path) -> list[list[str]]:
    """The complete rows of a log's file, without its header."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return [row for row in csv.reader(stream) if len(row) == len(COLUMNS)][1:]
