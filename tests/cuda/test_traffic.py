"""Global memory that a step reads and writes, counted by execution: the least that its algorithm allows."""

from __future__ import annotations

import pytest
import torch
from cases import PRETEND, ids
from traffic import PLAIN, TRAFFIC, Traffic

pytestmark = [
    pytest.mark.skipif(not PRETEND, reason="bytes are counted by the pretend GPU alone"),
    pytest.mark.untracked,
]

LONGEST = 16384  # elements: kChunk of csrc/step/fused_step.h


@pytest.mark.parametrize("traffic", ids(TRAFFIC))
def test_a_step_moves_no_more_than_it_must(traffic: Traffic) -> None:
    """What a block has to know beside its elements is read by one thread or two: if all did, it would be thousands."""
    per_parameter, per_block = traffic.counted()
    assert per_parameter == traffic.least
    assert 0 < per_block < 1000
    assert per_block < 0.01 * traffic.least * LONGEST  # 1 % of a large model's


def test_the_least_that_is_published() -> None:
    chosen = (t for t in PLAIN if t.param == t.state == torch.float32 and t.case.algorithm.traffic_in_all_types)
    least = {t.case.id: t.least for t in chosen}
    assert least == {"sgd": 12, "sgd_momentum": 20, "lars": 28, "adam": 28, "adam_amsgrad": 36, "lamb": 44}
