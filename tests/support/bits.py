"""Tensors compared bit for bit.

Failures name types, shapes and digests, not bytes: pytest looks for all that differs in them, which takes many minutes
where it shortens nothing, as under a CI that sets CI=true.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Bits:
    """Everything about a tensor's value, NaN and the sign of zero included, comparable with ==."""

    def __init__(self, tensor: Tensor) -> None:
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._key = tensor.dtype, tuple(tensor.shape), plain.numpy().tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bits) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        dtype, shape, content = self._key
        return f"<{dtype} {shape} {hashlib.sha256(content).hexdigest()[:8]}>"


def bits(tensor: Tensor) -> Bits:
    return Bits(tensor)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


# Entries of groups that are the optimizer's, which snapshots of optimizers with other counts are compared without.
COUNTS = ("clock", "n_averaged", "rounding_seed", "skipped_steps")


def snapshot(opt: Any) -> dict[str, Any]:
    """Parameters, gradients, states, clock and groups, bit for bit, comparable with ==."""
    params = [p for group in opt.param_groups for p in group["params"]]
    return {
        "params": [bits(p) for p in params],
        "grads": [_plain(p.grad) if p.grad is None or not p.grad.is_sparse else "sparse" for p in params],
        "states": [_plain(dict(opt.state[p])) if p in opt.state else {} for p in params],
        "clock": bits(opt.clock),
        "groups": [
            {k: _plain(v) for k, v in group.items() if k not in ("params", *COUNTS)} for group in opt.param_groups
        ],
    }
