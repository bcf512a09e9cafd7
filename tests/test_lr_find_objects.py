"""lr_find puts back what a training has around its model: loaders, datasets, criteria, callbacks and attributes."""

from __future__ import annotations

import functools
import random
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from bits import bits
from cases import DEVICE
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import optimizer as torch_optimizer
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, RandomSampler, Sampler

from sgdr_fused import FusedSGD, GrowingBatchSampler, lr_find
from sgdr_fused.schedules import Constant, CosineWarmRestarts

pytestmark = pytest.mark.once


def find(
    loader: Any,
    model: nn.Module | None = None,
    criterion: Any = mse_loss,
    optimizer: Any = None,
    steps: int = 6,
    **options: Any,
) -> Any:
    """With warnings as errors: what warns says so in its test."""
    model = model or nn.Linear(2, 2).to(DEVICE)
    optimizer = optimizer or FusedSGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        if not options.pop("warns", False):
            warnings.simplefilter("error")
        return lr_find(model, optimizer, criterion, loader, 1e-5, 1e-4, steps, progress=False, **options)


def pairs(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(torch.ones(3, 2), torch.zeros(3, 2))] * count


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
    find(**{"loader": pairs(), role: loader})
    assert dataset.state() == before
    assert dataset.seen is seen


class Stateful(Sampler[int]):
    """As of those that can be resumed: what it holds is behind slots, and only state_dict tells."""

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
    find(DataLoader(Curriculum(), batch_size=2, sampler=stateful))
    find(DataLoader(Curriculum(), batch_sampler=resumable))
    find(DataLoader(Curriculum(), batch_size=2, sampler=distributed))
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
            find(DataLoader(Curriculum20(), batch_sampler=each))
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
    find(loader, steps=2)
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
        find(**chosen)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_does_not_warn_of_what_can_be_put_back() -> None:
    find(DataLoader(StatefulStream(), batch_size=None))
    find(DataLoader(Curriculum(), batch_size=2, shuffle=True))


# ---- functions and hooks


class Criterion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))
        self.calls, self.history = 0, []

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        loss = (output - targets).square().mean() * self.scale
        self.mean.mul_(0.9).add_(loss.detach())
        self.history.append(loss.item())
        self.scale.data.add_(1)
        return loss


class Weighting:
    """A loss with a state of its own, that is no module; it holds one."""

    def __init__(self) -> None:
        self.calls, self.weights, self.norm = 0, torch.ones(2), nn.BatchNorm1d(2)
        self.array, self.last = np.zeros(2), deque([0], maxlen=3)

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        self.weights.mul_(1.1)
        self.array += 1
        self.last.append(self.calls)
        self.norm(output.detach().cpu())
        return ((output - targets).square() * self.weights.to(output.device)).mean()

    def state(self) -> Any:
        return (self.calls, bits(self.weights), self.array.tolist(), [*self.last], bits(self.norm.running_mean))


@pytest.mark.parametrize("form", ["object", "method", "partial"])
def test_losses_with_a_state(form: str) -> None:
    weighting = Weighting()
    weighting(torch.randn(3, 2), torch.zeros(3, 2))
    before = weighting.state()
    forms: dict[str, Callable[[], Any]] = {
        "object": lambda: weighting,
        "method": lambda: weighting.__call__,
        "partial": lambda: functools.partial(Weighting.__call__, weighting),
    }
    find(pairs(), criterion=forms[form]())
    assert weighting.state() == before


@pytest.mark.parametrize("form", ["module", "method", "closure"])
def test_criteria_that_are_modules(form: str) -> None:
    criterion = Criterion().to(DEVICE).eval()
    forms: dict[str, Any] = {
        "module": {"criterion": criterion},
        "method": {"criterion": criterion.forward},
        "closure": {"criterion": None, "batch_to_loss": lambda model, batch: criterion(model(batch[0]), batch[1])},
    }
    find(pairs(), **forms[form])
    assert (criterion.calls, criterion.history, criterion.training) == (0, [], False)
    assert (criterion.scale.item(), criterion.mean.item(), criterion.scale.grad) == (1.0, 0.0, None)


class Callback:
    """What keeps its own books at each step: a counter, a history, an average of the weights."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.steps, self.history = model, 0, []
        self.shadow = {name: value.detach().clone() for name, value in model.named_parameters()}
        self.averaged = torch.optim.swa_utils.AveragedModel(model)

    def __call__(self, *_: Any) -> None:
        self.steps += 1
        self.history.append(self.steps)
        for name, value in self.model.named_parameters():
            self.shadow[name].lerp_(value.detach(), 0.5)
        self.averaged.update_parameters(self.model)

    def on_step(self, *_: Any) -> None:
        self()

    def state(self) -> Any:
        shadow = {name: bits(value) for name, value in self.shadow.items()}
        return self.steps, [*self.history], shadow, [bits(value) for value in self.averaged.state_dict().values()]


REGISTER: dict[str, Callable[[nn.Module, Any, Callback], Any]] = {
    "before a step": lambda m, o, c: o.register_step_pre_hook(c.on_step),
    "after a step": lambda m, o, c: o.register_step_post_hook(c),
    "after any optimizer's step": lambda m, o, c: torch_optimizer.register_optimizer_step_post_hook(c.on_step),
    "forward": lambda m, o, c: m.register_forward_hook(c.on_step),
    "before forward": lambda m, o, c: m.register_forward_pre_hook(c.on_step),
    "backward": lambda m, o, c: m.register_full_backward_pre_hook(c.on_step),
    "partial": lambda m, o, c: o.register_step_post_hook(functools.partial(c.on_step, 1)),
}


@pytest.mark.parametrize("where", REGISTER)
def test_callbacks(where: str) -> None:
    model = nn.Linear(2, 2).to(DEVICE)
    optimizer = FusedSGD(model.parameters(), lr=0.1)
    callback = Callback(model)
    handle = REGISTER[where](model, optimizer, callback)
    before = callback.state()
    ran: list[int] = []
    other = optimizer.register_step_post_hook(lambda *_: ran.append(callback.steps))
    find(pairs(), model, optimizer=optimizer)
    handle.remove()
    other.remove()
    assert ran[-1] >= 5  # it was called in the test
    assert callback.state() == before


def test_hooks_of_a_cycles_end_are_not_called() -> None:
    model = nn.Linear(2, 2).to(DEVICE)
    for clock in (0, 1, 2):
        optimizer = FusedSGD(model.parameters(), lr=CosineWarmRestarts(0.1, T_0=2))
        ended: list[int] = []
        optimizer.register_cycle_end_hook(lambda opt, index, ended=ended: ended.append(index))
        optimizer.clock.fill_(clock)
        find(pairs(), model, optimizer=optimizer, steps=9)
        assert ended == []
        optimizer.step()
        optimizer.step()
        assert ended == [clock // 2]


# ---- modules and the optimizer


class Busy(nn.Module):
    """With a state that is in no buffer, replaced tensors, and a part that the forward pass makes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))
        self.old = nn.utils.spectral_norm(nn.Linear(2, 2))
        self.norm = nn.BatchNorm1d(2, momentum=None)  # type: ignore[arg-type]  # the cumulative average
        self.calls, self.history, self.running = 0, OrderedDict(losses=[]), torch.zeros(2)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.history["losses"].append(self.calls)
        self.history.setdefault("more", 1)
        self.running += 1
        self.made = nn.Linear(1, 1)
        self.inner.note = "seen"
        self.norm.weight.data = self.norm.weight.data.clamp(max=0.99)  # in another memory
        self.register_forward_hook(lambda *_: None)
        return self.norm(self.old(self.inner(x))) * torch.rand((), generator=self.generator).to(x.device)

    def state(self) -> Any:
        tensors = [bits(value) for value in (*self.parameters(), *self.buffers(), self.running, self.old.weight)]
        names = [[*vars(module), *module._modules, *module._parameters] for module in self.modules()]
        where = [value.data_ptr() for value in (*self.parameters(), *self.buffers())]
        books = self.calls, {name: [*value] for name, value in self.history.items()}, len(self._forward_hooks)
        return tensors, names, where, books, bits(self.generator.get_state())


@pytest.mark.parametrize("inner", ["itself", "DataParallel", "sequence"])
def test_attributes_of_modules(inner: str) -> None:
    model = Busy().to(DEVICE)
    model.running = model.running.to("cpu")
    before = model.state()
    around: dict[str, Any] = {"itself": lambda m: m, "DataParallel": nn.DataParallel, "sequence": nn.Sequential}
    find(pairs(), around[inner](model))
    assert model.state() == before


def test_attributes_of_the_optimizer() -> None:
    """The user's, and that torch's schedulers leave; what it has measured."""
    model = nn.Linear(2, 2).to(DEVICE)
    optimizer: Any = FusedSGD(model.parameters(), lr=0.1, max_grad_norm=1.0, skip_nonfinite=True)
    optimizer.notes = 1
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    norm, skipped = optimizer.grad_norm, optimizer.skipped_steps
    before = bits(norm), bits(skipped), set(vars(optimizer))

    def change(optimizer: Any, *_: Any) -> None:
        optimizer.notes, optimizer.added = 2, 3
        optimizer._opt_called = True

    handle = optimizer.register_step_post_hook(change)
    find(pairs(), model, optimizer=optimizer)
    handle.remove()
    assert optimizer.grad_norm is norm and optimizer.skipped_steps is skipped
    assert (bits(norm), bits(skipped), set(vars(optimizer))) == before
    assert (optimizer.notes, skipped.item()) == (1, 1)


def test_inside_of_autocast() -> None:
    """Whose cache has casts of weights, which must be neither the test's afterwards nor stale in it."""
    model = nn.Linear(2, 2).to(DEVICE)
    x = torch.ones(3, 2, device=DEVICE)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        before = bits(model(x))
        inside = lr_find(model, FusedSGD(model.parameters()), mse_loss, pairs(), 0.1, 1.0, 6, progress=False)
        assert bits(model(x)) == before
    options = {"progress": False, "autocast_dtype": torch.bfloat16}
    outside = lr_find(model, FusedSGD(model.parameters()), mse_loss, pairs(), 0.1, 1.0, 6, **options)
    assert inside.losses.tolist() == outside.losses.tolist()
    assert len(set(inside.losses.tolist())) > 3


def test_grad_mode_stays() -> None:
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            find(pairs())
            assert torch.is_grad_enabled() == enabled


def test_negative_rates_count_as_none() -> None:
    """Which a torch scheduler may leave by rounding."""
    first, second = (nn.Parameter(torch.ones(2, device=DEVICE)) for _ in range(2))
    optimizer = FusedSGD([{"params": [first], "lr": Constant(0.1)}, {"params": [second], "lr": 0.1}])
    dict.__setitem__(optimizer.param_groups[1], "lr", -4e-18)
    result = lr_find(
        nn.Module(), optimizer, None, [0], 0.1, 1.0, 3, progress=False, batch_to_loss=lambda *_: (first + second).sum()
    )
    assert result.ratios == (1.0, 0.0)
