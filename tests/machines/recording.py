"""Trainings that the extension has taken here, for replay.cpp to take them on another machine.

A training is written down as plain memory: what a plan gets, in the order in which replay.cpp reads it. So it can be
repeated without Python and torch, and what it leaves behind is compared bit for bit.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from cases import Case, make_params, params_of
from recorded_bits import Variant
from torch import Tensor

from sgdr_fused._engine import build_plan, clipping, cycles
from sgdr_fused._engine.param_state import ParamSpec
from sgdr_fused._engine.session import Session

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # in the order of csrc/math/dtype.h
CPU = torch.device("cpu")
# How many entries the arrays of csrc/step/args.h have.
MAX_STATES, MAX_HYPERS, MAX_CONSTANTS, MAX_OPERANDS = 3, 4, 7, 7


def plain(tensor: Tensor | None) -> Tensor:
    """All memory from the first element of a tensor to the last, a copy: strided tensors have others between them."""
    if tensor is None:
        return torch.empty(0)
    tensor = tensor.detach()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span if tensor.numel() else 0,), (1,)).clone()


def contents(tensor: Tensor) -> bytes:
    return tensor.view(torch.uint8).numpy().tobytes()


class Writer:
    """A stream of 64-bit numbers and of memory."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def integers(self, *values: int) -> None:
        self.parts.append(struct.pack(f"<{len(values)}q", *values))

    def numbers(self, *values: float) -> None:
        self.parts.append(struct.pack(f"<{len(values)}d", *values))

    def floats(self, *values: float) -> None:
        self.parts.append(struct.pack(f"<{len(values)}f", *values))

    def memory(self, data: bytes) -> None:
        self.integers(len(data))
        self.parts.append(data)

    def filled(self, values: Sequence[float], length: int) -> None:
        self.numbers(*values, *[0.0] * (length - len(values)))

    def segments(self, segments: Sequence[Any]) -> None:
        self.integers(len(segments))
        for segment in segments:
            assert segment.kind != "table"
            self.memory(segment.kind.encode())
            self.memory(segment.mode.encode())
            self.integers(segment.first_step, segment.shift)
            self.numbers(segment.scale)
            self.filled(segment.values, 4)
            self.integers(*[*segment.lengths, 0, 0][:2], len(segment.table), *segment.table)


class Recorder:
    """Writes down the one plan of an optimizer when it is made, and then what each step gets."""

    def __init__(self, steps: int) -> None:
        self.written = Writer()
        self.steps = steps
        self.specs: list[ParamSpec] = []
        self.session: Any = None

    def plan(self, session: Session, specs: list[ParamSpec]) -> None:
        assert self.session is None, "a second plan was made, which replay.cpp does not know"
        self.session, self.specs = session, specs
        self.groups()
        self.options()
        self.written.integers(len(specs))
        for spec in specs:
            self.param(spec)
        self.written.integers(self.steps)

    def groups(self) -> None:
        written, algorithm = self.written, self.session.algorithm
        written.memory(algorithm.name.encode())
        written.integers(len(self.session.groups))
        for group in self.session.groups:
            for hyper in algorithm.hypers:
                value = hyper.of(group)
                schedule = hyper.schedule_of(value)
                assert schedule is not None or not isinstance(value, Tensor)
                written.segments([] if schedule is None else schedule._segments())
            for _ in range(MAX_HYPERS - len(algorithm.hypers)):
                written.segments([])
            written.filled([algorithm.kernel_constant(key, group[key]) for key in algorithm.constants], MAX_CONSTANTS)

    def options(self) -> None:
        written, session = self.written, self.session
        average, seed = session.options["average"], session.rounding_seed
        is_mean = average == "cycle"
        written.segments(cycles.schedule_of(session.groups)._cycle_ends() if is_mean else [])
        written.numbers(0.0 if average is None or is_mean else 1.0 - average.decay)
        written.integers(is_mean, seed is not None, seed or 0)
        clip = clipping.for_plan(session.options, session.measured, CPU, 1)
        written.numbers(clip.max_value, clip.max_norm)
        written.integers(clip.norm is not None, clip.skipped is not None)

    def param(self, spec: ParamSpec) -> None:
        written, memory = self.written, spec.memory
        states = [state.dtype for state in spec.states] or [memory.dtype]
        states += states[:1] * (MAX_STATES - len(states))
        grad = memory.dtype if spec.grad is None else spec.grad.dtype
        written.integers(memory.numel(), spec.group, spec.index, len(spec.states))
        written.integers(*[DTYPES.index(dtype) for dtype in (memory.dtype, *states, grad)])
        self.layout(spec)
        for tensor in (memory, *spec.states, spec.average, spec.remainder):
            written.memory(contents(plain(tensor)))
        for number, first in ((spec.steps, 0.0), (spec.product, 1.0)):
            written.integers(number is not None)
            written.numbers(first if number is None else float(number))

    def layout(self, spec: ParamSpec) -> None:
        """The dimensions in the parameter's order of memory; none where all operands are dense in one order."""
        param = spec.memory
        operands = [spec.remainder, spec.average, param, spec.grad, *spec.states]
        operands += [None] * (MAX_OPERANDS - len(operands))
        strides = [(param if operand is None else operand).stride() for operand in operands]
        if plain(param).numel() == param.numel() and set(strides) == {param.stride()}:
            self.written.integers(0)
            return
        order = sorted(range(param.dim()), key=lambda dim: -param.stride(dim))
        self.written.integers(len(order), *[param.shape[dim] for dim in order])
        for each in strides:
            self.written.integers(*[each[dim] for dim in order])

    def step(self, grads: list[Tensor | None], scale: Tensor | None, found_inf: Tensor | None) -> None:
        """What a step got; a plan is made during the first."""
        written, algorithm = self.written, self.session.algorithm
        for group in self.session.groups:
            written.filled([float(hyper.of(group)) for hyper in algorithm.hypers], MAX_HYPERS)
        written.integers(scale is not None)
        written.floats(1.0 if scale is None else float(scale), 0.0 if found_inf is None else float(found_inf))
        for grad in grads:
            written.integers(grad is not None)
            written.memory(contents(plain(grad)))

    def left(self) -> list[Tensor]:
        """What replay.cpp writes at the end, in its order."""
        session, found = self.session, []
        for spec in self.specs:
            found += [plain(each) for each in (spec.memory, *spec.states, spec.average, spec.remainder)]
            found += [number(spec.steps, 0.0), number(spec.product, 1.0), plain(spec.param.grad)]
        norm, skipped = session.measured.on(CPU)
        (plan,) = session.built.plans
        found += [session.clock.reshape(1), session.n_averaged.reshape(1), skipped.reshape(1)]
        measured = plan.grad_sums is not None
        found += [norm.reshape(1), plan.grad_sums[0]] if measured else [torch.zeros(3, dtype=torch.float64)]
        return found if plan.param_sums is None else [*found, plan.param_sums.reshape(-1)]


def number(tensor: Tensor | None, otherwise: float) -> Tensor:
    return torch.tensor([otherwise if tensor is None else float(tensor)], dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Training:
    """What replay.cpp reads, and what the extension has left behind here."""

    name: str
    written: bytes
    left: list[Tensor]


def record(case: Case, variant: Variant, sizes: Sequence[Any], steps: int) -> Training:
    """Trains with the extension."""
    torch.manual_seed(0)
    opt: Any = case.fused(make_params(sizes, variant.dtype), lr=variant.lr, **variant.options)
    recorder, make_plan = Recorder(steps), build_plan._make_plan

    def recording(session: Session, device: torch.device, specs: list[ParamSpec], *others: Any) -> Any:
        recorder.plan(session, specs)
        return make_plan(session, device, specs, *others)

    with mock.patch.object(build_plan, "_make_plan", recording):
        for step in range(steps):
            variant.inputs(opt, step)
            grads = [None if param.grad is None else as_it_lies(param.grad) for param in params_of(opt)]
            opt.step()
            recorder.step(grads, getattr(opt, "grad_scale", None), getattr(opt, "found_inf", None))
    return Training(f"{case.id}, {variant.id}", b"".join(recorder.written.parts), recorder.left())


def differences(trainings: Sequence[Training], output: bytes) -> list[str]:
    """Where the bytes that replay.cpp has written are not those that the extension has left; any NaN is like another.

    A processor of one kind makes NaNs with a sign, and one of another kind without.
    """
    found, position = [], 0
    for training in trainings:
        for k, left in enumerate(training.left):
            size = left.numel() * left.element_size()
            there = torch.frombuffer(bytearray(output[position : position + size]), dtype=left.dtype) if size else left
            position += size
            different = as_integers(there) != as_integers(left)
            if left.is_floating_point():
                different &= ~(there.isnan() & left.isnan())
            if different.any():
                first = int(different.nonzero()[0])
                values = f"{left[first].item()!r} here, {there[first].item()!r} there"
                found.append(f"{training.name}: {int(different.sum())} of {left.numel()} in array {k}; {values}")
    assert position == len(output), "replay.cpp has written more or less than it was to"
    return found


def as_integers(tensor: Tensor) -> Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def as_it_lies(tensor: Tensor) -> Tensor:
    """A copy with the strides of the original."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)
