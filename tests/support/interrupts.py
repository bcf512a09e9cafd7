"""An interrupt at any line of the package: what is there to interrupt, how, and what has to be found afterwards.

A trace function counts the lines of sgdr_fused that an action runs through. The action is then run again, from the same
start, and interrupted at one of them: by a KeyboardInterrupt, or by a handler that does something with the optimizer
and returns. What is then seen, and three steps more, have to be, bit for bit, those of an optimizer that was not
interrupted: before the action or after it; for a handler, the two in either order.

A line stands for all that it calls outside of the package: an interrupt inside torch, contextlib or the extension's
Python-free code is not looked at, and neither is a second one while the first is being handled.
"""

from __future__ import annotations

import dataclasses
import functools
import linecache
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from bits import bits
from cases import DEVICE, values
from torch import Tensor
from torch.nn import Parameter

import sgdr_fused

PACKAGE = str(Path(sgdr_fused.__file__).parent)


@functools.cache
def _numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    return values(shape, seed).to(DEVICE)


def numbers(shape: int | tuple[int, ...], seed: int) -> Tensor:
    """A new tensor of the numbers that belong to this seed."""
    return _numbers((shape,) if isinstance(shape, int) else tuple(shape), seed).clone()


@dataclasses.dataclass
class Setting:
    """An optimizer at a known point, with what an action needs beside it."""

    opt: Any
    params: list[Parameter]
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    ended: list[int] = dataclasses.field(default_factory=list)  # cycles, by the hook

    def give_gradients(self, number: int) -> None:
        for i, p in enumerate(q for group in self.opt.param_groups for q in group["params"]):
            p.grad = numbers(p.shape, 31 * number + i)


Action = Callable[[Setting], Any]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """`between`: what else may have been done when an action of several writes is interrupted."""

    name: str
    make: Callable[[], Setting]
    action: Action
    between: tuple[Action, ...] = ()
    handlers: tuple[str, ...] | None = None  # None: all


# ---- what is seen


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value


def visible(setting: Setting) -> dict[str, Any]:
    """All that a user can see, without states that no step has written yet."""
    opt = setting.opt
    checkpoint = opt.state_dict()
    names = {id(p): i for i, p in enumerate(setting.params)}
    # A parameter that is in no group is not numbered there.
    states = {names.get(id(k), k): s for k, s in checkpoint["state"].items() if "step" not in s or float(s["step"]) > 0}
    shown = [{key: value for key, value in group.items() if key != "params"} for group in opt.param_groups]
    return {
        "parameters": [bits(p) for p in setting.params],
        "states": _plain(states),
        "checkpoint": [_plain(group) for group in checkpoint["param_groups"]],
        "groups": [_plain(group) for group in shown],
        "members": [[names[id(p)] for p in group["params"]] for group in opt.param_groups],
        "clock": int(opt.clock),
        "averaged": int(opt.n_averaged),
    }


def go_on(setting: Setting) -> dict[str, Any]:
    """What is seen after three steps more, and the cycles that ended in them."""
    setting.ended.clear()
    for step in range(3):
        setting.give_gradients(100 + step)
        setting.opt.step()
    return {**visible(setting), "ended": tuple(setting.ended)}


def ends(make: Callable[[], Setting], *actions: Action) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is seen after these actions without an interrupt, and after three more steps."""
    setting = make()
    for action in actions:
        action(setting)
    return visible(setting), go_on(setting)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{path}[{key!r}]")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [path or "all"]


# ---- the interrupt


class Tracer:
    """Counts the package's lines in a `with` block; at line number `at`, calls `interrupt` before it."""

    def __init__(self, at: int = -1, interrupt: Callable[[], None] = lambda: None) -> None:
        self.lines: list[tuple[str, int]] = []
        self._at, self._interrupt = at, interrupt

    def __enter__(self) -> Tracer:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event != "line":
            return self._line
        self.lines.append((frame.f_code.co_filename, frame.f_lineno))
        if len(self.lines) - 1 == self._at:
            sys.settrace(None)  # the interrupt's own lines do not count; nor do those after it
            self._interrupt()
        return None if len(self.lines) > self._at >= 0 else self._line


def lines_of(scenario: Scenario) -> list[tuple[str, int]]:
    setting = scenario.make()
    with Tracer() as tracer:
        scenario.action(setting)
    return tracer.lines


def sample(lines: list[tuple[str, int]], size: int, name: str) -> list[int]:
    """That many of the lines, each place in the source at most once; the same at each run."""
    first = {place: k for k, place in reversed(list(enumerate(lines)))}
    chosen = sorted(first.values())
    return sorted(random.Random(name).sample(chosen, min(size, len(chosen))))


def _raise() -> None:
    raise KeyboardInterrupt


def problem(scenario: Scenario, handler: Action | None, k: int, allowed: list[Any]) -> str | None:
    """What is wrong after an interrupt at line k, or None."""
    setting = scenario.make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Tracer(k, _raise if handler is None else lambda: handler(setting)):
                scenario.action(setting)
        except KeyboardInterrupt:
            pass
        except Exception as error:
            return f"the action raised {error!r}"
        try:
            seen = visible(setting)
            later = go_on(setting)
        except Exception as error:
            return f"afterwards, {error!r}"
    if any((seen, later) == end for end in allowed):
        return None
    now = [differences(seen, end[0]) for end in allowed]
    if all(now):
        return "; or ".join(f"not as expected: {', '.join(found[:4])}" for found in now)
    return "; or ".join(
        f"later not as expected: {', '.join(differences(later, end[1])[:4])}"
        for end, found in zip(allowed, now, strict=True)
        if not found
    )


def problems(scenario: Scenario, handler_name: str | None, handler: Action | None, size: int | None) -> list[str]:
    """One text for each line at which an interrupt left something else; `size` lines are tried, or all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = lines_of(scenario)
        if handler is None:
            runs = [(), *((action,) for action in scenario.between), (scenario.action,)]
        else:
            runs = [(handler, scenario.action), (scenario.action, handler)]
            runs += [(action, handler, scenario.action) for action in scenario.between]
        allowed = [ends(scenario.make, *run) for run in runs]
    texts = []
    for k in range(len(lines)) if size is None else sample(lines, size, f"{scenario.name}/{handler_name}"):
        wrong = problem(scenario, handler, k, allowed)
        if wrong is not None:
            file, line = lines[k]
            source = linecache.getline(file, line).strip()
            texts.append(f"line {k} of {len(lines)}, {Path(file).name}:{line}, `{source}`: {wrong}")
    return texts


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=DEVICE)
