"""What a step costs on the GPU, counted: kernel launches, allocations, copies and synchronisations.

Each counted step is also taken on the CPU and has to have the same effect.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import EVERY_ALGORITHM, PRETEND, assert_within, ulp, values
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from sgdr_fused.schedules import CosineWarmRestarts

if PRETEND:
    import pretend_gpu

pytestmark = [pytest.mark.skipif(not PRETEND, reason="counts need the pretend GPU's counters"), pytest.mark.untracked]

WARMUP = 1  # step, which builds the plan
SKIPPED = 4  # the step where found_inf says so
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": {"betas": (0.9, 0.99)},
}
MEASURING: dict[str, dict[str, Any]] = {"lars": {"trust_coefficient": 0.5, "weight_decay": 0.1}, "lamb": {}}


# From 6 elements to a parameter.
VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda six: six[1:],  # at an odd address
    lambda six: six[::2],
    lambda six: six.view(2, 3).t(),
    lambda six: six.view(3, 2)[:, 1:],
    lambda six: six[4:4],
)


@dataclasses.dataclass(frozen=True)
class Model:
    """Parameters in groups of consecutive ones, and how many launches a step of them may take."""

    id: str
    sizes: tuple[int, ...]
    groups: int = 1
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)  # of each group in turn
    launches: int = 1
    steps: int = 6  # that are counted; so many go through a restart
    views: tuple[Callable[[Tensor], Tensor], ...] = (lambda tensor: tensor,)  # of each parameter in turn

    def tensors(self, seed: int, device: str) -> list[list[Tensor]]:
        """One for each parameter, by groups; a group's are views of one new tensor, which is quick to make."""
        count = -(-len(self.sizes) // self.groups)
        sizes = [self.sizes[i : i + count] for i in range(0, len(self.sizes), count)]
        dtypes = [self.dtypes[i % len(self.dtypes)] for i in range(self.groups)]
        whole = [values(sum(s), 1000 * seed + i).to(device, dtypes[i]).split(s) for i, s in enumerate(sizes)]
        return [[self.views[i % len(self.views)](v) for i, v in enumerate(group)] for group in whole]


RESNET50 = Model("161_tensors", tuple(1 + i % 40 for i in range(161)))
MODELS = (
    Model("50_groups", tuple(1 + i % 9 for i in range(200)), groups=50),
    Model("3000_tensors", tuple(1 + i % 3 for i in range(3000)), steps=2),
    Model("10000_tensors", (6,) * 10_000, launches=3, steps=1, views=VIEWS),
    Model("two_dtypes", (5, 33, 0, 17), groups=2, dtypes=(torch.float32, torch.bfloat16), launches=2),
)

LARGE = MODELS[1:3]
ALIKE = pytest.mark.alike

# From the parameter, its gradient of this step and whether it shall have none to what stands in `.grad`.
Put = Callable[[Tensor, Tensor, bool], Tensor | None]


def at_its_address(param: Tensor, gradient: Tensor, missing: bool) -> Tensor:
    return gradient if param.grad is None else param.grad.copy_(gradient)


def moved(param: Tensor, gradient: Tensor, missing: bool) -> Tensor:
    assert param.grad is None or gradient.numel() == 0 or param.grad.data_ptr() != gradient.data_ptr()
    return gradient


def some_none(param: Tensor, gradient: Tensor, missing: bool) -> Tensor | None:
    return None if missing else gradient


GRADIENTS: tuple[Put, ...] = (at_its_address, moved, some_none)

RATES: dict[str, Callable[[int, Tensor], Any]] = {  # of group i, or a tensor
    "number": lambda i, tensor: 0.1 / (1 + i),  # which a torch scheduler changes at each step
    "tensor": lambda i, tensor: tensor,  # which is written to in front of each step
    "schedule": lambda i, tensor: CosineWarmRestarts(0.1 / (1 + i), T_0=3, T_mult=1 + i % 2, eta_min=0.01 / (1 + i)),
}


class Training:
    """An optimizer on one device, and all that happens to it. What step() does is counted."""

    def __init__(self, algorithm: str, model: Model, device: str, rate: str = "schedule", **options: Any) -> None:
        self.model, self.device = model, device
        groups = [[torch.nn.Parameter(p) for p in group] for group in model.tensors(0, device)]
        self.params = [p for group in groups for p in group]
        self.tensor = torch.tensor(0.1, device=device)
        self.opt: Any = EVERY_ALGORITHM[algorithm].fused(
            [{"params": group, "lr": RATES[rate](i, self.tensor)} for i, group in enumerate(groups)],
            **{**OPTIONS, **MEASURING}[algorithm],
            **options,
        )
        self.scheduler = CosineAnnealingWarmRestarts(self.opt, T_0=3) if rate == "number" else None

    def prepare(self, t: int, put: Put, scaled: bool) -> None:
        """What is new for step t: gradients, the tensor's rate, and what GradScaler hands over."""
        self.tensor.fill_(0.1 / (1 + t))
        gradients = [g for group in self.model.tensors(1 + t, self.device) for g in group]
        for i, (param, gradient) in enumerate(zip(self.params, gradients, strict=True)):
            param.grad = put(param, gradient, t > 0 and (i + t) % 3 == 0)
        if scaled:
            self.opt.grad_scale = torch.full((), 1.0 + t, device=self.device)
            self.opt.found_inf = torch.full((), float(t == SKIPPED), device=self.device)

    def step(self) -> None:
        self.opt.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def written(self) -> dict[tuple[str, torch.dtype], Tensor]:
        """All that a step writes, as one tensor for each name and dtype."""
        tensors = defaultdict(list)
        for name, value in [("clock", self.opt.clock), *(("lr", g["lr"]) for g in self.opt.param_groups)]:
            value = torch.as_tensor(value, dtype=torch.float64)
            tensors[name, value.dtype].append(value)
        for param in self.params:
            for name, value in {"param": param, "grad": param.grad, **self.opt.state[param]}.items():
                if value is not None:
                    tensors[name, value.dtype].append(value.detach().reshape(-1))
        return {key: torch.cat([v.reshape(-1) for v in listed]).cpu() for key, listed in tensors.items()}


def assert_equal(actual: Training, expected: Training, t: int) -> None:
    """The same arithmetic; but a pow() or sin() that differs in the last place may move each step's rounding by one."""
    other = expected.written()
    for (name, dtype), value in actual.written().items():
        wanted = other.pop((name, dtype)).double()
        assert_within(value, wanted, (t + 1) * ulp(wanted.clamp(min=1), dtype), f"{name} after step {t}")
    assert not other


def counts_of(step: Callable[[], None]) -> dict[str, int]:
    assert pretend_gpu.errors() == ""  # which reset() would forget
    pretend_gpu.reset()
    step()
    counts = pretend_gpu.counts()
    return {name: n for name, n in counts.items() if n > 0 and not name.startswith("live")}


def check_cost(
    algorithm: str,
    model: Model,
    rate: str,
    put: Put,
    scaled: bool,
    passes: int = 1,
    **options: Any,
) -> None:
    on_gpu, on_cpu = (Training(algorithm, model, device, rate, **options) for device in ("cuda", "cpu"))
    launches = passes * model.launches
    assert on_gpu.opt.backend == "cuda"
    for t in range(WARMUP + model.steps):
        for training in (on_gpu, on_cpu):
            training.prepare(t, put, scaled)
        counts = counts_of(on_gpu.step)
        if t >= WARMUP:
            assert counts == {"launches": launches, "submissions": launches}, f"step {t}"
        on_cpu.step()
        assert_equal(on_gpu, on_cpu, t)
    steps = WARMUP + model.steps
    assert on_gpu.opt.clock.item() == steps - (scaled and steps > SKIPPED)


@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("put", [pytest.param(p, id=p.__name__) for p in GRADIENTS])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("algorithm", OPTIONS)
def test_one_launch_and_nothing_else(algorithm: str, rate: str, put: Put, scaled: bool) -> None:
    check_cost(algorithm, RESNET50, rate, put, scaled)


@pytest.mark.parametrize(
    ("algorithm", "model"),
    [
        pytest.param(name, model, id=f"{name}-{model.id}", marks=ALIKE if name == "adam" and model in LARGE else ())
        for name in OPTIONS
        for model in MODELS
    ],
)
def test_launches_of_a_model(algorithm: str, model: Model) -> None:
    """Each group has a schedule, some gradients are missing, and all others are at new addresses.

    With averages too, some of which are taken at the end of the first cycle.
    """
    check_cost(algorithm, model, "schedule", some_none, scaled=False, average="cycle")


@pytest.mark.parametrize(
    ("model", "options", "passes"),
    [
        (RESNET50, {"max_grad_norm": 1.0, "max_grad_value": 0.9}, 2),
        pytest.param(MODELS[2], {"max_grad_norm": 1.0, "max_grad_value": 0.9}, 2, marks=ALIKE),
        (MODELS[3], {"max_grad_norm": 1.0, "max_grad_value": 0.9}, 2),
        (RESNET50, {"skip_nonfinite": True}, 2),
        (RESNET50, {"max_grad_value": 0.9}, 1),
    ],
    ids=lambda value: getattr(value, "id", str(value)),
)
def test_one_more_launch_for_the_norm(model: Model, options: dict[str, Any], passes: int) -> None:
    """There is one for each range of tensors, and none if only elements are clamped."""
    check_cost("adam", model, "schedule", some_none, scaled=True, passes=passes, **options)


@pytest.mark.parametrize(
    ("algorithm", "model", "options", "passes"),
    [
        ("lars", RESNET50, {}, 2),
        pytest.param("lars", MODELS[2], {}, 2, marks=ALIKE),
        ("lars", MODELS[3], {}, 2),
        ("lars", RESNET50, {"max_grad_norm": 1.0}, 3),
        ("lamb", RESNET50, {}, 2),
        ("lamb", MODELS[3], {"max_grad_norm": 1.0}, 3),
    ],
    ids=lambda value: getattr(value, "id", str(value)),
)
def test_one_more_launch_where_each_parameter_is_measured(
    algorithm: str, model: Model, options: dict[str, Any], passes: int
) -> None:
    check_cost(algorithm, model, "schedule", some_none, scaled=True, passes=passes, **options)


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_rate_that_the_kernel_cannot_read(algorithm: str) -> None:
    """A tensor of another dtype costs the launch of its conversion; nothing waits for its value."""
    training = Training(algorithm, RESNET50, "cuda")
    rate = torch.tensor(0.5, dtype=torch.bfloat16, device="cuda")
    training.opt.param_groups[0]["lr"] = rate
    for t in range(3):
        training.prepare(t, moved, scaled=False)
        counts = counts_of(training.step)
    assert counts == {"launches": 2, "submissions": 2}


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_gradients_of_three_dtypes(algorithm: str) -> None:
    """Side by side they take one launch, as one does."""
    training = Training(algorithm, MODELS[0], "cuda")
    for t in range(3):
        training.prepare(t, moved, scaled=True)
        for i, param in enumerate(training.params):
            gradient = param.grad.to((torch.float32, torch.bfloat16, torch.float16)[i % 3])
            param.grad, param.grad_dtype = None, None
            param.grad = gradient
        counts = counts_of(training.step)
    assert counts == {"launches": 1, "submissions": 1}
