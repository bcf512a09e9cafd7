"""A scheduler of torch's kind that schedules nothing, for frameworks that insist on one."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from .._messages import shown
from ..optimizers._base import FusedOptimizer


class InStepScheduler(LRScheduler):
    """Stands where a framework wants a ``torch.optim.lr_scheduler.LRScheduler``, and leaves the rate to the step.

    The rate of a fused optimizer moves inside ``optimizer.step()``, by the Schedule of each group. This scheduler
    writes nothing into the groups, ``step()`` does nothing, and no checkpoint needs anything of it: the optimizer's
    holds Schedules and clock.

    Args:
        optimizer: a fused optimizer.

    Raises:
        TypeError: the optimizer is none of the fused ones; its rates would never change.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedSGD
        >>> from sgdr_fused.schedules import LinearRamp
        >>> from sgdr_fused.training.in_step_scheduler import InStepScheduler
        >>> optimizer = FusedSGD([torch.nn.Parameter(torch.ones(1))], lr=LinearRamp(1.0, 0.0, steps=4))
        >>> scheduler = InStepScheduler(optimizer)
        >>> rates = []
        >>> for _ in range(3):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     rates += scheduler.get_last_lr()
        >>> rates
        [0.75, 0.5, 0.25]
    """

    def __init__(self, optimizer: FusedOptimizer) -> None:  # torch's writes initial_lr and wraps optimizer.step()
        if not isinstance(optimizer, FusedOptimizer):
            raise TypeError(
                f"optimizer must be a fused optimizer, whose step moves the rate, got {shown(optimizer)}; "
                "for another one take a scheduler of torch.optim.lr_scheduler"
            )
        self.optimizer: FusedOptimizer = optimizer
        self._step_count = 1  # accelerate counts it up

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]  # an attribute, in torch
        """The rates of step 0: a Schedule's first value, or the number that stands in the group."""
        groups = self.optimizer.param_groups
        return [float(group["lr"]) if (s := group["lr_schedule"]) is None else s(0) for group in groups]

    @property
    def last_epoch(self) -> int:  # type: ignore[override]  # an attribute, in torch
        """How many steps the optimizer has taken. On a GPU the host waits for the device."""
        return int(self.optimizer.clock)

    def step(self, epoch: int | None = None) -> None:
        """Does nothing."""

    def get_last_lr(self) -> list[float]:  # type: ignore[override]
        """The rates of the next step, as floats: what torch's schedulers give after their ``step()``.

        So what a framework logs after a step is the same with a scheduler of torch's and with a Schedule. On a GPU the
        host waits for the device.
        """
        return self.optimizer.get_last_lr()

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The same as ``get_last_lr()``."""
        return self.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """An empty dict: Schedules and clock are in the optimizer's."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes nothing from it. That of one of torch's schedulers, in an older checkpoint, does no harm."""
