"""One file an algorithm: everything that a test has to know of it stands there, and nowhere else.

A file of this folder whose name has no underscore in front is found by itself, and declares `ALGORITHM`. The tests draw
their tables from these declarations, and tests/optimizers/test_declarations.py finds what one of them leaves out.
"""

from __future__ import annotations

import importlib
import pkgutil

from ._declaration import Algorithm, Case

__all__ = ["CASES", "CASE_OF", "EVERY_ALGORITHM", "Algorithm", "Case"]


def _declared(name: str) -> Algorithm:
    algorithm: Algorithm = importlib.import_module(f"{__name__}.{name}").ALGORITHM
    assert algorithm.name == name, f"tests/algorithms/{name}.py declares {algorithm.name!r}"
    return algorithm


_NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))

EVERY_ALGORITHM = {name: _declared(name) for name in _NAMES}
CASES = tuple(Case(id, a, hyper) for a in EVERY_ALGORITHM.values() for id, hyper in a.cases.items())
CASE_OF = {case.id: case for case in CASES}
