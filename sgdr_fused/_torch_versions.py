"""What torch's releases do in different ways. Each part says which release ended it."""

from __future__ import annotations

import gc
import inspect
from types import CodeType, FunctionType
from typing import Any, NoReturn

import torch

_frames: Any = torch._C._dynamo.eval_frame
_skips_all_called = hasattr(_frames, "_FrameAction")  # since torch 2.7


def skip_frames(code: CodeType) -> None:
    """Has the interpreter run functions of this code, and all that they call, as if there were no compiler.

    Up to torch 2.6 the mark holds for these functions alone, not for what they call: see skip_package.
    """
    if _skips_all_called:
        skip = _frames._FrameAction.SKIP
        _frames.set_code_exec_strategy(code, _frames._FrameExecStrategy(skip, skip))
    else:
        _frames.skip_code(code)


def skip_package(name: str) -> None:
    """Up to torch 2.6, marks all functions of a package, whose modules have been imported."""
    if _skips_all_called:
        return
    for function in [each for each in gc.get_objects() if type(each) is FunctionType]:
        if function.__globals__.get("__name__", "").partition(".")[0] == name:
            _skip_with_inner(function.__code__)


def _skip_with_inner(code: CodeType) -> None:
    _frames.skip_code(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _skip_with_inner(constant)


def break_graph(what: str, why: str) -> NoReturn:
    """Ends the graph that torch's compiler is making. The compiler calls the function that calls this."""
    from torch._dynamo import exc

    unimplemented: Any = exc.unimplemented
    if "gb_type" in inspect.signature(unimplemented).parameters:
        unimplemented(gb_type=what, context="", explanation=why, hints=[])
    unsupported = exc.Unsupported(f"{what}: {why}")  # up to torch 2.8
    raise unsupported


def proxy_mode() -> Any:
    """The mode that writes operators into a graph, or None."""
    from torch.fx.experimental import proxy_tensor  # takes long; where a graph is traced, it is there

    if hasattr(proxy_tensor, "get_proxy_mode"):
        return proxy_tensor.get_proxy_mode()
    key = torch._C._TorchDispatchModeKey.PROXY  # torch 2.4
    return torch._ops._get_dispatch_mode_pre_dispatch(key) or torch._C._get_dispatch_mode(key)
