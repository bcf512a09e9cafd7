"""What wrappers of frameworks and of papers do to the optimizer inside, each named after the one that does it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from functools import partial
from typing import Any

import pytest
import torch
from bits import bits
from cases import DEVICE, make_params, params_of, set_gradients, train
from courses import KINDS, SCHEDULE, SIZES, assert_same_course, made
from torch import nn

from sgdr_fused import FusedAdamW, FusedSGD

pytestmark = pytest.mark.host

# ---- wrappers that share groups


class SAM(torch.optim.Optimizer):
    """The widespread wrapper of sharpness-aware minimization (davda54/sam), but for its two steps."""

    def __init__(self, params: Any, base: Any, **hypers: Any) -> None:
        super().__init__(params, {"rho": 0.05, **hypers})
        self.base = base(self.param_groups, **hypers)
        self.param_groups = self.base.param_groups
        self.defaults.update(self.base.defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base.step()

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base.param_groups = self.param_groups


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
@pytest.mark.parametrize("loaded", [False, True])
def test_sam(make: Any, loaded: bool) -> None:
    """Rates that are set on the wrapper reach the optimizer inside, before and after a load."""
    params = make_params(SIZES, torch.float64)
    opt = SAM(params, make, lr=0.1)
    train(opt, range(2))
    if loaded:
        opt.load_state_dict(opt.state_dict())
    for rate, moves in ((0.0, False), (0.5, True), (0.0, False)):
        before = [bits(p) for p in params]
        opt.param_groups[0]["lr"] = rate
        set_gradients(params, 3)
        opt.step()
        assert (before != [bits(p) for p in params]) == moves
        assert opt.base.param_groups[0]["lr"] == rate
    extra = nn.Parameter(torch.zeros(3, dtype=torch.float64, device=DEVICE))
    opt.add_param_group({"params": [extra], "lr": 2.0})
    extra.grad = torch.ones_like(extra)
    opt.step()
    assert extra.tolist() == [-2.0] * 3


class Sharded(torch.optim.Optimizer):
    """torch's ZeroRedundancyOptimizer: groups of its own, whose entries go in before each step and out after it."""

    def __init__(self, params: Any, make: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)
        self.inner = make(self.param_groups, **defaults)
        self._hand_on(self.inner.param_groups, self.param_groups)

    @staticmethod
    def _hand_on(sources: Any, targets: Any) -> None:
        for source, target in zip(sources, targets, strict=True):
            for key in source:
                if key != "params":
                    target[key] = source[key]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._hand_on(self.param_groups, self.inner.param_groups)
        self.inner.step()
        self._hand_on(self.inner.param_groups, self.param_groups)


@pytest.mark.parametrize("lr", [0.1, SCHEDULE], ids=["number", "schedule"])
def test_zero_redundancy_optimizer(lr: Any) -> None:
    params, others = (make_params(SIZES, torch.float64) for _ in range(2))
    opt, plain = Sharded(params, FusedSGD, lr=lr, momentum=0.9), FusedSGD(others, lr=lr, momentum=0.9)
    assert_same_course(opt, plain, range(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opt.param_groups[0]["lr"] = plain.param_groups[0]["lr"] = 0.25
    assert_same_course(opt, plain, range(5, 7))


class Wrapped:
    """Lightning's Fabric and Trainer: an object that takes over the optimizer's attributes as they are at the time."""

    def __init__(self, optimizer: Any) -> None:
        self.__dict__ = {key: value for key, value in optimizer.__dict__.items() if key not in ("state_dict", "step")}
        self.__class__ = type("Wrapped", (self.__class__, optimizer.__class__), {})
        self.optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_lightning_wrapper(kind: str) -> None:
    """Before the first step it is made; what it shows and what is set on it is the optimizer's."""
    opt, plain = made(kind), made(kind)
    wrapper: Any = Wrapped(opt)
    assert_same_course(wrapper, plain, range(3))
    if kind != "torch":
        wrapper.clock.fill_(1)
        plain.clock.fill_(1)
        assert int(opt.clock) == 1
    assert_same_course(wrapper, plain, range(3, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper.param_groups[0]["lr"] = plain.param_groups[0]["lr"] = 0.25
    assert_same_course(wrapper, plain, range(5, 7))
    assert bits(wrapper.state_dict()["state"][0]["momentum_buffer"]) == bits(
        plain.state[params_of(plain)[0]]["momentum_buffer"]
    )


class Lookahead:
    """timm's and others' wrapper: no optimizer itself, it holds the other's groups and state."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.param_groups, self.state, self.defaults = base.param_groups, base.state, base.defaults

    def step(self) -> None:
        self.base.step()


@pytest.mark.parametrize("kind", KINDS)
def test_lookahead(kind: str) -> None:
    opt = made(kind)
    wrapper = Lookahead(opt)
    train(opt, range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ours says once that the Schedule is gone
        wrapper.param_groups[0]["lr"] = 0.0
    before = [bits(p) for p in params_of(opt)]
    set_gradients(params_of(opt), 2)
    wrapper.step()
    assert before == [bits(p) for p in params_of(opt)]
    assert set(wrapper.state) == set(params_of(opt))


@pytest.mark.parametrize("make", [torch.optim.SGD, FusedSGD])
def test_dicts_that_the_user_keeps(make: Any) -> None:
    """ZeroRedundancyOptimizer and averaging wrappers keep the dicts that they hand over, and write to them."""
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64, device=DEVICE))
    groups = [{"params": [p], "lr": 1.0}]
    opt = make(groups, lr=0.1)
    assert opt.param_groups[0] == groups[0]
    p.grad = torch.ones_like(p)
    for rate in (10.0, 100.0):
        groups[0]["lr"] = rate
        opt.step()
    assert p.tolist() == [-110.0] * 2
    other = make(opt.param_groups, lr=0.1)  # two optimizers over one group, as with wrappers
    opt.param_groups[0]["lr"] = 1000.0
    other.step()
    assert p.tolist() == [-1110.0] * 2
    other.param_groups[0]["lr"] = 1.0
    opt.step()
    assert p.tolist() == [-1111.0] * 2


# ---- frameworks' schedules


@pytest.mark.parametrize("make", [torch.optim.AdamW, FusedAdamW])
def test_timm_scales_rates(make: Any) -> None:
    """Layer decay: each group has ``lr_scale``, and timm's schedulers write each group's rate, scaled."""
    params = make_params(SIZES, torch.float64)
    opt = make([{"params": [p], "lr_scale": 0.5**i, "weight_decay": 0.0} for i, p in enumerate(params)], lr=0.1)
    for group in opt.param_groups:
        group.setdefault("initial_lr", group["lr"])
    for t in range(4):
        for group in opt.param_groups:
            group["lr"] = group["initial_lr"] * 0.9**t * group["lr_scale"]
        train(opt, range(t, t + 1))
    assert [float(group["lr"]) for group in opt.param_groups] == pytest.approx(
        [0.1 * 0.9**3 * 0.5**i for i in range(3)]
    )
    assert opt.state_dict()["param_groups"][1]["lr_scale"] == 0.5


def test_fastai_wraps() -> None:
    """fastai's OptimWrapper: groups in, hyperparameters copied both ways each time, and states cleared."""
    for make in (torch.optim.SGD, FusedSGD):
        params = make_params(SIZES, torch.float64)
        opt = partial(make, momentum=0.9)([{"params": [p], "lr": 0.1} for p in params])
        for t in range(3):
            for hyper in [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]:
                hyper["lr"] = 0.1 / (1 + t)
                for group in opt.param_groups:
                    for key, value in hyper.items():
                        group[key] = value
            train(opt, range(t, t + 1))
        opt.state = defaultdict(dict, {p: opt.state[p] for p in params[:1]})
        train(opt, range(3, 4))
        assert all(float(group["lr"]) == pytest.approx(0.1 / 3) for group in opt.param_groups)
        assert set(opt.state) == set(params)


def test_hugging_face_trainer_reads_the_rate() -> None:
    """It logs ``get_last_lr()``, and saves ``json``: floats, of this moment and not of the last."""
    opt = made("schedule")
    history = []
    for t in range(4):
        train(opt, range(t, t + 1))
        history.append(opt.get_last_lr()[0])
    assert history == [SCHEDULE(t) for t in range(1, 5)]
    assert all(type(rate) is float for rate in history)
