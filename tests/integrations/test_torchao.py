"""torchao: its offload of the optimizer to the CPU, which needs a GPU, and its trainings with few bits.

An emulated GPU is enough: ``GPU_RUNNER`` of the Makefile starts the tests on one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchao.float8 as float8
import torchao.optim as torchao_optim
import torchao.prototype.quantized_training as training
import torchao.quantization as quantization
import torchao.quantization.qat as qat
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR
from warm_restarts import sgdr

from sgdr_fused import FusedAdamW, FusedSGD, lr_find
from sgdr_fused.schedules import CosineWarmRestarts

# Where the extension was built without CUDA, our optimizer of the parameters that stay on the GPU says so.
pytestmark = pytest.mark.filterwarnings("ignore:sgdr_fused runs its slow pure-PyTorch reference:RuntimeWarning")
SCHEDULE = CosineWarmRestarts(0.05, T_0=3, T_mult=2, eta_min=0.001)
rate = sgdr(0.05, T_0=3, eta_min=0.001)
STEPS, STOP = 12, 5  # it stops in the middle of the second cycle
# Tolerances: our step rounds in another order than torch's, which differs by a few units of the last place a step.
FLOAT64, FLOAT32 = 1e-12, 1e-5


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32)).to(dtype)


def loss_of(model: nn.Module, step: int) -> Tensor:
    """The loss of a batch that depends on the step alone."""
    like = next(model.parameters())
    inputs = torch.randn(16, 32, generator=torch.Generator().manual_seed(step)).to(like.device, like.dtype)
    return model(inputs).square().mean()


class Reference:
    """torch's AdamW with its scheduler on the CPU, over copies of a model's parameters, which get its gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.copies = {p: nn.Parameter(p.detach().to("cpu", copy=True)) for p in model.parameters()}
        for p in self.copies:  # before the offload, whose hook may take the gradient away
            p.register_post_accumulate_grad_hook(self._take)
        self.optimizer = torch.optim.AdamW(self.copies.values(), lr=0.05)
        self.scheduler = CosineAnnealingWarmRestarts(self.optimizer, T_0=3, T_mult=2, eta_min=0.001)

    def _take(self, p: Any) -> None:
        self.copies[p].grad = p.grad.to("cpu", copy=True)

    def step(self) -> None:
        self.optimizer.step()
        self.scheduler.step()

    def assert_reached(self, tolerance: float) -> None:
        for p, copy in self.copies.items():
            torch.testing.assert_close(p.detach().cpu(), copy.detach(), rtol=tolerance, atol=tolerance)


def assert_like_torch(
    model: nn.Module,
    make: Callable[..., Any],
    tolerance: float,
    *,
    loss: Callable[[nn.Module, int], Tensor] = loss_of,
    clip: Callable[[Any, Reference], None] | None = None,
    schedule: Callable[[Any], Any] | None = None,
) -> None:
    """At each step the rates and parameters of torch's with the same gradients, which `clip` may change in both."""
    reference = Reference(model)
    optimizer = make(model.parameters())
    scheduler = None if schedule is None else schedule(optimizer)
    for step in range(STEPS):
        assert rates(optimizer) == pytest.approx([rate(step)] * len(optimizer.param_groups), rel=1e-14)
        optimizer.zero_grad()
        loss(model, step).backward()
        if clip is not None:
            clip(optimizer, reference)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        reference.step()
        reference.assert_reached(tolerance)


def rates(optimizer: Any) -> list[float]:
    """What to log: the offload has no get_last_lr()."""
    return [float(group["lr"]) for group in optimizer.param_groups]


# ---- the offload


@pytest.fixture
def gpu() -> None:
    """A GPU. Where an emulator pretends it, the CPU computes the operations that it lacks."""
    if not torch.cuda.is_available():
        pytest.skip("torch.cuda.is_available() is False, and CPUOffloadOptimizer needs a GPU")
    with contextlib.suppress(ImportError):
        import pretend_gpu

        pretend_gpu.cpu_fallback()


def offload(params: Iterable[Tensor], **options: Any) -> Any:
    """The two weights go to the CPU, and the two biases, of 32 elements each, stay on the GPU."""
    return torchao_optim.CPUOffloadOptimizer(params, FusedAdamW, **{"lr": SCHEDULE, "minimal_size": 33, **options})


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("minimal_size", [33, 1])
@pytest.mark.parametrize("offload_gradients", [False, True])
def test_offload(offload_gradients: bool, minimal_size: int) -> None:
    def make(params: Any) -> Any:
        optimizer = offload(params, offload_gradients=offload_gradients, minimal_size=minimal_size)
        assert len(optimizer.optim_dict) == (4 if minimal_size == 1 else 2)
        return optimizer

    assert_like_torch(network().cuda(), make, FLOAT64)


@pytest.mark.usefixtures("gpu")
def test_offload_clips_each_parameter_by_itself() -> None:
    """Each parameter has an optimizer of its own, and those that stay on the GPU one together: so many norms."""

    def clip(optimizer: Any, reference: Reference) -> None:
        first, first_bias, second, second_bias = reference.copies.values()
        for together in ([first], [second], [first_bias, second_bias]):
            assert float(torch.nn.utils.clip_grad_norm_(together, 0.01)) > 0.01

    assert_like_torch(network().cuda(), lambda params: offload(params, max_grad_norm=0.01), FLOAT64, clip=clip)


@pytest.mark.usefixtures("gpu")
def test_offload_clips_by_the_norm_of_all() -> None:
    """What torch's function gets are the gradients that steps read: those on the CPU, as soon as they are there."""

    def clip(optimizer: Any, reference: Reference) -> None:
        torch.cuda.synchronize()
        read = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(read, 0.01)
        expected = torch.nn.utils.clip_grad_norm_(reference.copies.values(), 0.01)
        torch.testing.assert_close(norm.cpu(), expected, rtol=FLOAT64, atol=0.0)

    assert_like_torch(network().cuda(), offload, FLOAT64, clip=clip)


@pytest.mark.usefixtures("gpu")
def test_offload_under_autocast() -> None:
    def loss(model: nn.Module, step: int) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return loss_of(model, step)

    assert_like_torch(network(torch.float32).cuda(), offload, FLOAT32, loss=loss)


@pytest.mark.usefixtures("gpu")
def test_offload_with_a_scaler() -> None:
    """It unscales the gradients on the CPU, which have to be there. No clock counts the step that it skips."""
    model = network(torch.float32).cuda()
    reference = Reference(model)
    optimizer = offload(model.parameters())
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    for step in range(6):
        optimizer.zero_grad()
        scale = scaler.get_scale()
        scaler.scale(loss_of(model, step) * (math.inf if step == 2 else 1.0)).backward()
        torch.cuda.synchronize()
        scaler.step(optimizer)
        scaler.update()
        assert (scaler.get_scale() < scale) == (step == 2)
        if step != 2:
            for copy in reference.copies.values():
                copy.grad /= scale
            reference.step()
        reference.assert_reached(FLOAT32)
        assert rates(optimizer) == pytest.approx([rate(step + (step < 2))] * 3, rel=1e-14)


@pytest.mark.usefixtures("gpu")
def test_offload_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """The model is loaded first: the offload copies its weights to the CPU when it is made."""

    def train(model: nn.Module, optimizer: Any, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()

    model, again = network().cuda(), network().cuda()
    optimizer = offload(model.parameters())
    train(model, optimizer, range(STOP))
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")
    train(model, optimizer, range(STOP, STEPS))
    of_model, of_optimizer = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again.load_state_dict(of_model)
    resumed = offload(again.parameters(), lr=1.0)  # the checkpoint brings the Schedule
    resumed.load_state_dict(of_optimizer)
    inside = [resumed.d_opt, *resumed.optim_dict.values()]  # a load leaves old groups in the wrapper, as in torch
    assert [each.get_last_lr() for each in inside] == [[SCHEDULE(STOP)]] * 3
    train(again, resumed, range(STOP, STEPS))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert [int(each.clock) for each in inside] == [STEPS] * 3


@pytest.mark.usefixtures("gpu")
def test_offload_with_a_number_and_torchs_scheduler() -> None:
    def schedule(optimizer: Any) -> Any:
        return CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2, eta_min=0.001)

    assert_like_torch(network().cuda(), lambda params: offload(params, lr=0.05), FLOAT64, schedule=schedule)


@pytest.mark.usefixtures("gpu")
def test_offload_refuses_another_owner_of_the_rate() -> None:
    """torch's scheduler over Schedules, at the first step; and the range test, which takes no wrapper."""
    model = network().cuda()
    optimizer = offload(model.parameters())
    with pytest.raises(TypeError, match="FusedAdamW"):
        lr_find(model, optimizer, nn.MSELoss(), [(torch.ones(2, 32), torch.ones(2, 32))])
    loss_of(model, 0).backward()
    CosineAnnealingWarmRestarts(optimizer, T_0=3)
    with pytest.raises(RuntimeError, match="InStepScheduler"):
        optimizer.step()
    assert all(torch.equal(p.cpu(), q) for p, q in zip(model.parameters(), network().parameters(), strict=True))


# ---- few bits


def converted(name: str) -> nn.Sequential:
    """A model with weights of a class of torchao's."""
    model = network(torch.float32)
    quantization.quantize_(model, getattr(training, f"{name}_training")())
    return model


@pytest.mark.parametrize("name", ["int8_weight_only_quantized", "int8_mixed_precision", "bitnet"])
def test_weights_of_torchaos_classes_are_refused(name: str) -> None:
    """A kernel cannot write what such a tensor holds. The message names the class, and who can."""
    weight = converted(name)[0].weight
    with pytest.raises(TypeError, match=rf"{type(weight).__name__}, whose memory(.|\n)*torch\.optim"):
        FusedAdamW([weight], lr=SCHEDULE)


def trained_beside(make: Callable[[Any], Any]) -> list[Tensor]:
    """torch's SGD trains int8 weights by the Schedule, and another optimizer the biases."""
    model = converted("int8_weight_only_quantized")
    weights, biases = list(model.parameters())[::2], list(model.parameters())[1::2]
    optimizers = [torch.optim.SGD(weights, lr=1.0), make(biases)]
    schedulers = [LambdaLR(each, SCHEDULE) for each in optimizers if not isinstance(each, FusedSGD)]
    torch.manual_seed(1)
    for step in range(STEPS):
        assert [*map(rates, optimizers)] == [[SCHEDULE(step)]] * 2
        model.zero_grad()
        loss_of(model, step).backward()
        for each in (*optimizers, *schedulers):
            each.step()
    return [weight.dequantize().detach() for weight in weights] + [bias.detach() for bias in biases]


def test_int8_weights_beside_ours() -> None:
    """The remedy. torchao rounds the weights at random, with the same random numbers in both trainings."""
    ours = trained_beside(lambda biases: FusedSGD(biases, lr=SCHEDULE))
    theirs = trained_beside(lambda biases: torch.optim.SGD(biases, lr=1.0))
    torch.testing.assert_close(ours, theirs, rtol=FLOAT32, atol=FLOAT32)


def int8_modules(model: nn.Module) -> None:
    quantization.quantize_(model, training.int8_mixed_precision_training(module_swap=True))


def float8_modules(model: nn.Module) -> None:
    float8.convert_to_float8_training(model, config=float8.Float8LinearConfig(emulate=True))  # no GPU with 8 bits


def fake_quantized(model: nn.Module) -> None:
    quantization.quantize_(model, qat.QATConfig(weight_config=qat.IntxFakeQuantizeConfig(torch.int4, group_size=32)))


@pytest.mark.parametrize("convert", [int8_modules, float8_modules, fake_quantized])
def test_modules_with_ordinary_weights(convert: Callable[[nn.Module], None]) -> None:
    if convert is int8_modules and torch.cuda.is_available():
        pytest.skip("where there is a GPU, torchao's int8 product has no form for the CPU")
    model = network(torch.float32)
    convert(model)
    assert type(model[0]) is not nn.Linear
    assert_like_torch(model, lambda params: FusedAdamW(params, lr=SCHEDULE), FLOAT32)
