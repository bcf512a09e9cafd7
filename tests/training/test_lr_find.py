"""lr_find: rates and losses, against a plain loop with a torch optimizer whose rate is set by hand."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import DEVICE, Dropout, make_params
from range_tests import END, START, STEPS, batches, close, exponential, linear, network, plain_loop
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from sgdr_fused import FusedAdamW, FusedSGD, lr_find
from sgdr_fused.schedules import Constant, CosineWarmRestarts, LinearRamp, Warmup

pytestmark = pytest.mark.untracked


@pytest.mark.parametrize(("mode", "rate"), [("exp", exponential), ("linear", linear)])
@pytest.mark.parametrize("read_every", [1, 7, 16, 1000])
def test_rates_and_losses(mode: str, rate: Callable[[int], float], read_every: int) -> None:
    model, loader = network(), batches(STEPS)
    other = copy.deepcopy(model)
    expected = plain_loop(
        other, torch.optim.SGD(other.parameters(), momentum=0.9, weight_decay=0.01), loader, rate, STEPS
    )
    optimizer = FusedSGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
    result = lr_find(model, optimizer, mse_loss, loader, START, END, STEPS, mode, read_every=read_every)
    close(result.losses, expected)
    close(result.lrs, [rate(t) for t in range(STEPS)])
    assert not result.diverged
    assert result.ratios == (1.0,)
    assert torch.equal(result.group_lrs, result.lrs[:, None])


@pytest.mark.parametrize("steps_before", [0, 3])
def test_from_the_middle_of_a_training(steps_before: int) -> None:
    """State goes in as it stands; weight decay has a Schedule, which goes on; the clock does not matter to the ramp."""
    model, loader = network(), batches(STEPS + 3)
    decay = LinearRamp(0.0, 0.4, steps=15)
    optimizer = FusedAdamW(model.parameters(), lr=Constant(0.02), weight_decay=decay)
    other = copy.deepcopy(model)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.02)

    def decayed(t: int, rate: float) -> float:
        theirs.param_groups[0]["weight_decay"] = decay(t)
        return rate

    for inputs, targets in loader[:steps_before]:
        optimizer.zero_grad()
        mse_loss(model(inputs.to(DEVICE)), targets.to(DEVICE)).backward()
        optimizer.step()
    plain_loop(other, theirs, loader[:steps_before], lambda t: decayed(t, 0.02), steps_before)
    rest = loader[steps_before:]
    expected = plain_loop(other, theirs, rest, lambda t: decayed(t + steps_before, exponential(t)), STEPS)
    result = lr_find(model, optimizer, mse_loss, rest, START, END, STEPS)
    close(result.losses, expected)
    assert optimizer.clock.item() == steps_before


def test_groups_keep_the_ratios_of_their_rates() -> None:
    """Numbers, a tensor, a Schedule that is at 0 now, and a group that is frozen."""
    params = make_params((3,) * 5, torch.float64)
    lrs = [0.02, torch.tensor(0.04), Warmup(Constant(0.08), 5), 0.0, CosineWarmRestarts(0.01, T_0=7)]
    optimizer = FusedSGD([{"params": [p], "lr": lr} for p, lr in zip(params, lrs, strict=True)])
    before = [p.detach().clone() for p in params]
    seen: list[list[Tensor]] = []

    def batch_to_loss(model: nn.Module, batch: Any) -> Tensor:
        seen.append([p.detach().clone() for p in params])
        return sum(p.sum() for p in params)  # every gradient is 1, so the weights show the rates

    result = lr_find(nn.Module(), optimizer, None, [0], START, END, STEPS, batch_to_loss=batch_to_loss)
    # float32: the tensor's 0.04
    assert result.ratios == pytest.approx((0.25, 0.5, 1.0, 0.0, 0.125), rel=1e-7)
    torch.testing.assert_close(result.group_lrs, result.lrs[:, None] * torch.tensor(result.ratios).double())
    for t in range(STEPS - 1):
        for k, ratio in enumerate(result.ratios):
            moved = before[k] - seen[t + 1][k]
            expected = ratio * math.fsum(map(exponential, range(t + 1)))
            assert moved.cpu().numpy() == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_groups_without_any_rate_all_get_the_whole() -> None:
    params = make_params((2, 2))
    optimizer = FusedSGD([{"params": [p]} for p in params], lr=0.0)
    result = lr_find(
        nn.Module(), optimizer, None, [0], START, END, 5, batch_to_loss=lambda *_: sum(p.sum() for p in params)
    )
    assert result.ratios == (1.0, 1.0)


def test_accumulation() -> None:
    """Two batches of 8 make the step and the loss of one of 16."""
    model, loader = network(), batches(2 * STEPS)
    pairs = zip(loader[::2], loader[1::2], strict=True)
    joined = [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in pairs]
    other = copy.deepcopy(model)
    expected = plain_loop(other, torch.optim.SGD(other.parameters()), joined, exponential, STEPS)
    optimizer = FusedSGD(model.parameters())
    result = lr_find(model, optimizer, mse_loss, loader, START, END, STEPS, accumulation_steps=2)
    close(result.losses, expected)


def test_validation_loader() -> None:
    """The loss after the step, in evaluation mode, each sample counting the same."""
    model, loader, held_out = network(), batches(STEPS), [*batches(2, seed=2), *batches(1, seed=3, size=3)]
    model.insert(1, Dropout())
    other = copy.deepcopy(model)
    theirs = torch.optim.SGD(other.parameters())
    all_inputs, all_targets = (torch.cat(parts).to(DEVICE) for parts in zip(*held_out, strict=True))
    torch.manual_seed(5)
    expected = []
    for t, batch in enumerate(loader):
        other.train()
        plain_loop(other, theirs, [batch], lambda _, t=t: exponential(t), 1)
        other.eval()
        expected.append(mse_loss(other(all_inputs), all_targets).item())
    torch.manual_seed(5)
    result = lr_find(
        model, FusedSGD(model.parameters()), mse_loss, loader, START, END, STEPS, val_loader=held_out, smoothing=0.0
    )
    close(result.losses, expected)


def test_short_loader_is_started_again() -> None:
    model, loader = network(), batches(6)
    other = copy.deepcopy(model)
    expected = plain_loop(other, torch.optim.SGD(other.parameters()), loader * 4, exponential, STEPS)
    close(lr_find(model, FusedSGD(model.parameters()), mse_loss, loader, START, END, STEPS).losses, expected)


@pytest.mark.parametrize("loader", [[], iter(batches(3))], ids=["empty", "used up"])
def test_loader_without_batches(loader: Any) -> None:
    model = network()
    used_up = contextlib.nullcontext() if isinstance(loader, list) else pytest.warns(UserWarning, match="iterator")
    with used_up, pytest.raises(ValueError, match="loader must have batches"):
        lr_find(model, FusedSGD(model.parameters()), mse_loss, loader, num_steps=STEPS)
    with pytest.raises(ValueError, match="val_loader must have batches"):
        lr_find(model, FusedSGD(model.parameters()), mse_loss, batches(1), num_steps=STEPS, val_loader=[])


class Nested(nn.Module):
    """Takes a dict of a tuple; everything has to have come to its device."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch: dict[str, Any]) -> Tensor:
        assert batch["name"] == "b"
        return self.inner(batch["parts"][0])


@pytest.mark.parametrize("form", ["pair", "list", "dict", "hook"])
def test_forms_of_batches(form: str) -> None:
    model, loader = network(), batches(STEPS)
    expected = lr_find(model, FusedSGD(model.parameters()), mse_loss, loader, START, END, STEPS).losses
    forms: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "pair": lambda x, y: (x, y),
        "list": lambda x, y: [x, y],
        "dict": lambda x, y: {"inputs": x, "targets": y, "index": 3},
        "hook": lambda x, y: {"name": "b", "parts": (x, [y])},
    }
    others = [forms[form](x, y) for x, y in loader]
    if form == "hook":
        nested = Nested(model)
        result = lr_find(
            nested,
            FusedSGD(nested.parameters()),
            None,
            others,
            START,
            END,
            STEPS,
            batch_to_loss=lambda model, batch: mse_loss(model(batch), batch["parts"][1][0]),
        )
    else:
        result = lr_find(model, FusedSGD(model.parameters()), mse_loss, others, START, END, STEPS)
    assert torch.equal(result.losses, expected)


# ---- AMP


def overflow_at(attempts: set[int], model: nn.Module) -> list[int]:
    """Makes the gradients of these attempts infinite; the list counts the attempts."""
    seen: list[int] = []

    def hook(grad: Tensor) -> Tensor:
        seen.append(len(seen))
        return torch.full_like(grad, math.inf) if seen[-1] in attempts else grad

    next(iter(model.parameters())).register_hook(hook)
    return seen


@pytest.mark.parametrize("read_every", [1, 4, 16])
@pytest.mark.parametrize("skipped", [{0, 1}, {5, 6, 19}, {3, 20, 21}], ids=str)
def test_skipped_steps_have_neither_a_rate_nor_a_loss(skipped: set[int], read_every: int) -> None:
    model, loader = network().float(), [(x.float(), y.float()) for x, y in batches(STEPS + 3)]
    other = copy.deepcopy(model)
    applied = [batch for i, batch in enumerate(loader) if i not in skipped]
    expected = plain_loop(other, torch.optim.SGD(other.parameters()), applied, exponential, STEPS)
    attempts = overflow_at(skipped, model)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1024.0)
    before = scaler.state_dict()
    optimizer = FusedSGD(model.parameters())
    result = lr_find(model, optimizer, mse_loss, loader, START, END, STEPS, scaler=scaler, read_every=read_every)
    # 1e-4: 20 steps in float32
    torch.testing.assert_close(result.losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)
    close(result.lrs, [exponential(t) for t in range(STEPS)])
    assert len(attempts) == STEPS + len(skipped)
    assert scaler.state_dict() == before
    assert scaler._scale is None  # it was never used


def test_every_step_is_skipped() -> None:
    """The loss stays finite: it gives up after twice the steps. It is not: it ends with the first block."""
    model = network().float()
    attempts = overflow_at(set(range(1000)), model)
    loader = [(x.float(), y.float()) for x, y in batches(4)]
    scaler = torch.amp.GradScaler(DEVICE.type)
    result = lr_find(model, FusedSGD(model.parameters()), mse_loss, loader, num_steps=20, scaler=scaler)
    assert (len(result.lrs), len(result.losses), result.diverged) == (0, 0, False)
    assert 40 <= len(attempts) < 40 + 16
    with pytest.raises(ValueError, match="needs 3 points, got 0"):
        result.suggestion()

    attempts.clear()
    loader = [(x * math.nan, y) for x, y in loader]
    result = lr_find(model, FusedSGD(model.parameters()), mse_loss, loader, num_steps=20, scaler=scaler)
    assert (len(result.lrs), result.diverged, len(attempts)) == (0, True, 16)


def test_autocast() -> None:
    model = network().float()
    seen = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        output = model(batch[0].float())
        seen.append(output.dtype)
        return mse_loss(output.float(), batch[1].float())

    optimizer = FusedSGD(model.parameters())
    for dtype in (None, torch.bfloat16):
        lr_find(model, optimizer, None, batches(3), num_steps=3, autocast_dtype=dtype, batch_to_loss=loss)
    assert seen == [torch.float32] * 3 + [torch.bfloat16] * 3


# ---- arguments


def good() -> dict[str, Any]:
    model = network()
    return {
        "model": model,
        "optimizer": FusedSGD(model.parameters()),
        "criterion": mse_loss,
        "loader": batches(2),
        "num_steps": 3,
    }


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"model": torch.tanh}, TypeError, "model.*tanh"),
        ({"optimizer": torch.optim.SGD(make_params((2,)))}, TypeError, "optimizer.*SGD"),
        ({"criterion": None}, ValueError, "criterion=None"),
        ({"batch_to_loss": mse_loss}, ValueError, "batch_to_loss=.*mse_loss"),
        ({"start_lr": 0.0}, ValueError, r"start_lr.*0\.0"),
        ({"start_lr": -1}, ValueError, "start_lr.*-1"),
        ({"end_lr": math.inf}, ValueError, "end_lr.*inf"),
        ({"start_lr": 1.0, "end_lr": 1.0}, ValueError, r"start_lr must be < end_lr.*1\.0 and 1\.0"),
        ({"start_lr": "small"}, TypeError, "start_lr.*small"),
        ({"num_steps": 1}, ValueError, "num_steps.*1"),
        ({"num_steps": 2.5}, TypeError, r"num_steps.*2\.5"),
        ({"mode": "cosine"}, ValueError, "mode.*cosine"),
        ({"smoothing": 1.0}, ValueError, r"smoothing.*1\.0"),
        ({"smoothing": -0.1}, ValueError, r"smoothing.*-0\.1"),
        ({"diverge_factor": 1.0}, ValueError, r"diverge_factor.*1\.0"),
        ({"accumulation_steps": 0}, ValueError, "accumulation_steps.*0"),
        ({"read_every": 0}, ValueError, "read_every.*0"),
        ({"autocast_dtype": "bfloat16"}, TypeError, "autocast_dtype.*bfloat16"),
        ({"scaler": 2.0}, TypeError, r"scaler.*2\.0"),
        ({"loader": [1.0]}, TypeError, "float.*batch_to_loss"),
        ({"loader": [(1, 2, 3)]}, TypeError, "tuple of 3.*batch_to_loss"),
        ({"criterion": lambda output, targets: output}, ValueError, r"one element.*\(8, 2\)"),
        ({"criterion": lambda output, targets: 0.5}, ValueError, r"one element.*0\.5"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments(changed: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        lr_find(**{**good(), **changed})
