"""Trains a small convolutional network on handwritten digits twice from the same start.

One training uses torch's fused SGD and its scheduler, the other FusedSGD, which computes the rate inside the step. The
two take turns mini-batch by mini-batch, so that neither has the machine in a better moment. The script prints a table
and draws both runs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from sgdr_fused import FusedSGD
from sgdr_fused.schedules import CosineWarmRestarts

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # once the backend is chosen
from matplotlib.axes import Axes

EPOCHS = 30
BATCH = 64
MAX_LR, ETA_MIN = 0.05, 1e-4
FIRST_CYCLE, GROWTH = 2, 2  # in epochs: cycles of 2, 4, 8 and 16
SGD = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def network() -> nn.Module:
    """A network for images of 8 x 8 that is smooth, so that differences in rounding stay as small as they are.

    At the kinks of ReLU and of a maximum, a last digit would decide on which side a value falls, and training would
    amplify that: torch's optimizer drifts as far from itself if the start differs by 1e-7.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 44),
        nn.GELU(),
        nn.Linear(44, 10),
    )


class Run:
    """One of the two trainings. `step` moves parameters and rate on; `rate()` is what the next step will use."""

    def __init__(self, name: str, model: nn.Module, step: Callable[[], None], rate: Callable[[], float]) -> None:
        self.name, self.model, self.step, self.rate = name, model, step, rate
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def train(self, images: Tensor, labels: Tensor) -> None:
        self.model.zero_grad()
        loss = cross_entropy(self.model(images), labels)
        loss.backward()
        self.rates.append(self.rate())
        self.losses.append(loss.item())
        start = time.perf_counter()
        self.step()
        self.seconds.append(time.perf_counter() - start)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        self.model.eval()
        with torch.no_grad():
            return (self.model(images).argmax(dim=1) == labels).double().mean().item()

    def microseconds(self) -> float:
        """The median time of a step with its schedule."""
        return 1e6 * statistics.median(self.seconds)


def torch_run(model: nn.Module, steps_per_epoch: int) -> Run:
    optimizer = torch.optim.SGD(model.parameters(), lr=MAX_LR, fused=True, **SGD)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=FIRST_CYCLE * steps_per_epoch, T_mult=GROWTH, eta_min=ETA_MIN
    )

    def step() -> None:
        optimizer.step()
        scheduler.step()

    return Run("torch", model, step, lambda: scheduler.get_last_lr()[0])


def fused_run(model: nn.Module, steps_per_epoch: int) -> tuple[Run, str]:
    schedule = CosineWarmRestarts(MAX_LR, T_0=FIRST_CYCLE * steps_per_epoch, T_mult=GROWTH, eta_min=ETA_MIN)
    optimizer = FusedSGD(model.parameters(), lr=schedule, **SGD)
    return Run("sgdr_fused", model, optimizer.step, lambda: optimizer.get_last_lr()[0]), optimizer.backend


def train(runs: list[Run], images: Tensor, labels: Tensor, epochs: int) -> None:
    order = torch.Generator().manual_seed(0)
    with tqdm(total=epochs, unit="epoch") as bar:
        for _ in range(epochs):
            for batch in torch.randperm(len(images), generator=order).split(BATCH):
                for run in runs:
                    run.train(images[batch], labels[batch])
                runs = runs[::-1]  # the other one goes first next time
            bar.set_postfix({run.name: f"{run.losses[-1]:.4f}" for run in sorted(runs, key=lambda r: r.name)})
            bar.update()


def print_table(runs: list[Run], backend: str, test_images: Tensor, test_labels: Tensor) -> None:
    ours, theirs = [nn.utils.parameters_to_vector(run.model.parameters()).detach() for run in runs]
    times = [run.microseconds() for run in runs]
    rows = [
        ("", "torch.optim.SGD(fused=True)", "FusedSGD"),
        ("rate", "CosineAnnealingWarmRestarts", "CosineWarmRestarts"),
        ("backend", "torch, cpu", backend),
        ("test accuracy", *[f"{run.accuracy(test_images, test_labels):.2%}" for run in runs]),
        ("median step with schedule", *[f"{microseconds:.1f} µs" for microseconds in times]),
        ("speed ratio", "1", f"{times[0] / times[1]:.2f}"),
        ("largest parameter", *[f"{vector.abs().max():.4f}" for vector in (ours, theirs)]),
        ("largest parameter difference", "", f"{(ours - theirs).abs().max():.1e}"),
    ]
    print(f"\n{len(runs[0].seconds)} steps each, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for row in rows:
        print("{:<30}{:<29}{}".format(*row))


def smoothed(values: list[float], window: int) -> Tensor:
    """The mean of each value and the values before it: of `window` values, or of fewer at the start."""
    sums = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)
    end = torch.arange(1, len(values) + 1)
    start = (end - window).clamp(min=0)
    return (sums[end] - sums[start]) / (end - start)


STYLES = [{"color": "#f0a35e", "linewidth": 5}, {"color": "#1f3b73", "linewidth": 1.4, "linestyle": (0, (4, 2))}]
LABELS = ["torch.optim.SGD(fused=True) + CosineAnnealingWarmRestarts", "FusedSGD with CosineWarmRestarts"]


def draw(runs: list[Run], steps_per_epoch: int, path: Path) -> None:
    figure = plt.figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplot_mosaic([["rate", "time"], ["loss", "time"]], width_ratios=[3, 1], height_ratios=[2, 3])
    axes["rate"].sharex(axes["loss"])
    draw_curves(runs, steps_per_epoch, axes["rate"], axes["loss"])
    draw_times(runs, axes["time"])
    figure.suptitle("Handwritten digits, the same start and mini-batches for both optimizers")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_curves(runs: list[Run], steps_per_epoch: int, rate: Axes, loss: Axes) -> None:
    epochs = torch.arange(len(runs[0].rates)) / steps_per_epoch
    # The curves lie on each other, so one is a wide light line and the other a narrow dashed line on top of it.
    for run, style, label in zip(runs, STYLES, LABELS, strict=True):
        rate.plot(epochs, run.rates, label=label, **style)
        loss.plot(epochs, smoothed(run.losses, steps_per_epoch), label=label, **style)
    rate.set(title="Learning rate: cosine annealing with warm restarts", ylabel="learning rate")
    loss.set(
        title=f"Training loss, mean of the last {steps_per_epoch} mini-batches",
        ylabel="cross-entropy (nats)",
        xlabel=f"epochs of {steps_per_epoch} steps",
        yscale="log",
        xlim=(0, epochs[-1]),
    )
    for axes in (rate, loss):
        axes.grid(alpha=0.3)
    loss.legend()


def draw_times(runs: list[Run], axes: Axes) -> None:
    """Draws what differs, the time of a step: the medians, because other programs hold up a step now and then."""
    theirs, ours = [run.microseconds() for run in runs]
    notes = [f"{theirs:.0f} µs", f"{ours:.0f} µs\n{theirs / ours:.1f} times\nas fast"]
    for i, (median, style, note) in enumerate(zip((theirs, ours), STYLES, notes, strict=True)):
        axes.bar(i, median, color=style["color"], width=0.7)
        axes.annotate(note, (i, median), (0, 4), textcoords="offset points", ha="center", weight="bold")
    axes.set_xticks([0, 1], ["torch's optimizer\nand scheduler", "FusedSGD"])
    axes.set(
        title="Time of a step with its schedule",
        ylabel=f"microseconds: median of {len(runs[0].seconds)} steps",
        ylim=(0, 1.15 * max(theirs, ours)),
    )
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out/digits.png"), help="picture; default: %(default)s")
    options = parser.parse_args(arguments)

    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, torch.tensor(digits.target), test_size=0.2, random_state=0, stratify=digits.target
    )
    steps_per_epoch = -(-len(train_images) // BATCH)

    torch.manual_seed(0)
    model = network()
    ours, backend = fused_run(copy.deepcopy(model), steps_per_epoch)
    runs = [torch_run(model, steps_per_epoch), ours]
    train(runs, train_images, train_labels, options.epochs)
    print_table(runs, backend, test_images, test_labels)
    draw(runs, steps_per_epoch, options.out)
    print(f"\npicture: {options.out}")


if __name__ == "__main__":
    main()
