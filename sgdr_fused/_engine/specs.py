"""What a plan has to know of each parameter; states that are missing are made here, and put in place by the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _checks
from .._native import backends
from .tracked import ParamState
from .validation import ParamSpec, average_dtype, check_grad, check_param, check_state, kept_beside

if TYPE_CHECKING:
    from ..optimizers._base import FusedOptimizer

# Dicts, and the entries that go into each when the step has been taken.
Pending = list[tuple[dict[Any, Any], dict[Any, Any]]]


class SpecBuilder:
    """Makes the specs of an optimizer's parameters, with nothing changed.

    Attributes:
        pending: the entries of the state that are missing.
        fresh_counts: the counts of updates behind them, 0, where the state has no ``step``.
    """

    def __init__(self, optimizer: FusedOptimizer, params: list[Tensor]) -> None:
        self.pending: Pending = []
        self.fresh_counts: list[Tensor] = []
        self._new_states: dict[Tensor, ParamState] = {}
        self._optimizer = optimizer
        self._sizes = Counter(param.device for param in params)
        self._free_counts: dict[torch.device, Iterator[Tensor]] = {}

    def spec(self, param: Tensor, group: int, number: int, name: str) -> ParamSpec:
        """The spec of a parameter: that of a group, the optimizer's with this number, `name` in errors."""
        optimizer = self._optimizer
        values = optimizer._param_groups[group]
        names = optimizer._state_names(values)
        check_param(param, name, optimizer._options)
        grad = param.grad
        if grad is not None:
            check_grad(param, grad, name)
            check_memory(grad, f"the gradient of {name}")
            check_memory(param, name)
        elif memory_fault(param):  # it may have none while it takes no part, as in some forms of sharding
            return ParamSpec(param, group, False, None, [], None, None, None, None, number)
        beside = kept_beside(param, optimizer._options)
        wanted = (*names, *beside)
        if not wanted:
            return ParamSpec(param, group, True, grad, [], None, None, None, None, number)
        old = dict.get(optimizer._state, param)
        held = {} if old is None else dict(old)  # once, for a signal handler may change it
        present = [key for key in wanted if held.get(key) is not None]
        if grad is None and not present:
            return ParamSpec(param, group, False, None, [], None, None, None, None, number)
        if set(present) & set(names) and not set(names) <= set(present):
            raise ValueError(f"state of {name} has {present} but lacks {sorted(set(names) - set(present))}")

        new: dict[str, Any] = {}
        for key in wanted:
            if key not in present:
                new[key] = first_value(optimizer, values, param, key)
        entries = {**held, **new}
        for key in wanted:
            check_state(param, key, entries[key], name)
            check_memory(entries[key], f"state[{key!r}] of {name}")
        states = [entries[key] for key in names]
        if len({s.dtype for s in states}) > 1:
            raise TypeError(f"state of {name} must have one dtype, got {[str(s.dtype) for s in states]}")

        steps = product = None
        if names:
            stepped = names[0] in present
            steps = self._steps(param, old, entries, new, stepped, name)
            product = self._product(param, entries, new, stepped, name)
        self._keep(param, old, entries, new, steps)
        average, remainder = (entries[key] if key in beside else None for key in ("average", "remainder"))
        return ParamSpec(param, group, True, grad, states, average, remainder, steps, product, number)

    def finish(self) -> Pending:
        """All that is pending."""
        if self._new_states:
            state = self._optimizer._state
            if state._alias is not None:
                self.pending.append((state._alias, {**self._new_states}))
            self.pending.append((state, {**self._new_states}))
        return self.pending

    def _keep(
        self, param: Tensor, old: ParamState | None, entries: dict[str, Any], new: dict[str, Any], steps: Tensor | None
    ) -> None:
        state = old
        if state is None:
            state = self._new_states[param] = ParamState(entries)
            for changes in self._optimizer._state._changes:
                state.tell(changes)
        elif new:
            if state._alias is not None:
                self.pending.append((state._alias, new))
            self.pending.append((state, new))
        state.count_for(entries.get("momentum_buffer"), steps)

    def _steps(
        self,
        param: Tensor,
        old: ParamState | None,
        entries: dict[str, Any],
        new: dict[str, Any],
        stepped: bool,
        name: str,
    ) -> Tensor:
        """The count of the parameter's updates, which is an entry of its state where the algorithm has one."""
        has_step = self._optimizer._has_step
        steps: Any = entries.get("step") if has_step else getattr(old, "steps", None)
        if steps is None:
            if has_step and stepped:
                raise ValueError(f"state of {name} has {sorted(entries)} but lacks 'step'")
            steps = 1 if stepped else 0  # a buffer that came from elsewhere has its first step behind it
        if not _is_number_on(param.device, steps):
            count = _checks.count(f"state['step'] of {name}", steps)
            if has_step:
                steps = torch.tensor(count, dtype=torch.float64, device=param.device)
                new["step"] = entries["step"] = steps
            else:
                steps = self._counted(count, param.device)
                if not stepped:
                    self.fresh_counts.append(steps)
        return steps

    def _product(
        self, param: Tensor, entries: dict[str, Any], new: dict[str, Any], stepped: bool, name: str
    ) -> Tensor | None:
        """The product of the factors of the parameter's updates, an entry of its state, where the algorithm has one."""
        key = self._optimizer._product
        if key is None:
            return None
        product: Any = entries.get(key)
        if stepped and product is None:
            raise ValueError(f"state of {name} has {sorted(entries)} but lacks {key!r}")
        if not _is_number_on(param.device, product):
            number = 1.0 if product is None else _checks.fraction(f"state[{key!r}] of {name}", product)
            product = torch.tensor(number, dtype=torch.float64, device=param.device)
            new[key] = entries[key] = product
        return product

    def _counted(self, value: int, device: torch.device) -> Tensor:
        """A count of updates that no user sees. They lie side by side in memory, since a step reads them all."""
        if device not in self._free_counts:
            zeros = torch.zeros(self._sizes[device], dtype=torch.float64, device=device)
            self._free_counts[device] = iter(zeros.unbind())
        count = next(self._free_counts[device])
        if value:
            count.fill_(value)
        return count


def first_value(optimizer: FusedOptimizer, group: dict[str, Any], param: Tensor, key: str) -> Tensor:
    """What is in a state before the parameter's first step."""
    if key == "average":  # up to now the parameter was what it is, whatever was averaged of others
        return param.detach().to(average_dtype(param), copy=True)
    if key == "remainder":
        return torch.zeros_like(param, dtype=torch.int16, memory_format=torch.preserve_format)
    value, dtype = optimizer._initial_value(group, key), optimizer._options["state_dtype"]
    return torch.full_like(param, value, dtype=dtype, memory_format=torch.preserve_format)


def memory_fault(tensor: Tensor) -> str:
    """Why a tensor's elements cannot be reached; empty where they can."""
    extension: Any = backends.load()
    if extension is not None:
        return extension.memory_fault(tensor)
    if tensor.layout != torch.strided or tensor.numel() == 0 or tensor.is_meta:
        return ""  # torch, which computes the reference's steps, says itself what is wrong
    extent = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    needed = (tensor.storage_offset() + extent + 1) * tensor.element_size()
    present = tensor.untyped_storage().nbytes()
    return f"its storage has {present} bytes, where it takes {needed}" if present < needed else ""


def check_memory(tensor: Tensor, described: str) -> None:
    if fault := memory_fault(tensor):
        raise RuntimeError(f"{described} (shape {tuple(tensor.shape)}) cannot be reached: {fault}")


def _is_number_on(device: torch.device, value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dtype, value.device, value.dim()) == (torch.float64, device, 0)
