"""What every fused optimizer takes beside the arguments of its counterpart in torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, TypedDict

import torch
import torch.distributed as dist

from .. import _checks
from .._messages import shown
from ..averages import Average, check_average
from .dtypes import STATE_DTYPES


class Options(TypedDict, total=False):
    """What every fused optimizer takes beside the arguments of its counterpart in torch.

    Args:
        average: keep a running average of each parameter in ``state[p]["average"]``, inside the update, for
            :meth:`FusedSGD.swap_average`. ``"cycle"``: the mean of the weights at the end of each cycle of ``lr``, just
            before it restarts; the cycles are those of the first Schedule that stands for ``lr``. An
            :class:`EMA`: an exponential average over the steps. None: no average. An average is float32, or
            float64 where the parameter is. Skipped steps do not count.
        state_dtype: of the states that are made from here on: float32 for parameters in bfloat16 or float16, bfloat16
            for those in float32. None: the parameter's own, as in torch. What is loaded keeps its dtype.
        master_weights: parameters in bfloat16 and float16 are updated with the precision of float32: what they have no
            room for is kept in ``state[p]["remainder"]``, an int16 for each element; so a master copy costs 2 bytes,
            not 4. A parameter that is written from outside takes at most half a unit in its last place along.
        stochastic_rounding: what is stored in bfloat16, parameters without remainders and states, is rounded up or down
            with the probabilities that make its mean right. The random bits depend on a seed, the clock, and the
            parameter's and the element's number alone: they are the same for any number of threads, on the CPU and on
            a GPU, and after a checkpoint, which holds the seed. It is drawn from torch's generator at
            construction; where torch.distributed has several processes, it is 0 in all of them, so that replicas are
            rounded alike. Parameters in float16 are refused.
        max_grad_norm: scale all gradients down by one factor to this Euclidean norm, over all groups, where theirs is
            larger: ``torch.nn.utils.clip_grad_norm_``, but without writing them. :attr:`FusedSGD.grad_norm` is that
            norm; ``math.inf`` only measures it.
        max_grad_value: clamp each element to ``[-max_grad_value, max_grad_value]``, before the norm is taken:
            ``torch.nn.utils.clip_grad_value_``, but without writing the gradients.
        error_if_nonfinite: ``step()`` raises where the norm is not finite, with everything as it was. To know, the
            host waits for the device at each step. A step that a GradScaler skips does not raise.
        skip_nonfinite: a step with a gradient that is not finite is skipped, on the device: nothing is changed, the
            clock included, but :attr:`FusedSGD.skipped_steps`, which also counts a GradScaler's skipped steps.
        norm_group: a ``torch.distributed.ProcessGroup`` over which norms are added up where each of its processes has
            other parameters in plain tensors: what FullyShardedDataParallel's first version leaves, or what was sharded
            by hand. None: the plain tensors are the same on all processes, as with DistributedDataParallel, where a
            group would count them several times. DTensors say themselves where their parts are.

    Raises:
        ValueError, TypeError: naming the argument and its value; ``"cycle"`` without a Schedule for ``lr``; parameters
            on several devices where the norm is needed, which ``max_grad_value`` alone does not.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedSGD
        >>> from sgdr_fused.schedules import CosineWarmRestarts
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = FusedSGD([weight], lr=CosineWarmRestarts(1.0, T_0=1), average="cycle")
        >>> for _ in range(3):
        ...     weight.grad = torch.tensor([-1.0])
        ...     optimizer.step()
        >>> optimizer.state[weight]["average"].item(), int(optimizer.n_averaged)  # of 1, 2 and 3
        (2.0, 3)

        >>> weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
        >>> optimizer = FusedSGD([weight], lr=2**-9, master_weights=True)  # a quarter of what bfloat16 has room for
        >>> for _ in range(4):
        ...     weight.grad = torch.tensor([-1.0], dtype=torch.bfloat16)
        ...     optimizer.step()
        >>> weight.item()
        1.0078125

        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = FusedSGD([weight], lr=0.25, max_grad_norm=2.0, skip_nonfinite=True)
        >>> for gradient in (-8.0, float("nan")):
        ...     weight.grad = torch.tensor([gradient])
        ...     optimizer.step()
        ...     print(optimizer.grad_norm.item(), round(weight.item(), 6), optimizer.skipped_steps.item())
        8.0 1.5 0
        nan 1.5 1

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (2018), for averages;
    Gupta et al., "Deep Learning with Limited Numerical Precision" (2015), for stochastic rounding;
    Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks" (2013), for clipping.
    """

    average: Average
    state_dtype: torch.dtype | None
    master_weights: bool
    stochastic_rounding: bool
    max_grad_norm: float | None
    max_grad_value: float | None
    error_if_nonfinite: bool
    skip_nonfinite: bool
    norm_group: Any


_FLAGS = ("master_weights", "stochastic_rounding", "error_if_nonfinite", "skip_nonfinite")
OPTIONS = {
    "average": None,
    "state_dtype": None,
    "max_grad_norm": None,
    "max_grad_value": None,
    "norm_group": None,
    **dict.fromkeys(_FLAGS, False),
}


def checked_options(options: Any, of: str = "a fused optimizer", arguments: Iterable[str] = ()) -> Options:
    """All options, with the defaults for those that are not given. Errors name `of`, and look into its `arguments`."""
    for name in options.keys() - OPTIONS.keys():
        meant = difflib.get_close_matches(name, [*arguments, *OPTIONS], n=1)
        hint = f"; did you mean {meant[0]}?" if meant else ""
        raise TypeError(f"{of} got an unexpected argument {name}={shown(options[name])}{hint}")
    checked: Any = {**OPTIONS, **options}
    check_average(checked["average"])
    dtypes = {dtype for state_dtypes in STATE_DTYPES.values() for dtype in state_dtypes}
    if checked["state_dtype"] is not None and checked["state_dtype"] not in dtypes:
        raise TypeError(
            f"state_dtype must be one of {sorted(map(str, dtypes))} or None, got {shown(checked['state_dtype'])}"
        )
    for name in _FLAGS:
        if not isinstance(checked[name], bool):
            raise TypeError(f"{name} must be True or False, got {shown(checked[name])}")
    for name, finite in (("max_grad_norm", False), ("max_grad_value", True)):
        if checked[name] is not None:
            checked[name] = _checks.between(name, checked[name], 0.0, math.inf, high_open=finite)
    if checked["error_if_nonfinite"] and checked["skip_nonfinite"]:
        raise ValueError("error_if_nonfinite and skip_nonfinite must not both be True")
    return checked


def new_seed() -> int:
    """Draws a seed from torch's generator, so that torch.manual_seed() decides on it.

    Processes that train together may have seeded their generators each in its own way, and their replicas of a
    parameter must not drift apart. So they all get the same number.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return 0
    return int(torch.randint(2**53, (), device="cpu"))  # so many fit any number that a checkpoint is written with
