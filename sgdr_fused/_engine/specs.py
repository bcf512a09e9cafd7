"""Makes the specs of parameters, and the states that are missing, which the step puts in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._native import backends
from . import param_state
from .param_state import BESIDE, NUMBERS, Number, ParamSpec, memory_of
from .plan import Pending
from .reduction import Reduction
from .session import Session
from .tracked import ParamState
from .update_counts import count_for, count_of
from .validation import check_grad, check_param, check_state


class SpecBuilder:
    """Makes the specs of an optimizer's parameters, with nothing changed.

    Attributes:
        pending: the entries of the state that are missing.
        fresh_counts: the counts of updates behind them, 0, where the state has no ``step``.
    """

    def __init__(self, session: Session, params: list[Tensor], reduction: Reduction) -> None:
        self.pending: Pending = []
        self.fresh_counts: list[Tensor] = []
        self._new_states: dict[Tensor, ParamState] = {}
        self._session, self._reduction = session, reduction
        self._sizes = Counter(param.device for param in params)
        self._free_counts: dict[torch.device, Iterator[Tensor]] = {}

    def spec(self, param: Tensor, group: int, index: int, name: str) -> ParamSpec:
        """The spec of a parameter: that of a group, the optimizer's with this index, `name` in errors."""
        algorithm, options = self._session.algorithm, self._session.options
        values = self._session.groups[group]
        names = algorithm.state_names(values)
        check_param(param, name, options)
        grad = param.grad
        result = ParamSpec(param, memory_of(param), group, index, grad=None if grad is None else memory_of(grad))
        number, is_ours = self._reduction.place(param)
        result.norm_sum = number if is_ours else -1
        if grad is not None:
            check_grad(param, grad, name)
            check_memory(memory_of(grad), f"the gradient of {name}")
            check_memory(memory_of(param), name)
        elif memory_fault(memory_of(param)):  # it may have none while it takes no part, as in some forms of sharding
            result.active = False
            return result
        wanted = (*names, *param_state.beside_names(param, options))
        if not wanted:
            return result
        old = dict.get(self._session.state, param)
        held = {} if old is None else dict(old)  # once, for a signal handler may change it
        present = [key for key in wanted if held.get(key) is not None]
        if grad is None and not present:
            result.active = False
            return result
        if set(present) & set(names) and not set(names) <= set(present):
            raise ValueError(f"state of {name} has {present} but lacks {sorted(set(names) - set(present))}")

        new: dict[str, Any] = {}
        for key in wanted:
            if key not in present:
                new[key] = param_state.new_state(algorithm, options, values, param, key)
        entries = {**held, **new}
        for key in wanted:
            check_state(param, key, entries[key], name)
            check_memory(memory_of(entries[key]), f"state[{key!r}] of {name}")
        result.states = [memory_of(entries[key]) for key in names]
        if len({s.dtype for s in result.states}) > 1:
            raise TypeError(f"state of {name} must have one dtype, got {[str(s.dtype) for s in result.states]}")
        for key in wanted:
            if key in BESIDE:
                setattr(result, key, memory_of(entries[key]))
        if names:
            counted = None if names[0] in new else count_of(entries[names[0]])
            self._count(result, counted, entries, new, names[0] in present, name)
            if result.steps is not None and not algorithm.has_step:
                count_for(entries[names[0]], result.steps)
        self._keep(param, old, entries, new)
        return result

    def finish(self) -> Pending:
        """The entries of the state that are to be stored when the step has been taken."""
        if self._new_states:
            state = self._session.state
            if state.alias is not None:
                self.pending.append((state.alias, {**self._new_states}))
            self.pending.append((state, {**self._new_states}))
        return self.pending

    def _keep(self, param: Tensor, old: ParamState | None, entries: dict[str, Any], new: dict[str, Any]) -> None:
        if old is None:
            state = self._new_states[param] = ParamState(entries)
            for changes in self._session.state.told:
                state.tell(changes)
        elif new:
            if old.alias is not None:
                self.pending.append((old.alias, new))
            self.pending.append((old, new))

    def _count(
        self,
        spec: ParamSpec,
        counted: Tensor | None,
        entries: dict[str, Any],
        new: dict[str, Any],
        stepped: bool,
        name: str,
    ) -> None:
        """The numbers of the parameter's updates: entries of its state, or kept beside it."""
        algorithm = self._session.algorithm
        for field, number in NUMBERS.items():
            key = number.key(algorithm)
            if key is None:
                continue
            in_state = number.in_state(algorithm)
            value: Any = entries.get(key) if in_state else counted
            if value is None and in_state and stepped:
                raise ValueError(f"state of {name} has {sorted(entries)} but lacks {key!r}")
            if not _is_number_on(spec.param.device, value):
                value = self._number(number, key, value, spec.param, in_state, stepped, name)
                if in_state:
                    new[key] = entries[key] = value
            setattr(spec, field, value)

    def _number(
        self, number: Number, key: str, value: Any, param: Tensor, in_state: bool, stepped: bool, name: str
    ) -> Tensor:
        if value is None:  # a buffer that came from elsewhere has its first step behind it
            value = 1 if stepped else number.first
        checked = number.checked(f"state[{key!r}] of {name}", value)
        if in_state:
            return param_state.new_number(checked, param)
        count = self._counted(checked, param.device)
        if not stepped:
            self.fresh_counts.append(count)
        return count

    def _counted(self, value: float, device: torch.device) -> Tensor:
        """A count of updates that no user sees. They lie side by side in memory, since a step reads them all."""
        if device not in self._free_counts:
            zeros = torch.zeros(self._sizes[device], dtype=torch.float64, device=device)
            self._free_counts[device] = iter(zeros.unbind())
        count = next(self._free_counts[device])
        if value:
            count.fill_(value)
        return count


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
