"""The readable truth: each update from the papers in plain torch, each schedule in plain Python.

The tests hold the fast code to it, and it computes the steps where no extension can be built. It shares no code with
the fast code, and it imports nothing else of the package.

Each algorithm has one file, with its update in a function of the same name. These functions are found by that name, so
a new algorithm adds its file and nothing here. The form ``import x as x`` says that users find ``x`` here.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from .averages import average as average
from .clipping import clip as clip
from .cycles import LAST_START as LAST_START
from .cycles import MAX_CYCLES as MAX_CYCLES
from .cycles import cosine_annealing as cosine_annealing
from .cycles import cosine_cycle as cosine_cycle
from .cycles import cosine_cycles as cosine_cycles
from .cycles import cosine_warm_restarts as cosine_warm_restarts
from .cycles import cycle_starts as cycle_starts
from .cycles import half_cosine_between as half_cosine_between
from .cycles import one_cycle as one_cycle
from .cycles import one_cycle_momentum as one_cycle_momentum
from .cycles import triangular as triangular
from .cycles import triangular_momentum as triangular_momentum
from .rounding import join as join
from .rounding import philox as philox
from .rounding import random_bits as random_bits
from .rounding import round_stochastically as round_stochastically
from .rounding import split as split
from .schedules import constant as constant
from .schedules import exponential as exponential
from .schedules import exponential_ramp as exponential_ramp
from .schedules import half_cosine as half_cosine
from .schedules import inverse_time as inverse_time
from .schedules import linear_ramp as linear_ramp
from .schedules import multi_step as multi_step
from .schedules import polynomial as polynomial
from .schedules import product as product
from .schedules import sequential as sequential
from .schedules import shifted as shifted
from .schedules import step as step
from .schedules import table as table
from .schedules import warmup as warmup
from .schedules import warmup_stable_decay as warmup_stable_decay

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """An update that the loop below finds."""


for _module in pkgutil.iter_modules(__path__):
    _found = importlib.import_module(f"{__name__}.{_module.name}")
    # In place of the module stands its function, where that has the module's name.
    globals()[_module.name] = getattr(_found, _module.name, _found)
