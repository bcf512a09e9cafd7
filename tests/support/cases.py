"""Where the tests run, and the inputs, oracle and error bounds that they share.

The algorithms and their configurations are those that tests/algorithms/ declares.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import emulation
import pytest
import torch
from algorithms import CASE_OF, CASES, EVERY_ALGORITHM, Algorithm, Case  # noqa: F401  (tests take them from here)
from torch import Tensor

from sgdr_fused import reference
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


# -------------------------------------------------------------------------------------- algorithms

NUMBERS = ("step", "mu_product")  # entries of a parameter's state that are one number, in float64

# Those of torch, beside whose own class ours stands.
ALGORITHMS_OF_TORCH = {name: algorithm for name, algorithm in EVERY_ALGORITHM.items() if algorithm.in_torch}
ADAM, ADAMW, LAMB, LARS = (EVERY_ALGORITHM[name] for name in ("adam", "adamw", "lamb", "lars"))
RMSPROP, SGD = EVERY_ALGORITHM["rmsprop"], EVERY_ALGORITHM["sgd"]
# One of each kernel of SGD and Adam, for tests that are not about arithmetic.
TYPICAL = tuple(CASE_OF[id] for id in ("sgd", "sgd_nesterov", "adam_amsgrad", "adamw"))
# One of each that measures each parameter before the update.
MEASURING = tuple(CASE_OF[name] for name, algorithm in EVERY_ALGORITHM.items() if algorithm.per_tensor)

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
    """A schedule by the reference: the function named like its class, with its fields; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(map(reference_of, value))
    if not isinstance(value, Schedule):
        return value
    name = re.sub("([a-z])([A-Z])", r"\1_\2", type(value).__name__).lower()
    fields = {field.name: reference_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return functools.partial(getattr(reference, name), **fields)


def rate(schedule: Any, t: int) -> float:
    """The value at step t by the reference's formula for it, or the number itself."""
    return reference_of(schedule)(t) if isinstance(schedule, Schedule) else float(schedule)


def as_double(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().double().clone() for key, tensor in tensors.items()}


class Oracle:
    """The reference in float64 on the CPU, one plain loop over parameters, from given inputs."""

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
