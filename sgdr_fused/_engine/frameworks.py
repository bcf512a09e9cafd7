"""What frameworks ask of an optimizer where the true answer would mislead them. Who asks is seen on the stack.

- torch's schedulers read the groups when they are made, and write rates into them later: in place, or not before a
  plateau is reached. Over a Schedule they are refused at the next step, before it changes anything.
- Monitors keep what they read of a group. A displayed rate goes on changing, so they are given numbers.
- accelerate and Lightning ask whether a step unscales gradients itself, and each draws a conclusion of its own.

A name in these tables is that of a module, and then of a function in it.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from .._messages import FOR_A_SCHEDULER, shown
from . import compiling, displays
from .hyperparameters import SCHEDULE_KEYS, first, with_first
from .session import Session

# Modules whose classes write rates into the groups of the optimizer that they are given.
_SCHEDULERS = ("torch.optim.lr_scheduler", "torch.optim.swa_utils", "transformers.optimization")
# These make a scheduler at the moment from which it is to hold: for the epochs that are averaged, for a range test.
_SUCCESSORS = (
    "lightning.pytorch.callbacks.stochastic_weight_avg",
    "pytorch_lightning.callbacks.stochastic_weight_avg",
    "ignite.handlers.lr_finder",
    "torch_lr_finder.lr_finder",
)
_MONITORS = {
    "lightning.pytorch.callbacks.lr_monitor": "_get_optimizer_stats",
    "pytorch_lightning.callbacks.lr_monitor": "_get_optimizer_stats",
    "fastai.optimizer": "hypers",
}
_HANDS_ON = ("param_groups", "<genexpr>")
_READERS = frozenset([*_SCHEDULERS, *_MONITORS, compiling.COMPILER])
# Both of Lightning's functions that clip the gradients of a mixed precision training, and what they ask.
_CLIPPING = {"clip_gradients", "unscale_gradients"}
_QUESTION = "_optimizer_handles_unscaling"


def groups_for(session: Session, reader: FrameType | None) -> list[dict[str, Any]]:
    """The groups of a session, for the function that reads ``param_groups``."""
    while reader is not None and reader.f_code.co_name in _HANDS_ON:  # a wrapper's property, which asks for another
        reader = reader.f_back
    if reader is None or (module := reader.f_globals.get("__name__")) not in _READERS:
        return session.groups
    if module == compiling.COMPILER:
        compiling.break_graph()
    if module in _SCHEDULERS:
        _note_scheduler(session, reader)
    elif reader.f_code.co_name == _MONITORS[module]:
        return [_with_numbers(group) for group in session.groups]
    return session.groups


def _note_scheduler(session: Session, reader: FrameType) -> None:
    """Keeps the name of a scheduler over a Schedule, or makes way for it where that is the moment."""
    scheduled = _scheduled(session)
    frame: FrameType | None = reader
    scheduler = None
    while scheduled and frame is not None and frame.f_globals.get("__name__") in _SCHEDULERS:
        scheduler = frame.f_locals.get("self", scheduler)
        frame = frame.f_back
    if scheduler is None or frame is None:
        return
    if frame.f_globals.get("__name__") in _SUCCESSORS:
        for group in scheduled:
            group["lr"] = float(group["lr"])
    else:
        session.scheduler = type(scheduler).__name__
        session.changes.note()  # so that the next step comes to where plans are made


def written_by_scheduler(session: Session, writer: FrameType) -> bool:
    """Whether one of torch's schedulers assigns a rate while a group has a Schedule. The next step refuses that.

    Most write into the displayed rate, which is refused then too. CosineAnnealingWarmRestarts assigned up to torch 2.7.
    """
    if not _scheduled(session) or writer.f_globals.get("__name__") not in _SCHEDULERS:
        return False
    session.changes.note()
    return True


def check_scheduler(session: Session) -> None:
    """Raises where a scheduler was made over a Schedule."""
    scheduled = _scheduled(session)
    if session.scheduler is None or not scheduled:
        return
    number = next(i for i, group in enumerate(session.groups) if group is scheduled[0])
    raise RuntimeError(
        f"{session.scheduler} writes rates into group {number}, whose rate the Schedule "
        f"{shown(scheduled[0]['lr_schedule'])} gives. To train by {session.scheduler}, assign a number to "
        f"group['lr']; to train by the Schedule, leave {session.scheduler} out, and assign the Schedule to "
        f"group['lr'] again{FOR_A_SCHEDULER}"
    )


def _scheduled(session: Session) -> list[dict[str, Any]]:
    return [group for group in session.groups if group.get("lr_schedule") is not None]


def _with_numbers(group: dict[str, Any]) -> dict[str, Any]:
    """A copy of a group that has numbers in place of displays."""
    copied = dict(group)
    for key in SCHEDULE_KEYS:
        tensor = first(copied.get(key))
        if displays.display_of(tensor) is not None:
            copied[key] = with_first(copied[key], float(tensor))
    return copied


@compiling.untraced()
class StepUnscales:
    """``_step_supports_amp_scaling``: whether a step divides gradients by a scaler's scale, and skips itself.

    A ``GradScaler`` leaves both to a step that says so. It could always say so. But accelerate tells by the call of a
    step whether one was skipped; so there the scaler unscales, and calls no step that is to be skipped.
    """

    def __get__(self, optimizer: Any, owner: Any = None) -> bool:  # without __set__: who assigns to it overrules this
        if optimizer is None:
            return True
        if getattr(optimizer.__dict__.get("step"), "__module__", None) == "accelerate.optimizer":
            return False
        asked = sys._getframe(1)
        if asked.f_code.co_name == _QUESTION and asked.f_back is not None and asked.f_back.f_code.co_name in _CLIPPING:
            raise RuntimeError(
                f"gradients that a scaler has scaled cannot be clipped before {optimizer._session.class_name}.step(), "
                "which unscales them: leave clipping to the optimizer, whose arguments max_grad_norm=... and "
                "max_grad_value=... do it inside the step"
            )
        return True


compiling.mark_untraced(groups_for)
