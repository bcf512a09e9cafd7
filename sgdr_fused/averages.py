"""Which averages of the weights an optimizer may keep, and batch norm's statistics for an evaluation with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from . import _checks
from ._messages import shown

__all__ = ["EMA", "refreshed_batch_norm"]


@dataclass(frozen=True)
class EMA:
    """``average=EMA(decay)``: an optimizer keeps an exponential moving average of the weights.

    After each step, with ``p`` as the step has left it::

        average = p                                        the first time
        average = decay * average + (1 - decay) * p        later

    Args:
        decay: in [0, 1); 0.999 averages over about the last 1,000 steps.

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

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), in its exponential
    form; ``torch.optim.swa_utils.get_ema_multi_avg_fn``.
    """

    decay: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", _checks.between("decay", self.decay, 0.0, 1.0, high_open=True))


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
