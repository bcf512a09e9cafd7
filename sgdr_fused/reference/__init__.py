"""The readable truth: each update from the papers in plain torch, each schedule in plain Python.

Tests hold the fast path to it, and it is what runs where no extension can be built. It shares no
code with the fast path and imports nothing of the package but its own other parts.
"""

from __future__ import annotations

from .adaptive import *  # noqa: F403
from .clipping import *  # noqa: F403
from .layerwise import *  # noqa: F403
from .moments import *  # noqa: F403
from .rounding import *  # noqa: F403
from .schedules import *  # noqa: F403
from .updates import *  # noqa: F403
