"""How values are shown in errors, and where warnings point to."""

from __future__ import annotations

import sys
import warnings
from typing import Any

LONGEST = 200  # characters of a value in a message


def shown(value: Any) -> str:
    """``repr(value)``, shortened to 200 characters."""
    try:
        text = repr(value)
    except Exception:  # an object of the user's whose repr is broken must not hide what is wrong with it
        text = f"<{type(value).__name__} object>"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line of the caller's own code that led here, not at a line of this package or of torch."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("sgdr_fused", "torch"):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, category, stacklevel=depth)
