"""How many updates are behind a state's buffer, where the algorithm's state has no ``step`` that says so.

A count goes with the tensor that it counts for, not with the dict that holds it: frameworks and users build dicts anew,
move entries from one optimizer's state to another's, and rename them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_counts: Any = WeakIdKeyDictionary()  # buffer -> its count, for as long as the buffer lives


def count_of(buffer: Any) -> Tensor | None:
    """The number of updates behind a buffer; None where that is not known, because no optimizer of ours has made it."""
    return _counts.get(buffer) if isinstance(buffer, Tensor) else None


def count_for(buffer: Tensor, count: Tensor) -> None:
    """Lets `count` be the number of updates behind a buffer."""
    _counts[buffer] = count
