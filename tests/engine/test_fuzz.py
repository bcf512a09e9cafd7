"""What users do to an optimizer between its steps, in sequences that hypothesis makes: see fuzz/."""

from __future__ import annotations

import pytest
from cases import EMULATED, PRETEND
from fuzz.machine import OptimizerMachine
from hypothesis import HealthCheck, settings

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # what an action has to warn of, it looks at itself
    pytest.mark.host,
]

# What it looks for is in the host's code; there it is fast.
EXAMPLES, ACTIONS = 5 if PRETEND else 20 if EMULATED else 200, 30

OptimizerMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=ACTIONS,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestOptimizer = OptimizerMachine.TestCase
