"""Does training in 16 bits reach what float32 reaches? Prints the table of docs/low_precision.md.

.venv/bin/python benchmarks/low_precision.py
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

SEEDS = range(5)
EPOCHS, BATCH, TRAIN = 30, 32, 1_000
# The type of the parameters, and the optimizer's options.
VARIANTS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float32, bfloat16 states": (torch.float32, {"state_dtype": torch.bfloat16}),
    "float32, bfloat16 states, stochastic rounding": (
        torch.float32,
        {"state_dtype": torch.bfloat16, "stochastic_rounding": True},
    ),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16, float32 states": (torch.bfloat16, {"state_dtype": torch.float32}),
    "bfloat16, stochastic rounding": (torch.bfloat16, {"stochastic_rounding": True}),
    "bfloat16, master weights": (torch.bfloat16, {"master_weights": True}),
    "bfloat16, master weights, float32 states": (
        torch.bfloat16,
        {"master_weights": True, "state_dtype": torch.float32},
    ),
}
OPTIMIZERS = {"SGD, momentum 0.9": (FusedSGD, 0.005, {"momentum": 0.9}), "Adam": (FusedAdam, 0.0003, {})}


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    digits = load_digits()
    x = torch.tensor(digits.data / 16.0, dtype=dtype)
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:TRAIN], order[TRAIN:]
    return x[train], y[train], x[test], y[test]


def final(seed: int, dtype: torch.dtype, optimizer: str, options: dict[str, Any]) -> tuple[float, float]:
    """The loss on the training images, computed in float32, and the error on the others, in percent."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)).to(dtype)
    x, y, test_x, test_y = data(dtype)
    steps = TRAIN // BATCH
    cls, rate, others = OPTIMIZERS[optimizer]
    opt = cls(model.parameters(), lr=CosineWarmRestarts(rate, T_0=10 * steps), **others, **options)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAIN, generator=order)[: steps * BATCH].split(BATCH):
            opt.zero_grad()
            nn.functional.cross_entropy(model(x[batch]).float(), y[batch]).backward()
            opt.step()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(x).float(), y).item()
        return loss, 100 * (model(test_x).argmax(1) != test_y).double().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    print("| parameters, options | optimizer | training loss | test error, % |\n|---|---|---|---|")
    for optimizer in OPTIMIZERS:
        for name, (dtype, options) in VARIANTS.items():
            losses, errors = zip(*(final(seed, dtype, optimizer, options) for seed in SEEDS), strict=True)
            columns = [
                f"{statistics.mean(v):.{d}f} ± {statistics.stdev(v):.{d}f}" for v, d in ((losses, 4), (errors, 2))
            ]
            print(f"| {name} | {optimizer} | {columns[0]} | {columns[1]} |", flush=True)


if __name__ == "__main__":
    main()
