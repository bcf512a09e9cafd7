"""The one list of what a parameter carries from step to step, and where its memory is.

To add something that a parameter may carry, add a field to ParamSpec: how it is declared there says when a parameter
has it, how it is stored and what it is at first. Checks, checkpoints and plans go through the declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from .algorithm import Algorithm
from .dtypes import average_dtype, new_state_dtype, state_dtypes
from .options import Options
from .sharded import local_part


def memory_of(identity: Tensor) -> Tensor:
    """The tensor whose memory the kernels get for a parameter, its gradient or a state.

    For a plain tensor it is the same one. For a sharded one, it is the part that is here.
    """
    return local_part(identity)


class Beside(NamedTuple):
    """A tensor of the parameter's shape that its state has because of an option."""

    wanted: Callable[[Tensor, Options], bool]
    dtypes: Callable[[Tensor], tuple[torch.dtype, ...]]
    new: Callable[[Tensor], Tensor]  # before the first step


class Number(NamedTuple):
    """A 0-dim float64 tensor that each update of the parameter changes."""

    key: Callable[[Algorithm], str | None]  # of the state's entry; None: the algorithm has no such number
    in_state: Callable[[Algorithm], bool]  # else it is kept beside the state, and no user sees it
    first: float  # before the first step
    checked: Callable[[str, Any], float]  # what a user may put there; raises otherwise


def _has_remainder(param: Tensor, options: Options) -> bool:
    return options["master_weights"] and param.dtype in (torch.bfloat16, torch.float16)


@dataclass
class ParamSpec:
    """What a plan knows of a parameter. Its fields are those that C++ reads.

    Attributes:
        param: the parameter itself: the key of its state, and the owner of its gradient.
        memory: the tensor whose memory the kernels get for it.
        group: the index of its group.
        index: its place in the optimizer, on which its random bits depend.
        active: whether it may get a gradient, and so has its state.
        norm_sum: the number of the sum over processes that its gradient's squares are added to; -1: none, since
            another process adds them.
        grad: its gradient.
        states: those that the algorithm has, in the order of ``Algorithm.state_names``.
        average: the running average of the parameter. Up to its first step, a parameter was what it is, whatever was
            averaged of others.
        remainder: what the parameter's own dtype has no room for.
        steps: how many updates it has behind it.
        product: of the factors of those updates.
    """

    param: Tensor
    memory: Tensor
    group: int
    index: int
    active: bool = True
    norm_sum: int = 0
    grad: Tensor | None = None
    states: list[Tensor] = field(default_factory=list)
    average: Tensor | None = field(
        default=None,
        metadata={
            "beside": Beside(
                wanted=lambda param, options: options["average"] is not None,
                dtypes=lambda param: (average_dtype(param),),
                new=lambda param: param.detach().to(average_dtype(param), copy=True),
            )
        },
    )
    remainder: Tensor | None = field(
        default=None,
        metadata={
            "beside": Beside(
                wanted=_has_remainder,
                dtypes=lambda param: (torch.int16,),
                new=lambda param: torch.zeros_like(param, dtype=torch.int16, memory_format=torch.preserve_format),
            )
        },
    )
    steps: Tensor | None = field(
        default=None,
        metadata={
            "number": Number(
                key=lambda algorithm: "step" if algorithm.counts_updates else None,
                in_state=lambda algorithm: algorithm.has_step,
                first=0.0,
                checked=_checks.count,
            )
        },
    )
    product: Tensor | None = field(
        default=None,
        metadata={
            "number": Number(
                key=lambda algorithm: algorithm.product,
                in_state=lambda algorithm: True,
                first=1.0,
                checked=_checks.fraction,
            )
        },
    )


def _declarations(kind: str) -> dict[str, Any]:
    return {each.name: each.metadata[kind] for each in dataclasses.fields(ParamSpec) if kind in each.metadata}


BESIDE: dict[str, Beside] = _declarations("beside")
NUMBERS: dict[str, Number] = _declarations("number")


def beside_names(param: Tensor, options: Options) -> tuple[str, ...]:
    """The tensors in a parameter's state that are the options', not the algorithm's."""
    return tuple([name for name, each in BESIDE.items() if each.wanted(param, options)])


def tensor_names(algorithm: Algorithm, options: Options, group: dict[str, Any], param: Tensor) -> tuple[str, ...]:
    """All tensors of the parameter's shape that its state has."""
    return (*algorithm.state_names(group), *beside_names(param, options))


def number_keys(algorithm: Algorithm) -> dict[str, Number]:
    """The numbers of an algorithm, under the keys of their entries in a state."""
    return {key: number for number in NUMBERS.values() if (key := number.key(algorithm)) is not None}


def dtypes_of(param: Tensor, name: str) -> tuple[torch.dtype, ...]:
    """How a tensor with this name may be stored in a parameter's state."""
    return BESIDE[name].dtypes(param) if name in BESIDE else state_dtypes(param, name)


def new_state(algorithm: Algorithm, options: Options, group: dict[str, Any], param: Tensor, name: str) -> Tensor:
    """What the tensor with this name is before the parameter's first step."""
    if name in BESIDE:
        return BESIDE[name].new(param)
    value, dtype = algorithm.initial_value(group, name), new_state_dtype(param, name, options["state_dtype"])
    return torch.full_like(param, value, dtype=dtype, memory_format=torch.preserve_format)


def new_number(value: float, param: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=param.device)


def reference_state(algorithm: Algorithm, spec: ParamSpec, group: dict[str, Any]) -> dict[str, Tensor]:
    """A parameter's states and numbers under their names, as the reference takes them."""
    state = dict(zip(algorithm.state_names(group), spec.states, strict=True))
    numbers = {key: getattr(spec, name) for name, each in NUMBERS.items() if (key := each.key(algorithm)) is not None}
    return {**state, **{key: number for key, number in numbers.items() if number is not None}}
