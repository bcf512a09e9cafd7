"""The steps of a range test: batches, losses, and the mean over processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._messages import shown
from ..optimizers._base import FusedOptimizer


class Trial:
    """The steps of the test."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: FusedOptimizer,
        loss_function: Callable[[nn.Module, Any], Tensor],
        autocast_dtype: torch.dtype | None,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._model, self._optimizer, self._loss_function = model, optimizer, loss_function
        self._device = optimizer.clock.device
        self._autocast_dtype, self._scaler = autocast_dtype, scaler

    def blocks(
        self,
        loader: Iterable[Any],
        val_loader: Iterable[Any] | None,
        num_steps: int,
        accumulation_steps: int,
        read_every: int,
    ) -> Generator[tuple[list[float], bool], None, None]:
        """Takes the steps. After every ``read_every`` of them it yields all losses so far, and whether a skipped step
        had a loss that is not finite.
        """
        optimizer = self._optimizer
        start, taken, used = int(optimizer.clock), 0, 0
        # Each rate has one place, so the next step writes over the loss of a skipped one.
        record = torch.zeros(num_steps, dtype=torch.float64, device=self._device)
        with contextlib.closing(endless(loader)) as batches:
            while taken < num_steps and used < 2 * num_steps:
                for _ in range(min(read_every, num_steps - taken)):
                    place = (optimizer.clock - start).reshape(1)
                    loss = self._step(batches, accumulation_steps)
                    if val_loader is not None:
                        loss = self._validate(val_loader)
                    record.index_copy_(0, place, loss.to(record).reshape(1))
                    used += 1
                taken = int(optimizer.clock) - start
                losses = _over_processes(record, self._model).tolist()
                yield losses[:taken], taken < num_steps and not math.isfinite(losses[taken])

    def _step(self, batches: Iterator[Any], accumulation_steps: int) -> Tensor:
        """Takes one step of the optimizer, and returns the loss before it."""
        optimizer, scaler = self._optimizer, self._scaler
        torch.clear_autocast_cache()  # inside a caller's autocast it would keep the weights of the step before
        optimizer.zero_grad()
        losses = []
        for _ in range(accumulation_steps):
            loss = self._loss(next(batches))
            losses.append(loss.detach().double())
            loss = loss / accumulation_steps
            (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _validate(self, loader: Iterable[Any]) -> Tensor:
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        batches = [(_length(batch), self._loss(batch).double()) for batch in loader]
        for module, training in modes:
            module.training = training
        if not batches:
            raise ValueError(f"val_loader must have batches, got none from {shown(loader)}")
        return torch.stack([length * loss for length, loss in batches]).sum() / sum(length for length, _ in batches)

    def _loss(self, batch: Any) -> Tensor:
        batch = _moved(batch, self._device)
        with (
            contextlib.nullcontext()
            if self._autocast_dtype is None
            else torch.autocast(self._device.type, dtype=self._autocast_dtype)
        ):
            loss = self._loss_function(self._model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
            raise ValueError(f"the loss must be a tensor with one element, got {got}")
        return loss.reshape(())


def loss_function(
    criterion: Callable[[Any, Any], Tensor] | None, batch_to_loss: Callable[[nn.Module, Any], Tensor] | None
) -> Callable[[nn.Module, Any], Tensor]:
    if criterion is None:
        assert batch_to_loss is not None
        return batch_to_loss

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if isinstance(batch, Mapping) and {"inputs", "targets"} <= set(batch):
            return criterion(model(batch["inputs"]), batch["targets"])
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            return criterion(model(batch[0]), batch[1])
        described = (
            f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list, Mapping)) else type(batch)
        )
        raise TypeError(
            "a batch must be (inputs, targets) or a dict with the keys 'inputs' and 'targets', "
            f"got a {described}; for others give batch_to_loss"
        )

    return loss


def endless(loader: Iterable[Any]) -> Generator[Any, None, None]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError(f"loader must have batches each time it is started, got none from {shown(loader)}")


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a namedtuple
        return type(batch)(*(_moved(item, device) for item in batch))
    if type(batch) in (tuple, list):
        return type(batch)(_moved(item, device) for item in batch)
    if type(batch) is dict:
        return {key: _moved(value, device) for key, value in batch.items()}
    return batch


def _length(batch: Any) -> int:
    """The length of the first tensor in the batch; 1 where there is none."""
    if isinstance(batch, Tensor) and batch.dim():
        return len(batch)
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((_length(item) for item in items if isinstance(item, (Tensor, Mapping, tuple, list))), 1)


def _over_processes(record: Tensor, model: nn.Module) -> Tensor:
    """The mean of the losses over the processes that share the model, so that all stop at the same step.

    The wrapper that shares the model may be inside another wrapper.
    """
    if not torch.distributed.is_available():
        return record
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            total = record.clone()
            torch.distributed.all_reduce(total, group=module.process_group)
            return total / torch.distributed.get_world_size(module.process_group)
    return record
