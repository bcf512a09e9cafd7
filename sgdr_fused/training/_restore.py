"""Undoes what a trial did to a model, its optimizer, the loaders, the callbacks and the random numbers."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer
from torch.utils.data import DataLoader

from .._engine.update_counts import count_of
from .._messages import shown
from ..optimizers._base import FusedOptimizer
from ._objects import attributes, data_objects, is_iterator, owners, refill, without_repeats

Undo = Callable[[], Any]

# Modules of these packages are torch's own machinery, part of which is in C++: their attributes need no restoring.
_WRAPPERS = ("torch.nn.parallel", "torch.distributed", "torch._dynamo", "torch.jit", "torch.fx")


class Saved:
    """All that a trial may change, as it was when this object was made. Making it changes nothing.

    It saves parameters and buffers, their gradients, ``requires_grad``, attributes and modes of modules; the
    optimizer's groups, state and clock; attributes and random generators of the loaders, their samplers and datasets,
    of the criterion and of the objects whose methods are hooks; the random numbers of torch, Python and NumPy.
    Everything comes back bit for bit, in the same tensors and objects.

    Args:
        functions: what the trial calls: its loss, and the like.

    Attributes:
        lost: phrases for what cannot be restored.
    """

    def __init__(
        self, model: nn.Module, optimizer: FusedOptimizer, loaders: Iterable[Any], functions: Iterable[Any]
    ) -> None:
        loaders = [loader for loader in loaders if loader is not None]
        data = data_objects(loaders)
        transforms = [each for each in data if isinstance(each, nn.Module)]
        called, extra = owners([*functions, *_hooks(model, optimizer)], but={id(model), id(optimizer)})
        roots = (model, *extra, *transforms)
        modules = list({id(module): module for root in roots for module in root.modules()}.values())
        self._tensors = _tensors(modules, optimizer)
        self._loaders = [each for each in data if isinstance(each, DataLoader)]
        self._done = False
        self.lost = [f"the batches taken from the iterator {shown(each)}" for each in loaders if is_iterator(each)]
        seen = {id(tensor) for tensor in self._tensors}
        self._undos: list[Undo] = [
            *attributes([each for each in data if each not in transforms], seen, self.lost, tensors=False),
            *attributes(called, seen, self.lost, tensors=True),
            *_modules(modules, seen, self.lost),
            _optimizer(optimizer),
            _values([*self._tensors, *_measured(optimizer)]),
            _gradients(self._tensors),
            _random_numbers({tensor.device for tensor in self._tensors}),
            # An interrupt on the way out of a no_grad leaves that mode on.
            functools.partial(torch.set_grad_enabled, torch.is_grad_enabled()),
            torch.clear_autocast_cache,  # it may hold copies of the trial's weights
        ]

    def begin(self) -> None:
        """Prepares the trial, which starts without gradients and without the workers of the training."""
        for tensor in self._tensors:
            if tensor.is_leaf or tensor.retains_grad:
                tensor.grad = None
        for loader in self._loaders:
            loader.__dict__["_iterator"] = None

    def restore(self) -> None:
        """Puts everything back; a second call does nothing.

        An error or interrupt is raised after all parts have been tried, and the next call tries all of them again. So
        two calls, one in the ``finally`` of the other, survive an interrupt anywhere.
        """
        if self._done:
            return
        errors = []
        for undo in self._undos:
            try:
                undo()
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]
        self._done = True


def _hooks(model: nn.Module, optimizer: FusedOptimizer) -> list[Any]:
    """The hooks that others have registered and that each step calls."""
    tables: list[Any] = [
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
    ]
    for module in model.modules():
        tables += [module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks]
    return [hook for table in tables for hook in table.values()]


def _tensors(modules: list[nn.Module], optimizer: FusedOptimizer) -> list[Tensor]:
    """Parameters, buffers, gradients, states and counts of updates, each once even where it is shared."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    buffers: list[Tensor] = []
    for module in modules:
        params += module.parameters(recurse=False)
        buffers += module.buffers(recurse=False)
    tensors = [*params, *buffers, *(param.grad for param in params if param.grad is not None)]
    for state in optimizer.state.values():
        if isinstance(state, dict):
            entries = [value for value in state.values() if isinstance(value, Tensor)]
            tensors += entries + [count for value in entries if (count := count_of(value)) is not None]
    return list({id(tensor): tensor for tensor in tensors}.values())


def _measured(optimizer: FusedOptimizer) -> list[Tensor]:
    measured = [getattr(optimizer, name, None) for name in ("grad_norm", "skipped_steps")]
    return [tensor for tensor in measured if tensor is not None]


def _values(tensors: list[Tensor]) -> Undo:
    with torch.no_grad():
        saved = [(tensor, tensor.data, without_repeats(tensor)) for tensor in tensors]
        values = [view.clone() for _, _, view in saved]

    def undo() -> None:
        with torch.no_grad():
            for (tensor, data, view), value in zip(saved, values, strict=True):
                if type(tensor) in (Tensor, nn.Parameter) and tensor.data_ptr() != data.data_ptr():
                    tensor.data = data
                view.copy_(value)

    return undo


def _gradients(tensors: list[Tensor]) -> Undo:
    leaves = [tensor for tensor in tensors if tensor.is_leaf or tensor.retains_grad]
    saved = [(tensor, tensor.grad, tensor.requires_grad) for tensor in leaves]

    def undo() -> None:
        for tensor, grad, requires_grad in saved:
            tensor.grad = grad
            tensor.requires_grad_(requires_grad)

    return undo


def _modules(modules: list[nn.Module], seen: set[int], lost: list[str]) -> list[Undo]:
    """Saves the attributes of modules, their modes, and which tensors and modules they have under which name."""
    wrappers = [module for module in modules if type(module).__module__.startswith(_WRAPPERS)]
    modes = [(module, module.training) for module in wrappers]

    def undo() -> None:
        for module, training in modes:
            module.training = training

    return [*attributes([each for each in modules if each not in wrappers], seen, lost, tensors=True), undo]


def _optimizer(optimizer: FusedOptimizer) -> Undo:
    """Saves all of the optimizer but the values of its states.

    It puts entries back past the assignment of the mappings, because that would make new tensors.
    """
    steps, n_averaged = int(optimizer.clock), int(optimizer.n_averaged)
    param_groups, state = optimizer.param_groups, optimizer.state
    listed = list(param_groups)
    mappings = [*listed, state, *(each for each in state.values() if isinstance(each, dict))]
    # Our mappings have attributes beside their entries, and one may be a dict.
    mappings += [value for each in mappings for value in _carried(each).values() if isinstance(value, dict)]
    saved = [(each, dict(each), dict(_carried(each))) for each in mappings]
    entries = [value for group in listed for entry in group.values() for value in _parts(entry)]
    shown = [(value, value.detach().clone()) for value in entries if isinstance(value, Tensor)]
    # Those of the user, of torch's schedulers, and what a scaler sets for the time of a step.
    fields = {"_opt_called"}
    own = {name: value for name, value in vars(optimizer).items() if name[0] != "_" or name in fields}
    session = optimizer._session
    defaults, scheduler = session.defaults, session.scheduler

    def undo() -> None:
        session.changes.note()  # before the writes, so that no step can miss them; and after them
        now = vars(optimizer)
        now.update(own)
        for name in [name for name in now if (name[0] != "_" or name in fields) and name not in own]:
            del now[name]
        session.groups, session.state, session.defaults = param_groups, state, defaults
        session.scheduler = scheduler
        param_groups[:] = listed
        for mapping, values, carried in saved:
            refill(mapping, values)
            if carried:
                _carried(mapping).update(carried)
        optimizer.clock.fill_(steps)
        optimizer.n_averaged.fill_(n_averaged)
        session.changes.note()
        for tensor, value in shown:
            tensor.data.copy_(value)  # no write in place, which a step would refuse

    return undo


def _carried(mapping: Any) -> dict[str, Any]:
    return getattr(mapping, "__dict__", {})


def _parts(entry: Any) -> Iterable[Any]:
    return entry if isinstance(entry, tuple) else (entry,)


def _random_numbers(devices: Iterable[torch.device]) -> Undo:
    numpy = sys.modules.get("numpy")  # if nobody has imported it, nobody drew from it
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    states = [(torch.default_generator, torch.get_rng_state())]
    for device in devices:
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            generator = torch.cuda.default_generators[index]
            states.append((generator, generator.get_state()))
        elif device.type == "mps":
            states.append((torch.mps._get_default_mps_generator(), torch.mps.get_rng_state()))

    def undo() -> None:
        for generator, state in states:
            generator.set_state(state)
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)

    return undo
