"""fastai: a Learner whose optimizer is a fused one inside OptimWrapper, with a Schedule for the rate."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import fastai.basics as fastai
import fastai.callback.fp16 as fp16
import fastai.callback.progress as progress
import fastai.callback.training as training
import pytest
import torch
from fastai.callback import schedule as _schedule  # noqa: F401  (gives Learner fit_one_cycle, fit_sgdr and lr_find)
from framework_trainings import REPLACED, assert_close, copy_gradients, inputs_and_targets, network
from warm_restarts import sgdr

from sgdr_fused import FusedAdamW
from sgdr_fused.schedules import CosineWarmRestarts, LinearRamp

# fastai's own: its load() names numpy.core.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")]

MAX_LR, T_0, BATCHES = 0.01, 3, 5
SCHEDULE = CosineWarmRestarts(MAX_LR, T_0=T_0, T_mult=2)  # restarts before steps 3 and 9
rate = sgdr(MAX_LR, T_0)
OURS, THEIRS = (partial(fastai.OptimWrapper, opt=opt) for opt in (FusedAdamW, torch.optim.AdamW))


class Formula(fastai.Callback):
    """Writes the formula's rate before each step of torch's optimizer, times a factor for each group."""

    order, run_valid = fp16.MixedPrecision.order + 2, False

    def __init__(self, *factors: float) -> None:
        self.factors, self.taken = factors or (1.0,), 0

    def before_batch(self) -> None:
        self.opt.set_hyper("lr", [factor * rate(self.taken) for factor in self.factors])

    def before_step(self) -> None:  # not called for a step that MixedPrecision skips
        self.taken += 1


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """In float32, as fastai's average of the losses needs it."""
    return torch.nn.functional.mse_loss(outputs, targets).float()


def loaders(dtype: torch.dtype = torch.float64, infinite: int | None = None) -> Any:
    pairs = list(zip(*inputs_and_targets(BATCHES, dtype, infinite), strict=True))
    return fastai.DataLoaders(*(fastai.DataLoader(pairs[:n], bs=4, shuffle=False) for n in (None, 4)), device="cpu")


def learner(opt_func: Any, net: Any = None, batches: Any = None, **options: Any) -> Any:
    """A Learner that shows nothing."""
    net, batches = network() if net is None else net, loaders() if batches is None else batches
    made = fastai.Learner(batches, net, loss_func=loss_of, opt_func=opt_func, **options)
    made.remove_cb(progress.ProgressCallback)
    made.logger = fastai.noop
    return made


def fused(learn: Any) -> FusedAdamW:
    assert type(learn.opt.opt) is FusedAdamW
    return learn.opt.opt


def assert_alike(learn: Any, other: Any) -> None:
    assert_close(learn.model, other.model)


def assert_equal(learn: Any, other: Any) -> None:
    assert all(map(torch.equal, learn.model.parameters(), other.model.parameters()))


def ruled(learn: Any, steps: range) -> bool:
    """Whether the recorder has floats: the rate that the Schedule gives after each of the steps."""
    lrs = learn.recorder.lrs
    return lrs == [SCHEDULE(t + 1) for t in steps] and {type(lr) for lr in lrs} == {float}


WAYS: dict[str, Any] = {
    "learner": lambda: (learner(OURS, lr=SCHEDULE), None),
    "opt_func": lambda: (learner(partial(OURS, lr=SCHEDULE)), None),
    "fit": lambda: (learner(OURS), SCHEDULE),
    "built": lambda: (built(), None),
}


def built() -> Any:
    net = network()
    return learner(fastai.OptimWrapper(opt=FusedAdamW(net.parameters(), lr=SCHEDULE)), net, lr=SCHEDULE)


@pytest.mark.parametrize("way", WAYS)
def test_fit(way: str) -> None:
    """The Schedule rules from one fit to the next, whichever way it was given."""
    learn, lr = WAYS[way]()
    other, formula = learner(THEIRS), Formula()
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epochs in (1, 2):
            learn.fit(epochs, lr=lr)
            other.fit(epochs, cbs=formula)
            assert ruled(learn, range(done, done + epochs * BATCHES))
            done += epochs * BATCHES
            assert_alike(learn, other)
    assert formula.taken == int(fused(learn).clock) == done


@pytest.mark.parametrize("name", ["fit", "fit_one_cycle", "fit_flat_cos", "fit_sgdr"])
def test_number(name: str) -> None:
    """A number, by itself and with fastai's schedules, which move the momentum too."""
    learns = [learner(opt_func, lr=MAX_LR) for opt_func in (OURS, THEIRS)]
    for learn in learns:
        getattr(learn, name)(*((2, 1) if name == "fit_sgdr" else (3,)))
    assert learns[0].recorder.lrs == learns[1].recorder.lrs
    assert_alike(*learns)
    if name == "fit_sgdr":  # the same rates as a Schedule's, but for its fractions of a cycle, which are in float32
        expected = CosineWarmRestarts(MAX_LR, T_0=BATCHES, T_mult=2).values(3 * BATCHES).tolist()
        assert learns[0].recorder.lrs == pytest.approx(expected, rel=0, abs=1e-6 * MAX_LR)


@pytest.mark.parametrize("name", ["fit_one_cycle", "fit_flat_cos", "fit"])
def test_numbers_over_a_schedule(name: str) -> None:
    """One warning a group names the remedies, and the numbers hold; the next fit brings the Learner's Schedule back."""
    learn, other = learner(OURS, lr=LinearRamp(MAX_LR, 0.0, 20)), learner(THEIRS, lr=MAX_LR)
    with pytest.warns(UserWarning, match=REPLACED) as caught:
        getattr(learn, name)(2, **({"lr": MAX_LR} if name == "fit" else {}))
    assert len(caught) == 1
    getattr(other, name)(2)
    assert learn.recorder.lrs == other.recorder.lrs
    assert_alike(learn, other)
    learn.fit(1)
    assert learn.recorder.lrs == pytest.approx([MAX_LR * (1 - (t + 1) / 20) for t in range(10, 15)], rel=1e-12)


@pytest.mark.parametrize("way", ["learner", "opt_func", "fit", "built"])
def test_resume_mid_cycle(way: str, tmp_path: Path) -> None:
    """save() and load(): the same bits and rates as without a stop."""
    learn, lr = WAYS[way]()
    again, _ = WAYS[way]()
    learn.fit(1, lr=lr)
    learn.path = again.path = tmp_path
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # with which fastai tells that it could not load the optimizer
        learn.save("checkpoint")
        again.load("checkpoint")
        for each in (learn, again):
            each.fit(2, lr=lr)
            assert ruled(each, range(BATCHES, 3 * BATCHES))
    assert_equal(learn, again)


def test_lr_finder_mid_cycle(tmp_path: Path) -> None:
    """It warns that it writes numbers, and brings all back bit for bit: Schedule, clock, weights and states."""
    learn, alone, other = learner(OURS, lr=SCHEDULE), learner(OURS, lr=SCHEDULE), learner(THEIRS)
    for each, cbs in ((learn, None), (alone, None), (other, Formula())):
        each.path = tmp_path
        each.fit(1, cbs=cbs)
    with pytest.warns(UserWarning, match=REPLACED) as caught:
        found = learn.lr_find(num_it=20, start_lr=1e-5, end_lr=1.0, stop_div=False, show_plot=False)
    assert len([each for each in caught if each.category is UserWarning]) == 1
    expected = other.lr_find(num_it=20, start_lr=1e-5, end_lr=1.0, stop_div=False, show_plot=False)
    assert learn.recorder.lrs == other.recorder.lrs == pytest.approx([1e-5 ** (1 - t / 20) for t in range(20)])
    assert {type(lr) for lr in learn.recorder.lrs} == {float}
    torch.testing.assert_close(learn.recorder.losses, other.recorder.losses)  # they are in float32
    assert found == expected
    assert int(fused(learn).clock) == BATCHES
    for each in (learn, alone):
        each.fit(1)
        assert ruled(each, range(BATCHES, 2 * BATCHES))
    assert_equal(learn, alone)


@pytest.mark.parametrize("inside", [False, True], ids=["callback", "max_grad_norm"])
def test_clip(inside: bool) -> None:
    """fastai's GradientClip, and the same inside the step."""
    opt = partial(FusedAdamW, max_grad_norm=0.05) if inside else FusedAdamW
    learn = learner(partial(fastai.OptimWrapper, opt=opt), lr=SCHEDULE)
    other, plain = learner(THEIRS), learner(THEIRS)
    learn.fit(3, cbs=None if inside else training.GradientClip(0.05))
    other.fit(3, cbs=[training.GradientClip(0.05), Formula()])
    plain.fit(3, cbs=Formula())
    assert ruled(learn, range(3 * BATCHES))
    assert_alike(learn, other)
    with pytest.raises(AssertionError):  # so the bound was met
        assert_alike(other, plain)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """MixedPrecision asks for autocast and a GradScaler of "cuda"; here they are those of the CPU."""
    for make in (torch.amp.autocast, torch.amp.GradScaler):
        monkeypatch.setattr(fp16, make.__name__, lambda device, make=make, **options: make("cpu", **options))


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("clip", [False, True])
def test_float16_scaler(clip: bool) -> None:
    """A step that overflows is skipped, and the Schedule waits for it. Autocast leaves float64 as it is."""
    batches = loaders(infinite=2)
    learns = learner(OURS, batches=batches, lr=SCHEDULE), learner(THEIRS, batches=batches)
    clips = [training.GradientClip(0.05)] if clip else []
    formula, scales = Formula(), []
    for learn, cbs in zip(learns, ([], [formula]), strict=True):
        mixed = fp16.MixedPrecision(init_scale=1024.0, growth_interval=4)
        read = fastai.Callback(after_step=lambda callback: scales.append(callback.learn.scaler.get_scale()))
        learn.fit(3, cbs=[mixed, read, *clips, *cbs])
    assert formula.taken == int(fused(learns[0]).clock) == 3 * BATCHES - 3
    taken = [t - sum(skipped <= t for skipped in (2, 7, 12)) + 1 for t in range(3 * BATCHES)]
    assert learns[0].recorder.lrs == [SCHEDULE(n) for n in taken]
    assert scales[: len(scales) // 2] == scales[len(scales) // 2 :]
    assert_alike(*learns)


@pytest.mark.usefixtures("on_the_cpu")
def test_bfloat16() -> None:
    """torch's optimizer takes the same gradients: rounding to 16 bits would make small differences large."""
    learn = learner(OURS, network(torch.float32), loaders(torch.float32), lr=SCHEDULE).to_bf16()
    like = copy.deepcopy(learn.model)
    theirs = torch.optim.AdamW(like.parameters(), lr=MAX_LR)
    dtypes = set()
    learn.model[0].register_forward_hook(lambda module, inputs, outputs: dtypes.add(outputs.dtype))

    def before_step(callback: Any) -> None:
        theirs.param_groups[0]["lr"] = rate(int(fused(learn).clock))
        copy_gradients(learn.model, like)
        theirs.step()

    learn.fit(2, cbs=fastai.Callback(before_step=before_step))
    assert dtypes == {torch.bfloat16}
    assert ruled(learn, range(2 * BATCHES))
    assert_close(learn.model, like, rtol=1e-6, atol=1e-6)  # a few roundings of float32 a step


def test_freeze_and_unfreeze() -> None:
    """Two groups with a Schedule each. The first one is trained in the second epoch alone, at the rates of then."""
    options = {"splitter": lambda net: [list(net[0].parameters()), list(net[2].parameters())]}
    learns, formula = [learner(opt_func, **options) for opt_func in (OURS, THEIRS)], Formula(0.1, 1.0)
    schedules = [0.1 * SCHEDULE, SCHEDULE]
    for change in ("freeze", "unfreeze", "freeze"):
        for learn in learns:
            getattr(learn, change)()
        before = learns[0].model[0].weight.clone()
        learns[0].fit(1, lr=schedules)
        learns[1].fit(1, cbs=formula)
        assert torch.equal(before, learns[0].model[0].weight) == (change == "freeze")
        assert [group["lr_schedule"] for group in fused(learns[0]).param_groups] == schedules
        assert_alike(*learns)
    assert fused(learns[0]).get_last_lr() == [schedule(3 * BATCHES) for schedule in schedules]
