"""torch's distributed state dicts step an optimizer to give it states; that is no step of the training.

``torch.distributed.checkpoint.state_dict`` does so (in ``_init_optim_state``) whenever an optimizer without states and
gradients is asked for them: it sets all gradients and rates to zero, steps, and puts the rates back. SGD without
momentum never has states, so there every checkpoint would be a step. What it wants is the states. A step at rate 0
would also move the clock, the averages and the cycles (pytorch#164929), and each write would take a Schedule away and
bring it back.
"""

from __future__ import annotations

import sys


def asked() -> bool:
    """Whether that function has called us, through at most eight frames of ours and of wrappers of ``step``."""
    frame = sys._getframe(1)
    for _ in range(8):
        code = frame.f_code
        if code.co_name == "_init_optim_state" and code.co_filename.endswith("state_dict.py"):
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
