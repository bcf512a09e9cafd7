"""The learning-rate range test: a short training while the rate grows, of which nothing but the losses stays."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import _checks
from ._optimizer import FusedOptimizer
from ._range_result import LRFindResult, divergence
from ._restore import restored
from .schedules import Constant, ExponentialRamp, LinearRamp, Schedule, Sequential

__all__ = ["LRFindResult", "lr_find"]

_RAMPS = {"exp": ExponentialRamp, "linear": LinearRamp}


def lr_find(
    model: nn.Module,
    optimizer: FusedOptimizer,
    criterion: Callable[[Any, Any], Tensor] | None,
    loader: Iterable[Any],
    start_lr: float = 1e-7,
    end_lr: float = 10.0,
    num_steps: int = 100,
    mode: str = "exp",
    *,
    smoothing: float = 0.95,
    diverge_factor: float = 4.0,
    accumulation_steps: int = 1,
    autocast_dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    val_loader: Iterable[Any] | None = None,
    batch_to_loss: Callable[[nn.Module, Any], Tensor] | None = None,
    read_every: int = 16,
    progress: bool = True,
) -> LRFindResult:
    """Trains for a while with a growing rate, records the loss at each, and puts everything back.

    The rate of step ``t`` is, for ``t`` in ``0, ..., num_steps - 1``::

        start_lr**(1 - x) * end_lr**x              x = t / (num_steps - 1), mode "exp"
        start_lr * (1 - x) + end_lr * x                                     mode "linear"

    It is a Schedule for the time of the test: computed on the device and, under a ``scaler``, not moved on by a step
    that was skipped. Momentum and weight decay that have Schedules go on from where the clock stands.

    **Groups keep the ratios of their rates.** The rate above is that of the group with the largest one, where a
    Schedule counts with its ``upper_bound``. A rate of 0 stays 0, unless all are.

    **Which loss belongs to a rate**: that of the batch whose gradient the step with this rate applies, so of the
    weights before that step, as in fastai; with ``val_loader`` that of the weights after it, as in torch-lr-finder.
    There is one loss for each step that was applied; what a skipped one computed is dropped.

    The losses stay on the device and are read after every ``read_every`` steps; nothing else waits for it. Then the
    test ends if a smoothed loss (:attr:`LRFindResult.smoothed`) was above ``best + (diverge_factor - 1) * abs(best)``,
    with ``best`` the smallest one before, or was not finite. For positive losses that is ``diverge_factor * best``.
    What was recorded later is dropped, and so is a loss that is not finite. With ``DistributedDataParallel`` every
    process makes the call, and the losses are the means over the processes, so that all stop together.

    **Restored whatever happens**, an exception and Ctrl-C included, bit for bit and in the same tensors: parameters and
    buffers of the model and parameters of the optimizer, their gradients, ``requires_grad`` and modes; the optimizer's
    groups, Schedules, state and clock; random numbers of torch, Python and NumPy; generators and states of the loaders'
    samplers. The scaler is not touched: the test works with a copy. Until then there is a second copy of parameters,
    buffers, gradients and state on the device. Other attributes of modules are not restored, nor what hooks of the
    optimizer's step, which run as always, keep elsewhere.

    Args:
        model: in training mode, its modules stay in the modes they are in; in evaluation mode, all are put in training
            mode.
        optimizer: one of this package's; another has no rate on the device.
        criterion: ``criterion(model(inputs), targets)`` is the loss, a tensor with one element. None with
            ``batch_to_loss``.
        loader: of batches ``(inputs, targets)``, or dicts with these two keys. Started again when it ends. Tensors in a
            batch, also in nested tuples, lists and dicts, are moved to the device of the optimizer's first parameter.
        start_lr, end_lr: finite, 0 < ``start_lr`` < ``end_lr``.
        num_steps: of the optimizer, an integer >= 2. With a ``scaler`` up to ``2 * num_steps`` are tried, for some may
            be skipped.
        mode: ``"exp"`` or ``"linear"``.
        smoothing: in [0, 1): the weight of the past; 0 for none. fastai has 0.98, torch-lr-finder 0.95.
        diverge_factor: finite, > 1. fastai has 4, torch-lr-finder 5.
        accumulation_steps: batches per step, an integer >= 1. The loss is the mean over them.
        autocast_dtype: computes losses under ``torch.autocast`` with this dtype; None without.
        scaler: a GradScaler between two steps, not after ``unscale_``.
        val_loader: batches over which the loss is taken after each step, in evaluation mode: their mean, weighted with
            the length of the first tensor in each.
        batch_to_loss: ``batch_to_loss(model, batch)`` in place of ``criterion``, for batches of any other form.
        read_every: an integer >= 1.
        progress: a bar, where tqdm is installed (``pip install sgdr_fused[progress]``).

    Returns:
        an :class:`LRFindResult`.

    Raises:
        ValueError, TypeError: naming the argument and its value, before anything is done.
        ValueError: for a loader without batches.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedSGD, lr_find
        >>> model = torch.nn.Linear(4, 1)
        >>> inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> loader = [(inputs, inputs.sum(dim=1, keepdim=True))]
        >>> optimizer = FusedSGD(model.parameters(), lr=0.1)
        >>> result = lr_find(model, optimizer, torch.nn.functional.mse_loss, loader, 1e-4, 1e3, progress=False)
        >>> result.diverged, len(result.lrs) < 100, 1e-3 < result.suggestion("valley") < 2.0
        (True, True, True)
        >>> optimizer.param_groups[0]["lr"], optimizer.clock.item()
        (0.1, 0)

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (2015), section 3.3; the exponential ramp, the
    smoothing and the end by divergence after fastai's ``lr_find``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {model!r}")
    if not isinstance(optimizer, FusedOptimizer):
        raise TypeError(
            "optimizer must be one of sgdr_fused, whose rate can ramp on the device, "
            f"got {type(optimizer).__name__}; FusedSGD, FusedAdam and FusedAdamW take torch.optim's arguments"
        )
    if (criterion is None) == (batch_to_loss is None):
        raise ValueError(f"one of criterion={criterion!r} and batch_to_loss={batch_to_loss!r} must be given")
    start_lr = _checks.between("start_lr", start_lr, 0.0, math.inf, low_open=True, high_open=True)
    end_lr = _checks.between("end_lr", end_lr, 0.0, math.inf, low_open=True, high_open=True)
    if start_lr >= end_lr:
        raise ValueError(f"start_lr must be < end_lr, got {start_lr!r} and {end_lr!r}")
    if mode not in _RAMPS:
        raise ValueError(f"mode must be one of {sorted(_RAMPS)}, got {mode!r}")
    num_steps = _checks.integer("num_steps", num_steps, 2)
    smoothing = _checks.between("smoothing", smoothing, 0.0, 1.0, high_open=True)
    diverge_factor = _checks.between("diverge_factor", diverge_factor, 1.0, math.inf, low_open=True, high_open=True)
    accumulation_steps = _checks.integer("accumulation_steps", accumulation_steps, 1)
    read_every = _checks.integer("read_every", read_every, 1)
    if autocast_dtype is not None and not isinstance(autocast_dtype, torch.dtype):
        raise TypeError(f"autocast_dtype must be a torch.dtype, got {autocast_dtype!r}")
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"scaler must be a torch.amp.GradScaler, got {scaler!r}")

    ramp = _RAMPS[mode](start_lr, end_lr, num_steps - 1)
    ratios = _ratios(optimizer)
    trial = _Trial(model, optimizer, _loss_function(criterion, batch_to_loss), autocast_dtype, copy.deepcopy(scaler))
    losses: list[float] = []
    used, end = 0, None
    with (
        restored(model, optimizer, (loader, val_loader)),
        torch.enable_grad(),
        _bar(num_steps, progress) as bar,
        contextlib.closing(_endless(loader)) as batches,  # closed with a loader's processes
    ):
        start = int(optimizer.clock)
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = _from_step(start, ramp if ratio == 1 else ratio * ramp)
        if not model.training:
            model.train()
        # One place for each rate: what a skipped step has written, the next one writes over.
        record = torch.zeros(num_steps, dtype=torch.float64, device=optimizer.clock.device)
        while end is None and len(losses) < num_steps and used < 2 * num_steps:
            for _ in range(min(read_every, num_steps - len(losses))):
                place = (optimizer.clock - start).reshape(1)
                loss = trial.step(batches, accumulation_steps)
                if val_loader is not None:
                    loss = trial.validate(val_loader)
                record.index_copy_(0, place, loss.to(record).reshape(1))
                used += 1
            taken = int(optimizer.clock) - start
            recorded = _over_processes(record, model).tolist()
            bar.update(taken - len(losses))
            losses = recorded[:taken]
            end = divergence(losses, smoothing, diverge_factor)
            if end is None and taken < num_steps and not math.isfinite(recorded[taken]):
                end = taken  # a scaler would skip such steps for ever
    kept = losses[:end]
    return LRFindResult(
        lrs=ramp.values(num_steps)[: len(kept)],
        losses=torch.tensor(kept, dtype=torch.float64),
        ratios=ratios,
        smoothing=smoothing,
        diverged=end is not None,
    )


class _Trial:
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
        self._device = optimizer._first_device()
        self._autocast_dtype, self._scaler = autocast_dtype, scaler

    def step(self, batches: Iterator[Any], accumulation_steps: int) -> Tensor:
        """One step of the optimizer; the loss before it."""
        optimizer, scaler = self._optimizer, self._scaler
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
    def validate(self, loader: Iterable[Any]) -> Tensor:
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        batches = [(_length(batch), self._loss(batch).double()) for batch in loader]
        for module, training in modes:
            module.training = training
        if not batches:
            raise ValueError(f"val_loader must have batches, got none from {loader!r}")
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
            got = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"the loss must be a tensor with one element, got {got}")
        return loss.reshape(())


def _loss_function(
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


def _ratios(optimizer: FusedOptimizer) -> tuple[float, ...]:
    """Each group's rate over the largest. A Schedule may well be at 0 now, in front of its warm-up."""
    rates = []
    for group in optimizer.param_groups:
        schedule: Schedule | None = group.get("lr_schedule")
        largest = math.inf if schedule is None else schedule.upper_bound
        rates.append(largest if math.isfinite(largest) else float(group["lr"]))
    largest = max(rates)
    return tuple(rate / largest if largest > 0 else 1.0 for rate in rates)


def _from_step(step: int, schedule: Schedule) -> Schedule:
    """The schedule, with its step 0 at `step`."""
    return Sequential([(Constant(0.0), step), schedule]) if step else schedule


def _endless(loader: Iterable[Any]) -> Generator[Any, None, None]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError(f"loader must have batches each time it is started, got none from {loader!r}")


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
    """Of the first tensor in it; 1 where there is none."""
    if isinstance(batch, Tensor) and batch.dim():
        return len(batch)
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return next((_length(item) for item in items if isinstance(item, (Tensor, Mapping, tuple, list))), 1)


def _over_processes(record: Tensor, model: nn.Module) -> Tensor:
    """The mean over the processes that share the model, so that all of them stop at the same step."""
    if not torch.distributed.is_available() or not isinstance(model, nn.parallel.DistributedDataParallel):
        return record
    total = record.clone()
    torch.distributed.all_reduce(total, group=model.process_group)
    return total / torch.distributed.get_world_size(model.process_group)


class _NoBar:
    def update(self, steps: int) -> None:
        pass


def _bar(num_steps: int, progress: bool) -> Any:
    if progress:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            return tqdm(total=num_steps, desc="lr_find", unit="step")
    return contextlib.nullcontext(_NoBar())
