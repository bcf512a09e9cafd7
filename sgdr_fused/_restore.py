"""Undoes a trial: what was done to a model, its optimizer, the loaders and the random numbers inside a block."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ._optimizer import FusedOptimizer
from ._displays import display_of
from ._hypers import first
from ._tracked import ParamState


@contextlib.contextmanager
def restored(model: nn.Module, optimizer: FusedOptimizer, loaders: Iterable[Any]) -> Iterator[None]:
    """Whatever ends the block, everything is as it was before, bit for bit, in the same tensors and objects.

    That is: parameters and buffers, their gradients, ``requires_grad`` and modules' modes; the optimizer's groups,
    state and clock; the random numbers of torch (CPU and the devices in use), Python and NumPy, and the
    generators and states of the loaders' samplers. The block starts without gradients.
    """
    tensors = _tensors(model, optimizer)
    with (
        _random_numbers({tensor.device for tensor in tensors}),
        _samplers(loaders),
        _modules(model),
        _optimizer(optimizer),
        _values([*tensors, *optimizer._measured.on(optimizer._first_device())]),
        _gradients([tensor for tensor in tensors if tensor.is_leaf or tensor.retains_grad]),
    ):
        yield


def _tensors(model: nn.Module, optimizer: FusedOptimizer) -> list[Tensor]:
    """Parameters, buffers, gradients, states and counts of updates, each once however often it is shared."""
    params = [*model.parameters(), *(param for group in optimizer.param_groups for param in group["params"])]
    tensors = [*params, *model.buffers(), *(param.grad for param in params if param.grad is not None)]
    for state in optimizer.state.values():
        if isinstance(state, ParamState):
            tensors += [value for value in (*state.values(), state.steps) if isinstance(value, Tensor)]
    return list({id(tensor): tensor for tensor in tensors}.values())


@contextlib.contextmanager
def _values(tensors: list[Tensor]) -> Iterator[None]:
    with torch.no_grad():
        saved = [(view, view.clone()) for view in map(_written_once, tensors)]
    try:
        yield
    finally:
        with torch.no_grad():
            for view, value in saved:
                view.copy_(value)


def _written_once(tensor: Tensor) -> Tensor:
    """A view without the repeats of an expanded tensor, which torch refuses to write to."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        return tensor
    repeats = [stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)]
    return tensor[tuple(slice(1) if repeat else slice(None) for repeat in repeats)] if any(repeats) else tensor


@contextlib.contextmanager
def _gradients(tensors: list[Tensor]) -> Iterator[None]:
    saved = [(tensor, tensor.grad, tensor.requires_grad) for tensor in tensors]
    try:
        for tensor, _, _ in saved:
            tensor.grad = None
        yield
    finally:
        for tensor, grad, requires_grad in saved:
            tensor.grad = grad
            tensor.requires_grad_(requires_grad)


@contextlib.contextmanager
def _modules(model: nn.Module) -> Iterator[None]:
    """Which tensors the modules have, for a forward pass may put others in their places; and the modes."""
    saved = [(module, module.training, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, training, parameters, buffers in saved:
            module.training = training
            _refill(module._parameters, parameters)
            _refill(module._buffers, buffers)


@contextlib.contextmanager
def _optimizer(optimizer: FusedOptimizer) -> Iterator[None]:
    """All but the values of tensors. Past the mappings' own assignment, which would make new tensors."""
    steps, n_averaged = int(optimizer.clock), int(optimizer.n_averaged)
    param_groups, state = optimizer._param_groups, optimizer._state
    listed = list(param_groups)
    groups = [(group, dict(group)) for group in listed]
    values = [first(value) for group in listed for value in group.values()]
    shown = [(value, value.clone()) for value in values if display_of(value) is not None]
    states = dict(state)
    entries = [
        (each, dict(each), each.steps if isinstance(each, ParamState) else None)
        for each in states.values()
        if isinstance(each, dict)
    ]
    # A scaler sets these for the time of a step, and an interrupt in between would leave them behind.
    scaling = {name: getattr(optimizer, name) for name in ("grad_scale", "found_inf") if hasattr(optimizer, name)}
    try:
        yield
    finally:
        optimizer.clock.fill_(steps)
        optimizer.n_averaged.fill_(n_averaged)
        optimizer._param_groups, optimizer._state = param_groups, state
        param_groups[:] = listed
        for group, entries_of_group in groups:
            _refill(group, entries_of_group)
        _refill(state, states)
        for each, values, counted in entries:
            _refill(each, values)
            if isinstance(each, ParamState):
                each.steps = counted
        for name in ("grad_scale", "found_inf"):
            optimizer.__dict__.pop(name, None)
        optimizer.__dict__.update(scaling)
        optimizer._changes.note()
        for display, value in shown:
            display.data.copy_(value)


def _refill(mapping: dict[Any, Any], values: dict[Any, Any]) -> None:
    dict.clear(mapping)
    dict.update(mapping, values)
    alias = getattr(mapping, "_alias", None)
    if alias is not None:
        _refill(alias, values)


@contextlib.contextmanager
def _random_numbers(devices: Iterable[torch.device]) -> Iterator[None]:
    numpy = sys.modules.get("numpy")  # nobody drew from it if nobody has imported it
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    gpus = sorted({device.index for device in devices if device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)


@contextlib.contextmanager
def _samplers(loaders: Iterable[Any]) -> Iterator[None]:
    generators: list[tuple[torch.Generator, Tensor]] = []
    stateful: list[tuple[Any, Any]] = []
    for loader in loaders:
        batch_sampler = getattr(loader, "batch_sampler", None)
        samplers: list[Any] = [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
        for each in (loader, *samplers):
            generator = getattr(each, "generator", None)
            if isinstance(generator, torch.Generator):
                generators.append((generator, generator.get_state()))
            if each is not loader and hasattr(each, "state_dict") and hasattr(each, "load_state_dict"):
                stateful.append((each, each.state_dict()))
    try:
        yield
    finally:
        for generator, state in generators:
            generator.set_state(state)
        for each, state in stateful:
            each.load_state_dict(state)
