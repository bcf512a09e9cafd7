"""The bits that trainings of all algorithms, dtypes and options leave.

`python tests/support/recorded_bits.py` writes them into recorded/bits.json, with which test_recorded_bits.py
compares. SGDR_FUSED_BACKEND=reference writes the reference's.

They are written before the code is rearranged, and again only where a result is meant to change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from bits import bits
from cases import CASES, SCHEDULES, Case, expected_backend, gradient, make_params, params_of
from torch import Tensor

from sgdr_fused import EMA

RECORDS = Path(__file__).resolve().parent / "recorded" / "bits.json"
STEPS = 20
SIZES = (0, 1, 7, 33, 1025, (5, 6))
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16

Inputs = Callable[[Any, int], None]


def plain(opt: Any, step: int) -> None:
    for index, param in enumerate(params_of(opt)):
        param.grad = gradient(param, step, index)


def sometimes_none(opt: Any, step: int) -> None:
    plain(opt, step)
    params_of(opt)[step % len(SIZES)].grad = None


def sometimes_infinite(opt: Any, step: int) -> None:
    plain(opt, step)
    if step % 6 == 4:
        params_of(opt)[3].grad[2] = float("inf")


def narrow(opt: Any, step: int) -> None:
    for index, param in enumerate(params_of(opt)):
        param.grad_dtype = BF16
        param.grad = gradient(param, step, index).to(BF16)


def scaled(opt: Any, step: int) -> None:
    """The scale as GradScaler hands it over; the sixth step is skipped."""
    plain(opt, step)
    for param in params_of(opt):
        param.grad.mul_(128.0)
    device = params_of(opt)[0].device
    opt.grad_scale = torch.tensor(128.0, device=device)
    opt.found_inf = torch.tensor(float(step == 5), device=device)


def strided(opt: Any, step: int) -> None:
    plain(opt, step)
    param = params_of(opt)[-1]
    param.grad = gradient(param, step).t().contiguous().t()


def new_lr(opt: Any, step: int) -> None:
    plain(opt, step)
    if step == 10:
        opt.param_groups[0]["lr"] = 0.03


@dataclasses.dataclass(frozen=True)
class Variant:
    """What differs from a training of float32 parameters under a schedule: constructor arguments, inputs."""

    id: str
    dtype: torch.dtype = F32
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Inputs = plain
    lr: Any = SCHEDULES[0]


VARIANTS = (
    Variant("float32"),
    Variant("float64", F64),
    Variant("bfloat16", BF16),
    Variant("float16", F16),
    Variant("number", lr=0.05, inputs=new_lr),
    Variant("triangular", lr=SCHEDULES[1]),
    Variant("none", inputs=sometimes_none),
    Variant("strided", inputs=strided),
    Variant("narrow_gradients", inputs=narrow),
    Variant("cycle", options={"average": "cycle"}),
    Variant("ema", F16, {"average": EMA(0.9)}),
    Variant("bfloat16_states", F32, {"state_dtype": BF16}),
    Variant("float32_states", BF16, {"state_dtype": F32}),
    Variant("float32_states_of_float16", F16, {"state_dtype": F32}),
    Variant("remainders", BF16, {"master_weights": True, "average": EMA(0.5)}),
    Variant("remainders_of_float16", F16, {"master_weights": True, "state_dtype": F32}),
    Variant("stochastic", BF16, {"stochastic_rounding": True}),
    Variant("stochastic_states", F32, {"stochastic_rounding": True, "state_dtype": BF16}),
    Variant("clipped", F32, {"max_grad_norm": 0.5, "max_grad_value": 1.0}),
    Variant("clipped_float64", F64, {"max_grad_norm": 0.5}),
    Variant("nonfinite", F32, {"skip_nonfinite": True, "average": "cycle"}, sometimes_infinite),
    Variant("scaled", F32, {"max_grad_norm": 1.0}, scaled),
    Variant("scaled_float16", F16, {"master_weights": True, "skip_nonfinite": True}, scaled),
)


def rounded_sqrt(tensor: Tensor) -> Tensor:
    """The root that IEEE 754 asks for. That of torch's library is off by a bit here and there, on some processors."""
    return torch.from_numpy(numpy.sqrt(tensor.numpy()))


def digest(case: Case, variant: Variant) -> str:
    """A digest of parameters, states and counts after 20 steps."""
    with unittest.mock.patch.object(Tensor, "sqrt", rounded_sqrt):
        return _digest(case, variant)


def _digest(case: Case, variant: Variant) -> str:
    torch.manual_seed(0)
    opt = case.fused(make_params(SIZES, variant.dtype), lr=variant.lr, **variant.options)
    for step in range(STEPS):
        variant.inputs(opt, step)
        opt.step()
    found = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        found.update(
            f"{name} {bits(value)!r}\n".encode() if isinstance(value, Tensor) else f"{name} {value!r}\n".encode()
        )

    for param in params_of(opt):
        add("param", param)
        for key, value in sorted(opt.state.get(param, {}).items()):
            add(key, value)
    add("clock", opt.clock)
    add("n_averaged", opt.n_averaged)
    add("lr", torch.as_tensor(opt.param_groups[0]["lr"]))
    if {"max_grad_norm", "skip_nonfinite"} & variant.options.keys():
        add("grad_norm", opt.grad_norm)
    if "skip_nonfinite" in variant.options:
        add("skipped", opt.skipped_steps)
    return found.hexdigest()[:16]


def made_with() -> dict[str, str]:
    """What the bits depend on beside the code: scalars come from the C library, the reference's tensors from torch."""
    found = {"libc": " ".join(platform.libc_ver())}
    if kind() == "reference":
        found |= {"torch": torch.__version__.partition("+")[0], "capability": torch.backends.cpu.get_cpu_capability()}
    return found


def kind() -> str:
    """The kind of backend whose bits are expected here: emulated kernels give those of the CPU."""
    return "reference" if expected_backend() == "reference" else "extension"


def digests() -> dict[str, dict[str, str]]:
    return {case.id: {variant.id: digest(case, variant) for variant in VARIANTS} for case in CASES}


def write() -> None:
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    records[kind()] = {"made_with": made_with(), "digests": digests()}
    RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
