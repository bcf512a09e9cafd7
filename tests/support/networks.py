"""A small model and a step of its training, for tests of what is done to a model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cases import values
from torch import nn


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    for i, param in enumerate(made.parameters()):
        param.data = values(param.shape, i)
    return made


def train(network: nn.Module, opt: Any, steps: Iterable[int]) -> None:
    dtype = next(network.parameters()).dtype
    for t in steps:
        opt.zero_grad()
        network(values((6, 4), 100 + t, dtype)).square().sum().backward()
        opt.step()


@contextlib.contextmanager
def switched(switch: Callable[[bool], None]) -> Iterator[None]:
    """One of torch.__future__'s."""
    switch(True)
    try:
        yield
    finally:
        switch(False)
