"""What all actions share: the machine's world, and the strategies that they draw from."""

from __future__ import annotations

from typing import Any

import torch
from cases import DEVICE
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from sgdr_fused.schedules import CosineWarmRestarts, LinearRamp, Schedule, Sequential, Step, Triangular, Warmup

from .world import GroupModel, World

# Small integers that stand for a group or a parameter, modulo how many there are.
GROUP = st.integers(0, 3)
PARAM = st.integers(0, 9)
KEY = st.sampled_from(("lr", "lr", "lr", "momentum", "weight_decay"))  # momentum: or betas, whichever there is

SCHEDULES: dict[str, tuple[Schedule, ...]] = {
    "lr": (
        CosineWarmRestarts(0.1, T_0=3, T_mult=2, eta_min=0.01),
        Triangular(0.01, 0.1, step_size_up=2, step_size_down=3, mode="exp_range", gamma=0.9),
        Warmup(CosineWarmRestarts(0.08, T_0=2, T_mult=1.5, max_decay=0.5), steps=3),
        Sequential([(LinearRamp(0.0, 0.2, steps=4), 4), Step(0.2, 3, gamma=0.5)]),
        0.5 * CosineWarmRestarts(0.1, T_0=4).shifted(1),
    ),
    "momentum": (Triangular(0.8, 0.95, step_size_up=2), CosineWarmRestarts(0.9, T_0=3, eta_min=0.5)),
    "weight_decay": (CosineWarmRestarts(0.02, T_0=2), Step(0.1, 2, gamma=0.5)),
}
NUMBERS: dict[str, tuple[Any, ...]] = {
    "lr": (0.05, 0.3, 0, 1e-3, 1, -0.01),
    "momentum": (0.9, 0.5, 0.8),
    "weight_decay": (0, 0.1, 1e-2, -0.05),
}
NUMBER, SCHEDULE, TENSOR = st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)


class Actions(RuleBasedStateMachine):
    """`self.world` is made by the machine's first rule."""

    world: World

    def key(self, name: str) -> str | None:
        """The entry that is meant: an algorithm has momentum, betas, or neither."""
        if name == "momentum":
            return next((key for key in ("momentum", "betas") if key in self.world.keys), None)
        return name if name in self.world.keys else None

    def value(self, key: str, kind: str, index: int, group: GroupModel) -> Any:
        """A number, a tensor or a Schedule (`kind`) for that entry."""
        values = {"schedule": SCHEDULES, "number": NUMBERS, "tensor": NUMBERS}[kind]
        choices = values["momentum" if key == "betas" else key]
        value: Any = choices[index % len(choices)]
        if kind == "tensor":
            value = torch.tensor(float(value), dtype=torch.float64 if index % 2 else torch.float32, device=DEVICE)
        if key != "betas":
            return value
        other = 0.99 if index % 2 else 0.9
        return value, torch.tensor(other, dtype=torch.float64, device=DEVICE) if kind == "tensor" else other

    def put(self, index: int, key: str, value: Any) -> list[str]:
        """Assigns to the group, and notes it; returns the warnings."""
        texts = self.world.warnings_of(lambda: self.world.opt.param_groups[index].__setitem__(key, value))
        self.world.groups[index].values[key] = value
        self.world.remember_displays()
        return texts

    def expect_warning(self, model: GroupModel, replaces: bool, texts: list[str]) -> None:
        """A number in place of a Schedule warns once a group."""
        if not replaces or model.warned is None:
            return
        assert len(texts) == (0 if model.warned else 1), texts
        model.warned = True
