"""Smith & Topin's estimate of the rate, from the path of the weights and without a Hessian."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from .._messages import shown
from ..schedules import Schedule

__all__ = ["HessianFreeLR", "hessian_free_lr"]

Weights = Tensor | Sequence[Tensor]


@torch.no_grad()
def hessian_free_lr(w0: Weights, w1: Weights, w2: Weights, lr: float | Tensor | tuple[Any, Any]) -> Tensor:
    r"""The rate that three consecutive weight vectors of gradient descent suggest.

    ::

        lr_estimate = lr * sum|w1 - w0| / sum|2 w1 - w0 - w2|

    Gradient descent took ``w1 = w0 - lr g(w0)`` and ``w2 = w1 - lr g(w1)``, so the denominator is ``lr`` times the sum
    of ``|g(w1) - g(w0)|``, and the estimate is a distance over the change of the gradient along it: the inverse of the
    curvature, as in a secant step. On a quadratic of curvature ``h`` it is ``1 / h``, the rate that would reach the
    minimum in one step, whatever ``lr`` was; gradient descent diverges above twice that. With curvatures ``h[i]`` along
    the axes it is the inverse of their mean, weighted with ``|w1 - w0|[i]``. Where the two steps had rates of their
    own, as under a schedule, each is divided by its own::

        lr_estimate = sum|w1 - w0| / sum|(w1 - w2) / lr[1] - (w0 - w1) / lr[0]|

    It holds for plain gradient descent: momentum and Adam's scaling make steps that are not ``lr`` times a gradient.
    With mini-batches the change of the gradient is noise for the most part, which makes the estimate too small, and the
    difference of nearly equal steps loses digits. So smooth the estimate (:class:`HessianFreeLR`), and take it for a
    trend, as the paper does.

    Args:
        w0, w1, w2: the weights before, between and after two steps; each a tensor, or a list of tensors of the same
            shapes. The sums are in float64.
        lr: the rate of both steps, or a pair of rates, > 0; numbers or tensors with one element.

    Returns:
        a float64 tensor of shape () on the device of the first weights; nothing waits for it. It is ``inf`` if the
        gradient did not change, and NaN if the weights did not move either.

    Raises:
        ValueError: for weights whose shapes differ; for a number ``lr`` that is not finite and > 0.

    Example:
        >>> import torch
        >>> path = [torch.tensor([1.0, -3.0], dtype=torch.float64)]
        >>> for _ in range(2):
        ...     path.append(path[-1] - 0.1 * 4 * path[-1])  # the gradient of 2 w**2, whose curvature is 4
        >>> hessian_free_lr(*path, lr=0.1)
        tensor(0.2500, dtype=torch.float64)

    Source: Smith & Topin, "Super-Convergence" (2018), section 4; the sums over all weights after Schaul et al. (2013),
    with absolute values in place of squares. The paper has one rate for both steps.
    """
    paths = [_tensors(name, w) for name, w in (("w0", w0), ("w1", w1), ("w2", w2))]
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in paths]
    if not shapes[0] == shapes[1] == shapes[2] or not shapes[0]:
        raise ValueError(f"w0, w1 and w2 must have the same shapes, and at least one tensor, got {shapes}")
    if isinstance(lr, tuple) and len(lr) != 2:
        raise ValueError(f"lr must be a rate or a pair of rates, got {shown(lr)}")
    first, second = (_rate(f"lr[{i}]", rate) for i, rate in enumerate(lr if isinstance(lr, tuple) else (lr, lr)))
    moved, changed = [], []
    for before, between, after in zip(*paths, strict=True):
        step, next_step = between.double() - before, after.double() - between
        moved.append(step.abs().sum())
        changed.append((step / first - next_step / second).abs().sum())
    device = moved[0].device
    return sum(each.to(device) for each in moved) / sum(each.to(device) for each in changed)


def _tensors(name: str, weights: Any, hint: str = "") -> list[Tensor]:
    """One tensor, or several, as a list."""
    tensors = [weights] if isinstance(weights, Tensor) else weights
    if not isinstance(tensors, Iterable) or isinstance(tensors, (str, bytes)):
        raise TypeError(f"{name} must be tensors, got {shown(weights)}{hint}")
    tensors = list(tensors)
    if not all(isinstance(tensor, Tensor) and not tensor.is_complex() for tensor in tensors):
        raise TypeError(f"{name} must be real tensors, got {shown(tensors)}{hint}")
    return tensors


def _rate(name: str, rate: Any) -> Any:
    """The rate, checked. A tensor's value is not looked at, because it is on its device."""
    if isinstance(rate, Schedule):
        raise TypeError(f"{name} must be a rate, got {shown(rate)}; its rate at step t is schedule(t)")
    if isinstance(rate, Tensor):
        if rate.numel() != 1:
            raise ValueError(f"{name} must have one element, got a tensor of shape {tuple(rate.shape)}")
        return rate.detach().reshape(())
    return _checks.between(name, rate, 0.0, math.inf, low_open=True, high_open=True)


class HessianFreeLR:
    r"""The estimate of :func:`hessian_free_lr` along a training, smoothed.

    ::

        value = smoothing * value + (1 - smoothing) * estimate       value = estimate at the first one

    A step that moved nothing, such as one that a GradScaler skipped, was no step of gradient descent. So the two
    estimates that it takes part in are left out, and so is an estimate that is not finite.

    The object holds two copies of the parameters. Only a look at ``value`` waits for the device.

    Args:
        params: the parameters, or some of them: tensors.
        smoothing: the weight of the past, in [0, 1). The paper has 0.9.

    Attributes:
        value: a float64 tensor of shape () on the first parameter's device; NaN before the first estimate, which
            takes two updates.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedSGD
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -3.0], dtype=torch.float64))
        >>> optimizer = FusedSGD([weight], lr=0.1)
        >>> estimate = HessianFreeLR([weight])
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     (2 * weight.square()).sum().backward()
        ...     optimizer.step()
        ...     estimate.update(lr=0.1)
        >>> round(estimate.value.item(), 6)
        0.25

    Source: Smith & Topin, "Super-Convergence" (2018), section 4: a moving average with a weight of 0.1 for the
    new estimate.
    """

    def __init__(self, params: Iterable[Tensor], smoothing: float = 0.9) -> None:
        hint = "; a model has them as model.parameters()" if isinstance(params, nn.Module) else ""
        self._params = _tensors("params", params, hint)
        if not self._params:
            raise TypeError(f"params must be tensors, at least one, got {shown(self._params)}")
        self._smoothing = _checks.between("smoothing", smoothing, 0.0, 1.0, high_open=True)
        self._path = [self._weights()]
        self._last: tuple[Any, Any] = None, None  # the rate of the last step, and whether it moved anything
        self.value = torch.full((), math.nan, dtype=torch.float64, device=self._params[0].device)

    def _weights(self) -> list[Tensor]:
        return [param.detach().clone() for param in self._params]

    @torch.no_grad()
    def update(self, lr: float | Tensor) -> None:
        """Takes a step into account, after it was taken.

        Args:
            lr: its rate, > 0: a number, or a tensor with one element. ``group["lr"]`` of a group with a Schedule
                already shows the next step's: call ``schedule(t)``, or keep a clone of it from before the step.
        """
        lr = _rate("lr", lr)
        self._path.append(self._weights())
        pairs = zip(*self._path[-2:], strict=True)
        moved = torch.stack([(before != after).any().to(self.value.device) for before, after in pairs]).any()
        if len(self._path) == 3:
            last_lr, last_moved = self._last
            estimate = hessian_free_lr(self._path[0], self._path[1], self._path[2], lr=(last_lr, lr)).to(
                self.value.device
            )
            mean = self._smoothing * self.value + (1 - self._smoothing) * estimate
            mean = torch.where(self.value.isnan(), estimate, mean)
            self.value = torch.where(estimate.isfinite() & moved & last_moved, mean, self.value)
            del self._path[0]
        self._last = lr.clone() if isinstance(lr, Tensor) else lr, moved
