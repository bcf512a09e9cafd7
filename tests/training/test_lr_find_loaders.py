"""lr_find puts back loaders and what they are made of, and warns of what is used up."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import range_tests
import torch
from bits import bits
from cases import DEVICE
from range_tests import find_restored, pairs
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, RandomSampler, Sampler

from sgdr_fused import GrowingBatchSampler
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = [pytest.mark.once, pytest.mark.untracked]

# ---- what loaders are made of


class Curriculum(Dataset[Any]):
    """It gets harder with each sample, and draws from generators of its own."""

    def __init__(self) -> None:
        self.difficulty, self.seen, self.per_class = 0.0, [], {"a": 0}
        self.torch_generator = torch.Generator().manual_seed(1)
        self.numpy_generator = np.random.default_rng(2)
        self.legacy_generator = np.random.RandomState(3)
        self.python_generator = random.Random(4)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        self.difficulty += 0.5
        self.seen.append(index)
        self.per_class["a"] += 1
        self.opened = True  # an attribute that was not there
        drawn = torch.rand(2, generator=self.torch_generator)
        drawn += self.numpy_generator.random() + self.legacy_generator.rand() + self.python_generator.random()
        return drawn, torch.zeros(2)

    def state(self) -> Any:
        return (
            {name: value for name, value in vars(self).items() if "generator" not in name},
            list(self.seen),
            dict(self.per_class),
            bits(self.torch_generator.get_state()),
            self.numpy_generator.bit_generator.state,
            repr(self.legacy_generator.get_state()),
            self.python_generator.getstate(),
        )


class Wrapper(Dataset[Any]):
    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


@pytest.mark.parametrize("held", ["itself", "subset", "concatenation", "wrapper"])
@pytest.mark.parametrize("role", ["loader", "val_loader"])
def test_datasets(held: str, role: str) -> None:
    dataset = Curriculum()
    dataset[0]
    seen, before = dataset.seen, dataset.state()
    outer: dict[str, Callable[[], Any]] = {
        "itself": lambda: dataset,
        "subset": lambda: torch.utils.data.Subset(dataset, range(6)),
        "concatenation": lambda: torch.utils.data.ConcatDataset([Wrapper(dataset), dataset]),
        "wrapper": lambda: Wrapper(dataset),
    }
    loader = DataLoader(outer[held](), batch_size=2)
    find_restored(**{"loader": pairs(), role: loader})
    assert dataset.state() == before
    assert dataset.seen is seen


class Stateful(Sampler[int]):
    """A loader as those that can be resumed: what it holds is behind slots, and only state_dict tells it."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        for _ in range(4):
            self.at += 1
            yield self.at % 8

    def __len__(self) -> int:
        return 4

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Resumable(Sampler[list[int]]):
    """A batch sampler that remembers where it is in attributes alone."""

    def __init__(self) -> None:
        self.consumed, self.epoch = 0, 3

    def __iter__(self) -> Iterator[list[int]]:
        self.epoch += 1
        for _ in range(3):
            self.consumed += 2
            yield [self.consumed % 8, 0]


def test_samplers() -> None:
    stateful, resumable = Stateful(), Resumable()
    distributed = DistributedSampler(Curriculum(), num_replicas=2, rank=1, seed=5)  # type: ignore[arg-type]
    distributed.set_epoch(4)
    find_restored(DataLoader(Curriculum(), batch_size=2, sampler=stateful))
    find_restored(DataLoader(Curriculum(), batch_sampler=resumable))
    find_restored(DataLoader(Curriculum(), batch_size=2, sampler=distributed))
    assert (stateful.at, resumable.consumed, resumable.epoch, distributed.epoch) == (0, 0, 3, 4)


@pytest.mark.parametrize("taken", [0, 2, 5])
def test_growing_batches(taken: int) -> None:
    """Also from the middle of an epoch that goes on afterwards, and of one that was left."""

    def made() -> GrowingBatchSampler:
        sampler = RandomSampler(range(20), generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        return GrowingBatchSampler(sampler, 2, CosineWarmRestarts(0.1, T_0=3), 6)

    tested, untouched = made(), made()
    rest: list[Any] = []
    for each in (tested, untouched):
        epoch = iter(each)
        for _ in range(taken):
            next(epoch)
        if each is tested:
            find_restored(DataLoader(Curriculum20(), batch_sampler=each))
        rest.append([[*epoch] if taken != 5 else None, [*each], each.step, len(each)])
    assert rest[0] == rest[1]


class Curriculum20(Curriculum):
    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize("under_way", [False, True])
def test_workers_that_persist(under_way: bool) -> None:
    """Those of the training are put aside, and go on where they were."""
    loader: Any = DataLoader(Curriculum(), batch_size=2, num_workers=1, persistent_workers=True)
    iterator = iter(loader) if under_way else None
    first = [next(iterator)] if iterator else []
    find_restored(loader, steps=2)
    assert loader._iterator is iterator
    if iterator:
        assert len(first + list(iterator)) == 4
        iterator._shutdown_workers()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(pairs(3))


class StatefulStream(Stream):
    at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class HoldsAnIterator:
    def __init__(self) -> None:
        self.source = iter(pairs(40))

    def __iter__(self) -> Iterator[Any]:
        return self.source


def generator() -> Iterator[Any]:
    yield from pairs(40)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (lambda: {"loader": iter(pairs(40))}, "the batches taken from the iterator <list_iterator"),
        (lambda: {"loader": generator()}, "the batches taken from the iterator <generator"),
        (lambda: {"loader": zip(pairs(40), strict=True)}, "the iterator <zip"),
        (lambda: {"loader": DataLoader(Stream(), batch_size=None)}, "what <.*Stream object.*> has read"),
        (lambda: {"loader": HoldsAnIterator()}, "the iterator 'source' of <.*HoldsAnIterator"),
        (lambda: {"loader": pairs(), "val_loader": DataLoader(Stream(), batch_size=None)}, "Stream object"),
    ],
)
def test_warns_of_what_is_used_up(options: Any, named: str) -> None:
    with pytest.warns(UserWarning, match=f"lr_find leaves everything as it was, but for .*{named}") as caught:
        chosen = {**options(), "warns": True}
        if "zip" in named:
            chosen["criterion"], chosen["batch_to_loss"] = (
                None,
                lambda model, batch: model(batch[0][0].to(DEVICE)).sum(),
            )
        find_restored(**chosen)
    assert len(caught) == 1
    assert caught[0].filename == range_tests.__file__  # where it was called


def test_does_not_warn_of_what_can_be_put_back() -> None:
    find_restored(DataLoader(StatefulStream(), batch_size=None))
    find_restored(DataLoader(Curriculum(), batch_size=2, shuffle=True))
