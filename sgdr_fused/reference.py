"""The readable truth: each update and each schedule from the papers, in plain torch and Python.

Tests hold the fast path to it, and it is what runs where no extension can be built. It shares no
code with the fast path and imports nothing of the package.
"""

from __future__ import annotations

import bisect
import functools
import math

import torch
from torch import Tensor

# After so many cycles of growing length, or at this step, the last cycle's length repeats.
MAX_CYCLES = 65_536
LAST_START = 2**62

# ------------------------------------------------------------------------------------- updates
#
# Each works in place on `param` and on the tensors in `state`, which it creates at a parameter's
# first step, and leaves `grad` alone. The arithmetic is done in float32, or in float64 where the
# parameter or its state is; whatever is narrower is rounded once, when it is stored. A state tensor
# keeps its own dtype.


def _widest_dtype(*tensors: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


@torch.no_grad()
def sgd(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> None:
    """One step of stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    ::

        g = grad + weight_decay * p               (of -grad with maximize)
        m = g                                     at the first step of this parameter,
        m = momentum * m + (1 - dampening) * g    later
        p = p - lr * m                            or, with nesterov, p - lr * (g + momentum * m)

    The rate stands outside the buffer; in the paper it stands inside, and the two differ wherever
    the rate changes.

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``momentum_buffer`` of this parameter; without the key, this is its first step. Left
            alone where momentum is 0.
        lr: rate, >= 0.
        momentum: factor on the buffer, in [0, 1).
        dampening: share of the gradient that stays out of the buffer, in [0, 1].
        weight_decay: factor on the parameter that is added to the gradient, >= 0.
        nesterov: step from the look-ahead point; needs momentum > 0 and dampening = 0.
        maximize: climb instead of descending.

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> for _ in range(2):
        ...     sgd(p, torch.tensor([1.0]), state, lr=0.25, momentum=0.5)
        >>> p, state
        (tensor([0.3750]), {'momentum_buffer': tensor([1.5000])})

    Source: Sutskever, Martens, Dahl & Hinton, "On the importance of initialization and momentum in
    deep learning" (2013), equations 1 to 4.
    """
    buffers = [state["momentum_buffer"]] if momentum != 0 and "momentum_buffer" in state else []
    dtype = _widest_dtype(param, *buffers)
    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + weight_decay * p
    if momentum != 0:
        if buffers:
            m = momentum * buffers[0].to(dtype) + (1 - dampening) * g
        else:
            m = g
            state["momentum_buffer"] = torch.zeros_like(param)
        state["momentum_buffer"].copy_(m)
        g = g + momentum * m if nesterov else m
    param.copy_(p - lr * g)


@torch.no_grad()
def adam(
    param: Tensor,
    grad: Tensor,
    state: dict[str, Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> None:
    """One step of Adam, AMSGrad or AdamW, as ``torch.optim.Adam`` and ``torch.optim.AdamW``.

    With ``(b1, b2) = betas`` and the step number k, from 1::

        g = grad + weight_decay * p               (of -grad with maximize), or
        p = p - lr * weight_decay * p             with decoupled_weight_decay
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = max(w, v)                             with amsgrad, else w = v
        p = p - lr / (1 - b1**k) * m / (sqrt(w) / sqrt(1 - b2**k) + eps)

    Args:
        param: the parameter, any shape and strides; written.
        grad: its gradient, same shape.
        state: ``step`` (0-dim float64), ``exp_avg`` (m), ``exp_avg_sq`` (v) and, with amsgrad,
            ``max_exp_avg_sq`` (w) of this parameter; made where absent, which is its first step.
        lr: rate, >= 0.
        betas: decay of the two moments, both in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: factor on the parameter, >= 0.
        amsgrad: divide by the largest second moment so far, not by the current one.
        maximize: climb instead of descending.
        decoupled_weight_decay: shrink the parameter itself, not through the gradient (AdamW).

    Example:
        >>> p, state = torch.tensor([1.0]), {}
        >>> options = {"betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.0}
        >>> adam(p, torch.tensor([2.0]), state, lr=0.5, **options)
        >>> p, state["exp_avg"], state["exp_avg_sq"]  # the first step is as long as the rate
        (tensor([0.5000]), tensor([1.]), tensor([1.]))

    Sources: Kingma & Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1; Reddi,
    Kale & Kumar, "On the convergence of Adam and beyond" (2018), algorithm 2, whose maximum is
    taken of the uncorrected v; Loshchilov & Hutter, "Decoupled weight decay regularization"
    (2019), algorithm 2.
    """
    names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if amsgrad else [])
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float64, device=param.device)
    for name in names:
        if name not in state:
            state[name] = torch.zeros_like(param)
    dtype = _widest_dtype(param, *(state[name] for name in names))
    state["step"] += 1
    step = state["step"].item()
    beta1, beta2 = betas

    p, g = param.to(dtype), grad.to(dtype)
    if maximize:
        g = -g
    if weight_decay != 0:
        if decoupled_weight_decay:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
    m = _interpolate(state["exp_avg"].to(dtype), g, 1 - beta1)
    v = beta2 * state["exp_avg_sq"].to(dtype) + (1 - beta2) * g * g
    state["exp_avg"].copy_(m)
    state["exp_avg_sq"].copy_(v)
    if amsgrad:
        v = torch.maximum(state["max_exp_avg_sq"].to(dtype), v)
        state["max_exp_avg_sq"].copy_(v)
    denominator = v.sqrt() / math.sqrt(1 - beta2**step) + eps
    param.copy_(p - lr / (1 - beta1**step) * (m / denominator))


def _interpolate(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """``start + weight * (end - start)``, from the nearer end, so that weight 1 gives ``end``."""
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (end - start) * (1 - weight)


# ----------------------------------------------------------------------------------- schedules
#
# Functions of the step t = 0, 1, 2, ... (mini-batches), of any size: which cycle a step is in is
# decided in integers.


def constant(t: int, *, value: float) -> float:
    """The rate at every step ``t``: ``value``, >= 0."""
    return value


@functools.lru_cache(maxsize=1024)
def cycle_starts(T_0: int, T_mult: float) -> tuple[int, ...]:
    """The steps at which the cycles start, and at the end of the tuple the one where the last ends.

    Cycle i has ``T_0 * T_mult**i`` steps, where ``T_mult`` is exactly the number that the double
    holds; the product is rounded once, to the nearest integer, ties to even. (Multiplying the
    rounded length again would drift: from T_0 = 1, a T_mult of 1.01 would never grow.)

    Args:
        T_0: steps of cycle 0, >= 1.
        T_mult: factor from cycle to cycle, >= 1 and finite.

    Returns:
        Ascending steps from 0: one per cycle and the end of the last. At most ``MAX_CYCLES`` cycles
        are told apart, and the last one ends at ``LAST_START`` at the latest, cut short if need be.

    Example:
        >>> cycle_starts(10, 2)[:5]
        (0, 10, 30, 70, 150)
        >>> cycle_starts(3, 1.5)[:5]  # lengths 3, 4.5, 6.75, 10.125
        (0, 3, 7, 14, 24)
    """
    # Fixed point, with bits to spare. A tie needs a product with a single fractional bit, so that
    # T_mult**i has at most 63 of them: those are held exactly. What is cut off elsewhere adds up to
    # less than MAX_CYCLES * LAST_START units of the last bit, 2**-178 of a step.
    bits = 256
    half = 1 << (bits - 1)
    numerator, denominator = T_mult.as_integer_ratio()
    starts = [0]
    length = T_0 << bits
    while len(starts) <= MAX_CYCLES and starts[-1] < LAST_START:
        steps, rest = divmod(length + half, 2 * half)
        if rest == 0 and steps % 2 == 1:
            steps -= 1
        starts.append(min(starts[-1] + steps, LAST_START))
        length = length * numerator // denominator
    return tuple(starts)


def cosine_cycle(t: int, *, T_0: int, T_mult: float = 1) -> tuple[int, int, int]:
    """The cycle that step ``t`` is in: its index, the position of ``t`` in it, its length."""
    if T_mult == 1:
        return t // T_0, t % T_0, T_0
    starts = cycle_starts(T_0, T_mult)
    if t < starts[-1]:
        index = bisect.bisect_right(starts, t) - 1
        return index, t - starts[index], starts[index + 1] - starts[index]
    length = starts[-1] - starts[-2]
    more, position = divmod(t - starts[-1], length)
    return len(starts) - 1 + more, position, length


def cosine_warm_restarts(
    t: int,
    *,
    max_lr: float,
    T_0: int,
    T_mult: float = 1,
    eta_min: float = 0.0,
    max_decay: float = 1.0,
    min_decay: float = 1.0,
) -> float:
    """Cosine annealing with warm restarts at step ``t``, with both ends scaled after every cycle.

    ::

        value = min_i + (max_i - min_i) / 2 * (1 + cos(pi * T_cur / T_i))
        max_i = max_lr * max_decay**i,  min_i = eta_min * min_decay**i

    in cycle i, of T_i steps, T_cur steps after its start. Exactly ``max_i`` at each restart;
    ``min_i`` is approached and never reached, because T_cur < T_i.

    Args:
        t: step, an integer >= 0.
        max_lr: rate at the start of cycle 0, >= 0.
        T_0: steps of cycle 0, >= 1.
        T_mult: growth of the cycles, >= 1; see ``cycle_starts`` for lengths that are not whole.
        eta_min: rate that cycle 0 falls towards, in [0, max_lr].
        max_decay: factor on ``max_lr`` after each cycle, in [0, 1].
        min_decay: factor on ``eta_min`` after each cycle, in [0, 1].

    Example:
        >>> [round(cosine_warm_restarts(t, max_lr=1.0, T_0=2, T_mult=2), 3) for t in range(7)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    Source: Loshchilov & Hutter, "SGDR" (2017), equation 5; the factors are ours.
    """
    index, T_cur, T_i = cosine_cycle(t, T_0=T_0, T_mult=T_mult)
    max_i = max_lr * max_decay**index
    min_i = eta_min * min_decay**index
    # (1 + cos(x)) / 2 = cos(x / 2)**2, as the sine of the complement: the sum cancels near the end
    # of a cycle, where it leaves 5.7e-6 of T_i = 10**6; this does not.
    to_max = math.sin(math.pi * ((T_i - T_cur) / (2 * T_i))) ** 2
    to_min = math.sin(math.pi * (T_cur / (2 * T_i))) ** 2
    return max_i * to_max + min_i * to_min


def triangular(
    t: int,
    *,
    base_lr: float,
    max_lr: float,
    step_size_up: int,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> float:
    """The triangular cyclical rate at step ``t``.

    Up from ``base_lr`` in ``step_size_up`` steps and down again in ``step_size_down``::

        value = base_lr + (max_lr - base_lr) * height * amplitude

    ``height`` runs 0, 1/up, ..., 1, 1 - 1/down, ... Where both lengths are s, it is the paper's
    ``max(0, 1 - x)`` with ``x = abs(t / s - 2 * c + 1)`` and ``c = floor(1 + t / (2 * s))``.
    ``amplitude`` is 1, or ``1 / 2**cycle`` in mode "triangular2" (cycles from 0), or ``gamma**t``
    in mode "exp_range".

    Args:
        t: step, an integer >= 0.
        base_lr: rate at the start of each cycle, >= 0.
        max_lr: rate at the peak of cycle 0, >= base_lr.
        step_size_up: steps from base to peak, >= 1.
        step_size_down: steps from peak to base, >= 1; as many as up where None.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: factor on the amplitude per step in mode "exp_range", in (0, 1].

    Example:
        >>> [triangular(t, base_lr=0.0, max_lr=1.0, step_size_up=2) for t in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]

    Source: Smith, "Cyclical learning rates for training neural networks" (2015), section 3.1.
    """
    up = step_size_up
    down = up if step_size_down is None else step_size_down
    cycle, position = divmod(t, up + down)
    height = position / up if position <= up else (up + down - position) / down
    amplitude = {"triangular": 1.0, "triangular2": 2.0**-cycle, "exp_range": gamma**t}[mode]
    weight = amplitude * height
    return base_lr * (1 - weight) + max_lr * weight
