"""Trainings of torch's and of ours, and their files, for the tests of `convert`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers
from torch_schedulers import Make

from sgdr_fused import FusedAdamW, FusedSGD
from sgdr_fused._cli import main
from sgdr_fused.schedules import Schedule

OPTIMIZERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, FusedSGD, {"momentum": 0.9, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, FusedAdamW, {"betas": (0.8, 0.99)}),
}


Refused = Callable[..., str]


def parameters() -> list[dict[str, Any]]:
    """Two groups, with rates of their own."""
    random = torch.Generator().manual_seed(0)
    drawn = [torch.randn(size, generator=random, dtype=torch.float64) for size in (5, 3, 2)]
    params = [torch.nn.Parameter(each) for each in drawn]
    return [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.03}]


def flat(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """All parameters, and then all states that are tensors of their size."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [value for param in params for value in optimizer.state[param].values() if value.shape == param.shape]
    return torch.cat([each.detach().flatten() for each in (*params, *states)])


def train(optimizer: torch.optim.Optimizer, scheduler: Any, first: int, steps: int) -> None:
    """The gradients of a step are drawn by its number."""
    for t in range(first, first + steps):
        random = torch.Generator().manual_seed(t)
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.randn(param.shape, generator=random, dtype=torch.float64)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def save(file: Path, optimizer: torch.optim.Optimizer, scheduler: Any, **more: Any) -> Path:
    states = {"optimizer": optimizer.state_dict()}
    if scheduler is not None:
        states["scheduler"] = scheduler.state_dict()
    torch.save({**states, **more}, file)
    return file


def converted(source: Path, target: Path, *arguments: str) -> dict[str, Any]:
    assert main(["convert", str(source), "-o", str(target), *arguments]) == 0
    return torch.load(target)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    assert main(["convert", *map(str, arguments)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    return error.removeprefix("sgdr-fused convert: error: ").rstrip()


def with_params_of(groups: list[dict[str, Any]], other: torch.optim.Optimizer) -> list[dict[str, Any]]:
    values = [copy.deepcopy(group["params"]) for group in other.param_groups]
    return [{**group, "params": params, "lr": 1.0} for group, params in zip(groups, values, strict=True)]


def step_lr(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)


def checkpoint(
    file: Path, make: Make = step_lr, kind: str = "sgd", steps: int = 7, change: Any = None, **more: Any
) -> Path:
    """A file of a training of torch's. `change` is called with its optimizer and scheduler before they are saved."""
    theirs_class, _, arguments = OPTIMIZERS[kind]
    optimizer = theirs_class(parameters(), **arguments)
    scheduler = make(optimizer)
    train(optimizer, scheduler, 0, steps)
    if change is not None:
        change(optimizer, scheduler)
    return save(file, optimizer, scheduler, **more)


def schedules_of(state: dict[str, Any], key: str = "lr") -> list[Schedule]:
    return [Schedule.from_dict(json.loads(group[f"{key}_schedule"])) for group in state["param_groups"]]


def params() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3, dtype=torch.float64))]


def of_torch(make: Any = None, steps: int = 3, kind: Any = torch.optim.SGD, **arguments: Any) -> dict[str, Any]:
    """States of a training with torch."""
    optimizer = kind(params(), lr=0.1, **arguments)
    scheduler = (make or (lambda o: torch_schedulers.StepLR(o, 5)))(optimizer)
    for _ in range(steps):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
        if not isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
            scheduler.step()
    return {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}


def of_ours(lr: Any, steps: int = 3, kind: Any = FusedSGD, **arguments: Any) -> dict[str, Any]:
    """States of a training with ours; `lr` may be one for each of several groups."""
    rates = lr if isinstance(lr, list) else [lr]
    optimizer = kind([{"params": params(), "lr": rate} for rate in rates], **arguments)
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    return {"optimizer": optimizer.state_dict()}


def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """A function that converts what is given, or a file, and returns the error. Nothing may have been written then."""

    def run(held: Any, *arguments: str) -> str:
        source = tmp_path / "a.pt"
        if isinstance(held, Path):
            source = held
        else:
            torch.save(held, source)
        before = sorted(tmp_path.iterdir())
        assert main(["convert", str(source), "-o", str(tmp_path / "out.pt"), *arguments]) == 2
        assert sorted(tmp_path.iterdir()) == before
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("sgdr-fused convert: error: ")
        return error.removeprefix("sgdr-fused convert: error: ").rstrip("\n")

    return run
