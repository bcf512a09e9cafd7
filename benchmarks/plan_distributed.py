"""What a step of AdamW with clipping takes on many devices: bytes, launches and collectives, computed and not measured.

    python benchmarks/plan_distributed.py            prints the tables of docs/distributed.md
    python benchmarks/plan_distributed.py --write    puts them into the page
    python benchmarks/plan_distributed.py --bandwidth 8e12    with another bandwidth of a device's memory, in bytes/s

Our bytes per parameter are those that docs/cuda.md has counted. Our launches and collectives are those that the tests
count. torch's are computed from its sources: MultiTensorApply.cuh and ForeachReduceOp.cu, torch/optim/adam.py and
torch/nn/utils/clip_grad.py.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "distributed.md"
BANDWIDTH = 3.0e12  # bytes per second, of a copy on an H100: docs/gpu.md

# ---- models, and what a device has of them


@dataclass(frozen=True)
class Decoder:
    """A decoder of Llama's kind, without biases."""

    name: str
    devices: int
    layers: int
    width: int
    kv_width: int
    ffn: int
    vocabulary: int

    def tensors(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The shape of each tensor, with its layer: 0 for the embedding, and one past the last for the output."""
        yield 0, (self.vocabulary, self.width)
        for layer in range(1, self.layers + 1):
            for rows in (self.width, self.kv_width, self.kv_width, self.width):  # query, key, value, output
                yield layer, (rows, self.width)
            yield from [(layer, (self.ffn, self.width))] * 2  # gate, up
            yield layer, (self.width, self.ffn)  # down
            yield from [(layer, (self.width,))] * 2  # norms
        yield self.layers + 1, (self.width,)
        yield self.layers + 1, (self.vocabulary, self.width)

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors())

    def _local(self, shape: tuple[int, ...]) -> int:
        """The elements of a tensor on the first device, which has the most.

        fully_shard() gives each device ceil(rows / devices) rows, as long as there are rows left.
        """
        return math.ceil(shape[0] / self.devices) * math.prod(shape[1:])

    def local_sizes(self) -> list[int]:
        return [self._local(shape) for _, shape in self.tensors()]

    def local_groups(self, by_layer: bool = False) -> list[list[int]]:
        """The same by parameter groups: matrices with weight decay and vectors without, or two such for each layer."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for layer, shape in self.tensors():
            groups.setdefault((layer if by_layer else 0, len(shape) > 1), []).append(self._local(shape))
        return list(groups.values())

    @property
    def local(self) -> int:
        return sum(self.local_sizes())


MODELS = (
    Decoder("7 B", 8, 32, 4096, 4096, 11008, 32000),
    Decoder("70 B", 256, 80, 8192, 1024, 28672, 32000),
    Decoder("1 T", 10_000, 120, 25600, 2560, 89600, 128_000),
)

# ---- storage


@dataclass(frozen=True)
class Storage:
    """How an element is stored: bytes of the parameter, its gradient, each of AdamW's two states, its remainder."""

    name: str
    option: str  # the constructor's
    param: int
    grad: int
    state: int
    remainder: int = 0
    torch_has_it: bool = False

    @property
    def torch_bytes(self) -> int:
        """What torch moves for an element: it reads the gradient for the norm, reads and writes it for the clipping."""
        assert self.torch_has_it
        return self.grad + 2 * self.grad + self.grad + 2 * (self.param + 2 * self.state)


STORAGES = (
    Storage("float32", "", 4, 4, 4, torch_has_it=True),
    Storage("bfloat16, float32 states", "state_dtype=torch.float32", 2, 2, 4),
    Storage("bfloat16, float32 states, master weights", "both", 2, 2, 4, remainder=2),
    Storage("bfloat16, bfloat16 states, master weights", "master_weights=True", 2, 2, 2, remainder=2),
)
TYPES = {2: "bfloat16", 4: "float32"}


def counted(case: str, storage: Storage) -> int:
    """Bytes of memory that a step moves for an element, from the table of docs/cuda.md."""
    types = TYPES[storage.param], TYPES[storage.grad], TYPES[storage.state]
    row = re.escape(f"| {case} | {' | '.join(types)} |") + r" \d+ \| (\d+) \|"
    found = re.findall(row, (DOCS / "cuda.md").read_text())
    assert len(found) == 1, row
    return int(found[0])


def our_bytes(storage: Storage) -> int:
    """With clipping; the remainder's bytes are counted without it, and are the same with it."""
    clipped = counted("adam, clipped", storage)
    return clipped + (counted("adam, master weights", storage) - counted("adam", storage) if storage.remainder else 0)


# ---- launches


@dataclass(frozen=True)
class Build:
    """The constants of torch's kernels over lists of tensors, in a build of torch for a version of CUDA."""

    name: str
    max_tensors: tuple[int, ...]  # of a launch, by the number of lists
    max_blocks: int
    max_norms: int  # of a launch that adds up the norms' parts


CHUNK = 65536  # elements of a block
BUILDS = (
    Build("CUDA 13", (770, 448, 336, 252, 210), 2240, 3200),
    Build("CUDA 12", (110, 64, 48, 36, 30), 320, 400),
)


def list_launches(sizes: Iterable[int], lists: int, build: Build) -> int:
    """How often torch launches a kernel over lists of tensors of these sizes: multi_tensor_apply()."""
    launches = tensors = blocks = 0
    for size in sizes:
        if size == 0:
            continue
        tensors += 1
        chunks = math.ceil(size / CHUNK)
        for chunk in range(chunks):
            blocks += 1
            is_last = chunk == chunks - 1
            if blocks == build.max_blocks or (is_last and tensors == build.max_tensors[lists - 1]):
                launches += 1
                blocks, tensors = 0, 0 if is_last else 1
    return launches + (blocks > 0)


def torch_launches(sizes: Sequence[int], groups: Sequence[Sequence[int]], build: Build) -> tuple[int, int]:
    """The launches of clip_grad_norm_() over all tensors, and those of the fused step, which are made group by group.

    Small operations on single numbers are left out: the stack of all norms, the norm of these, the factor.
    """
    over_all = list_launches(sizes, 1, build)
    norm = over_all + math.ceil(len(sizes) / build.max_norms)
    counts = sum(list_launches([1] * len(group), 1, build) for group in groups)
    return norm + over_all, counts + sum(list_launches(group, 4, build) for group in groups)


CAPACITY = 4000  # 64-bit numbers among a kernel's arguments: one for each tensor, four for each group


def our_launches(tensors: int, groups: int) -> int:
    """With a norm over several processes: one that measures, one that writes the norm, one that updates."""
    return 2 * math.ceil((tensors + 4 * groups) / CAPACITY) + 1


# ---- tables


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, rule, *rows))


def gigabytes(count: float) -> str:
    value = count / 1e9
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def milliseconds(count: float, bandwidth: float) -> str:
    return f"{1e3 * count / bandwidth:.2f}"


def models() -> str:
    rows = []
    for m in MODELS:
        shape = (
            f"{m.layers} layers of width {m.width:,}, keys {m.kv_width:,}, ffn {m.ffn:,}, vocabulary {m.vocabulary:,}"
        )
        tensors = sum(1 for _ in m.tensors())
        rows.append(
            (
                m.name,
                shape,
                tensors,
                f"{m.parameters:,}",
                f"{m.devices:,}",
                f"{m.parameters // m.devices:,}",
                f"{m.local:,}",
            )
        )
    head = ("model", "layout", "tensors", "parameters", "devices", "a device's mean", "a device's most")
    return table(head, rows, left=2)


def step(bandwidth: float) -> str:
    storage = STORAGES[0]
    rows: list[tuple[object, ...]] = []
    for m in MODELS:
        groups = m.local_groups()
        tensors = sum(map(len, groups))
        ours = m.local * our_bytes(storage)
        theirs = m.local * storage.torch_bytes
        theirs_reduced = 4 * tensors  # clip_grad_norm_ adds up the norm of each tensor
        launches = our_launches(tensors, len(groups))
        where = f"{m.name} on {m.devices:,}"
        rows.append(
            (where, "sgdr_fused", gigabytes(ours), milliseconds(ours, bandwidth), launches, launches, "1 of 16 bytes")
        )
        peers = [sum(torch_launches(m.local_sizes(), groups, build)) for build in BUILDS]
        rows.append(
            (
                where,
                "torch",
                gigabytes(theirs),
                milliseconds(theirs, bandwidth),
                *peers,
                f"1 of {theirs_reduced:,} bytes",
            )
        )
    head = ("", "", "GB moved", "at least, ms", "launches, CUDA 13", "launches, CUDA 12", "collectives")
    return table(head, rows, left=2)


def groups() -> str:
    rows = []
    for m in MODELS:
        for by_layer in (False, True):
            local = m.local_groups(by_layer)
            ours = our_launches(sum(map(len, local)), len(local))
            theirs = [" + ".join(map(str, torch_launches(m.local_sizes(), local, build))) for build in BUILDS]
            rows.append((f"{m.name} on {m.devices:,}", len(local), ours, *theirs))
    return table(("", "groups", "sgdr_fused", "torch, CUDA 13", "torch, CUDA 12"), rows)


def memory(bandwidth: float) -> str:
    rows = []
    for m in MODELS:
        for storage in STORAGES:
            parts = storage.param, storage.grad, 2 * storage.state + storage.remainder
            moved = m.local * our_bytes(storage)
            sizes = [gigabytes(m.local * part) for part in (*parts, sum(parts))]
            rows.append(
                (f"{m.name} on {m.devices:,}", storage.name, *sizes, gigabytes(moved), milliseconds(moved, bandwidth))
            )
    head = ("", "storage", "parameters", "gradients", "states", "sum", "a step moves", "at least, ms")
    return table(head, rows, left=2)


def parts(bandwidth: float) -> dict[str, str]:
    return {
        "plan: models": models(),
        "plan: step": step(bandwidth),
        "plan: groups": groups(),
        "plan: memory": memory(bandwidth),
    }


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between <!-- name --> and <!-- end -->."""
    changed, places = re.subn(f"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{text}\n\g<2>", page, flags=re.DOTALL)
    assert places == 1, name
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/distributed.md")
    parser.add_argument("--bandwidth", type=float, default=BANDWIDTH, help="of a device's memory, in bytes per second")
    arguments = parser.parse_args()
    tables = parts(arguments.bandwidth)
    print("\n\n".join(tables.values()))
    if arguments.write:
        page = PAGE.read_text()
        for name, text in tables.items():
            page = put(page, name, text)
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
