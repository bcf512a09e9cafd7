"""timm: layer decay, its optimizer factory, schedulers, wrappers and checkpoints, with a Schedule for the rate."""

from __future__ import annotations

import copy
import csv
import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.models as timm_models
import timm.optim as timm_optim
import timm.optim._optim_factory as timm_factory
import timm.scheduler as timm_scheduler
import timm.utils as timm_utils
import torch
from framework_trainings import REPLACED, assert_close, copy_gradients, replacements
from warm_restarts import sgdr

from sgdr_fused import EMA, FusedAdamW, lr_find, no_decay_groups
from sgdr_fused.schedules import CosineWarmRestarts, LinearRamp

pytestmark = pytest.mark.once

MAX_LR, T_0, STEPS = 0.01, 3, 11
SCHEDULE = CosineWarmRestarts(MAX_LR, T_0=T_0, T_mult=2)  # restarts before steps 3 and 9
rate = sgdr(MAX_LR, T_0)


def network(seed: int = 0) -> Any:
    """A vision transformer with a few hundred weights a layer, in float64."""
    torch.manual_seed(seed)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
    return timm_models.VisionTransformer(**sizes).double()


def layer_groups(net: Any) -> list[dict[str, Any]]:
    """timm's groups: each has its ``lr_scale``."""
    return timm_optim.param_groups_layer_decay(net, weight_decay=0.05, layer_decay=0.5)


def pair(groups: Any = torch.nn.Module.parameters, lr: Any = SCHEDULE, **options: Any) -> tuple[Any, Any, Any]:
    """Two equal networks, our optimizer for the first one and torch's for the second."""
    nets = network(), network()
    return nets, FusedAdamW(groups(nets[0]), lr=lr, **options), torch.optim.AdamW(groups(nets[1]), lr=MAX_LR)


def loss_of(net: Any, t: int, factor: float = 1.0) -> torch.Tensor:
    """The loss of step t, times a factor, with the gradients set to None."""
    net.zero_grad()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
    outputs = net(images.to(next(net.parameters()).dtype))
    return factor * torch.nn.functional.cross_entropy(outputs, torch.arange(4) % 3)


def train(net: Any, opt: Any, steps: range) -> list[list[float]]:
    """Trains, and returns the rates of each step."""
    rates = []
    for t in steps:
        rates.append(getattr(opt, "_base_optimizer", opt).get_last_lr())
        loss_of(net, t).backward()
        opt.step()
    return rates


def train_theirs(net: Any, opt: Any, steps: range, rate: Callable[[int], float] = rate) -> list[float]:
    """Trains with torch's optimizer, for which `rate` times ``lr_scale`` is written, and returns the losses."""
    losses = []
    for t in steps:
        for group in opt.param_groups:
            group["lr"] = rate(t) * group.get("lr_scale", 1.0)
        loss = loss_of(net, t)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def test_fit_with_layer_decay() -> None:
    """The Schedule times each group's ``lr_scale``, as timm's cosine scheduler with restarts gives it."""
    nets, opt, theirs = pair(layer_groups)
    scheduler = timm_scheduler.CosineLRScheduler(theirs, T_0, cycle_mul=2.0, cycle_limit=10, t_in_epochs=False)
    scales = [group["lr_scale"] for group in theirs.param_groups]
    assert len(set(scales)) == 4
    for t in range(STEPS):
        rates = [group["lr"] for group in theirs.param_groups]
        assert rates == pytest.approx([rate(t) * scale for scale in scales], rel=1e-12, abs=0)
        assert opt.get_last_lr() == pytest.approx(rates, rel=1e-12, abs=0)
        assert [float(group["lr"]) for group in opt.param_groups] == opt.get_last_lr()
        for net, each in zip(nets, (opt, theirs), strict=True):
            loss_of(net, t).backward()
            each.step()
        scheduler.step_update(t + 1)
        assert_close(*nets)
    assert all(group["lr_schedule"] == SCHEDULE for group in opt.param_groups)


SCHEDULERS: list[Any] = [
    ("CosineLRScheduler", {"t_initial": 4, "t_in_epochs": False}),
    ("StepLRScheduler", {"decay_t": 1, "decay_rate": 0.5, "t_in_epochs": False}),
]


@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_number_with_timms_scheduler(name: str, options: Any) -> None:
    """A number is not multiplied by the step: timm's scheduler does that."""
    nets, *opts = pair(layer_groups, lr=MAX_LR)
    assert opts[0].get_last_lr() == [MAX_LR] * len(opts[0].param_groups)
    schedulers = [getattr(timm_scheduler, name)(opt, warmup_t=2, warmup_lr_init=1e-4, **options) for opt in opts]
    for t in range(6):
        for net, opt, scheduler in zip(nets, opts, schedulers, strict=True):
            loss_of(net, t).backward()
            opt.step()
            scheduler.step_update(t + 1)
        assert [group["lr"] for group in opts[0].param_groups] == [group["lr"] for group in opts[1].param_groups]
        assert_close(*nets)


def test_change_of_lr_scale() -> None:
    """It holds from the next step on, and can be taken away."""
    nets, opt, theirs = pair(layer_groups)
    for steps, scale in ((range(2), 1.5), (range(2, 5), 0.125), (range(5, 7), 0.0), (range(7, STEPS), None)):
        for each in (opt, theirs):
            if scale is None:
                del each.param_groups[0]["lr_scale"]
            else:
                each.param_groups[0]["lr_scale"] = scale
        assert float(opt.param_groups[0]["lr"]) == (1.0 if scale is None else scale) * SCHEDULE(steps[0])
        assert opt.param_groups[0]["lr_schedule"] == SCHEDULE
        train(nets[0], opt, steps)
        train_theirs(nets[1], theirs, steps)
        assert_close(*nets)


@pytest.mark.parametrize("lookahead", [False, True], ids=["plain", "lookahead"])
def test_resume_mid_cycle(lookahead: bool, tmp_path: Path) -> None:
    """timm's checkpoint of both, read into new ones: the same bits, rates and ``lr_scale`` as without a stop."""
    nets = network(), network(seed=1)
    opt, again = (FusedAdamW(layer_groups(net), lr=SCHEDULE) for net in nets)
    for group in again.param_groups:
        group["lr_scale"] = 7.0  # the checkpoint's replaces it
    if lookahead:
        opt, again = (timm_optim.Lookahead(each, k=2) for each in (opt, again))
    train(nets[0], opt, range(5))  # to the middle of the second cycle, and of Lookahead's two steps
    saver = timm_utils.CheckpointSaver(nets[0], opt, args=Namespace(model="vit"), checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0)
    timm_models.resume_checkpoint(nets[1], str(tmp_path / "last.pth.tar"), again, log_info=False)
    assert [group["lr_scale"] for group in again.param_groups] == [group["lr_scale"] for group in opt.param_groups]
    assert train(nets[1], again, range(5, STEPS)) == train(nets[0], opt, range(5, STEPS))
    assert all(map(torch.equal, nets[1].parameters(), nets[0].parameters()))


@pytest.mark.parametrize("name", ["fusedadamw", "lookahead_fusedadamw"])
def test_create_optimizer_v2(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's factory hands a Schedule on as it hands a number on."""
    registry = timm_factory.default_registry
    monkeypatch.setattr(registry, "_optimizers", dict(registry._optimizers))
    registry.register(timm_optim.OptimInfo("fusedadamw", FusedAdamW, has_betas=True))
    nets = network(), network()
    options = {"weight_decay": 0.1, "layer_decay": 0.5, "betas": (0.9, 0.99)}
    opt = timm_optim.create_optimizer_v2(nets[0], name, lr=SCHEDULE, **options)
    theirs = timm_optim.create_optimizer_v2(nets[1], name.replace("fused", ""), lr=MAX_LR, **options)
    assert type(opt) is (timm_optim.Lookahead if "_" in name else FusedAdamW)
    assert [group["lr_schedule"] for group in opt.param_groups] == [SCHEDULE] * len(opt.param_groups)
    train(nets[0], opt, range(8))
    train_theirs(nets[1], theirs, range(8))
    assert_close(*nets)


def test_lookahead() -> None:
    """It averages the weights after each third step; the first restart falls in between."""
    nets, *opts = pair()
    opt, theirs = (timm_optim.Lookahead(each, alpha=0.4, k=3) for each in opts)
    assert train(nets[0], opt, range(STEPS)) == [[SCHEDULE(t)] for t in range(STEPS)]
    train_theirs(nets[1], theirs, range(STEPS))
    assert opt.param_groups[0]["lookahead_step"] == STEPS
    assert_close(*nets)


@pytest.mark.parametrize("groups", [torch.nn.Module.parameters, layer_groups])
@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_scheduler_over_a_schedule(name: str, options: Any, groups: Any) -> None:
    """timm's scheduler writes numbers: one warning a group names the remedies, and the numbers hold."""
    (net, _), opt, _ = pair(groups, LinearRamp(MAX_LR, 0.0, 8))
    with pytest.warns(UserWarning, match=REPLACED) as caught:
        scheduler = getattr(timm_scheduler, name)(opt, **options)
        for t in range(4):
            train(net, opt, range(t, t + 1))
            scheduler.step_update(t + 1)
    assert replacements(caught) == len(opt.param_groups)
    assert all(group["lr_schedule"] is None for group in opt.param_groups)


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")  # timm's own
def test_plateau_over_a_schedule() -> None:
    """It has torch's ReduceLROnPlateau inside, so the next step is refused. The Schedule, assigned again, rules."""
    (net, _), opt, _ = pair()
    timm_scheduler.PlateauLRScheduler(opt)
    with pytest.raises(RuntimeError, match=r"ReduceLROnPlateau(.|\n)*group 0(.|\n)*assign the Schedule"):
        train(net, opt, range(1))
    opt.param_groups[0]["lr"] = SCHEDULE
    assert train(net, opt, range(4)) == [[SCHEDULE(t)] for t in range(4)]


@pytest.mark.parametrize("mode", ["norm", "value", "agc"])
def test_clip(mode: str) -> None:
    """timm clips gradients between the backward pass and the step; the step itself clips by norm and by value."""
    bound = {"norm": 0.5, "value": 0.05, "agc": 0.02}[mode]
    inside = {"norm": [{"max_grad_norm": bound}], "value": [{"max_grad_value": bound}], "agc": []}[mode]
    for options in ({}, *inside):
        nets, opt, theirs = pair(**options)
        for t in range(6):
            theirs.param_groups[0]["lr"] = rate(t)
            for net, each in zip(nets, (opt, theirs), strict=True):
                loss_of(net, t, factor=10.0).backward()
                if each is theirs or not options:
                    before = [param.grad.clone() for param in net.parameters()]
                    timm_utils.dispatch_clip_grad(net.parameters(), bound, mode=mode)
                    assert not all(map(torch.equal, before, (param.grad for param in net.parameters())))
                each.step()
            assert_close(*nets)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_native_scaler(clip: float | None) -> None:
    """timm's GradScaler. Steps that overflow are skipped, and the Schedule waits for them."""
    nets, *opts = pair()
    scalers = [timm_utils.NativeScaler(device="cpu") for _ in nets]
    taken = 0
    for t in range(8):
        opts[1].param_groups[0]["lr"] = rate(taken)
        factor = math.inf if t in (1, 4) else 1.0
        for net, opt, scaler in zip(nets, opts, scalers, strict=True):
            scaler(loss_of(net, t, factor), opt, clip_grad=clip, parameters=net.parameters())
        taken += math.isfinite(factor)
        assert int(opts[0].clock) == taken
        assert opts[0].get_last_lr() == [SCHEDULE(taken)]
        assert_close(*nets)
    assert scalers[0].state_dict() == scalers[1].state_dict()


def test_bfloat16_autocast() -> None:
    """torch's optimizer takes the same gradients: rounding to 16 bits would make small differences large."""
    (net, like), opt, theirs = pair(lambda net: net.float().parameters())
    for t in range(6):
        theirs.param_groups[0]["lr"] = rate(t)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(net, t)
        loss.backward()
        copy_gradients(net, like)
        opt.step()
        theirs.step()
        assert_close(net, like, rtol=1e-6, atol=1e-6)  # a few roundings of float32 a step


def test_model_ema() -> None:
    """timm's averages of the weights, and those that the step itself keeps."""
    nets, opt, theirs = pair(average=EMA(0.9))
    averages = [timm_utils.ModelEmaV3(net, decay=0.9) for net in nets]
    for t in range(6):
        train(nets[0], opt, range(t, t + 1))
        train_theirs(nets[1], theirs, range(t, t + 1))
        for net, average in zip(nets, averages, strict=True):
            average.update(net, step=t + 1)
    assert_close(averages[0].module, averages[1].module)
    with opt.swap_average():
        assert_close(nets[0], averages[0].module)


def test_logging(tmp_path: Path) -> None:
    """timm's summary has the mean of the groups' rates, as a number."""
    (net, _), opt, _ = pair(layer_groups)
    mean_scale = sum(group["lr_scale"] for group in opt.param_groups) / len(opt.param_groups)
    for epoch in range(4):
        train(net, opt, range(2 * epoch, 2 * epoch + 2))
        rates = opt.get_last_lr()
        timm_utils.update_summary(epoch, {"loss": 1.0}, {}, tmp_path / "summary.csv", lr=sum(rates) / len(rates))
    logged = [float(row["lr"]) for row in csv.DictReader((tmp_path / "summary.csv").read_text().splitlines())]
    assert logged == pytest.approx([mean_scale * rate(t) for t in (2, 4, 6, 8)], rel=1e-12, abs=0)


def test_lr_finder() -> None:
    """timm has none. Ours tries rates in the ratios of ``lr_scale``, whose largest is not 1, and leaves no trace."""
    nets, opt, theirs = pair(layer_groups)
    for group in (*opt.param_groups, *theirs.param_groups):
        group["lr_scale"] *= 0.75
    scales = [group["lr_scale"] for group in opt.param_groups]
    train(nets[0], opt, range(5))
    train_theirs(nets[1], theirs, range(5))
    before = copy.deepcopy(nets[0])
    result = lr_find(nets[0], opt, None, range(12), 1e-4, 0.1, 12, batch_to_loss=loss_of, progress=False)
    assert result.ratios == pytest.approx([scale / max(scales) for scale in scales], rel=1e-12, abs=0)
    losses = train_theirs(nets[1], theirs, range(12), lambda t: 1e-4 * 1000 ** (t / 11) / max(scales))
    assert result.losses.tolist() == pytest.approx(losses, rel=1e-9, abs=0)  # large rates make roundings larger
    assert (opt.get_last_lr(), int(opt.clock)) == ([scale * SCHEDULE(5) for scale in scales], 5)
    assert all(group["lr_schedule"] == SCHEDULE for group in opt.param_groups)
    assert all(map(torch.equal, nets[0].parameters(), before.parameters()))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "resnet10t"])
def test_no_decay_groups_are_timms(name: str) -> None:
    """The same parameters, with what the model's own ``no_weight_decay()`` lists, and without what is frozen."""
    net = timm_models.create_model(name)
    next(net.parameters()).requires_grad_(False)
    listed = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
    without, with_decay = timm_optim.param_groups_weight_decay(net, 0.05, no_weight_decay_list=listed)
    for ours, theirs in zip(no_decay_groups(net, 0.05), (with_decay, without), strict=True):
        assert ours["weight_decay"] == theirs["weight_decay"]
        assert [id(param) for param in ours["params"]] == [id(param) for param in theirs["params"]]
