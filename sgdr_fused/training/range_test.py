"""The learning-rate range test: a short training while the rate grows, of which nothing but the losses stays.

**The rate** is a Schedule for the time of the test. It is computed on the device and, under a ``scaler``, a step that
was skipped does not move it on. Momentum and weight decay that have Schedules go on from where the clock stands.

**Groups keep the ratios of their rates.** The rate of the test is that of the group with the largest one, where a
Schedule counts with its ``upper_bound``. A rate of 0 stays 0, unless all are 0.

**Which loss belongs to a rate.** It is the loss of the batch whose gradient the step with this rate applies, so of the
weights before that step, as in fastai. With ``val_loader`` it is the loss of the weights after that step, as in
torch-lr-finder. There is one loss for each step that was applied. What a skipped step computed is dropped.

**When the test ends.** The losses stay on the device and are read after every ``read_every`` steps; nothing else waits
for the device. After each reading the test ends if the loss has diverged. Losses of small batches differ much, whatever
the rate, so a single loss decides nothing, neither the first nor a lucky one: a rise counts, and so does a low, when it
lasts for five points. With ``smoothed`` as :attr:`LRFindResult.smoothed`, the loss has diverged at point ``i`` where ::

    smoothed[i] > best + (diverge_factor - 1) * abs(best)    and    losses[k] > usual  for the last five k <= i

    best   the smallest, over earlier points, of the largest of five successive smoothed losses
    usual  the largest of the 20 losses up to that best, or of the first 20, those five not among them

For positive losses the bound is ``diverge_factor * best``. The loss has also diverged where ``smoothed[i]`` is not
finite, which needs no five points. What was recorded after the first point above both is dropped, and so is a loss that
is not finite. With ``DistributedDataParallel`` every process makes the call, and the losses are the means over the
processes, so that all stop together. With a ``scaler`` up to ``2 * num_steps`` steps are tried, because some may be
skipped.

**What is restored**, whatever happens, an exception and Ctrl-C included, bit for bit and in the same tensors and
objects:

- parameters, buffers, modes and all other attributes of the model's modules, of a criterion that is a module, and
  of modules that the loss functions close over; gradients and ``requires_grad``;
- the optimizer's groups, Schedules, state, clock, ``n_averaged``, ``grad_norm`` and ``skipped_steps``;
- attributes of the loaders and of their samplers, batch samplers, datasets and transforms, with ``state_dict``
  where they have one, and of the objects whose methods are the loss function or hooks of a step or of a module:
  which values they are, what lists, dicts and sets hold, and generators of random numbers;
- random numbers of torch, Python and NumPy. The scaler is not touched: the test works with a copy. Workers of a
  loader that persist are put aside; the test has its own. Hooks of a cycle's end are not called.

Until then there is a second copy of parameters, buffers, gradients and state on the device.

**What is not restored**: what is outside of this process or in C++, such as files and streams; tensors and arrays of a
dataset that are written in place; variables that functions, hooks among them, close over, and global ones. A warning
names what can be seen: a loader, or an attribute, that is an iterator, and an ``IterableDataset`` without
``state_dict``.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .. import _checks
from .._engine.hyperparameters import scale_of
from .._messages import shown, warn
from ..optimizers._base import FusedOptimizer
from ..schedules import Constant, ExponentialRamp, LinearRamp, Schedule, Sequential
from ._range_result import LRFindResult, divergence
from ._restore import Saved
from ._trial import Trial, loss_function

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
    """Trains for a while with a growing rate, records the loss at each rate, and puts everything back.

    The rate of step ``t`` is, for ``t`` in ``0, ..., num_steps - 1``, in the group with the largest rate::

        start_lr**(1 - x) * end_lr**x              x = t / (num_steps - 1), mode "exp"
        start_lr * (1 - x) + end_lr * x                                     mode "linear"

    The other groups keep the ratios of their rates. The docstring of the module, ``help(sgdr_fused.range_test)``,
    says which loss belongs to a rate, when the test ends early, and what is restored and what is not.

    Args:
        model: in training mode, its modules stay in their modes; in evaluation mode, all are put in training mode.
        optimizer: one of this package's; another has no rate on the device.
        criterion: ``criterion(model(inputs), targets)`` is the loss, with one element. None with ``batch_to_loss``.
        loader: batches ``(inputs, targets)``, or dicts with these keys; started again when it ends. Tensors in nested
            tuples, lists and dicts too are moved to the device of the optimizer's first parameter.
        start_lr, end_lr: finite, 0 < ``start_lr`` < ``end_lr``.
        num_steps: of the optimizer, an integer >= 2.
        mode: ``"exp"`` or ``"linear"``.
        smoothing: the weight of the past, in [0, 1); 0 for none. fastai has 0.98, torch-lr-finder 0.95.
        diverge_factor: finite, > 1. fastai has 4, torch-lr-finder 5.
        accumulation_steps: batches per step, an integer >= 1. The loss is the mean over them.
        autocast_dtype: computes losses under ``torch.autocast`` with this dtype; None without.
        scaler: a GradScaler between two steps, not after ``unscale_``.
        val_loader: after each step the loss is the mean over these batches, in evaluation mode, weighted with the
            length of the first tensor in each.
        batch_to_loss: ``batch_to_loss(model, batch)`` in place of ``criterion``, for batches of any other form.
        read_every: the losses are read after so many steps, an integer >= 1.
        progress: shows a bar, where tqdm is installed (``pip install sgdr_fused[progress]``).

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
    _check(model, optimizer, criterion, loader, autocast_dtype, scaler, val_loader, batch_to_loss)
    options = _checked(start_lr, end_lr, num_steps, mode, smoothing, diverge_factor, accumulation_steps, read_every)
    trial = Trial(model, optimizer, loss_function(criterion, batch_to_loss), autocast_dtype, copy.deepcopy(scaler))
    ratios = _ratios(optimizer)
    saved = Saved(model, optimizer, (loader, val_loader), (criterion, batch_to_loss))
    losses, diverged = _run(model, optimizer, ratios, trial, saved, loader, val_loader, options, progress)
    return options.result(losses, ratios, diverged)


class _Options(NamedTuple):
    """The options of a test, checked."""

    ramp: Schedule
    num_steps: int
    smoothing: float
    diverge_factor: float
    accumulation_steps: int
    read_every: int

    def result(self, losses: list[float], ratios: tuple[float, ...], diverged: bool) -> LRFindResult:
        """What the test has measured."""
        return LRFindResult(
            lrs=self.ramp.values(self.num_steps)[: len(losses)],
            losses=torch.tensor(losses, dtype=torch.float64, device="cpu"),
            ratios=ratios,
            smoothing=self.smoothing,
            diverged=diverged,
        )


def _checked(
    start_lr: float,
    end_lr: float,
    num_steps: int,
    mode: str,
    smoothing: float,
    diverge_factor: float,
    accumulation_steps: int,
    read_every: int,
) -> _Options:
    """The options; raises for one that cannot be."""
    start_lr = _checks.between("start_lr", start_lr, 0.0, math.inf, low_open=True, high_open=True)
    end_lr = _checks.between("end_lr", end_lr, 0.0, math.inf, low_open=True, high_open=True)
    if start_lr >= end_lr:
        raise ValueError(f"start_lr must be < end_lr, got {start_lr!r} and {end_lr!r}")
    if not isinstance(mode, str) or mode not in _RAMPS:
        raise ValueError(f"mode must be one of {sorted(_RAMPS)}, got {shown(mode)}")
    num_steps = _checks.integer("num_steps", num_steps, 2)
    return _Options(
        ramp=_RAMPS[mode](start_lr, end_lr, num_steps - 1),
        num_steps=num_steps,
        smoothing=_checks.between("smoothing", smoothing, 0.0, 1.0, high_open=True),
        diverge_factor=_checks.between("diverge_factor", diverge_factor, 1.0, math.inf, low_open=True, high_open=True),
        accumulation_steps=_checks.integer("accumulation_steps", accumulation_steps, 1),
        read_every=_checks.integer("read_every", read_every, 1),
    )


def _run(
    model: nn.Module,
    optimizer: FusedOptimizer,
    ratios: tuple[float, ...],
    trial: Trial,
    saved: Saved,
    loader: Iterable[Any],
    val_loader: Iterable[Any] | None,
    options: _Options,
    progress: bool,
) -> tuple[list[float], bool]:
    """Takes the steps and restores what they changed. Returns what :func:`_losses` returns."""
    if saved.lost:
        warn(f"lr_find leaves everything as it was, but for {'; '.join(saved.lost)}")
    try:
        try:
            saved.begin()
            start = int(optimizer.clock)
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                factor = ratio / (scale_of("lr", group) or 1.0)  # a Schedule is multiplied by the group's lr_scale
                group["lr"] = _from_step(start, options.ramp if factor == 1 else factor * options.ramp)
            if not model.training:
                model.train()
            return _losses(trial, loader, val_loader, options, progress)
        finally:
            saved.restore()
    finally:
        saved.restore()  # all that an interrupt of the first has left


def _losses(
    trial: Trial, loader: Iterable[Any], val_loader: Iterable[Any] | None, options: _Options, progress: bool
) -> tuple[list[float], bool]:
    """Takes the steps. Returns the losses that are kept, and whether the loss diverged."""
    losses: list[float] = []
    drawn = 0
    with torch.enable_grad(), _bar(options.num_steps, progress) as bar:
        blocks = trial.blocks(loader, val_loader, options.num_steps, options.accumulation_steps, options.read_every)
        with contextlib.closing(blocks):  # with a loader's processes
            for losses, overflow in blocks:
                bar.update(len(losses) - drawn)
                drawn = len(losses)
                end = divergence(losses, options.smoothing, options.diverge_factor)
                if end is None and overflow:
                    end = len(losses)  # a scaler would skip such steps for ever
                if end is not None:
                    return losses[:end], True
    return losses, False


def _check(
    model: Any,
    optimizer: Any,
    criterion: Any,
    loader: Any,
    autocast_dtype: Any,
    scaler: Any,
    val_loader: Any,
    batch_to_loss: Any,
) -> None:
    """Raises for an argument of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {shown(model)}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"model must be initialised, but {name!r} has no shape yet: run it on one batch first")
    if not isinstance(optimizer, FusedOptimizer):
        got = type(optimizer).__name__ if isinstance(optimizer, torch.optim.Optimizer) else shown(optimizer)
        hint = "FusedSGD, FusedAdam and FusedAdamW take torch.optim's arguments"
        if isinstance(getattr(optimizer, "optimizer", None), FusedOptimizer):
            hint = "give the one inside this wrapper, its attribute optimizer"
        raise TypeError(f"optimizer must be one of sgdr_fused, whose rate can ramp on the device, got {got}; {hint}")
    if (criterion is None) == (batch_to_loss is None):
        raise ValueError(f"one of criterion={shown(criterion)} and batch_to_loss={shown(batch_to_loss)} must be given")
    for name, function in (("criterion", criterion), ("batch_to_loss", batch_to_loss)):
        if function is not None and (not callable(function) or isinstance(function, type)):
            raise TypeError(f"{name} must be a function or a module, not a class, got {shown(function)}")
    for name, each in (("loader", loader), ("val_loader", val_loader)):
        iterable = isinstance(each, Iterable) or hasattr(type(each), "__getitem__")
        if not iterable or isinstance(each, (str, bytes, nn.Module)) if each is not None else name == "loader":
            raise TypeError(f"{name} must be an iterable of batches, such as a DataLoader, got {shown(each)}")
    if autocast_dtype is not None and not isinstance(autocast_dtype, torch.dtype):
        raise TypeError(f"autocast_dtype must be a torch.dtype, got {shown(autocast_dtype)}")
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"scaler must be a torch.amp.GradScaler, got {shown(scaler)}")


def _ratios(optimizer: FusedOptimizer) -> tuple[float, ...]:
    """Each group's rate over the largest. A Schedule may well be at 0 now, in front of its warm-up."""
    rates = []
    for group in optimizer.param_groups:
        schedule: Schedule | None = group.get("lr_schedule")
        largest = math.inf if schedule is None else schedule.upper_bound * scale_of("lr", group)
        rates.append(largest if math.isfinite(largest) else max(float(group["lr"]), 0.0))
    largest = max(rates)
    return tuple(rate / largest if largest > 0 else 1.0 for rate in rates)


def _from_step(step: int, schedule: Schedule) -> Schedule:
    """The schedule, with its step 0 at `step`."""
    return Sequential([(Constant(0.0), step), schedule]) if step else schedule


class _NoBar:
    def update(self, steps: int) -> None:
        pass


def _bar(num_steps: int, progress: bool) -> Any:
    if progress:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            return tqdm(total=num_steps, desc="lr_find", unit="step")
    return contextlib.nullcontext(_NoBar())
