"""Wrappers of papers and of torch around an optimizer with a Schedule; files and processes that get the whole of it.

Each test has torch's own optimizer in the same place beside it, or ours with nothing around it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from framework_trainings import SCHEDULE, STEPS, rate
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused.schedules import LinearRamp

pytestmark = pytest.mark.once
STOP = 5  # it stops in the middle of the second cycle
RAMP = LinearRamp(1.0, 0.0, steps=8)  # 1, 7/8, 6/8, ...: sums of these are exact, in any order
ROUNDING = 1e-13  # our step rounds a float64 in another order than torch's: by a few units of 1e-16 a step


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def backward(model: nn.Module, step: int) -> None:
    """Leaves the gradients of a batch that depends on the step alone."""
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    model.zero_grad()
    (model(inputs) - inputs[:, :2]).square().mean().backward()


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        backward(model, step)
        if isinstance(optimizer, SharpnessAware):
            optimizer.first_step()
            backward(model, step)
            optimizer.second_step()
        else:
            optimizer.step()


def assert_same(model: nn.Module, other: nn.Module, tolerance: float = 0.0) -> None:
    torch.testing.assert_close([*model.parameters()], [*other.parameters()], rtol=tolerance, atol=tolerance)


def sgd(params: Any) -> FusedSGD:
    return FusedSGD(params, lr=SCHEDULE, momentum=0.9)


def adamw(params: Any) -> FusedAdamW:
    return FusedAdamW(params, lr=SCHEDULE)


# ---- wrappers


class SharpnessAware(torch.optim.Optimizer):
    """Sharpness-aware minimization in its usual form, which shares the groups of the optimizer inside.

    Its first step goes uphill. The second one goes back, and steps with the gradients that were found there.
    """

    def __init__(self, params: Any, make: Any, **hypers: Any) -> None:
        super().__init__(params, {"rho": 0.5, **hypers})
        self.base_optimizer = make(self.param_groups, **hypers)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            norm = torch.stack([p.grad.norm() for p in group["params"]]).norm()
            for p in group["params"]:
                self.state[p]["start"] = p.detach().clone()
                p.add_(p.grad * (group["rho"] / norm))

    @torch.no_grad()
    def second_step(self) -> None:
        for p, state in self.state.items():
            p.data = state["start"]
        self.base_optimizer.step()

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


class Lookahead:
    """Every third step goes half of the way back, to slow weights. These and the count are in the optimizer inside."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        self.state_dict, self.load_state_dict = optimizer.state_dict, optimizer.load_state_dict
        self.param_groups[0]["taken"] = 0
        for p in self.param_groups[0]["params"]:
            optimizer.state[p]["slow"] = p.detach().clone()

    @torch.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        group = self.optimizer.param_groups[0]
        group["taken"] += 1
        if group["taken"] % 3 == 0:
            for p in group["params"]:
                p.copy_(self.optimizer.state[p]["slow"].lerp_(p, 0.5))


WRAPPERS: dict[str, Callable[..., Any]] = {
    "sharpness_aware": SharpnessAware,  # no momentum: its checkpoint leaves out the state of the optimizer inside
    "lookahead": lambda params, make, **hypers: Lookahead(make(params, momentum=0.9, **hypers)),
    "post_local": lambda params, make, **hypers: PostLocalSGDOptimizer(
        make(params, momentum=0.9, **hypers), PeriodicModelAverager(period=2, warmup_steps=2)
    ),
}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group, which PostLocalSGDOptimizer asks for."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_wrapper(wrap: Callable[..., Any], tmp_path: Path) -> None:
    """Beside the same around torch's SGD with rates by hand; then again from the wrapper's checkpoint half-way."""
    model, other, again = network(), network(), network()
    ours, theirs = wrap(model.parameters(), FusedSGD, lr=SCHEDULE), wrap(other.parameters(), torch.optim.SGD, lr=0.0)
    average, other_average = AveragedModel(model), AveragedModel(other)
    for step in range(STEPS):
        if step == STOP:
            torch.save([model.state_dict(), ours.state_dict()], tmp_path / "checkpoint.pt")
        theirs.param_groups[0]["lr"] = rate(step)
        assert float(ours.param_groups[0]["lr"]) == pytest.approx(rate(step), rel=1e-14)  # a few roundings apart
        train(model, ours, range(step, step + 1))
        train(other, theirs, range(step, step + 1))
        average.update_parameters(model)
        other_average.update_parameters(other)
        assert_same(model, other, ROUNDING)
        assert_same(average, other_average, ROUNDING)
    resumed = wrap(again.parameters(), FusedSGD, lr=SCHEDULE)
    of_model, of_wrapper = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again.load_state_dict(of_model)
    resumed.load_state_dict(of_wrapper)
    train(again, resumed, range(STOP, STEPS))
    assert_same(again, model)


def test_torchs_scheduler_over_a_wrapper() -> None:
    """It writes into groups that the wrapper has kept. The first step notices, and changes nothing."""
    model = network()
    wrapper = SharpnessAware(model.parameters(), FusedSGD, lr=SCHEDULE)
    CosineAnnealingLR(wrapper, T_max=5)
    with pytest.raises(RuntimeError, match="InStepScheduler"):
        train(model, wrapper.base_optimizer, range(1))
    assert_same(model, network())


def test_kept_groups_and_defaults() -> None:
    """They show the rate and rule it for whoever keeps them, and make another optimizer like the first one."""
    model, other = network(), network()
    optimizer = sgd(model.parameters())
    groups, defaults = optimizer.param_groups, optimizer.defaults
    like = FusedSGD(other.parameters(), **defaults)
    for step in range(STOP):
        assert float(groups[0]["lr"]) == SCHEDULE(step)
        train(model, optimizer, range(step, step + 1))
    train(other, like, range(STOP))
    assert_same(model, other)
    with pytest.warns(UserWarning, match=r"group\['lr'\] of group 0 had a Schedule"):
        groups[0]["lr"] = 0.0
    train(model, optimizer, range(STOP, STEPS))
    assert_same(model, other)  # nothing has moved


# ---- the whole of an optimizer


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("whole", [True, False], ids=["groups", "entries"])
def test_attributes_in_a_file_without_code(tmp_path: Path, make: Callable[[Any], Any], whole: bool) -> None:
    """Groups, defaults and state, put onto an optimizer of another rate: groups as a whole, or entry by entry."""
    model, again = network(), network()
    optimizer = make(model.parameters())
    train(model, optimizer, range(STOP))
    attributes = {"groups": optimizer.param_groups, "defaults": optimizer.defaults, "state": optimizer.state}
    torch.save(attributes, tmp_path / "attributes.pt")
    saved = torch.load(tmp_path / "attributes.pt", weights_only=True)
    params = saved["groups"][0]["params"]
    again[0].weight, again[0].bias, again[2].weight, again[2].bias = params
    resumed = type(optimizer)(params, lr=1.0)
    resumed.defaults, resumed.state = saved["defaults"], saved["state"]
    assert resumed.defaults["lr"] == SCHEDULE
    if whole:
        resumed.param_groups = saved["groups"]
    else:
        resumed.param_groups[0].update(saved["groups"][0])
    assert (int(resumed.clock), resumed.get_last_lr()) == (STOP, [SCHEDULE(STOP)])
    train(model, optimizer, range(STOP, STEPS))
    train(again, resumed, range(STOP, STEPS))
    assert_same(again, model)


def through_a_file(pair: Any, folder: Path) -> Any:
    torch.save(pair, folder / "whole.pt")
    return torch.load(folder / "whole.pt", weights_only=False)


def through_cloudpickle(pair: Any, folder: Path) -> Any:
    import cloudpickle

    return cloudpickle.loads(cloudpickle.dumps(pair))


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("copied", [through_a_file, through_cloudpickle, lambda pair, folder: copy.deepcopy(pair)])
def test_whole_objects(tmp_path: Path, make: Callable[[Any], Any], copied: Callable[[Any, Path], Any]) -> None:
    """Model and optimizer together: the copy trains the copied model, and goes the way of the first one."""
    model = network()
    optimizer = make(model.parameters())
    train(model, optimizer, range(STOP))
    again, resumed = copied((model, optimizer), tmp_path)
    train(again, resumed, range(STOP, STEPS))
    assert (int(optimizer.clock), int(resumed.clock), resumed.get_last_lr()) == (STOP, STEPS, [SCHEDULE(STEPS)])
    train(model, optimizer, range(STOP, STEPS))
    assert_same(again, model)


# ---- processes


def hogwild(rank: int, guarded: Tensor, unguarded: Tensor, lock: Any, results: Any) -> None:
    """One process: its own optimizer over each shared parameter, with gradients of 1. On the first they take turns."""
    for param, guard in ((guarded, lock), (unguarded, contextlib.nullcontext())):
        optimizer = FusedSGD([param], lr=RAMP)
        for _ in range((5, 8)[rank]):
            with guard:
                param.grad = torch.ones_like(param)
                optimizer.step()
        results.put((rank, int(optimizer.clock), optimizer.get_last_lr()))


def test_hogwild() -> None:
    """Two processes take 5 and 8 steps. Without the lock they may lose some of each other's."""
    context = torch.multiprocessing.get_context("spawn")
    params = [nn.Parameter(torch.zeros(1000, dtype=torch.float64).share_memory_()) for _ in range(2)]
    results = context.SimpleQueue()
    torch.multiprocessing.spawn(hogwild, (*params, context.Lock(), results), nprocs=2)
    assert sorted(results.get() for _ in range(4)) == [(0, 5, [RAMP(5)])] * 2 + [(1, 8, [RAMP(8)])] * 2
    guarded, unguarded = (-param.detach() for param in params)
    total = sum(RAMP(t) for t in (*range(5), *range(8)))
    assert guarded.tolist() == [total] * 1000
    assert bool(((unguarded >= RAMP(7)) & (unguarded <= total)).all())  # at least the smallest update


class Rates(Dataset[Tensor]):
    """A data set that follows the training: what it reads of the optimizer, and of its groups."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.groups = optimizer, optimizer.param_groups

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([*self.optimizer.get_last_lr(), float(self.groups[0]["lr"])], dtype=torch.float64)


@pytest.mark.parametrize(("start", "epochs"), [("fork", [0, STOP, 9]), ("spawn", [STOP])])
def test_workers_of_a_data_loader(start: str, epochs: list[int]) -> None:
    """They read the rate of the moment at which an epoch starts, and the training is as without them."""
    model, other = network(), network()
    optimizer, alone = sgd(model.parameters()), sgd(other.parameters())
    loader = DataLoader(Rates(optimizer), batch_size=2, num_workers=2, multiprocessing_context=start)
    for step in range(STEPS):
        if step in epochs:
            assert torch.cat(list(loader)).tolist() == [[SCHEDULE(step)] * 2] * 4
        train(model, optimizer, range(step, step + 1))
        train(other, alone, range(step, step + 1))
        assert_same(model, other)
        assert float(optimizer.param_groups[0]["lr"]) == SCHEDULE(step + 1)
