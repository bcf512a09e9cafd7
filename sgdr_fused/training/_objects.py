"""Finds the user's objects that a trial may change, through loaders and functions, and saves their attributes."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from .._messages import shown

Undo = Callable[[], Any]

# The attributes in which a loader, a sampler or a dataset keeps what it is made of.
_MADE_OF = frozenset(["loader", "dataloader", "base_dataloader", "dataset", "datasets", "data_source"])
_MADE_OF |= {"sampler", "samplers", "batch_sampler", "transform", "transforms", "target_transform", "collate_fn"}
_DEPTH = 3  # how deep lists and dicts may lie in one another, to be saved


def data_objects(loaders: Iterable[Any]) -> list[Any]:
    """The loaders and what they are made of: samplers, datasets and their transforms."""
    found: dict[int, Any] = {}
    waiting = list(loaders)
    while waiting:
        each = waiting.pop()
        if isinstance(each, (list, tuple)):
            waiting += [item for item in each if isinstance(item, (DataLoader, Dataset, Sampler))]
        elif inspect.ismethod(each) or isinstance(each, functools.partial):
            waiting += [each.__self__] if inspect.ismethod(each) else [each.func, *each.args]
        elif id(each) not in found and _has_attributes(each):
            found[id(each)] = each
            waiting += [
                value
                for name, value in vars(each).items()
                if name in _MADE_OF or isinstance(value, (DataLoader, Dataset, Sampler))
            ]
    return list(found.values())


def owners(functions: Iterable[Any], but: set[int]) -> tuple[list[Any], list[nn.Module]]:
    """The objects whose methods the functions are, or that are called themselves, and the modules that they hold."""
    found: dict[int, Any] = {}
    modules: dict[int, nn.Module] = {}
    waiting = list(functions)
    while waiting:
        each = waiting.pop()
        if id(each) in but or id(each) in found or id(each) in modules:
            continue
        if isinstance(each, nn.Module):
            modules[id(each)] = each
        elif inspect.ismethod(each):
            waiting.append(each.__self__)
        elif isinstance(each, functools.partial):
            waiting += [each.func, *each.args, *each.keywords.values()]
        elif inspect.isfunction(each):
            waiting += [value for value in _closed_over(each) if isinstance(value, nn.Module)]
        elif _has_attributes(each) and not type(each).__module__.startswith("torch."):
            found[id(each)] = each
            waiting += [value for value in vars(each).values() if isinstance(value, nn.Module)]
    return list(found.values()), list(modules.values())


def _closed_over(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a cell may still be empty
            yield cell.cell_contents


def _has_attributes(each: Any) -> bool:
    simple = isinstance(each, (type, Tensor)) or inspect.ismodule(each) or inspect.isroutine(each)
    return not simple and isinstance(getattr(each, "__dict__", None), dict)


def attributes(objects: Iterable[Any], seen: set[int], lost: list[str], *, tensors: bool) -> list[Undo]:
    """Saves the attributes of the objects, and returns the calls that put them back.

    They put back which values the attributes are, what lists, dicts and sets among them hold, and the states of random
    generators; for samplers and datasets with ``state_dict`` also that state.

    Args:
        seen: the ids of what is saved already; this adds the ids of what it saves.
        lost: gets a phrase for what cannot be put back.
        tensors: whether tensors and arrays among the attributes are copied too. The arrays of datasets may be large.
    """
    undos: list[Undo] = []
    for each in objects:
        if id(each) in seen:
            continue
        seen.add(id(each))
        stateful = callable(getattr(each, "state_dict", None)) and callable(getattr(each, "load_state_dict", None))
        if stateful and not tensors and not isinstance(each, DataLoader):
            undos.append(functools.partial(each.load_state_dict, copy.deepcopy(each.state_dict())))
        elif isinstance(each, IterableDataset):
            lost.append(f"what {shown(each)} has read, unless each pass over it starts anew")
        own = vars(each)
        undos.append(functools.partial(refill, own, dict(own)))
        for name, value in own.items():
            if is_iterator(value) and not (isinstance(each, DataLoader) and name == "_iterator"):
                lost.append(f"what is taken from the iterator {name!r} of {shown(each)}")
            else:
                _save(value, undos, seen, _DEPTH if tensors else 0, tensors)
    return undos


def is_iterator(each: Any) -> bool:
    """Whether it yields its items only once."""
    return isinstance(each, Iterator) and not callable(getattr(each, "load_state_dict", None))


def _save(value: Any, undos: list[Undo], seen: set[int], depth: int, tensors: bool) -> None:
    """Adds the calls that put back the contents of one value."""
    numpy: Any = sys.modules.get("numpy")
    if id(value) in seen:
        return
    if isinstance(value, torch.Generator):
        undos.append(functools.partial(value.set_state, value.get_state()))
    elif isinstance(value, random.Random):
        undos.append(functools.partial(value.setstate, value.getstate()))
    elif numpy and isinstance(value, numpy.random.Generator):
        undos.append(functools.partial(setattr, value.bit_generator, "state", copy.deepcopy(value.bit_generator.state)))
    elif numpy and isinstance(value, numpy.random.RandomState):
        undos.append(functools.partial(value.set_state, value.get_state()))
    elif tensors and isinstance(value, Tensor):
        view = without_repeats(value)
        undos.append(functools.partial(_copy, view, view.clone()))
    elif tensors and numpy and isinstance(value, numpy.ndarray) and value.flags.writeable:
        undos.append(functools.partial(numpy.copyto, value, value.copy()))
    elif isinstance(value, (list, dict, set, deque)):
        undos.append(functools.partial(refill, value, dict(value) if isinstance(value, dict) else list(value)))
        seen.add(id(value))
        if depth:
            for item in value.values() if isinstance(value, dict) else value:
                _save(item, undos, seen, depth - 1, tensors)
        return
    else:
        return
    seen.add(id(value))


@torch.no_grad()
def _copy(tensor: Tensor, value: Tensor) -> None:
    tensor.copy_(value)


def without_repeats(tensor: Tensor) -> Tensor:
    """A view without the repeats of an expanded tensor: torch refuses to write to repeats."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        return tensor
    repeats = [stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)]
    return tensor[tuple(slice(1) if repeat else slice(None) for repeat in repeats)] if any(repeats) else tensor


def _ids(kind: Any, mapping: Any) -> list[list[int]]:
    return [[*map(id, kind.keys(mapping))], [*map(id, kind.values(mapping))]]


def refill(container: Any, values: Any) -> None:
    """Makes a list, dict, set or deque hold what it held. A dict is written past the methods of its class."""
    if isinstance(container, dict):
        kind = OrderedDict if isinstance(container, OrderedDict) else dict
        if _ids(kind, container) == _ids(dict, values):
            return
        kind.update(container, values)  # first, so that at no moment an entry is missing
        for key in [key for key in kind.keys(container) if key not in values]:
            kind.__delitem__(container, key)
        if _ids(kind, container) != _ids(dict, values):
            kind.clear(container)
            kind.update(container, values)
    elif isinstance(container, list):
        container[:] = values
    else:
        container.clear()
        container.update(values) if isinstance(container, set) else container.extend(values)
