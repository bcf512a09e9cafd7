"""The one table of configurations, and the inputs, oracle and error bounds that the tests share.

A new optimizer is a row in the first table and its configurations in the second.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import emulation
import layerwise
import operands
import pytest
import torch
from classical_sgd import ClassicalSGD
from torch import Tensor
from torch_nadam import NAdam

from sgdr_fused import (
    FusedAdadelta,
    FusedAdagrad,
    FusedAdam,
    FusedAdamax,
    FusedAdamW,
    FusedLAMB,
    FusedLARS,
    FusedNAdam,
    FusedRMSprop,
    FusedSGD,
    reference,
)
from sgdr_fused._native import backends
from sgdr_fused.schedules import CosineWarmRestarts, Schedule, Triangular

# ------------------------------------------------------------------------------------ where to run

RUN_ON = os.environ.get("SGDR_FUSED_TEST_DEVICE", "cpu")
EMULATED = RUN_ON == emulation.BACKEND
DEVICE = torch.device("cpu" if EMULATED else RUN_ON)


def on_pretend_gpu() -> bool:
    """True where an emulator runs the kernels: right, but slow, so the grids are thinned there."""
    try:
        import pretend_gpu
    except ImportError:
        return False
    return DEVICE.type == "cuda" and bool(pretend_gpu.active())


PRETEND = on_pretend_gpu()


def expected_backend() -> str:
    """What `opt.backend` has to be. Who asks for device cuda gets no reference by accident."""
    if EMULATED:
        return emulation.BACKEND
    if os.environ.get("SGDR_FUSED_BACKEND") == "reference":
        return "reference"
    return "cpu" if DEVICE.type == "cpu" and backends.load() else ("reference" if DEVICE.type == "cpu" else "cuda")


# ---------------------------------------------------------------------------------------- the table


Tensors = dict[str, Tensor]
NUMBERS = ("step", "mu_product")  # entries of a parameter's state that are one number, in float64


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A fused class, torch's class, the function of reference.py with its defaults, how large its sums are
    (operands.py), the entries of its groups that torch's has not, and whether an update depends on all elements of its
    parameter."""

    fused: type[torch.optim.Optimizer]
    torch: type[torch.optim.Optimizer]
    reference: Callable[..., None]
    defaults: Mapping[str, Any]
    largest_operand: Callable[..., Tensors]
    beyond_torch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    per_tensor: bool = False

    def takes(self, option: str) -> bool:
        """Whether torch's constructor, and so ours, has that argument."""
        return option in inspect.signature(self.torch).parameters


_ADAM_DEFAULTS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
_ADAMW_DEFAULTS = {**_ADAM_DEFAULTS, "weight_decay": 1e-2, "decoupled_weight_decay": True}
_NADAM_DEFAULTS = {**_ADAM_DEFAULTS, "momentum_decay": 4e-3}
_LARS_DEFAULTS = {"trust_coefficient": 1e-3, "eps": 1e-8, "momentum": 0.9, "momentum_form": "classical"}
_LAMB_DEFAULTS = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
_ADAGRAD_DEFAULTS = {"lr_decay": 0.0, "eps": 1e-10}
_RMSPROP_DEFAULTS = {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0}
_ADADELTA_DEFAULTS = {"rho": 0.9, "eps": 1e-6}
SGD = Algorithm(FusedSGD, torch.optim.SGD, reference.sgd, {}, operands.sgd, beyond_torch={"momentum_form": "torch"})
CLASSICAL_SGD = Algorithm(FusedSGD, ClassicalSGD, reference.sgd, {}, operands.sgd)
ADAM = Algorithm(FusedAdam, torch.optim.Adam, reference.adam, _ADAM_DEFAULTS, operands.adam)
ADAMW = Algorithm(FusedAdamW, torch.optim.AdamW, reference.adam, _ADAMW_DEFAULTS, operands.adam)
NADAM = Algorithm(FusedNAdam, NAdam, reference.nadam, _NADAM_DEFAULTS, operands.nadam)
ADAMAX = Algorithm(FusedAdamax, torch.optim.Adamax, reference.adamax, _ADAM_DEFAULTS, operands.adamax)
ADAGRAD = Algorithm(FusedAdagrad, torch.optim.Adagrad, reference.adagrad, _ADAGRAD_DEFAULTS, operands.adagrad)
RMSPROP = Algorithm(FusedRMSprop, torch.optim.RMSprop, reference.rmsprop, _RMSPROP_DEFAULTS, operands.rmsprop)
ADADELTA = Algorithm(FusedAdadelta, torch.optim.Adadelta, reference.adadelta, _ADADELTA_DEFAULTS, operands.adadelta)
LARS = Algorithm(FusedLARS, layerwise.LARS, reference.lars, _LARS_DEFAULTS, operands.lars, per_tensor=True)
LAMB = Algorithm(FusedLAMB, layerwise.LAMB, reference.lamb, _LAMB_DEFAULTS, operands.lamb, per_tensor=True)
# Those that torch has, and those that it has not, beside which stands a class of the tests'.
ALGORITHMS = {
    "sgd": SGD,
    "adam": ADAM,
    "adamw": ADAMW,
    "nadam": NADAM,
    "adamax": ADAMAX,
    "adagrad": ADAGRAD,
    "rmsprop": RMSPROP,
    "adadelta": ADADELTA,
}
NOT_IN_TORCH = {"classical": CLASSICAL_SGD, "lars": LARS, "lamb": LAMB}


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration of one optimizer. `hyper` are constructor arguments other than lr."""

    id: str
    algorithm: Algorithm
    hyper: Mapping[str, Any]

    def fused(self, params: Iterable[Any], **changed: Any) -> Any:
        return self.algorithm.fused(params, **{**self.hyper, **changed})

    def torch(self, params: Iterable[Any], **changed: Any) -> torch.optim.Optimizer:
        return self.algorithm.torch(params, **{**self.hyper, **changed})

    def largest_operand(self, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> Tensors:
        hyper = {**self.algorithm.defaults, **self.hyper}
        return self.algorithm.largest_operand(hyper, lr, old, grad, new, step)

    def reference(self, param: Tensor, grad: Tensor, state: dict[str, Tensor], **changed: Any) -> None:
        self.algorithm.reference(param, grad, state, **{**self.algorithm.defaults, **self.hyper, **changed})


def _case(name: str, **hyper: Any) -> Case:
    return Case(name, {**ALGORITHMS, **NOT_IN_TORCH}[name.split("_")[0]], hyper)


# beta2 = 0.5 lets the second moment fall, without which amsgrad's maximum is never taken;
# beta1 = 0.4 takes the other branch of torch's lerp.
CASES = (
    _case("sgd"),
    _case("sgd_weight_decay", weight_decay=0.1),
    _case("sgd_momentum", momentum=0.9),
    _case("sgd_dampening", momentum=0.9, dampening=0.3),
    _case("sgd_nesterov", momentum=0.9, nesterov=True, weight_decay=0.1),
    _case("sgd_maximize", momentum=0.8, dampening=0.1, weight_decay=0.1, maximize=True),
    _case("adam"),
    _case("adam_low_betas", betas=(0.4, 0.9), eps=1e-3),
    _case("adam_weight_decay", weight_decay=0.1),
    _case("adam_amsgrad", amsgrad=True, betas=(0.9, 0.5), weight_decay=0.1),
    _case("adam_maximize", maximize=True, weight_decay=0.1),
    _case("adam_decoupled", decoupled_weight_decay=True, weight_decay=0.1),
    _case("adamw"),
    _case("adamw_amsgrad", amsgrad=True, betas=(0.9, 0.5), maximize=True, weight_decay=0.1),
    # Of the others, each kernel with each branch of its rule. Adadelta's default eps gives updates that 16 bits lose,
    # RMSprop's default alpha a buffer of many times the gradients, and LARS' trust coefficient is for large batches.
    _case("classical", momentum=0.9, dampening=0.3, momentum_form="classical"),
    _case("classical_nesterov", momentum=0.9, nesterov=True, weight_decay=0.1, momentum_form="classical"),
    _case("nadam"),
    _case("nadam_low_betas", betas=(0.4, 0.5), eps=1e-3, momentum_decay=0.5, weight_decay=0.1, maximize=True),
    _case("nadam_decoupled", momentum_decay=0.0, decoupled_weight_decay=True, weight_decay=0.1),
    _case("lars", trust_coefficient=0.5, nesterov=True, weight_decay=0.1),
    _case("lars_torch", trust_coefficient=0.5, eps=1.0, dampening=0.3, momentum_form="torch", maximize=True),
    _case("lars_plain", trust_coefficient=0.5, momentum=0.0, weight_decay=0.1),
    _case("lamb"),
    _case("lamb_low_betas", betas=(0.4, 0.5), eps=1e-3, weight_decay=0.0, maximize=True),
    _case("adamax"),
    _case("adamax_low_betas", betas=(0.4, 0.5), eps=1e-3, weight_decay=0.1, maximize=True),
    _case("adagrad"),
    _case("adagrad_decay", lr_decay=0.1, initial_accumulator_value=0.5, weight_decay=0.1, maximize=True),
    _case("rmsprop", weight_decay=0.1, maximize=True),
    _case("rmsprop_momentum", alpha=0.9, momentum=0.9),
    _case("rmsprop_centered", alpha=0.9, centered=True),
    _case("rmsprop_centered_momentum", alpha=0.9, centered=True, momentum=0.8, weight_decay=0.1),
    _case("adadelta", eps=1e-2),
    _case("adadelta_maximize", rho=0.5, eps=1e-2, weight_decay=0.1, maximize=True),
)
# One of each kernel, for tests that are not about arithmetic.
TYPICAL = tuple(c for c in CASES if c.id in ("sgd", "sgd_nesterov", "adam_amsgrad", "adamw"))
# The same of those that measure each parameter before the update.
MEASURING = tuple(c for c in CASES if c.id in ("lars", "lamb"))

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)

# Both sides of every vector width, of a kernel's chunk and of 16 bits.
SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 1023, 1024, 1025, 65535, 65536, 65537)
SMALL_SIZES = tuple(n for n in SIZES if n < 65535)
MANY_SMALL = tuple(1 + i % 7 for i in range(200))

SCHEDULES: tuple[Schedule, ...] = (
    CosineWarmRestarts(0.1, T_0=3, T_mult=2, eta_min=0.01),
    Triangular(0.01, 0.1, step_size_up=2, step_size_down=3, mode="exp_range", gamma=0.9),
    CosineWarmRestarts(0.08, T_0=2, T_mult=1.5, max_decay=0.5),
)


def ids(items: Iterable[Any]) -> list[Any]:
    """Parameters with readable ids: a Case's own, a dtype's short name, else str()."""
    return [pytest.param(item, id=getattr(item, "id", str(item).removeprefix("torch."))) for item in items]


# ----------------------------------------------------------------------------------------- inputs


def values(shape: int | Sequence[int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Deterministic numbers of both signs, 0.5 to 1.5 in magnitude: nothing that cancels to nothing."""
    generator = torch.Generator().manual_seed(seed)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    return (uniform + uniform.sign() * 0.5 + (uniform == 0)).to(dtype)


def make_params(
    sizes: Iterable[int | Sequence[int]], dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(values(size, 7919 * seed + i, dtype).to(DEVICE)) for i, size in enumerate(sizes)]


def gradient(param: Tensor, step: int, index: int = 0) -> Tensor:
    """The gradient of parameter number `index` at `step`, laid out like the parameter."""
    return torch.empty_like(param.detach()).copy_(values(param.shape, 104729 * (step + 1) + index))


def set_gradients(params: Iterable[Tensor], step: int) -> None:
    for index, param in enumerate(params):
        param.grad = gradient(param, step, index)


class Dropout(torch.nn.Module):
    """Half of the values in training, made of operations that the emulator has."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) > 0.5) if self.training else x


def params_of(opt: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in opt.param_groups for p in group["params"]]


def train(opt: Any, steps: Iterable[int]) -> None:
    """Step through `steps`; each step's gradients depend on its number alone."""
    for step in steps:
        set_gradients(params_of(opt), step)
        opt.step()


# ------------------------------------------------------------------------------------------ oracle


def reference_of(value: Any) -> Any:
    """A schedule by reference.py: the function named like its class, with its fields; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(reference_of, value))
    if not isinstance(value, Schedule):
        return value
    name = re.sub("([a-z])([A-Z])", r"\1_\2", type(value).__name__).lower()
    fields = {field.name: reference_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return functools.partial(getattr(reference, name), **fields)


def rate(schedule: Any, t: int) -> float:
    """The value at step t by reference.py's formula for it, or the number itself."""
    return reference_of(schedule)(t) if isinstance(schedule, Schedule) else float(schedule)


def as_double(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().double().clone() for key, tensor in tensors.items()}


class Oracle:
    """reference.py in float64 on the CPU, one plain loop over parameters, from given inputs."""

    def __init__(self, case: Case, params: Iterable[Tensor]) -> None:
        self.case = case
        self.params = [p.detach().cpu().double().clone() for p in params]
        self.states: list[dict[str, Tensor]] = [{} for _ in self.params]

    def step(self, grads: Iterable[Tensor | None], rates: Sequence[float], **changed: Any) -> None:
        for param, state, grad, lr in zip(self.params, self.states, grads, rates, strict=True):
            if grad is not None:
                self.case.reference(param, grad.detach().cpu().double(), state, lr=lr, **changed)


# ------------------------------------------------------------------------------------------ bounds


def ulp(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbours of `dtype` at these magnitudes."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(magnitude.abs().double().clamp(min=info.smallest_normal))
    return torch.ldexp(torch.full_like(magnitude, info.eps, dtype=torch.float64), exponent - 1)


def one_step_tolerance(expected: Tensor, operand: Tensor, dtype: torch.dtype) -> Tensor:
    """How far one step may end from the float64 oracle, both from the same stored inputs.

    `operand` is the largest operand of each element's sums. float32 does at most a dozen roundings
    of half an ulp, few of them at the operand's size: 4 ulp. float64 allows what two schedules may
    differ by: 1e-12. What is stored in 16 bits is computed in float32 and rounded once: half a ulp more.
    """
    if dtype == torch.float64:
        return 1e-12 * operand
    stored = ulp(expected, dtype) / 2 if dtype in HALVES else 0.0
    return 4 * ulp(operand, torch.float32) + stored


def trajectory_tolerance(travelled: Tensor, largest: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """How far `steps` steps may end from the float64 oracle's run.

    `travelled` is the sum of each element's updates in magnitude, `largest` the largest element on
    the way. Beside the updates' own error, each step rounds what it stores.
    """
    relative = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    size = largest.max() if largest.numel() else largest.sum()
    return relative * travelled + steps * ulp(size, dtype)


def assert_within(actual: Tensor, expected: Tensor, tolerance: Tensor, what: str) -> None:
    actual = actual.detach().cpu().double()
    assert actual.shape == expected.shape, what
    excess = (actual - expected).abs() - tolerance
    wrong = ~(excess <= 0)  # also NaN
    assert not wrong.any(), (
        f"{what}: {int(wrong.sum())} of {wrong.numel()} elements off, e.g. {actual[wrong][0].item()!r} "
        f"for {expected[wrong][0].item()!r}"
    )
