"""Streams, devices and sizes that a real GPU has. What an emulator can run of it, it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import snapshot
from cases import DEVICE, PRETEND, SCHEDULES, TYPICAL, Case, gradient, ids, make_params, params_of, set_gradients, train
from torch import nn

from sgdr_fused import FusedAdam, FusedSGD

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")

overlapping = pytest.mark.skipif(PRETEND, reason="needs a real GPU: the emulator's streams wait for each other")
two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

SIZES = (5, 0, 1025)
LONG = 200_000_000  # cycles: about a tenth of a second


def on_stream(stream: torch.cuda.Stream) -> Any:
    """Work on this stream, after all that is queued on the current one."""
    stream.wait_stream(torch.cuda.current_stream())
    return torch.cuda.stream(stream)


# ---- streams


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_capture_and_replay_on_side_streams(case: Case) -> None:
    opt, twin = (case.fused(make_params(SIZES), lr=SCHEDULES[0]) for _ in range(2))
    capturing, replaying = torch.cuda.Stream(), torch.cuda.Stream()
    with on_stream(capturing):
        train(opt, [0])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=capturing):
            opt.step()
    torch.cuda.current_stream().wait_stream(capturing)
    with on_stream(replaying):
        for t in range(1, 12):
            for i, param in enumerate(params_of(opt)):
                param.grad.copy_(gradient(param, t, i))
            graph.replay()
    torch.cuda.current_stream().wait_stream(replaying)
    train(twin, range(12))
    assert snapshot(opt) == snapshot(twin)


@pytest.mark.parametrize("case", ids(TYPICAL))
def test_two_optimizers_on_two_streams(case: Case) -> None:
    """At the same time; the steps of one optimizer follow each other."""
    streams = torch.cuda.Stream(), torch.cuda.Stream()
    sizes = (5, 17_000 if PRETEND else 70_000)
    optimizers = [case.fused(make_params(sizes, seed=i), lr=SCHEDULES[i]) for i in range(2)]
    twins = [case.fused(make_params(sizes, seed=i), lr=SCHEDULES[i]) for i in range(2)]
    for opt, twin in zip(optimizers, twins, strict=True):
        set_gradients(params_of(opt), 0)
        set_gradients(params_of(twin), 0)
    for _ in range(8):
        for opt, stream in zip(optimizers, streams, strict=True):
            with on_stream(stream):
                opt.step()
    torch.cuda.synchronize()
    for opt, twin in zip(optimizers, twins, strict=True):
        for _ in range(8):
            twin.step()
        assert snapshot(opt) == snapshot(twin)


@overlapping
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_step_waits_for_its_stream(case: Case) -> None:
    """Its gradients are not there yet when step() is called, and the call does not wait for them."""
    opt, twin = (case.fused(make_params(SIZES), lr=SCHEDULES[0]) for _ in range(2))
    train(opt, [0])
    train(twin, [0, 1])
    late = [gradient(param, 1, i) for i, param in enumerate(params_of(opt))]
    side = torch.cuda.Stream()
    with on_stream(side):
        torch.cuda._sleep(LONG)
        for param, new in zip(params_of(opt), late, strict=True):
            param.grad.copy_(new)
        opt.step()
    assert not side.query()
    side.synchronize()
    assert snapshot(opt) == snapshot(twin)


# ---- devices


def on_two_devices(case: Case, lr: Any) -> tuple[Any, Any]:
    """An optimizer of parameters on both, and one of the same parameters on the CPU."""
    shapes = ((5,), (33,), (1025,), (4, 6))
    params = [nn.Parameter(gradient(torch.empty(s), 99, i).to(f"cuda:{i % 2}")) for i, s in enumerate(shapes)]
    return case.fused(params, lr=lr), case.fused([nn.Parameter(p.detach().cpu()) for p in params], lr=lr)


def assert_same_values(opt: Any, twin: Any) -> None:
    """They may differ by the last place of a pow() or sin(), which may move one rounding in each of a dozen steps."""
    for param, other in zip(params_of(opt), params_of(twin), strict=True):
        torch.testing.assert_close(param.cpu(), other, rtol=2e-6, atol=2e-6)
        for key, value in twin.state[other].items():
            torch.testing.assert_close(opt.state[param][key].cpu(), value, rtol=2e-6, atol=2e-6)
    assert opt.clock.item() == twin.clock.item()
    assert float(opt.param_groups[0]["lr"]) == pytest.approx(float(twin.param_groups[0]["lr"]), rel=1e-12)


@two_devices
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_parameters_on_two_devices(case: Case) -> None:
    """Whichever is the current one. The clock has a copy on each, also where it is written to."""
    opt, twin = on_two_devices(case, SCHEDULES[0])
    for t in range(12):
        if t == 6:
            opt.clock.fill_(1)
            twin.clock.fill_(1)
        with torch.cuda.device(t % 2):
            train(opt, [t])
        train(twin, [t])
        assert_same_values(opt, twin)


@two_devices
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_one_rate_for_two_devices(case: Case) -> None:
    """A tensor on one of them, which is written to between steps; the other gets a copy at each step."""
    opt, twin = on_two_devices(case, 0.0)
    rates = [torch.tensor(0.05, device=device) for device in ("cuda:0", "cpu")]
    for each, lr in zip((opt, twin), rates, strict=True):
        each.param_groups[0]["lr"] = lr
    for t in range(6):
        for each, lr in zip((opt, twin), rates, strict=True):
            lr.fill_(0.05 / (1 + t))
            train(each, [t])
        assert_same_values(opt, twin)


@two_devices
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_overflow_on_the_second_device(case: Case) -> None:
    """The step is skipped on both."""
    opt, twin = on_two_devices(case, SCHEDULES[0])
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    for t in range(6):
        opt.zero_grad()
        for i, param in enumerate(params_of(opt)):
            scaler.scale((param * gradient(param, t, i)).sum()).backward()
        if t in (0, 3):
            params_of(opt)[1].grad[2] = float("inf")
        else:
            train(twin, [t])
        scaler.step(opt)
        scaler.update()
        assert_same_values(opt, twin)


@two_devices
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_second_device_alone(case: Case) -> None:
    """Eager while the first is the current one, and captured on a stream of its own."""
    opt, twin = (
        case.fused([nn.Parameter(p.detach().to(device)) for p in make_params(SIZES)], lr=SCHEDULES[0])
        for device in ("cuda:1", "cpu")
    )
    for t in range(3):
        train(opt, [t])
    assert opt.clock.device == torch.device("cuda:1")
    with torch.cuda.device(1):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(device=1)):
            opt.step()
        for t in range(3, 8):
            for i, param in enumerate(params_of(opt)):
                param.grad.copy_(gradient(param, t, i))
            graph.replay()
    train(twin, range(8))
    assert_same_values(opt, twin)


# ---- what surrounds a step


@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream")  # torch warms up on another stream
@pytest.mark.parametrize("fused", [FusedSGD, FusedAdam])
def test_graphed_callables(fused: Any) -> None:
    """Forward and backward in graphs that torch makes, the step eager: as without graphs."""

    def make() -> tuple[nn.Module, Any]:
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        for i, param in enumerate(model.parameters()):
            param.data = gradient(param, 1000, i) / 4
        model.to(DEVICE)
        return model, fused(model.parameters(), lr=SCHEDULES[0])

    (graphed, opt), (plain, twin) = make(), make()
    inputs = [gradient(torch.empty(8, 6), t).to(DEVICE) for t in range(10)]
    called = torch.cuda.make_graphed_callables(graphed, (inputs[0].clone(),))
    for x in inputs:
        for model, each in ((called, opt), (plain, twin)):
            each.zero_grad()
            model(x).square().mean().backward()
            each.step()
    assert opt.clock.item() == twin.clock.item() == len(inputs)
    for param, other in zip(params_of(opt), params_of(twin), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-4, atol=1e-5)  # a product may be summed in another order


@pytest.mark.skipif(PRETEND, reason="needs a real GPU: the emulator has no profiler; it counts in test_step_cost.py")
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_profiler_sees_one_kernel(case: Case) -> None:
    opt = case.fused(make_params(SIZES), lr=SCHEDULES[0])
    train(opt, range(2))
    torch.cuda.synchronize()
    allocations = torch.cuda.memory_stats()["allocation.all.allocated"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        opt.step()
        torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == allocations
    on_device = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    if not on_device:
        pytest.skip("the profiler may not look at this GPU")
    assert sum("fused_step_kernel" in name for name in on_device) == 1, on_device
    others = [n for n in on_device if n.startswith(("Memcpy", "Memset")) or "at::native" in n]
    assert others == []


HUGE = 251 * 8_560_000  # more than 2^31, and no pattern of 251 fits a power of two


@pytest.mark.skipif(PRETEND, reason="needs a real GPU: an emulator takes minutes")
def test_more_elements_than_32_bits_count() -> None:
    assert HUGE > 2**31
    needed = 5 * 2 * HUGE  # bytes: parameter, gradient, momentum_buffer, and what comparing them takes
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free memory on the GPU")
    param = nn.Parameter(torch.zeros(HUGE, dtype=torch.bfloat16, device=DEVICE))
    param.grad = torch.empty_like(param)
    param.grad.view(-1, 251).copy_(torch.arange(1, 252, device=DEVICE))  # whole numbers that bfloat16 holds
    opt = FusedSGD([param], lr=0.5, momentum=0.5)
    opt.step()
    assert torch.equal(opt.state[param]["momentum_buffer"], param.grad)
    assert torch.equal(param.detach(), param.grad * -0.5)
    opt.step()  # by half of (0.5 + 1) times the gradient; each result is rounded once from the exact one
    assert torch.equal(opt.state[param]["momentum_buffer"], param.grad * 1.5)
    assert torch.equal(param.detach(), param.grad * -1.25)
