"""The machine that hypothesis drives: it makes an optimizer, acts on it, and compares after every action."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch
from cases import CASE_OF, EVERY_ALGORITHM
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from .actions import NUMBER, SCHEDULES
from .checkpoints import Checkpoints
from .gradients import Gradients
from .groups import Groups
from .states import States
from .world import World

CASE_IDS = tuple(case for algorithm in EVERY_ALGORITHM.values() for case in algorithm.fuzzed)


class OptimizerMachine(Gradients, Groups, States, Checkpoints):
    """See the package. `counts` is of all machines that have run in this process."""

    counts: ClassVar[Counter[str]] = Counter()

    @initialize(
        case=st.sampled_from(CASE_IDS),
        sizes=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=3),
        dtype=st.sampled_from((torch.float64, torch.float32)),
        schedule=st.none() | NUMBER,
        by_dicts=st.booleans(),
    )
    def make(self, case: str, sizes: Any, dtype: torch.dtype, schedule: int | None, by_dicts: bool) -> None:
        lr = 0.05 if schedule is None else SCHEDULES["lr"][schedule % len(SCHEDULES["lr"])]
        self.world = World(CASE_OF[case], sizes, dtype, lr, by_dicts)
        self.counts["sequences"] += 1

    @invariant()
    def as_expected(self) -> None:
        if hasattr(self, "world"):  # not so before the first rule
            self.counts["actions"] += 1
            self.world.check()
