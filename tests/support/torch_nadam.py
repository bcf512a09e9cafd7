"""torch.optim.NAdam with its product of momenta in float64."""

from __future__ import annotations

from typing import Any

import torch


class NAdam(torch.optim.NAdam):
    """As torch makes the product where float64 is the default dtype: in float32, its rounding would hide ours."""

    def _init_group(self, *arguments: Any) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return super()._init_group(*arguments)
        finally:
            torch.set_default_dtype(before)
