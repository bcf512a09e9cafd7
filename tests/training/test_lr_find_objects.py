"""lr_find puts back criteria, callbacks, and the attributes of modules and optimizers."""

from __future__ import annotations

import functools
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bits import bits
from cases import DEVICE
from range_tests import find_restored, pairs
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import optimizer as torch_optimizer

from sgdr_fused import FusedSGD, lr_find
from sgdr_fused.schedules import Constant, CosineWarmRestarts

pytestmark = [pytest.mark.once, pytest.mark.untracked]

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
    find_restored(pairs(), criterion=forms[form]())
    assert weighting.state() == before


@pytest.mark.parametrize("form", ["module", "method", "closure"])
def test_criteria_that_are_modules(form: str) -> None:
    criterion = Criterion().to(DEVICE).eval()
    forms: dict[str, Any] = {
        "module": {"criterion": criterion},
        "method": {"criterion": criterion.forward},
        "closure": {"criterion": None, "batch_to_loss": lambda model, batch: criterion(model(batch[0]), batch[1])},
    }
    find_restored(pairs(), **forms[form])
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
    "backward": lambda m, o, c: m[-1].register_full_backward_pre_hook(c.on_step),
    "partial": lambda m, o, c: o.register_step_post_hook(functools.partial(c.on_step, 1)),
}


@pytest.mark.parametrize("where", REGISTER)
def test_callbacks(where: str) -> None:
    # Two layers: torch warns of a backward hook where no input of the module has a gradient.
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(DEVICE)
    optimizer = FusedSGD(model.parameters(), lr=0.1)
    callback = Callback(model)
    handle = REGISTER[where](model, optimizer, callback)
    before = callback.state()
    ran: list[int] = []
    other = optimizer.register_step_post_hook(lambda *_: ran.append(callback.steps))
    find_restored(pairs(), model, optimizer=optimizer)
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
        find_restored(pairs(), model, optimizer=optimizer, steps=9)
        assert ended == []
        optimizer.step()
        optimizer.step()
        assert ended == [clock // 2]


# ---- modules and the optimizer


class Busy(nn.Module):
    """A module with a state that is in no buffer, replaced tensors, and a part that the forward pass makes."""

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
    find_restored(pairs(), around[inner](model))
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
    find_restored(pairs(), model, optimizer=optimizer)
    handle.remove()
    assert optimizer.grad_norm is norm and optimizer.skipped_steps is skipped
    assert (bits(norm), bits(skipped), set(vars(optimizer))) == before
    assert (optimizer.notes, skipped.item()) == (1, 1)


def test_inside_of_autocast() -> None:
    """Autocast caches casts of weights. These must not be the test's afterwards, nor stale in the test."""
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
            find_restored(pairs())
            assert torch.is_grad_enabled() == enabled


def test_negative_rates_count_as_none() -> None:
    """A torch scheduler may leave such a rate by rounding."""
    first, second = (nn.Parameter(torch.ones(2, device=DEVICE)) for _ in range(2))
    optimizer = FusedSGD([{"params": [first], "lr": Constant(0.1)}, {"params": [second], "lr": 0.1}])
    optimizer.param_groups[1]["lr"] = -4e-18
    result = lr_find(
        nn.Module(), optimizer, None, [0], 0.1, 1.0, 3, progress=False, batch_to_loss=lambda *_: (first + second).sum()
    )
    assert result.ratios == (1.0, 0.0)
