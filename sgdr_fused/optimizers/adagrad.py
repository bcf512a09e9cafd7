"""Adagrad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _checks, reference
from .._engine.algorithm import Algorithm
from .._engine.hyperparameters import Hyper
from .._engine.options import Options
from .._engine.param_state import new_state
from ..schedules import Schedule
from ._base import FusedOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FusedAdagrad"]


class AdagradAlgorithm(Algorithm):
    """What FusedAdagrad declares: the sum of the squared gradients, from its initial value on."""

    name = "adagrad"
    by_reference = staticmethod(reference.adagrad)
    hypers = (Hyper("lr"), Hyper("weight_decay"))
    constants = ("lr_decay", "eps", "maximize")

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def initial_value(self, group: dict[str, Any], name: str) -> float:
        return group["initial_accumulator_value"]

    def check_constant(self, key: str, value: Any) -> None:
        if key in ("lr_decay", "eps", "initial_accumulator_value"):
            _checks.rate(key, value)


class FusedAdagrad(FusedOptimizer):
    r"""Adagrad, in one pass over the parameters: a drop-in for ``torch.optim.Adagrad``.

    At the k-th update of a parameter ``p`` with gradient ``g``::

        g = -g                                                     with maximize
        g = g + weight_decay * p
        s = s + g**2                                               initial_accumulator_value before the first update
        p = p - lr / (1 + (k - 1) * lr_decay) * g / (sqrt(s) + eps)

    As in torch, the constructor makes the state of all its parameters, whether they get a gradient or not; that of a
    parameter in a group added later is made at its first update.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as in torch; float32, float64, bfloat16
            or float16, of any strides.
        lr: the rate: a number >= 0, a tensor with one element, which is read on its device at each
            step, or a :class:`~sgdr_fused.schedules.Schedule`, which is evaluated there.
        lr_decay: >= 0; lowers the rate with the parameter's own updates, whatever the Schedule.
        weight_decay: >= 0; a number, tensor or Schedule.
        initial_accumulator_value: >= 0; what the sum of squares starts from.
        eps: >= 0; stands outside the root.
        maximize: ascend instead of descend.
        foreach, fused: accepted as in torch; nothing depends on them.
        differentiable: must be False.
        **options: what all fused optimizers take: :class:`~sgdr_fused.Options`.

    Raises:
        ValueError, TypeError: naming the argument and its value.

    Example:
        >>> import torch
        >>> from sgdr_fused import FusedAdagrad
        >>> weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
        >>> optimizer = FusedAdagrad([weight], lr=0.5)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight.tolist()  # the first step is as long as the rate
        [1.5, 2.5]
        >>> optimizer.state[weight]["sum"].tolist()
        [16.0, 36.0]

    Source: Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization" (2011); ``torch.optim.Adagrad``.
    """

    _algorithm = AdagradAlgorithm()

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | Schedule = 1e-2,
        lr_decay: float = 0,
        weight_decay: float | Tensor | Schedule = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
            **options,
        )
        algorithm, chosen = self._algorithm, self._session.options
        with torch.inference_mode(False), torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    step = torch.zeros((), dtype=torch.float64, device=param.device)
                    sums = new_state(algorithm, chosen, group, param, "sum")
                    self.state[param] = {"step": step, "sum": sums}

    def share_memory(self) -> None:
        """Moves the sums to shared memory, as in torch."""
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param]["sum"].share_memory_()
