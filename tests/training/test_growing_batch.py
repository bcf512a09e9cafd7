"""GrowingBatchSampler: sizes and order against plain lists, with workers, for several processes, resumed anywhere."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from cases import DEVICE
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from sgdr_fused import FusedSGD, GrowingBatchSampler, lr_find
from sgdr_fused.schedules import (
    Constant,
    CosineWarmRestarts,
    Exponential,
    LinearRamp,
    Schedule,
    Step,
    Table,
    Warmup,
)

pytestmark = pytest.mark.once

HALVING = Step(0.4, step_size=3, gamma=0.5)


def growing(samples: int = 100, **options: Any) -> GrowingBatchSampler:
    return GrowingBatchSampler(
        **{"sampler": range(samples), "batch_size": 2, "schedule": HALVING, "max_batch_size": 12, **options}
    )


def joined(batches: Iterable[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(batches))


def test_sizes() -> None:
    batches = growing()
    assert [batches.size(t) for t in range(12)] == [2, 2, 2, 4, 4, 4, 8, 8, 8, 12, 12, 12]
    assert [len(batch) for batch in batches] == [2, 2, 2, 4, 4, 4, 8, 8, 8, 12, 12, 12, 12, 10]


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1.0, 10),
        (0.8, 12),  # 12.5: a half to the even one
        (Fraction(10, 13) * Fraction(26, 27), 14),  # 13.5
        (0.7, 14),  # 14.29
        (0.65, 15),  # 15.38
        (2.0, 5),  # a schedule that rises
        (30.0, 1),  # 0.33: at least 1
        (1e-300, 1000),
        (5e-324, 1000),  # the quotient overflows
        (0.0, 1000),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_rounding(value: Any, size: int, scale: float) -> None:
    schedule = scale * Table([1.0, float(value)])
    assert growing(batch_size=10, schedule=schedule, max_batch_size=1000).size(1) == size


@pytest.mark.parametrize(
    "schedule",
    [Exponential(0.3, gamma=0.9), CosineWarmRestarts(0.1, T_0=9, T_mult=2, eta_min=1e-3), LinearRamp(1.0, 0.0, 30)],
    ids=lambda schedule: type(schedule).__name__,
)
def test_rate_over_batch_size_is_the_schedules(schedule: Schedule) -> None:
    """What the noise of the gradient depends on, which is the point of it all."""
    batches = growing(batch_size=8, schedule=schedule, max_batch_size=50)
    rate = 0.7 * Table(batches.lr_factor, num_steps=60)
    for t in range(60):
        assert rate(t) / batches.size(t) == pytest.approx(0.7 * schedule(t) / schedule(0) / 8, rel=1e-14)
        if 8 < batches.size(t) < 50:
            assert abs(batches.lr_factor(t) - 1) <= 0.5 / (batches.size(t) - 0.5)
        if batches.size(t) == 50 and 8 * schedule(0) > 50.5 * schedule(t):
            assert batches.lr_factor(t) < 1


def test_steps_go_on_over_epochs() -> None:
    batches = growing(samples=9)
    epochs = [[len(batch) for batch in batches] for _ in range(4)]
    assert epochs == [[2, 2, 2, 3], [4, 4, 1], [8, 1], [9]]
    assert batches.step == 10


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 2, 3, 6, 9, 10, 11, 50])
def test_every_sample_once_and_the_length(samples: int, drop_last: bool) -> None:
    batches = growing(sampler=list(range(100, 100 + samples)), drop_last=drop_last)
    for _ in range(3):
        sizes, left, step = [], samples, batches.step
        while left >= (batches.size(step) if drop_last else 1):
            sizes.append(min(left, batches.size(step)))
            left, step = left - sizes[-1], step + 1
        assert len(batches) == len(sizes)
        got = []
        for i, batch in enumerate(batches):
            assert len(batches) == len(sizes)  # also during the epoch
            assert batches.step == step - len(sizes) + i + 1
            got.append(batch)
        assert [len(batch) for batch in got] == sizes
        assert joined(got) == list(range(100, 100 + sum(sizes)))


def test_sampler_without_a_length() -> None:
    class Unknown:
        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    batches = growing(sampler=Unknown())
    with pytest.raises(TypeError, match="len"):
        len(batches)
    assert joined(batches) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"sampler": 10}, TypeError, "sampler.*10"),
        ({"batch_size": 0}, ValueError, "batch_size.*0"),
        ({"batch_size": 2.0}, TypeError, r"batch_size.*2\.0"),
        ({"schedule": 0.1}, TypeError, r"schedule.*0\.1"),
        ({"schedule": Warmup(Constant(0.1), 5)}, ValueError, "schedule must be > 0 at step 0.*Warmup"),
        ({"max_batch_size": 1}, ValueError, "max_batch_size.*1"),
        ({"drop_last": 1}, TypeError, "drop_last.*1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments(changed: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        growing(**changed)


def test_step_may_be_set() -> None:
    batches = growing(samples=9)
    next(iter(batches))
    batches.step = 6
    assert [len(batch) for batch in batches] == [8, 1]
    with pytest.raises(ValueError, match=r"step.*-1"):
        batches.step = -1
    assert batches.step == 8


# ---- in a DataLoader


def collated(batch: list[int]) -> list[int]:
    return batch


def loader_of(batches: GrowingBatchSampler, samples: int, workers: int = 0) -> DataLoader[Any]:
    return DataLoader(range(samples), batch_sampler=batches, num_workers=workers, collate_fn=collated)  # type: ignore


def shuffled(samples: int, seed: int = 0) -> RandomSampler:
    return RandomSampler(range(samples), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(workers: int) -> None:
    expected = [list(each) for each in [growing(sampler=shuffled(30))] * 2]
    batches = growing(sampler=shuffled(30))
    loader = loader_of(batches, 30, workers)
    for epoch in expected:
        assert len(loader) == len(epoch)
        assert list(loader) == epoch
        assert sorted(joined(epoch)) == list(range(30))
    assert expected[0] != expected[1]


def test_distributed_sampler() -> None:
    """Two processes' samplers: the same sizes, all samples between them, another order after set_epoch."""
    samplers = [DistributedSampler(range(40), num_replicas=2, rank=rank, seed=3) for rank in (0, 1)]
    both = [growing(sampler=sampler) for sampler in samplers]
    epochs = []
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        mine, theirs = (list(loader_of(each, 40)) for each in both)
        assert [len(batch) for batch in mine] == [len(batch) for batch in theirs]
        assert sorted(joined(mine + theirs)) == list(range(40))
        epochs.append(joined(mine))
    assert epochs[0] != epochs[1] != epochs[2]


# ---- resuming


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_anywhere(workers: int, drop_last: bool) -> None:
    """Workers are ahead of the training, so with workers the training's own count is given."""
    epochs, cuts = 3, range(0, 18, 3) if workers else range(18)

    def make(seed: int) -> tuple[GrowingBatchSampler, DataLoader[Any]]:
        batches = growing(sampler=shuffled(31, seed), drop_last=drop_last)
        return batches, loader_of(batches, 31, workers)

    _, loader = make(seed=0)
    full = [list(loader) for _ in range(epochs)]
    count = sum(map(len, full))
    for cut in cuts:
        if cut > count:
            break
        batches, loader = make(seed=0)
        seen, state = 0, batches.state_dict()
        for _ in range(epochs):
            for _ in loader:
                seen += 1
                if seen == cut:
                    state = through_a_file(batches.state_dict(step=seen if workers else None))
        other, loader = make(seed=9)
        other.load_state_dict(state)
        assert other.step == cut
        flat = joined(full)
        rest: list[Any] = []
        while len(rest) < count - cut:
            expected_length = len(loader)
            epoch = list(loader)
            assert len(epoch) == expected_length
            rest += epoch
        assert rest == flat[cut:], cut


def test_resumes_the_order_of_any_sampler() -> None:
    """Also one that draws from the global generator; and indices that are no integers."""
    for sampler in (RandomSampler(range(20)), SequentialSampler(range(20)), [*"abcdefghijklmnopqrst"]):
        batches = growing(sampler=sampler)
        iterator = iter(batches)
        first = [next(iterator) for _ in range(3)]
        state = through_a_file(batches.state_dict())
        rest = list(iterator)
        other = growing(sampler=sampler)
        other.load_state_dict(state)
        assert list(other) == rest
        assert len(joined(first + rest)) == 20


def test_state_between_epochs_is_a_step_alone() -> None:
    batches = growing(samples=10)
    assert batches.state_dict() == {"step": 0, "order": None, "generator": None}
    list(batches)
    assert batches.state_dict() == {"step": 4, "order": None, "generator": None}
    other = growing(samples=10)
    other.load_state_dict(batches.state_dict())
    assert list(other) == list(batches)


def test_state_of_a_step_outside_of_the_epoch() -> None:
    batches = growing(samples=9)
    list(batches)
    iterator = iter(batches)
    next(iterator), next(iterator)
    assert batches.state_dict(5)["order"].tolist() == [4, 5, 6, 7, 8]
    for step in (3, 7):
        with pytest.raises(ValueError, match=f"from 4 to 6, got {step}"):
            batches.state_dict(step)


@pytest.mark.parametrize("state", [None, {}, {"step": 3}, {"step": -1, "order": None, "generator": None}], ids=str)
def test_states_that_are_none(state: Any) -> None:
    batches = growing()
    with pytest.raises(ValueError, match=re.escape("-1") if state and len(state) == 3 else "step, order and generator"):
        batches.load_state_dict(state)
    assert batches.step == 0


def test_an_epoch_left_early_is_not_gone_on_with() -> None:
    batches = growing(samples=9)
    for _ in batches:
        break
    assert list(batches) == [[0, 1], [2, 3], [4, 5, 6, 7], [8]]


def test_range_test_in_the_middle_of_an_epoch() -> None:
    """lr_find draws from the same loader; the epoch goes on, and the next one is whole."""

    def train(find: bool) -> list[Any]:
        batches = growing(sampler=shuffled(25))
        loader = DataLoader(torch.arange(25.0), batch_sampler=batches)  # type: ignore[arg-type]
        param = nn.Parameter(torch.zeros(1, device=DEVICE))
        optimizer = FusedSGD([param])
        seen = []

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            return (param - batch).square().mean()

        for _ in range(3):
            for i, batch in enumerate(loader):
                seen.append(batch.tolist())
                if find and i == 2:
                    lr_find(nn.Module(), optimizer, None, loader, num_steps=4, batch_to_loss=loss, progress=False)
        return [seen, batches.step]

    assert train(find=True) == train(find=False)
