"""The schedules with cycles, in plain Python.

Each function takes the step t = 0, 1, 2, ... (mini-batches), which may be of any size: the cycle that a step is in is
found in integers.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence

# The last cycle's length repeats after this many cycles of growing length, or from this step on.
MAX_CYCLES = 65_536
LAST_START = 2**62


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
    return half_cosine_between(max_lr * max_decay**index, eta_min * min_decay**index, T_cur, T_i - T_cur)


def half_cosine_between(start: float, end: float, past: float, left: float) -> float:
    """``end + (start - end) / 2 * (1 + cos(pi * past / (past + left)))``.

    It is computed with (1 + cos(x)) / 2 = cos(x / 2)**2, and that as the sine of the complement. The sum
    1 + cos(x) would cancel near the end of a cycle: it leaves 5.7e-6 of a length of 10**6. This form does not cancel.
    """
    to_start = math.sin(math.pi * (left / (2 * (past + left)))) ** 2
    to_end = math.sin(math.pi * (past / (2 * (past + left)))) ** 2
    return start * to_start + end * to_end


def cosine_cycles(
    t: int,
    *,
    max_lr: float,
    lengths: Sequence[int],
    eta_min: float = 0.0,
    max_decay: float = 1.0,
    min_decay: float = 1.0,
) -> float:
    """Cosine annealing with warm restarts, cycle i of ``lengths[i]`` steps; the last length repeats.

    Example:
        >>> [round(cosine_cycles(t, max_lr=1.0, lengths=(1, 2)), 3) for t in range(6)]
        [1.0, 1.0, 0.5, 1.0, 0.5, 1.0]

    Source: Loshchilov & Hutter, "SGDR" (2017), equation 5.
    """
    index, T_cur = 0, t
    for T_i in lengths:
        if T_cur < T_i:
            break
        index, T_cur = index + 1, T_cur - T_i
    else:
        index, T_cur = index + T_cur // T_i, T_cur % T_i
    return half_cosine_between(max_lr * max_decay**index, eta_min * min_decay**index, T_cur, T_i - T_cur)


def cosine_annealing(t: int, *, max_lr: float, T_max: int, eta_min: float = 0.0) -> float:
    """``eta_min + (max_lr - eta_min) / 2 * (1 + cos(pi * t / T_max))``: down in ``T_max`` steps and up in as many.

    Example:
        >>> [round(cosine_annealing(t, max_lr=1.0, T_max=2), 3) for t in range(6)]
        [1.0, 0.5, 0.0, 0.5, 1.0, 0.5]

    Source: Loshchilov & Hutter, "SGDR" (2017), equation 5, without the restart.
    """
    from_top = t % (2 * T_max)  # the cosine is even: T_max + k is as far up as T_max - k
    past = min(from_top, 2 * T_max - from_top)
    return half_cosine_between(max_lr, eta_min, past, T_max - past)


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
    weight = _triangle(t, step_size_up, step_size_down, mode, gamma)
    return base_lr * (1 - weight) + max_lr * weight


def triangular_momentum(
    t: int,
    *,
    base_momentum: float,
    max_momentum: float,
    step_size_up: int,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> float:
    """Momentum against the triangular rate: ``max_momentum - (max_momentum - base_momentum) * height * amplitude``.

    Example:
        >>> [triangular_momentum(t, base_momentum=0.5, max_momentum=1.0, step_size_up=2) for t in range(5)]
        [1.0, 0.75, 0.5, 0.75, 1.0]

    Source: Smith, "A disciplined approach to neural network hyper-parameters" (2018), section 4.3.
    """
    weight = _triangle(t, step_size_up, step_size_down, mode, gamma)
    return max_momentum * (1 - weight) + base_momentum * weight


def _triangle(t: int, up: int, down: int | None, mode: str, gamma: float) -> float:
    """``height * amplitude`` of the triangular rate."""
    down = up if down is None else down
    cycle, position = divmod(t, up + down)
    height = position / up if position <= up else (up + down - position) / down
    return height * {"triangular": 1.0, "triangular2": 2.0**-cycle, "exp_range": gamma**t}[mode]


def one_cycle(
    t: int,
    *,
    max_lr: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> float:
    """The rate of one cycle; the momenta are for :func:`one_cycle_momentum`.

    From ``max_lr / div_factor`` to ``max_lr`` and to ``max_lr / div_factor / final_div_factor``, with
    ``three_phase`` by way of ``max_lr / div_factor``.

    Example:
        >>> options = {"total_steps": 5, "pct_start": 0.6, "anneal_strategy": "linear", "div_factor": 2.0}
        >>> [round(one_cycle(t, max_lr=1.0, **options), 3) for t in range(6)]
        [0.5, 0.75, 1.0, 0.5, 0.0, 0.0]

    Sources: Smith & Topin, "Super-convergence" (2018); where the phases end is as in torch's OneCycleLR.
    """
    initial = max_lr / div_factor
    lowest = initial / final_div_factor
    corners = (initial, max_lr, initial, lowest) if three_phase else (initial, max_lr, lowest)
    return _one_cycle(t, total_steps, pct_start, anneal_strategy, corners)


def one_cycle_momentum(
    t: int,
    *,
    base_momentum: float,
    max_momentum: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    three_phase: bool = False,
) -> float:
    """The momentum of one cycle: ``max_momentum``, ``base_momentum`` at the rate's peak, ``max_momentum``.

    Source: Smith & Topin, "Super-convergence" (2018).
    """
    corners = (max_momentum, base_momentum, max_momentum)
    return _one_cycle(t, total_steps, pct_start, anneal_strategy, (*corners, max_momentum) if three_phase else corners)


def _one_cycle(t: int, total_steps: int, pct_start: float, anneal_strategy: str, corners: Sequence[float]) -> float:
    """The value at step ``t`` on the way from corner to corner.

    The second corner is reached at step ``pct_start * total_steps - 1`` and the last at ``total_steps - 1``. A corner
    in between comes as many steps after the second as the second comes after step 0.

    A step belongs to the first phase that has not ended before it. A phase without a length has no steps.
    """
    t = min(t, total_steps - 1)
    rise = pct_start * total_steps
    ends = [rise - 1, 2 * rise - 2, total_steps - 1]
    if len(corners) == 3:
        del ends[1]
    begin, phase = 0.0, 0
    while t > ends[phase] or begin == ends[phase]:
        begin, phase = ends[phase], phase + 1
    past, left = t - begin, ends[phase] - t
    if anneal_strategy == "cos":
        return half_cosine_between(corners[phase], corners[phase + 1], past, left)
    return corners[phase] * (left / (past + left)) + corners[phase + 1] * (past / (past + left))
