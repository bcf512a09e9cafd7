"""The readable truth: each update from the papers in plain torch, each schedule in plain Python.

Tests hold the fast path to it, and it is what runs where no extension can be built. It shares no
code with the fast path and imports nothing of the package but its own other parts.
"""

from __future__ import annotations

from .reference_adaptive import *  # noqa: F403
from .reference_clipping import *  # noqa: F403
from .reference_layerwise import *  # noqa: F403
from .reference_moments import *  # noqa: F403
from .reference_rounding import *  # noqa: F403
from .reference_schedules import *  # noqa: F403
from .reference_updates import *  # noqa: F403
