"""How values are shown in errors, and where warnings point to."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

LONGEST = 200  # characters of a value in a message
# What to do where a framework wants to schedule a rate that a Schedule gives.
FOR_A_SCHEDULER = (
    ". Where a framework insists on a scheduler, give it sgdr_fused.training.InStepScheduler(optimizer), which leaves "
    "the rate to the Schedule"
)
_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")


def shown(value: Any) -> str:
    """``repr(value)``, shortened to 200 characters."""
    try:
        text = repr(value)
    except Exception:  # an object of the user's whose repr is broken must not hide what is wrong with it
        text = f"<{type(value).__name__} object>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line of the caller's own code that led here: not of this package, torch, or a library that trains
    for the caller. Where all is libraries, at the first line outside this package and torch."""
    first: FrameType | None = None
    frame: FrameType | None = sys._getframe()
    while frame is not None and (_is_ours(frame) or _is_installed(frame)):
        if first is None and not _is_ours(frame):
            first = frame
        frame = frame.f_back
    place = frame or first or sys._getframe()
    module, registry = place.f_globals.get("__name__"), place.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, place.f_code.co_filename, place.f_lineno, module, registry)


def _is_ours(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("sgdr_fused", "torch")


def _is_installed(frame: FrameType) -> bool:
    """Whether the frame runs code of an installed package, of the standard library, or of Python itself."""
    file = frame.f_code.co_filename
    return file.startswith((_LIBRARY, "<frozen ")) or not {"site-packages", "dist-packages"}.isdisjoint(
        Path(file).parts
    )
