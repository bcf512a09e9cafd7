"""A scheduler of torch's kind that schedules nothing, for frameworks that insist on one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from .._engine.displays import scaled
from .._engine.hyperparameters import scale_of
from .._messages import shown, warn


class InStepScheduler(LRScheduler):
    """Stands where a framework wants a ``torch.optim.lr_scheduler.LRScheduler``, and leaves the rate to the step.

    The rate of a fused optimizer moves inside ``optimizer.step()``, by the Schedule of each group. This scheduler
    writes nothing into the groups, and no checkpoint needs anything of it: the optimizer's holds Schedules and clock.
    A scheduler of another class over an optimizer with Schedules for ``lr`` is refused at the next step.

    ``get_last_lr()`` gives what torch's schedulers give: **the rates of the last step** before ``step()`` is called,
    and **those of the next step** after it. So a framework logs the same numbers as with a scheduler of torch's,
    whether it logs before it steps the scheduler, as Hugging Face's Trainer does, or after.

    Args:
        optimizer: a fused optimizer, or a wrapper that has its groups, such as accelerate's or torchao's.

    Raises:
        TypeError: the groups are not those of a fused optimizer; their rates would never change.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedSGD
        >>> from sgdr_fused.schedules import LinearRamp
        >>> from sgdr_fused.training import InStepScheduler
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

    def __init__(self, optimizer: Any) -> None:  # torch's writes initial_lr and wraps optimizer.step()
        groups = getattr(optimizer, "param_groups", None)
        if not groups or not all({"lr_schedule", "clock"} <= set(group) for group in groups):
            raise TypeError(
                f"optimizer must be a fused optimizer, whose step moves the rate, got {shown(optimizer)}; "
                "for another one take a scheduler of torch.optim.lr_scheduler"
            )
        self.optimizer = optimizer
        self._step_count = 1  # accelerate counts it up
        self._clock_seen = self._clock_now()
        self._ignored = ""

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]  # an attribute, in torch
        """The rates of step 0: a Schedule's first value, or the number that stands in the group."""
        return [_rate(group, 0) for group in self.optimizer.param_groups]

    @property
    def last_epoch(self) -> int:  # an attribute, in torch
        """How many steps the optimizer has taken. On a GPU the host waits for the device."""
        return int(self.optimizer.param_groups[0]["clock"])

    @last_epoch.setter
    def last_epoch(self, value: int) -> None:
        """Does nothing: ignite counts it up."""

    def step(self, epoch: int | None = None) -> None:
        """Changes no rate: notes on the device where the clock stands, so that ``get_last_lr()`` knows of this call."""
        self._clock_seen = self._clock_now()
        if self._ignored:
            message, self._ignored = self._ignored, ""
            warn(message)

    def get_last_lr(self) -> list[float]:  # type: ignore[override]
        """The rates of the last step, or of the next one after ``step()``, as floats: one for each group.

        Before the first step they are those of the first. A step that was skipped changes nothing. On a GPU the host
        waits for the device.
        """
        back = 0 if self.last_epoch == int(self._clock_seen) else 1
        return [_rate(group, max(int(group["clock"]) - back, 0)) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[Any]:
        """What stands for ``lr`` in each group, so that who writes it back, as ignite does, changes nothing."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """An empty dict: Schedules and clock are in the optimizer's."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes nothing. It warns where there is something, as in a checkpoint that another scheduler has made.

        The next ``step()`` warns once more, since some frameworks let no warning out while they load.
        """
        if state_dict:
            self._ignored = (
                "InStepScheduler takes nothing from the state of another scheduler, which has the entries "
                f"{shown(sorted(state_dict))}: the optimizer's own Schedules and clock hold. To go on with the rates "
                "of that scheduler, assign schedules.from_torch(scheduler) to the groups"
            )
            warn(self._ignored)

    def _clock_now(self) -> Tensor:
        with torch.no_grad():
            return self.optimizer.param_groups[0]["clock"].clone()


def _rate(group: dict[str, Any], step: int) -> float:
    schedule = group["lr_schedule"]
    return float(group["lr"]) if schedule is None else scaled(schedule, scale_of("lr", group))(step)
