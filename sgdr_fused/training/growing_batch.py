"""Growing batches: the batch grows by the factor by which a schedule would have lowered the rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from .. import _checks
from .._messages import shown
from ..schedules import Schedule

__all__ = ["GrowingBatchSampler"]


class GrowingBatchSampler(Sampler[list[Any]]):
    r"""Batches that grow by the factor by which a schedule would have lowered the rate.

    The batch of step ``t``, counted in batches from the start of the training, over all epochs::

        wanted(t) = batch_size * schedule(0) / schedule(t)
        size(t)   = wanted(t), rounded to the nearest whole number (a half to the even one),
                    at least 1 and at most max_batch_size

    A schedule that comes back up, at a restart, takes the batch down again. Where the batch cannot grow any further,
    the rate has to fall. The factor that is left for the rate, ::

        lr_factor(t) = (schedule(t) / schedule(0)) * (size(t) / batch_size)

    is 1, except for rounding, until ``max_batch_size`` is reached. With the rate
    ``lr * Table(batches.lr_factor, num_steps)``, the ratio of rate to batch size is at every step exactly what it would
    have been with a rate of ``lr * schedule(t) / schedule(0)`` and batches of ``batch_size``.

    It is a ``batch_sampler`` for a ``DataLoader``. The order of an epoch is drawn from ``sampler`` when it begins. A
    step that a GradScaler skips counts here, since its batch is used, but not on the optimizer's clock.

    Args:
        sampler: finite, of indices, such as ``RandomSampler(dataset)`` or ``DistributedSampler(dataset)``, whose
            ``set_epoch`` is called before each epoch as always. Every process has a GrowingBatchSampler of its own;
            ``batch_size`` is that of one process, and all have the same sizes at each step.
        batch_size: the size at step 0, an integer >= 1.
        schedule: a Schedule with ``schedule(0) > 0``. Only its shape matters: ``2 * schedule`` does the same.
        max_batch_size: an integer >= ``batch_size``.
        drop_last: leaves out the last batch of an epoch if there are too few samples for a whole one.

    Attributes:
        step: the number of batches handed out since the start of the training, which is the step of the next one. Set
            it if an epoch was left early with ``num_workers > 0``, because the workers are ahead of the training.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> from sgdr_fused.schedules import Step
        >>> schedule = Step(0.1, step_size=2, gamma=0.5)  # halves the rate every two steps
        >>> batches = GrowingBatchSampler(range(20), batch_size=2, schedule=schedule, max_batch_size=6)
        >>> [len(batch) for batch in batches]
        [2, 2, 4, 4, 6, 2]
        >>> [batches.lr_factor(t) for t in (0, 2, 4)]
        [1.0, 1.0, 0.75]

    Source: Smith, Kindermans, Ying & Le, "Don't Decay the Learning Rate, Increase the Batch Size" (2017).
    """

    def __init__(
        self, sampler: Iterable[Any], batch_size: int, schedule: Schedule, max_batch_size: int, drop_last: bool = False
    ) -> None:
        _check_sampler(sampler)
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {shown(schedule)}")
        if schedule(0) == 0:
            raise ValueError(f"schedule must be > 0 at step 0, got {shown(schedule)}")
        if not isinstance(drop_last, bool):
            raise TypeError(f"drop_last must be a bool, got {shown(drop_last)}")
        self.sampler = sampler
        self.batch_size = _checks.integer("batch_size", batch_size, 1)
        self.schedule = schedule
        self.max_batch_size = _checks.integer("max_batch_size", max_batch_size, self.batch_size)
        self.drop_last = drop_last
        self._counted = (-1, -1), 0  # the last count of samples and step, and its result
        self._begin(0, [])

    def _begin(self, step: int, order: list[Any]) -> None:
        """Goes to `step`, with `order` as what is left of the epoch; an empty one: a new epoch begins."""
        self._step = self._start = step
        self._order = order  # from self._start on; state_dict needs also what was handed out
        self._under_way = self._resumes = bool(order)

    @property
    def step(self) -> int:
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._begin(_checks.integer("step", step, 0), [])

    def size(self, t: int) -> int:
        """The size of the batch of step ``t`` >= 0."""
        value = self.schedule(t)
        wanted = self.batch_size * (self.schedule(0) / value) if value else math.inf
        return max(round(min(wanted, self.max_batch_size)), 1)

    def lr_factor(self, t: int) -> float:
        """The factor that is left for the rate of step ``t`` >= 0."""
        return self.schedule(t) / self.schedule(0) * (self.size(t) / self.batch_size)

    def __iter__(self) -> Iterator[list[Any]]:
        if not self._resumes:
            self._begin(self._step, list(self.sampler))
        self._resumes = False
        order, begin = self._order, 0
        while begin < len(order):
            size = self.size(self._step)
            if self.drop_last and begin + size > len(order):
                break
            batch = order[begin : begin + size]
            begin += len(batch)
            self._step += 1
            yield batch
        self._under_way = self._resumes = False

    def __len__(self) -> int:
        """The number of batches in the epoch under way, until its last one was handed out; then in the next epoch.

        Epochs differ. With ``num_workers > 0`` the last batch is handed out before it is used, so take the length
        before the epoch. After ``load_state_dict`` it is the length of the rest of the epoch.

        Raises:
            TypeError: if the sampler has no length.
        """
        if self._under_way:
            return self._count(len(self._order), self._start)
        return self._count(len(self.sampler), self._step)  # type: ignore[arg-type]

    def _count(self, samples: int, step: int) -> int:
        key = samples, step
        if self._counted[0] != key:
            first = step
            while samples > 0 and not (self.drop_last and samples < self.size(step)):
                samples -= self.size(step)
                step += 1
            self._counted = key, step - first
        return self._counted[1]

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """The step and the rest of the epoch, for ``torch.save``; ``torch.load(weights_only=True)`` reads it.

        Args:
            step: the number of batches that the training has used since its start; it has to be in the epoch. It is
                needed with ``num_workers > 0``, because the workers have asked for more batches. None takes those that
                were handed out.

        Returns:
            a dict with ``step``; with ``order``, the indices left of the epoch, or None if none are left, as a tensor
            of 8 bytes per sample if they are integers; and with ``generator``, the state of the sampler's generator, or
            None.

        Raises:
            ValueError: for a step that is not in the epoch under way.
        """
        step = self._step if step is None else _checks.integer("step", step, 0)
        if not self._start <= step <= self._step:
            raise ValueError(
                f"step must be one of the epoch under way, from {self._start} to {self._step}, got {step!r}"
            )
        rest = self._order[sum(self.size(t) for t in range(self._start, step)) :]
        order: Any = rest if self._count(len(rest), step) else None
        if order and all(type(index) is int for index in order):
            order = torch.tensor(order, dtype=torch.int64, device="cpu")
        generator = getattr(self.sampler, "generator", None)
        return {"step": step, "order": order, "generator": None if generator is None else generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from where ``state_dict()`` was taken: the next epoch is the rest of that one, in its order.

        The epochs after it are as they would have been if the sampler has a ``generator`` of its own, whose state is
        set, or a ``set_epoch``, which is called as always. If the epoch was used up, nothing is left of it, and the
        next one is whole.

        Raises:
            ValueError: for a dict that ``state_dict()`` did not return.
        """
        if not isinstance(state_dict, dict) or not {"step", "order", "generator"} <= state_dict.keys():
            raise ValueError(f"state_dict must have step, order and generator, got {shown(state_dict)}")
        step, order, state = (state_dict[key] for key in ("step", "order", "generator"))
        step = _checks.integer("state_dict['step']", step, 0)
        if order is not None and not isinstance(order, (list, tuple)):
            if not isinstance(order, torch.Tensor) or order.dim() != 1:
                raise ValueError(f"state_dict['order'] must be a list of indices or None, got {shown(order)}")
            order = order.tolist()
        if state is not None and not isinstance(state, torch.Tensor):
            raise ValueError(f"state_dict['generator'] must be a generator's state or None, got {shown(state)}")
        generator = getattr(self.sampler, "generator", None)
        if generator is not None and state is not None:
            generator.set_state(state)  # it raises before it changes anything
        self._begin(step, list(order or ()))


def _check_sampler(sampler: Any) -> None:
    """Raises for a sampler that does not give indices, or gives them only once."""
    if isinstance(sampler, DataLoader):
        raise TypeError(f"sampler must be an iterable of indices, got {shown(sampler)}: give its sampler")
    if isinstance(sampler, BatchSampler) or not isinstance(sampler, Iterable) or isinstance(sampler, (str, bytes)):
        hint = ", such as RandomSampler(dataset) or range(len(dataset))"
        raise TypeError(f"sampler must be an iterable of indices{hint}, got {shown(sampler)}")
    if isinstance(sampler, Iterator) and not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must start anew at each epoch, got the iterator {shown(sampler)}, which is used up")
