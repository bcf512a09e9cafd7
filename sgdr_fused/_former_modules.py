"""Modules under the names that they had: pickles name classes by their modules, and those must load in both directions.

So a public class says that it is where it was, and that module can be imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

FORMER = {
    **{name: f"optimizers.{name}" for name in ("adadelta", "adagrad", "adam", "adamax", "lamb", "lars", "nadam")},
    **{name: f"optimizers.{name}" for name in ("rmsprop", "sgd")},
    **{name: f"training.{name}" for name in ("growing_batch", "hessian_free", "range_test", "snapshots")},
    "_displays": "_engine.displays",
    "_options": "_engine.options",
    "_range_result": "training._range_result",
}


def keep(package: ModuleType) -> None:
    """Makes the former modules of the package importable, and names their classes and functions after them."""
    for former, now in FORMER.items():
        module, name = importlib.import_module(f"{package.__name__}.{now}"), f"{package.__name__}.{former}"
        sys.modules[name] = module
        setattr(package, former, module)
        for value in vars(module).values():
            if getattr(value, "__module__", None) == module.__name__:
                value.__module__ = name
