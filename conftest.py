"""Finds the examples in docstrings of classes and functions that name another module than the one they stand in."""

from __future__ import annotations

import doctest
import inspect
import sys
from types import ModuleType
from typing import Any

_from_module = doctest.DocTestFinder._from_module  # type: ignore[attr-defined]


def _from_module_or_former_one(finder: doctest.DocTestFinder, module: ModuleType | None, found: Any) -> bool:
    """Also what has the former name of its module as ``__module__`` (sgdr_fused/_former_modules.py)."""
    if module is not None and inspect.isclass(found) and sys.modules.get(found.__module__) is module:
        return True
    if module is not None and inspect.isfunction(found) and inspect.unwrap(found).__globals__ is vars(module):
        return True
    return _from_module(finder, module, found)


doctest.DocTestFinder._from_module = _from_module_or_former_one  # type: ignore[attr-defined]
