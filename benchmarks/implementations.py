"""Steps of an optimizer with its scheduler, by torch, by us and by others, on the parameters of one model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import torch
from limit import Limit
from racing import LIMIT, OURS, Steps
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR
from workloads import Workload

from sgdr_fused import FusedAdam, FusedSGD
from sgdr_fused._native import toolchain
from sgdr_fused.schedules import CosineWarmRestarts, OneCycle

LR, RESTARTS = 1e-3, {"T_0": 100, "T_mult": 2, "eta_min": 1e-6}
ONE_CYCLE_STEPS = 100_000  # torch's scheduler raises after the last step

FRESH_BYTES = 32 * 2**20  # gradients of up to this many bytes are made anew for each step


class Algorithm(NamedTuple):
    torch_class: Any
    fused_class: Any
    options: dict[str, Any]
    states: tuple[str, ...]

    @property
    def bytes_per_parameter(self) -> int:
        """The gradient is read; the parameter and its states are read and written."""
        return 4 + 8 * (1 + len(self.states))


ALGORITHMS = {
    "sgd": Algorithm(torch.optim.SGD, FusedSGD, {"momentum": 0.9, "weight_decay": 1e-4}, ("momentum_buffer",)),
    "adam": Algorithm(torch.optim.Adam, FusedAdam, {}, ("exp_avg", "exp_avg_sq")),
}
SCHEDULES = ("cosine", "one-cycle")


class UnavailableError(Exception):
    """Why an implementation is not measured."""


class Model:
    """The parameters, which all implementations step in turns, and their gradients."""

    def __init__(self, workload: Workload) -> None:
        torch.manual_seed(0)
        self.rates = [LR * group.rate for group in workload.groups]
        self.groups = [[torch.nn.Parameter(torch.randn(s)) for s in group.shapes] for group in workload.groups]
        self.params = [param for group in self.groups for param in group]
        self._fresh = 4 * workload.parameters <= FRESH_BYTES
        # Where it would take too long to make gradients for each step, two sets of them take turns.
        self._sets = [[torch.randn_like(p) for p in self.params] for _ in range(1 if self._fresh else 2)]
        self.new_gradients(0)

    def new_gradients(self, number: int) -> None:
        """Puts the gradients at other addresses than in the round before, as backward() does after zero_grad()."""
        gradients = self._sets[number % len(self._sets)]
        for param, gradient in zip(self.params, gradients, strict=True):
            param.grad = gradient.clone() if self._fresh else gradient  # the old one is freed after the clone

    @property
    def gradients(self) -> list[Tensor]:
        return [param.grad for param in self.params if param.grad is not None]


def of_torch(make: Callable[..., Any], algorithm: str, schedule: str, model: Model, **form: Any) -> Any:
    """The optimizer and its scheduler."""
    rates: list[Any] = model.rates
    if form.pop("compiled", False):  # torch would compile the step anew for each value of a number
        rates = [torch.tensor(rate) for rate in rates]
    groups = [{"params": params, "lr": lr} for params, lr in zip(model.groups, rates, strict=True)]
    opt = make(groups, **{**ALGORITHMS[algorithm].options, **form})
    if schedule == "cosine":
        scheduler: Any = CosineAnnealingWarmRestarts(opt, **RESTARTS)
    else:
        scheduler = OneCycleLR(opt, model.rates, total_steps=ONE_CYCLE_STEPS)
    return opt, scheduler


def torch_form(**form: Any) -> Callable[[str, str, Model], Callable[[], None]]:
    def build(algorithm: str, schedule: str, model: Model) -> Callable[[], None]:
        opt, scheduler = of_torch(ALGORITHMS[algorithm].torch_class, algorithm, schedule, model, **form)

        def step() -> None:
            opt.step()
            scheduler.step()

        return step

    return build


def torch_compiled(algorithm: str, schedule: str, model: Model) -> Callable[[], None]:
    if schedule == "one-cycle":
        raise UnavailableError("its momentum is a number that changes, so it is compiled anew at each step")
    opt, scheduler = of_torch(ALGORITHMS[algorithm].torch_class, algorithm, schedule, model, compiled=True)
    compiled = torch.compile(lambda: opt.step())

    def step() -> None:
        compiled()
        scheduler.step()

    for _ in range(2):  # the step is compiled once without states and once with them
        step()
    return step


def deepspeed(algorithm: str, schedule: str, model: Model) -> Callable[[], None]:
    if algorithm != "adam":
        raise UnavailableError("DeepSpeed has no such optimizer for the CPU")
    try:
        # Its import sets PYTORCH_NVML_BASED_CUDA_CHECK. With that set, every step of torch looks for a driver: 140 us.
        with mock.patch.dict(os.environ, {"DS_ACCELERATOR": "cpu"}):
            from deepspeed.ops.adam import DeepSpeedCPUAdam
    except ImportError as error:
        raise UnavailableError("DeepSpeed is not installed: pip install deepspeed") from error
    with toolchain.torch_build_tools(torch, with_cuda=False):  # it builds itself at its first use
        opt, scheduler = of_torch(DeepSpeedCPUAdam, algorithm, schedule, model, adamw_mode=False)

    def step() -> None:
        opt.step()
        scheduler.step()

    return step


def our_optimizer(algorithm: str, schedule: str, model: Model) -> Any:
    """Our optimizer, with a Schedule for each group."""
    groups: list[dict[str, Any]] = []
    options = dict(ALGORITHMS[algorithm].options)
    for params, rate in zip(model.groups, model.rates, strict=True):
        if schedule == "cosine":
            groups.append({"params": params, "lr": CosineWarmRestarts(rate, **RESTARTS)})
        else:
            lr, momentum = OneCycle(rate, total_steps=ONE_CYCLE_STEPS)
            options |= {"betas": (momentum, 0.999)} if algorithm == "adam" else {"momentum": momentum}
            groups.append({"params": params, "lr": lr})
    return ALGORITHMS[algorithm].fused_class(groups, **options)


def our_reference(algorithm: str, schedule: str, model: Model) -> Callable[[], None]:
    opt = our_optimizer(algorithm, schedule, model)

    def step() -> None:
        os.environ["SGDR_FUSED_BACKEND"] = "reference"
        try:
            opt.step()
        finally:
            del os.environ["SGDR_FUSED_BACKEND"]

    return step


BUILDERS: dict[str, Callable[[str, str, Model], Callable[[], Any]]] = {
    "torch for-loop": torch_form(foreach=False),
    "torch foreach": torch_form(foreach=True),
    "torch fused": torch_form(fused=True),
    "torch compiled": torch_compiled,
    "DeepSpeed": deepspeed,
    "reference": our_reference,
}
OPTIONAL = ("torch compiled", "DeepSpeed")
IMPLEMENTATIONS = (OURS, *BUILDERS, LIMIT)


class Field(NamedTuple):
    """The implementations of one job, ready to race, and why others are not."""

    model: Model
    steps: Steps
    limit: Limit
    missing: dict[str, str]

    def prepare(self, name: str, number: int) -> None:
        self.model.new_gradients(number)
        if name == LIMIT:
            self.limit.new_gradients(self.model.gradients)


def field(algorithm: str, schedule: str, workload: Workload, names: tuple[str, ...], left_out: dict[str, str]) -> Field:
    """Makes the named implementations ready. `left_out` says why some of `names` are not measured."""
    model = Model(workload)
    ours = our_optimizer(algorithm, schedule, model)
    assert ours.backend == "cpu", ours.backend
    ours.step()  # makes the states
    written: list[list[Tensor]] = [[ours.state[p][key] for p in model.params] for key in ALGORITHMS[algorithm].states]
    limit = Limit(model.params, [model.params, *written])
    steps: Steps = {OURS: ours.step}
    missing = dict(left_out)
    for name in names:
        if name in BUILDERS and name not in left_out:
            try:
                steps[name] = BUILDERS[name](algorithm, schedule, model)
            except UnavailableError as error:
                missing[name] = str(error)
            except Exception as error:
                if name not in OPTIONAL:
                    raise
                missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:150]
    if LIMIT in names:
        steps[LIMIT] = limit.step
    return Field(model, steps, limit, missing)
