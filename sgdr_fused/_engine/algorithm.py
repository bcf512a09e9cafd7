"""What an optimizer's class declares: its algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from .hyperparameters import Hyper

_NONE: Mapping[str, Any] = MappingProxyType({})


class Algorithm(ABC):
    """A declaration without any state: one object for each class of optimizers.

    Attributes:
        name: that of its rule in csrc/rules/all.h.
        hypers: what may be a number, a tensor or a Schedule, in the order of the rule's enum.
        constants: the other entries of a group that the rule reads, in the order of its enum.
        by_reference: the update in plain torch: ``by_reference(param, grad, state, *, lr, ...)``.
        counts_updates: whether the update depends on how many of them a parameter has had.
        has_step: whether a parameter's state has that count, as ``step``; else it is kept beside the state.
        product: the entry of the state, a number in [0, 1], that each update multiplies by a factor, if there is one.
        measures_params: whether the update needs the norm of each parameter.
        family: what the algorithms have in common of which one may go on from another's checkpoint; None: the name.
        fixed: entries of a group that have one value, whatever is assigned to them.
        meanings: entries of a group that decide what a state means, each with the name of that state. They cannot
            change while a parameter has it.
        beyond_torch: entries that torch's class does not have, each with what a checkpoint without it means.
    """

    name: ClassVar[str]
    hypers: ClassVar[tuple[Hyper, ...]]
    constants: ClassVar[tuple[str, ...]]
    by_reference: ClassVar[Callable[..., None]]
    counts_updates: ClassVar[bool] = True
    has_step: ClassVar[bool] = True
    product: ClassVar[str | None] = None
    measures_params: ClassVar[bool] = False
    family: ClassVar[str | None] = None
    fixed: ClassVar[Mapping[str, Any]] = _NONE
    meanings: ClassVar[Mapping[str, str]] = _NONE
    beyond_torch: ClassVar[Mapping[str, Any]] = _NONE

    @abstractmethod
    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The state tensors of a parameter in this group, in the order of the rule's."""

    def initial_value(self, group: dict[str, Any], name: str) -> float:
        """What the elements of that state are before the first step."""
        return 0.0

    @abstractmethod
    def check_constant(self, key: str, value: Any) -> None:
        """Raises for a bad value of an entry that is no hyperparameter."""

    def check_group(self, group: dict[str, Any]) -> None:  # noqa: B027  # most have nothing to check
        """Raises for entries that do not go together, in a group that is being added."""

    def kernel_constant(self, key: str, value: Any) -> float:
        """What the kernels get for one of ``constants``."""
        return float(value)

    def reference_arguments(self, group: dict[str, Any]) -> dict[str, Any]:
        """The arguments of ``by_reference`` that are no hyperparameters."""
        return {key: group[key] for key in self.constants}

    def reference_update(
        self, param: Tensor, grad: Tensor, state: dict[str, Tensor], hypers: Sequence[float], group: dict[str, Any]
    ) -> None:
        """One parameter's update by the reference, in place.

        Args:
            state: the state's tensors, and its numbers, under their names.
            hypers: the value of each of ``hypers``.
            group: the parameter's.
        """
        arguments = self.reference_arguments(group)
        for hyper, value in zip(self.hypers, hypers, strict=True):
            pair = hyper.part is not None
            arguments[hyper.key] = (*arguments.get(hyper.key, ()), value) if pair else value
        type(self).by_reference(param, grad, state, **arguments)
