"""What torch.compile does with an optimizer: it calls our functions and does not look into them.

A step is one call into C++, so there is nothing in it to compile, and guards on what it reads (numbers, hooks, plans)
would make it compile again and again. The public way to say so, ``torch.compiler.disable``, imports torch._dynamo,
which takes seconds, and wraps the function, which costs a microsecond a call. What it comes down to are two marks,
which cost nothing: one for the compiler where it is about to inline the function, and one for the interpreter, which
then runs the function, and all that it calls, as if there were no compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NoReturn, TypeVar

from .. import _torch_versions

_C = TypeVar("_C", bound=type)
COMPILER = "torch._dynamo.variables.optimizer"  # the module of the compiler that reads groups
_REASON = "a fused optimizer is not traced: its step is one call into C++"


def untraced(but: Iterable[str] = ()) -> Callable[[_C], _C]:
    """Decorates a class: what is defined in it, properties too, is a graph break, except what is named in ``but``."""

    def mark(cls: _C) -> _C:
        for name, value in vars(cls).items():
            if name in but:
                continue
            for function in (value, getattr(value, "__func__", None), getattr(value, "fget", None)):
                if isinstance(function, FunctionType):
                    mark_untraced(function)
        return cls

    return mark


def mark_untraced(function: Any) -> None:
    """Makes of a call of this function a graph break."""
    function._torchdynamo_disable = True
    function._torchdynamo_disable_msg = _REASON
    _torch_versions.skip_frames(function.__code__)


def break_graph() -> NoReturn:
    """A graph break, when the compiler itself reads ``param_groups``.

    torch's compiler takes every optimizer's groups for plain dicts and fails on ours; what comes after the break reads
    them as what they are.
    """
    _torch_versions.break_graph("param_groups of a fused optimizer", _REASON)
