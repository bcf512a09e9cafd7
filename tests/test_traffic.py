"""Global memory that a step reads and writes, counted by execution: the least that its algorithm allows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cases import CASES, PRETEND, Case, gradient, ids

from sgdr_fused import EMA

if PRETEND:
    import pretend_gpu

pytestmark = pytest.mark.skipif(not PRETEND, reason="bytes are counted by the pretend GPU alone")

PARAMETERS = 1_000_000
STATES = {"sgd": 0, "sgd_momentum": 1, "lars": 1, "adam": 2, "adam_amsgrad": 3, "lamb": 2}
MEASURED = {"lars": 0, "lamb": 2}  # states that are read once more, beside parameter and gradient


@dataclasses.dataclass(frozen=True)
class Traffic:
    """One kernel: an algorithm's case, the storage of the parameter and its gradient, and of its states."""

    case: Case
    param: torch.dtype
    state: torch.dtype
    average: EMA | None = None
    max_grad_norm: float | None = None

    @property
    def id(self) -> str:
        options = ["average"] * (self.average is not None) + ["clipped"] * (self.max_grad_norm is not None)
        return "-".join([self.case.id, *(str(d).removeprefix("torch.") for d in (self.param, self.state)), *options])

    @property
    def states(self) -> int:
        return STATES[self.case.id]

    @property
    def least(self) -> int:
        """Bytes per parameter: gradient in, twice for its norm; parameter, each state and the average in and out; and
        in once more what is measured."""
        average = 0 if self.average is None else 2 * max(self.param.itemsize, 4)
        norm = 0 if self.max_grad_norm is None else self.param.itemsize
        least = 3 * self.param.itemsize + 2 * self.states * self.state.itemsize + average + norm
        if self.case.id in MEASURED:
            least += 2 * self.param.itemsize + MEASURED[self.case.id] * self.state.itemsize
        return least

    def counted(self) -> float:
        """Bytes per parameter of one step on a million parameters, after one that makes the states and the plan."""
        param = torch.nn.Parameter(torch.ones(PARAMETERS, dtype=self.param, device="cuda"))
        param.grad = gradient(param, 0)
        opt = self.case.fused([param], lr=0.1, average=self.average, max_grad_norm=self.max_grad_norm)
        opt.step()
        for key, value in opt.state[param].items():
            if key not in ("step", "average"):
                opt.state[param][key] = value.to(self.state)
        opt.step()
        pretend_gpu.reset()
        opt.step()
        torch.cuda.synchronize()
        kernels = pretend_gpu.log()
        return sum(kernel["ld_bytes"] + kernel["st_bytes"] for kernel in kernels) / PARAMETERS


TRAFFIC = tuple(
    Traffic(case, param, state)
    for case in CASES
    if case.id in STATES
    for param, state in (
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    )
    if STATES[case.id] > 0 or param == state
)


CLIPPED = tuple(dataclasses.replace(t, max_grad_norm=1.0) for t in TRAFFIC if t.case.id in ("adam", "lamb"))
TRAFFIC += tuple(dataclasses.replace(t, average=EMA(0.9)) for t in TRAFFIC if t.param != torch.float16)
TRAFFIC += CLIPPED


@pytest.mark.parametrize("traffic", ids(TRAFFIC))
def test_a_step_moves_no_more_than_it_must(traffic: Traffic) -> None:
    assert traffic.counted() == pytest.approx(traffic.least, rel=0.01)


def test_the_least_that_is_published() -> None:
    plain = [t for t in TRAFFIC if t.param == t.state == torch.float32 and not t.average and not t.max_grad_norm]
    least = {t.case.id: t.least for t in plain}
    assert least == {"sgd": 12, "sgd_momentum": 20, "lars": 28, "adam": 28, "adam_amsgrad": 36, "lamb": 44}
