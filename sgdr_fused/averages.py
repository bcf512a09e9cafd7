"""Which averages of the weights an optimizer may keep, and batch norm's statistics for an evaluation with them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from . import _checks
from ._messages import shown
from .schedules import Constant, InverseTime, Schedule, Sequential

__all__ = ["EMA", "refreshed_batch_norm"]


@dataclass(frozen=True)
class EMA:
    """``average=EMA(decay)``: an optimizer keeps an exponential moving average of the weights.

    After each step ``t`` from step ``start`` on, with ``p`` as the step has left it and ``n = t - start``::

        average = p                                        the first time
        average = d * average + (1 - d) * p                later

        d = decay                                          without warmup
        d = min(decay, (1 + n) / (warmup + n))             with it

    A high ``decay`` keeps much of the first weights for a long time. The warm-up lets the average forget them sooner:
    at first it is over about the last ``n / warmup`` of ``n`` steps.

    Args:
        decay: in [0, 1); 0.999 averages over about the last 1,000 steps.
        warmup: finite, >= 1, and 10 is usual; at 1 there is no warm-up. None: no warm-up.
        start: the first step that is averaged, by the optimizer's clock; an integer >= 0. Before it, the averages cost
            no time, and ``swap_average`` raises.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import EMA, FusedSGD
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = FusedSGD([weight], lr=1.0, average=EMA(0.75))
        >>> for _ in range(2):
        ...     weight.grad = torch.tensor([-1.0])
        ...     optimizer.step()
        >>> weight.item(), optimizer.state[weight]["average"].item()
        (2.0, 1.25)
        >>> EMA(0.999, warmup=10, start=1000)
        EMA(decay=0.999, warmup=10.0, start=1000)

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), in its exponential
    form; ``torch.optim.swa_utils.get_ema_multi_avg_fn``; the warm-up is that of ``num_updates`` in TensorFlow's
    ``ExponentialMovingAverage``, which has ``warmup=10``.
    """

    decay: float
    warmup: float | None = None
    start: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", _checks.between("decay", self.decay, 0.0, 1.0, high_open=True))
        if self.warmup is not None:
            object.__setattr__(self, "warmup", _checks.between("warmup", self.warmup, 1.0, math.inf, high_open=True))
        object.__setattr__(self, "start", _checks.integer("start", self.start, 0))

    @property
    def _weight(self) -> float | Schedule:
        """``1 - d``, and 0 where nothing is averaged: a number where it is the same at each step."""
        parts: list[Any] = [(Constant(0.0), self.start)] if self.start else []
        if self.warmup is not None and (steps := self._warmup_steps(self.warmup)):
            parts.append((InverseTime((self.warmup - 1) / self.warmup, 1 / self.warmup), steps))
        last = 1 - self.decay
        return Sequential([*parts, Constant(last)]) if parts else last

    def _warmup_steps(self, warmup: float) -> int:
        """How many steps have ``(warmup - 1) / (warmup + n) > 1 - decay``."""
        steps = (warmup - 1) / (1 - self.decay) - warmup
        return math.ceil(min(max(steps, 0.0), _checks.MAX_STEP - self.start))


Average: TypeAlias = EMA | Literal["cycle"] | None


def check_average(average: Any) -> Average:
    if average is None or isinstance(average, EMA):
        return average
    if isinstance(average, str) and average == "cycle":
        return "cycle"
    raise ValueError(f'average must be "cycle", an EMA or None, got {shown(average)}')


@contextlib.contextmanager
def refreshed_batch_norm(
    model: nn.Module, loader: Iterable[Any], device: int | torch.device | None = None
) -> Iterator[None]:
    """Batch norm's statistics for the weights as they are now; those that were there come back at the end.

    The running means and variances belong to the weights that made them. With other weights, as inside
    ``optimizer.swap_average()``, they have to be computed anew: by one pass over the data, without gradients, as the
    cumulative average over all batches. A model without batch norm is left alone, and the data is not read.

    Args:
        model: whose modules of ``torch.nn``'s BatchNorm classes are refreshed; modes and ``momentum`` are kept.
        loader: batches; of a batch that is a list or tuple, the first element goes to the model.
        device: where the batches are moved; None leaves them where they are.

    Raises:
        TypeError: for a model or a loader that is none.
        ValueError: for a loader without batches, such as an iterator that is used up.

    Example:
        >>> import torch
        >>> from sgdr_fused import refreshed_batch_norm
        >>> model = torch.nn.BatchNorm1d(1).eval()
        >>> with refreshed_batch_norm(model, [torch.tensor([[1.0], [3.0]])]):
        ...     model.running_mean.item()
        2.0
        >>> model.running_mean.item()
        0.0

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (2018), section 3.2;
    ``torch.optim.swa_utils.update_bn``, which does the pass.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {shown(model)}")
    if not isinstance(loader, Iterable):
        raise TypeError(f"loader must be an iterable of batches, got {shown(loader)}")
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    settings = [(norm, norm.momentum) for norm in norms]
    modes = [(module, module.training) for module in model.modules()]

    def restore_modules() -> None:  # update_bn does so itself, unless it is interrupted
        for norm, momentum in settings:
            norm.momentum = momentum
        for module, training in modes:
            module.training = training

    @torch.no_grad()
    def restore() -> None:
        restore_modules()
        for buffer, value in buffers:
            buffer.copy_(value)

    try:
        try:
            update_bn(_some(loader) if norms else loader, model, device)
            restore_modules()
            yield
        finally:
            restore()
    finally:
        restore()  # all that an interrupt of the first has left


def _some(loader: Iterable[Any]) -> Iterator[Any]:
    """The batches of the loader; raises if there are none, because the statistics would be those of no data."""
    empty = True
    for batch in loader:
        empty = False
        yield batch
    if empty:
        raise ValueError(f"loader must have batches, got none from {shown(loader)}")
