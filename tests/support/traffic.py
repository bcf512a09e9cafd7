"""The kernels whose bytes are counted, the least that each has to move, and the count, by the pretend GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from cases import CASE_OF, EVERY_ALGORITHM, HALVES, PRETEND, Case, gradient

from sgdr_fused import EMA

if PRETEND:
    import pretend_gpu

BLOCK = 1024  # elements: kShortestUpdate of csrc/step/fused_step.h
BLOCKS = 64


@dataclasses.dataclass(frozen=True)
class Option:
    """Constructor arguments, and the bytes per parameter that they cost, by the types of parameter and gradient."""

    name: str
    arguments: Mapping[str, Any]
    cost: Callable[[torch.dtype, torch.dtype], int]


NONE = Option("", {}, lambda param, grad: 0)
AVERAGED = Option("averaged", {"average": EMA(0.9)}, lambda param, grad: 2 * max(param.itemsize, 4))
CLIPPED = Option("clipped", {"max_grad_norm": 1.0}, lambda param, grad: grad.itemsize)
MASTER_WEIGHTS = Option("master weights", {"master_weights": True}, lambda param, grad: 2 * torch.int16.itemsize)
BY_LOT = Option("stochastic rounding", {"stochastic_rounding": True}, lambda param, grad: 0)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One kernel: an algorithm's case, the storage of the parameter, of its states, and of its gradient."""

    case: Case
    param: torch.dtype
    state: torch.dtype
    option: Option = NONE
    narrow: torch.dtype | None = None  # of the gradient; None: it is the parameter's

    @property
    def id(self) -> str:
        types = [str(dtype).removeprefix("torch.") for dtype in (self.param, self.state)]
        types += [f"gradient {self.grad}".replace(" torch.", "_")] if self.narrow else []
        return "-".join([self.case.id, *types, *self.option.name.split()])

    @property
    def grad(self) -> torch.dtype:
        return self.narrow or self.param

    @property
    def states(self) -> int:
        return self.case.algorithm.traffic[self.case.id]

    @property
    def least(self) -> int:
        """Bytes per parameter: gradient in; parameter and each state in and out; in once more what is measured."""
        least = self.grad.itemsize + 2 * self.param.itemsize + 2 * self.states * self.state.itemsize
        least += self.option.cost(self.param, self.grad)
        measured = self.case.algorithm.rule.measured_states
        if measured is not None:
            least += self.param.itemsize + self.grad.itemsize + measured * self.state.itemsize
        return least

    def bytes_of_step(self, parameters: int) -> int:
        """On so many parameters, after a step that makes the states and the plan."""
        param = torch.nn.Parameter(torch.ones(parameters, dtype=self.param, device="cuda"))
        param.grad_dtype = None  # type: ignore[attr-defined]  # any
        param.grad = gradient(param, 0).to(self.grad)
        state_dtype = self.state if self.state != self.param else None
        opt = self.case.fused([param], lr=0.1, state_dtype=state_dtype, **self.option.arguments)
        opt.step()
        pretend_gpu.reset()
        opt.step()
        torch.cuda.synchronize()
        kernels = pretend_gpu.log()
        return sum(kernel["ld_bytes"] + kernel["st_bytes"] for kernel in kernels)

    def counted(self) -> tuple[float, float]:
        """Bytes per parameter, of steps with as many blocks; and per block of the update, whatever its elements."""
        whole, fewer = BLOCKS * BLOCK, BLOCK // 2
        most, fewest = (self.bytes_of_step(n) for n in (whole, whole - fewer))
        per_parameter = (most - fewest) / fewer
        return per_parameter, (most - per_parameter * whole) / BLOCKS


SAME_TYPES = ((torch.float32, torch.float32),)
ALL_TYPES = (
    *SAME_TYPES,
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float32),
    (torch.float32, torch.bfloat16),
)
PLAIN = tuple(
    Traffic(CASE_OF[case], param, state)
    for algorithm in EVERY_ALGORITHM.values()
    for case, states in algorithm.traffic.items()
    for param, state in (ALL_TYPES if algorithm.traffic_in_all_types else SAME_TYPES)
    if states > 0 or param == state
)


def with_option(option: Option, wanted: Callable[[Traffic], bool]) -> tuple[Traffic, ...]:
    return tuple(dataclasses.replace(traffic, option=option) for traffic in PLAIN if wanted(traffic))


def with_narrow_gradients(*wide: Traffic) -> tuple[Traffic, ...]:
    return tuple(dataclasses.replace(traffic, narrow=dtype) for traffic in wide for dtype in HALVES)


TRAFFIC = (
    *PLAIN,
    *with_option(AVERAGED, lambda t: t.case.algorithm.traffic_in_all_types and t.param != torch.float16),
    *with_option(CLIPPED, lambda t: t.case.id in ("adam", "lamb")),
    *with_option(MASTER_WEIGHTS, lambda t: t.case.id in ("sgd_momentum", "adam") and t.param in HALVES),
    *with_option(BY_LOT, lambda t: t.case.id == "adam" and torch.bfloat16 in (t.param, t.state)),
    *with_narrow_gradients(
        *(t for t in PLAIN if t.case.id in ("sgd_momentum", "adam", "lamb") and t.param == torch.float32),
        *with_option(CLIPPED, lambda t: t.case.id == "adam" and t.param == t.state == torch.float32),
    ),
)
