"""The optimizer's clock: a tensor that tells when it is written to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._compile import untraced


@untraced()
class Clock(Tensor):
    """A 0-dim int64 tensor: the optimizer steps taken.

    The displayed rates must follow ``clock.fill_(n)`` at once, and the copies on other devices too. So
    every operation on the clock passes here, and one that wrote to it calls ``written``. The results of
    operations are plain tensors.
    """

    _version_seen: int
    _written: weakref.WeakMethod[Callable[[], None]]

    @staticmethod
    def make(steps: int, device: torch.device, written: Callable[[], None]) -> Clock:
        with torch.inference_mode(False):
            clock = torch.tensor(steps, dtype=torch.int64, device=device).as_subclass(Clock)
        with torch._C.DisableTorchFunctionSubclass():
            clock._version_seen = clock._version
            clock._written = weakref.WeakMethod(written)
        return clock

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            for clock in (*args, *kwargs.values()):
                if isinstance(clock, Clock) and clock._version != clock._version_seen:
                    clock._version_seen = clock._version
                    written = clock._written()
                    if written is not None:
                        written()
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By itself it is just a number of steps; an optimizer brings its own clock.
        return self.as_subclass(Tensor).detach().clone().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.as_subclass(Tensor).detach().clone()
