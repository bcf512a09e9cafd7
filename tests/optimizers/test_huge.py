"""One tensor of more than 2**31 elements, for real: 9 GB, a minute, so only where SGDR_FUSED_TEST_HUGE=1 asks for it.

What an index would do wrong, tests/cuda/test_emulation.py shows at every run without the memory.
"""

from __future__ import annotations

import os

import pytest
import torch
from cases import DEVICE, EMULATED, PRETEND

from sgdr_fused import FusedSGD

PERIOD = 65521  # a prime: an index that is off by a power of two reads another value


@pytest.mark.skipif(os.environ.get("SGDR_FUSED_TEST_HUGE") != "1", reason="takes 9 GB: SGDR_FUSED_TEST_HUGE=1")
@pytest.mark.skipif(EMULATED or PRETEND, reason="would take an emulator hours")
def test_every_element_beyond_2_to_the_31() -> None:
    count = 2**31 + 12345
    values = torch.linspace(-1, 1, PERIOD, dtype=torch.bfloat16, device=DEVICE)
    param = torch.nn.Parameter(torch.ones(count, dtype=torch.bfloat16, device=DEVICE))
    param.grad = values.repeat(count // PERIOD + 1)[:count]
    FusedSGD([param], lr=0.5).step()
    updated = (1 - 0.5 * values.float()).bfloat16()
    rows = count // PERIOD
    for block in param.detach()[: rows * PERIOD].view(rows, PERIOD).split(1024):
        assert torch.equal(block, updated.expand_as(block))
    assert torch.equal(param.detach()[rows * PERIOD :], updated[: count - rows * PERIOD])
