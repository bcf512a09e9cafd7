"""No bit has changed since recorded/bits.json was written."""

from __future__ import annotations

import json

import pytest
import recorded_bits
from cases import CASES, DEVICE, Case, ids
from recorded_bits import VARIANTS, Variant
from torch_features import GRAD_DTYPE, WITHOUT_GRAD_DTYPE

RECORDS = json.loads(recorded_bits.RECORDS.read_text())[recorded_bits.kind()]
RECORDED = [case for case in CASES if case.id in RECORDS["digests"]]  # the others were added later


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a GPU computes powers and cosines by functions of its own")
@pytest.mark.skipif(
    RECORDS["made_with"] != recorded_bits.made_with(),
    reason=f"recorded with {RECORDS['made_with']}, this is {recorded_bits.made_with()}",
)
@pytest.mark.parametrize("variant", ids(VARIANTS))
@pytest.mark.parametrize("case", ids(RECORDED))
def test_bits_are_those_recorded(case: Case, variant: Variant) -> None:
    if variant.inputs is recorded_bits.narrow and not GRAD_DTYPE:
        pytest.skip(WITHOUT_GRAD_DTYPE)
    assert recorded_bits.digest(case, variant) == RECORDS["digests"][case.id][variant.id]
