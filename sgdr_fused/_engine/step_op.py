"""The step as an operator of torch, ``torch.ops.sgdr_fused.step``, for graphs that torch traces.

A step is a call into C++ that torch's dispatcher does not see, because that costs the least. While make_fx or
torch.export traces a graph, the step goes through the dispatcher. The graph then holds it, and takes it whenever the
graph runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

from .. import _torch_versions
from .compiling import untraced
from .session import Session
from .sharded import local_part, with_part

_SCHEMA = "step(Tensor(a!)[] params, Tensor?[] grads, int optimizer) -> ()"
_number_of_modes = torch._C._len_torch_dispatch_stack


def is_traced() -> bool:
    """Whether operators are written into a graph. They are not, where the function of one of them runs."""
    return bool(_number_of_modes()) and _torch_versions.proxy_mode() is not None


@untraced()
class StepOp:
    """The operator, which knows an optimizer by a number, since a graph holds numbers and tensors alone.

    Args:
        take: takes a step with the gradients that the parameters have.
    """

    def __init__(self, take: Callable[[Session, Any], Any]) -> None:
        self._take = take
        self._numbers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._optimizers: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._sessions: WeakValueDictionary[int, Session] = WeakValueDictionary()
        self._next_number = itertools.count()
        self._library = torch.library.Library("sgdr_fused", "FRAGMENT")
        self._library.define(_SCHEMA)
        self._library.impl("step", self._kernel, "CompositeExplicitAutograd")
        self._library.impl("step", _nothing, "Meta")

    def __call__(self, session: Session, owner: Any) -> None:
        """Takes a step of this optimizer by way of the dispatcher."""
        number = self._numbers.get(owner)
        if number is None:
            number = self._numbers[owner] = next(self._next_number)
            self._optimizers[number], self._sessions[number] = owner, session
        params = _params(session)
        grads = [None if param.grad is None else local_part(param.grad) for param in params]
        with torch.no_grad():
            torch.ops.sgdr_fused.step([local_part(param) for param in params], grads, number)

    def _kernel(self, params: list[Tensor], grads: list[Tensor | None], number: int) -> None:
        owner, session = self._optimizers.get(number), self._sessions.get(number)
        if owner is None or session is None:
            raise RuntimeError(f"sgdr_fused::step: optimizer {number}, whose step was traced, does not exist any more")
        own = _params(session)
        if [local_part(param).data_ptr() for param in own] != [param.data_ptr() for param in params]:
            raise RuntimeError(
                f"sgdr_fused::step: the {len(params)} params must be the {len(own)} of the optimizer that was traced"
            )
        kept = [param.grad for param in own]
        _set_grads(own, [_grad_of(param, grad) for param, grad in zip(own, grads, strict=True)])
        try:
            self._take(session, owner)
        finally:
            _set_grads(own, kept)


def _nothing(params: list[Tensor], grads: list[Tensor | None], number: int) -> None:
    """The step of tensors without values, as torch.export traces with: their shapes stay as they are."""


def _params(session: Session) -> list[Any]:
    return [param for group in session.groups for param in group["params"]]


def _grad_of(param: Any, part: Tensor | None) -> Tensor | None:
    """The gradient of which this is the part that is here; the parameter's own one, if that is it."""
    if part is None:
        return None
    if param.grad is not None and local_part(param.grad) is part:
        return param.grad
    return with_part(param, part)


def _set_grads(params: list[Any], grads: list[Tensor | None]) -> None:
    for param, grad in zip(params, grads, strict=True):
        if param.grad is not grad:
            param.grad = grad
