"""Examples in docstrings of classes that name another module than the one that they are defined in."""

from __future__ import annotations

import doctest
import inspect
import sys
from types import ModuleType
from typing import Any

_from_module = doctest.DocTestFinder._from_module  # type: ignore[attr-defined]


def _from_module_or_former_one(finder: doctest.DocTestFinder, module: ModuleType | None, found: Any) -> bool:
    """Also a class whose ``__module__`` is the former name of its module (sgdr_fused/_former_modules.py)."""
    is_former = inspect.isclass(found) and module is not None and sys.modules.get(found.__module__) is module
    return is_former or _from_module(finder, module, found)


doctest.DocTestFinder._from_module = _from_module_or_former_one  # type: ignore[attr-defined]
