"""In which dtypes parameters, gradients and states may be stored."""

from __future__ import annotations

import torch
from torch import Tensor

# The dtypes that kernels exist for: a parameter's, and then those of its states.
STATE_DTYPES = {
    torch.float32: (torch.float32, torch.bfloat16),
    torch.float64: (torch.float64,),
    torch.bfloat16: (torch.bfloat16, torch.float32),
    torch.float16: (torch.float16, torch.float32),
}
# The dtypes that the gradient of such a parameter may have.
GRAD_DTYPES: dict[torch.dtype, tuple[torch.dtype, ...]] = {dtype: (dtype,) for dtype in STATE_DTYPES}
GRAD_DTYPES[torch.float32] += (torch.bfloat16, torch.float16)


def state_dtypes(param: Tensor, name: str) -> tuple[torch.dtype, ...]:
    """How the state with this name may be stored.

    This is asked for each state by itself. The kernels that there are have the same answer for all states of a
    parameter, and want all of them in one dtype.
    """
    return STATE_DTYPES[param.dtype]


def new_state_dtype(param: Tensor, name: str, option: torch.dtype | None) -> torch.dtype:
    """How the state with this name is stored when it is made; `option` is the option ``state_dtype``."""
    return param.dtype if option is None else option


def average_dtype(param: Tensor) -> torch.dtype:
    """An average has the dtype of the arithmetic: in 16 bits, what one step adds would be rounded away."""
    return torch.promote_types(param.dtype, torch.float32)
