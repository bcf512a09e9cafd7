"""The loop around an update in plain torch, for an algorithm that torch does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class OneByOne(torch.optim.Optimizer):
    """Steps through the parameters one by one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, -param.grad if group["maximize"] else param.grad, group)
        return loss

    def _update(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


def ratio_of(numerator: float, denominator: float, *norms: float) -> float:
    return numerator / denominator if all(norm != 0 for norm in norms) else 1.0


def norm_of(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
