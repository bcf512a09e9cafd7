"""Keeps the former names of modules: pickles name classes by their modules, and versions of before know no others.

A public class or function says that it is in the module where it was, and that module can still be imported.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

# The modules of today that have what a former module had.
FORMER: dict[str, tuple[str, ...]] = {
    **{name: (f"optimizers.{name}",) for name in ("adadelta", "adagrad", "adam", "adamax", "lamb", "lars", "nadam")},
    **{name: (f"optimizers.{name}",) for name in ("rmsprop", "sgd")},
    **{name: (f"training.{name}",) for name in ("growing_batch", "hessian_free", "range_test", "snapshots")},
    **{f"reference_{name}": (f"reference.{name}",) for name in ("clipping", "cycles", "rounding", "schedules")},
    "_displays": ("_engine.displays",),
    "_options": ("_engine.options",),
    "_range_result": ("training._range_result",),
    "reference_adaptive": ("reference.adadelta", "reference.adagrad", "reference.rmsprop"),
    "reference_layerwise": ("reference.lamb", "reference.lars"),
    "reference_moments": ("reference.adam", "reference.adamax", "reference.nadam"),
    "reference_updates": ("reference.averages", "reference.sgd"),
}


def keep(package: ModuleType) -> None:
    """Makes the former modules of the package importable, and names their classes and functions after them."""
    for former, now in FORMER.items():
        name = f"{package.__name__}.{former}"
        modules = [importlib.import_module(f"{package.__name__}.{each}") for each in now]
        kept = modules[0] if len(modules) == 1 else ModuleType(name, f"What was in {name}.")
        for module in modules:
            for key, value in [*vars(module).items()]:
                if getattr(value, "__module__", None) == module.__name__:
                    value.__module__ = name
                    setattr(kept, key, value)
        sys.modules[name] = kept
        setattr(package, former, kept)
