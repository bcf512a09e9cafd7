"""A compiler that counts what it compiles, for tests of torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from networks import model
from torch import Tensor


def fresh_compiler() -> Iterator[None]:
    """A fixture: the compiler has seen nothing before the test, and keeps nothing of it."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


class Compiled:
    """A function compiled with a backend that counts graphs."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.graphs = 0
        self._function = torch.compile(function, backend=self._backend, **options)

    def _backend(self, module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return module.forward

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


# Up to torch 2.6, the compiler also looks at functions of Python and torch that a step calls; at each of them once.
LOOKS_INTO_CALLS = not hasattr(torch._C._dynamo.eval_frame, "_FrameAction")


def attempts() -> int:
    """How many frames the compiler has looked at so far."""
    return torch._dynamo.utils.counters["frames"]["total"]


def pair(make: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Two equal models, each with its optimizer."""
    first = model()
    second = copy.deepcopy(first)
    return (first, make(first.parameters())), (second, make(second.parameters()))
