"""The averages in the place of the weights, for an evaluation."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

from .session import Session


def check_not_swapped(session: Session) -> None:
    """Raises while the averages stand for the weights."""
    if _is_swapped(session):
        raise RuntimeError("step() inside swap_average(): it would move the averages, not the weights")


def _is_swapped(session: Session) -> bool:
    return session.swapped is not None and session.swapped() is not None


class _Swap:
    """Lives as long as the averages stand for the weights, in the frame of the function that has put them there.

    So whatever ends that function also ends the swap for the optimizer.
    """


@contextlib.contextmanager
def swapped(session: Session) -> Iterator[None]:
    """Puts the averages into the parameters for the time of a ``with`` block."""
    average = session.options["average"]
    if average is None:
        raise RuntimeError("swap_average() needs an optimizer with average=..., this one has average=None")
    if _is_swapped(session):
        raise RuntimeError("swap_average() inside swap_average()")
    if int(session.n_averaged) == 0:
        what = "no cycle has ended" if average == "cycle" else f"no step was taken from step {average.start} on"
        raise RuntimeError(f"swap_average() has no averages: n_averaged is 0, {what}")
    if session.has_aliases:
        session.take_over_aliases()
    swapped_params: dict[Tensor, Tensor] = {}  # a parameter may be twice in a group
    for group in session.groups:
        for param in group["params"]:
            if "average" in dict.get(session.state, param, {}):
                swapped_params[param] = session.state[param]["average"]
    params, averages = list(swapped_params), list(swapped_params.values())
    with torch.no_grad():
        saved = [param.clone() for param in params]
    changes = session.changes
    built, marker = changes.plan, object()
    swap = _Swap()
    # Restored in one call, which no signal interrupts, and a second time where an interrupt came just before it.
    try:
        try:
            session.swapped = weakref.ref(swap)
            changes.plan = marker  # so that a step looks whether it may be taken
            _copy_all(params, averages)
            yield
        finally:
            _copy_all(params, saved)
    except BaseException:
        _copy_all(params, saved)
        raise
    if changes.plan is marker:
        changes.plan = built  # nothing was written meanwhile


def _copy_all(to: list[Tensor], values: list[Tensor]) -> None:
    if to:
        with torch.no_grad():
            torch._foreach_copy_(to, values)
