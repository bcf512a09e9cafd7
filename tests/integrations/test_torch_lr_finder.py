"""torch-lr-finder: its range test over a Schedule, which is back afterwards, and over a number."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_lr_finder
from framework_trainings import REPLACED, assert_close, inputs_and_targets, network
from torch.utils.data import DataLoader, TensorDataset
from warm_restarts import sgdr

from sgdr_fused import FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once

SCHEDULE = CosineWarmRestarts(0.01, T_0=3, T_mult=2)  # a restart before step 3
rate = sgdr(0.01, T_0=3)
START, END, STEPS = 1e-4, 1.0, 12


def ramp(step_mode: str, start: float) -> list[float]:
    """The rates of the finder, by the formula of its mode."""
    parts = [t / (STEPS - 1) for t in range(STEPS)]
    return [start * (END / start) ** part if step_mode == "exp" else start + (END - start) * part for part in parts]


def loader(dtype: torch.dtype = torch.float64, infinite: int | None = None) -> DataLoader[Any]:
    """Eight batches."""
    return DataLoader(TensorDataset(*inputs_and_targets(8, dtype, infinite)), batch_size=4)


def pair(lr: Any = SCHEDULE, dtype: torch.dtype = torch.float64, **options: Any) -> list[tuple[Any, Any]]:
    """Two equal networks, each with its optimizer: ours and torch's."""
    nets = network(dtype), network(dtype)
    return [
        (nets[0], FusedAdamW(nets[0].parameters(), lr=lr, **options)),
        (nets[1], torch.optim.AdamW(nets[1].parameters(), lr=START)),
    ]


def train(net: Any, opt: Any, steps: range) -> list[float]:
    """Trains, and returns the rate of each step. torch's optimizer is given the formula's."""
    rates = []
    for t, (inputs, targets) in list(enumerate(loader()))[steps.start : steps.stop]:
        if isinstance(opt, torch.optim.AdamW):
            opt.param_groups[0]["lr"] = rate(t)
        rates.append(float(opt.param_groups[0]["lr"]))
        opt.zero_grad()
        torch.nn.functional.mse_loss(net(inputs), targets).backward()
        opt.step()
    return rates


def made(net: Any, opt: Any, **options: Any) -> Any:
    return torch_lr_finder.LRFinder(net, opt, torch.nn.MSELoss(), device="cpu", **options)


def range_test(finder: Any, batches: Any = None, **options: Any) -> Any:
    """What the finder has recorded. It goes to its end: no loss is large enough to stop it."""
    finder.range_test(batches or loader(), end_lr=END, num_iter=STEPS, diverge_th=1e9, **options)
    return finder.history


def assert_same_history(ours: Any, theirs: Any, rtol: float = 1e-9) -> None:
    """The same rates, and losses that differ by roundings, which the steps with large rates make larger."""
    assert ours["lr"] == theirs["lr"]
    assert len(ours["loss"]) == STEPS
    assert {type(value) for values in ours.values() for value in values} == {float}
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=rtol, abs=0)


@pytest.mark.parametrize("step_mode", ["exp", "linear"])
@pytest.mark.parametrize("start_lr", [START, None])
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "file"])
def test_lr_finder_mid_cycle(step_mode: str, start_lr: float | None, in_memory: bool, tmp_path: Path) -> None:
    """It replaces the Schedule with a number, and warns: with start_lr, or with the rate that the Schedule has reached.

    reset() brings all back, bit for bit.
    """
    (net, opt), (like, theirs) = pair()
    alone, other = pair()[0]
    for each in ((net, opt), (like, theirs), (alone, other)):
        assert train(*each, range(4)) == pytest.approx([rate(t) for t in range(4)], rel=1e-12)
    before = [param.clone() for param in net.parameters()]
    finder = made(net, opt, memory_cache=in_memory, cache_dir=str(tmp_path))
    with pytest.warns(UserWarning, match=REPLACED) as caught:
        history = range_test(finder, start_lr=start_lr, step_mode=step_mode)
    assert len(caught) == 1
    assert history["lr"] == pytest.approx(ramp(step_mode, start_lr or rate(4)), rel=1e-12)
    theirs.param_groups[0]["lr"] = SCHEDULE(4)  # and not the rate of the last step
    assert_same_history(history, range_test(made(like, theirs), start_lr=start_lr, step_mode=step_mode))
    assert not any(map(torch.equal, before, net.parameters()))

    finder.reset()
    assert int(opt.clock) == 4
    assert opt.param_groups[0]["lr_schedule"] == SCHEDULE
    assert train(net, opt, range(4, 8)) == train(alone, other, range(4, 8)) == [SCHEDULE(t) for t in range(4, 8)]
    for param, expected in zip(net.parameters(), alone.parameters(), strict=True):
        assert torch.equal(param, expected)


@pytest.mark.parametrize("step_mode", ["exp", "linear"])
def test_number(step_mode: str) -> None:
    """Without a warning, the same as with torch's optimizer; and then a Schedule from the rate that was found."""
    (net, opt), (like, theirs) = pair(lr=START)
    finder, other = made(net, opt), made(like, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = range_test(finder, step_mode=step_mode)
    assert history["lr"] == pytest.approx(ramp(step_mode, START), rel=1e-12)
    assert_same_history(history, range_test(other, step_mode=step_mode))
    for each in (finder, other):
        each.reset()
    assert opt.get_last_lr() == [START]
    opt.param_groups[0]["lr"] = SCHEDULE
    assert train(net, opt, range(8)) == [SCHEDULE(t) for t in range(8)]
    train(like, theirs, range(8))
    assert_close(net, like, rtol=1e-12, atol=1e-12)  # float64: a few roundings a step


@pytest.mark.parametrize("lr", [0.1, SCHEDULE], ids=["number", "schedule"])
@pytest.mark.filterwarnings("ignore:group.'lr'. of group 0 had a Schedule")  # which test_lr_finder_mid_cycle is about
def test_reset_leaves_nothing_behind(lr: Any) -> None:
    """Another range test can follow, and a scheduler of torch's begins with the optimizer's rate, not the finder's."""
    (net, opt), (like, theirs) = pair(lr=lr)
    entries = set(opt.param_groups[0])
    finder, other = made(net, opt), made(like, theirs)
    histories = []
    for _ in range(2):
        histories.append(range_test(finder, start_lr=START))
        assert_same_history(histories[-1], range_test(other, start_lr=START))
        finder.reset()
        other.reset()
        assert set(opt.param_groups[0]) == entries
    assert histories[0] == histories[1]
    opt.param_groups[0]["lr"] = 0.25
    assert torch.optim.lr_scheduler.StepLR(opt, 3).base_lrs == [0.25]


def test_clip_and_accumulation() -> None:
    """The step clips the sum of the gradients of two batches, as a hook does before torch's."""
    (net, opt), (like, theirs) = pair(lr=START, max_grad_norm=0.1)
    norms = []
    theirs.register_step_pre_hook(lambda *_: norms.append(torch.nn.utils.clip_grad_norm_(like.parameters(), 0.1)))
    history = range_test(made(net, opt), accumulation_steps=2)
    assert_same_history(history, range_test(made(like, theirs), accumulation_steps=2))
    assert min(norms) > 0.1
    assert float(opt.grad_norm) == pytest.approx(float(norms[-1]), rel=1e-9)


def test_grad_scaler() -> None:
    """A GradScaler skips the steps of the third batch, which comes twice; reset() brings the clock back to 0."""
    (net, opt), (like, theirs) = pair()
    scalers = [torch.amp.GradScaler("cpu") for _ in range(2)]
    config = {"amp_backend": "torch", "amp_config": {"device_type": "cpu", "enabled": False}}
    finder = made(net, opt, grad_scaler=scalers[0], **config)
    other = made(like, theirs, grad_scaler=scalers[1], **config)
    with pytest.warns(UserWarning, match=REPLACED):
        history = range_test(finder, loader(infinite=2), start_lr=START)
    assert_same_history(history, range_test(other, loader(infinite=2), start_lr=START))
    assert scalers[0].state_dict() == scalers[1].state_dict()
    assert int(opt.clock) == STEPS - 2
    finder.reset()
    assert train(net, opt, range(8)) == [SCHEDULE(t) for t in range(8)]


def test_bfloat16_autocast() -> None:
    """The losses are numbers of bfloat16's precision, so a rounding in float32 may change them by 2**-8."""
    config = {"device_type": "cpu", "dtype": torch.bfloat16}
    histories = [
        range_test(
            made(*each, amp_backend="torch", amp_config=config, grad_scaler=torch.amp.GradScaler("cpu")),
            loader(torch.float32),
        )
        for each in pair(lr=START, dtype=torch.float32)
    ]
    assert_same_history(*histories, rtol=2**-8)
