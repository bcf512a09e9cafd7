"""Whole training steps in one CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bits import bits
from captures import captured
from cases import (
    DEVICE,
    SCHEDULES,
    TYPICAL,
    Case,
    gradient,
    ids,
    params_of,
)
from torch import nn

pytestmark = pytest.mark.skipif(DEVICE.type != "cuda", reason="captures CUDA graphs")


def make_network() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        for i, param in enumerate(model.parameters()):
            param.copy_(gradient(param, 1000, i) / 4)
    return model.to(DEVICE)


class Training:
    """Forward, backward and step on inputs that stay where they are; with a scaler, its part too."""

    def __init__(self, case: Case, scaler: Any) -> None:
        self.model, self.scaler = make_network(), scaler
        self.opt = case.fused(self.model.parameters(), lr=SCHEDULES[0])
        self.inputs, self.targets = torch.zeros(8, 6, device=DEVICE), torch.zeros(8, 3, device=DEVICE)

    def next_batch(self, t: int) -> None:
        """One that overflows at every fourth step."""
        self.inputs.copy_(gradient(self.inputs, t))
        self.targets.copy_(gradient(self.targets, t, 1))
        if self.scaler is not None and t % 4 == 3:
            self.inputs[0, 0] = float("inf")

    def step(self) -> None:
        self.opt.zero_grad()
        loss = (self.model(self.inputs) - self.targets).square().mean()
        if self.scaler is None:
            loss.backward()
            self.opt.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.opt)
            self.scaler.update()


@pytest.mark.parametrize("scaled", [False, True], ids=["", "GradScaler"])
@pytest.mark.parametrize("case", ids(TYPICAL))
def test_training_step_in_one_graph(case: Case, scaled: bool) -> None:
    """It works with a GradScaler too: neither it nor the optimizer waits to know whether a step was skipped."""
    steps = 24

    def make() -> Training:
        scaler = torch.amp.GradScaler("cuda", init_scale=64.0, growth_interval=3) if scaled else None
        training = Training(case, scaler)
        side = torch.cuda.Stream()  # where a warm-up has to be, says torch's documentation
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for t in (0, 1):
                training.next_batch(t)
                training.step()
        torch.cuda.current_stream().wait_stream(side)
        return training

    replayed, eager = make(), make()
    replayed.opt.zero_grad()
    graph = captured(replayed.step)
    for t in range(2, steps):
        for training, step in ((replayed, graph.replay), (eager, eager.step)):
            training.next_batch(t)
            step()
        assert replayed.opt.clock.item() == eager.opt.clock.item()
    skipped = sum(t % 4 == 3 for t in range(steps)) if scaled else 0
    assert eager.opt.clock.item() == steps - skipped
    assert bits(replayed.opt.param_groups[0]["lr"]) == bits(eager.opt.param_groups[0]["lr"])
    if scaled:
        assert replayed.scaler.get_scale() == eager.scaler.get_scale()
    for param, other in zip(params_of(replayed.opt), params_of(eager.opt), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-4, atol=1e-5)  # a product may be summed in another order
