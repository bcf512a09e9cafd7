"""What the tests have to know of an algorithm, and one configuration of it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Options = Mapping[str, Any]
# A label, the constructor's arguments, and what the error has to name: the argument and its value.
BadArgument = tuple[str, Options, str, Any]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The struct in csrc/rules/: the fewest and the most states of a parameter, and how many of them the pass in front
    of the update reads, or None where there is no such pass."""

    name: str
    states: tuple[int, int]
    measured_states: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Algorithm:
    """All that the tests draw on. What has no default has to be said, if only that there is nothing: an empty entry."""

    name: str
    """That of its file; the names of its cases begin with it."""
    fused: type[torch.optim.Optimizer]
    torch: type[torch.optim.Optimizer]
    """torch's class, or one of the tests' own."""
    in_torch: bool
    """Whether that is torch's, to which the signature and the error messages are held."""
    reference: Callable[..., None]
    """The function of sgdr_fused.reference."""
    defaults: Options
    """Of the arguments that the reference's function has to be given."""
    rule: Rule
    largest_operand: Callable[..., Tensors]
    """How large the sums are: see _operands.py."""
    has_step: bool
    """Whether the state of a parameter counts its steps."""
    takes_powers: bool
    """Whether a step needs powers of the betas, which host and device round differently in float64's last place."""
    denormal: Options
    """The options with which an update of denormal numbers is not lost: an eps of another size."""

    cases: Mapping[str, Options]
    """Constructor arguments other than lr: each configuration worth a kernel, and each branch of the rule. One has
    the name of the algorithm alone."""
    fuzzed: Sequence[str]
    """The cases that tests/fuzz takes."""
    bad_arguments: Sequence[BadArgument]
    """What the constructor refuses; empty where another algorithm with the same class declares it."""
    schedulable: Sequence[tuple[str, str]]
    """(case, argument) for each argument other than lr that takes a Schedule."""
    momentum_off_and_on: Sequence[str]
    """The cases whose momentum is switched off and on by a Schedule."""
    group_options: Sequence[Options]
    """The options of four groups of one optimizer."""
    choices: Mapping[str, Sequence[Any]]
    """The values of each option beside weight_decay and maximize: a hundred steps are taken with every combination."""
    reference_options: Mapping[str, Options]
    """The options, by their ids, with which the reference is compared with `torch`."""
    traffic: Mapping[str, int]
    """The states of the cases whose bytes are counted; empty where another algorithm has the same kernels."""

    traffic_in_all_types: bool = False
    """Whether these are counted for all types of parameters and states: one of each kind of kernel is enough."""
    beyond_torch: Options = dataclasses.field(default_factory=dict)
    """Entries of its groups that torch's class has not."""
    per_tensor: bool = False
    """Whether an update depends on all elements of its parameter."""

    def __repr__(self) -> str:
        return f"<algorithm {self.name}>"

    def takes(self, option: str) -> bool:
        """Whether torch's constructor, and so ours, has that argument."""
        return option in inspect.signature(self.torch).parameters


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration of one optimizer. `hyper` are constructor arguments other than lr."""

    id: str
    algorithm: Algorithm
    hyper: Options

    def fused(self, params: Iterable[Any], **changed: Any) -> Any:
        return self.algorithm.fused(params, **{**self.hyper, **changed})

    def torch(self, params: Iterable[Any], **changed: Any) -> torch.optim.Optimizer:
        return self.algorithm.torch(params, **{**self.hyper, **changed})

    def largest_operand(self, lr: float, old: Tensors, grad: Tensor, new: Tensors, step: int) -> Tensors:
        hyper = {**self.algorithm.defaults, **self.hyper}
        return self.algorithm.largest_operand(hyper, lr, old, grad, new, step)

    def reference(self, param: Tensor, grad: Tensor, state: dict[str, Tensor], **changed: Any) -> None:
        self.algorithm.reference(param, grad, state, **{**self.algorithm.defaults, **self.hyper, **changed})
