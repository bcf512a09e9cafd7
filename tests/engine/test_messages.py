"""A warning points at the caller's own line, through whatever code it was reached."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from installs import ROOT, run

from sgdr_fused import FusedSGD, _messages
from sgdr_fused._native import backends
from sgdr_fused.schedules import CosineWarmRestarts

pytestmark = pytest.mark.once

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
WRAPPER = """
class Trainer:
    def __init__(self, optimizer): self.optimizer = optimizer
    def fit(self): self.optimizer.step()
    def call(self, function): return function()
"""


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_found", (None, "sgdr_fused has no extension, in this test"))
    monkeypatch.setattr(backends, "_seen", set())
    monkeypatch.delenv("SGDR_FUSED_BACKEND", raising=False)


def imported(file: Path) -> ModuleType:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(WRAPPER)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stepping() -> tuple[torch.nn.Parameter, FusedSGD]:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    return weight, FusedSGD([weight], lr=0.1)


@pytest.fixture(params=["directly", "hook", "scheduler", "scaler", "library", "dist-packages"])
def road(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[FusedSGD], None]:
    """Each takes a step in its last line; where that calls the step through a library of that kind."""

    def directly(optimizer: FusedSGD) -> None:
        optimizer.step()

    def hook(optimizer: FusedSGD) -> None:
        optimizer.register_step_pre_hook(lambda *_: None)  # the step then comes through torch's wrapper
        optimizer.step()

    def scheduler(optimizer: FusedSGD) -> None:
        torch.optim.lr_scheduler.StepLR(optimizer, 10)  # replaces step() by a function of torch's
        optimizer.step()

    def scaler(optimizer: FusedSGD) -> None:
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(()))
        scaler.step(optimizer)

    def library(optimizer: FusedSGD) -> None:
        trainer = imported(tmp_path / "site-packages" / "wrapper.py").Trainer(optimizer)
        trainer.fit()

    def debian(optimizer: FusedSGD) -> None:
        trainer = imported(tmp_path / "dist-packages" / "inside" / "wrapper.py").Trainer(optimizer)
        trainer.fit()

    return {"dist-packages": debian, **{f.__name__: f for f in (directly, hook, scheduler, scaler, library)}}[
        request.param
    ]


@pytest.mark.usefixtures("no_extension")
def test_points_at_the_callers_line(road: Callable[[FusedSGD], None]) -> None:
    weight, optimizer = stepping()
    with pytest.warns(RuntimeWarning, match="no extension, in this test") as caught:
        road(optimizer)
    (warning,) = [w for w in caught if w.category is RuntimeWarning]
    last_line = max(line for *_, line in road.__code__.co_lines() if line is not None)
    assert (warning.filename, warning.lineno) == (__file__, last_line)
    assert weight[0].item() < 1.0  # the step was taken


@pytest.mark.usefixtures("no_extension")
def test_a_schedule_that_is_looked_at() -> None:
    with pytest.warns(RuntimeWarning, match="no extension") as caught:
        CosineWarmRestarts(0.1, T_0=10)(3)
    assert (caught[0].filename, caught[0].lineno) == (__file__, sys._getframe().f_lineno - 1)


def test_own_code_that_is_called_back(tmp_path: Path) -> None:
    """configure_optimizers() of a module of the user's, called by a library that the user has called."""

    def callback() -> None:
        _messages.warn("from here")

    trainer = imported(tmp_path / "site-packages" / "wrapper.py").Trainer(None)
    with pytest.warns(UserWarning, match="from here") as caught:
        trainer.call(callback)
    assert (caught[0].filename, caught[0].lineno) == (__file__, callback.__code__.co_firstlineno + 1)


def test_all_is_libraries(tmp_path: Path) -> None:
    """A program that is installed: the first line outside the package and torch is all there is."""
    main = tmp_path / "site-packages" / "main.py"
    main.parent.mkdir()
    main.write_text("import sgdr_fused._messages as m\n\ndef run():\n    m.warn('from an installed program')\nrun()\n")
    done = run([sys.executable, str(main)], env=ENVIRONMENT)
    assert f"{main}:4: UserWarning: from an installed program" in done.stderr


def test_from_the_command_line() -> None:
    code = "import sgdr_fused._messages as m\n\nm.warn('from -c')"
    done = run([sys.executable, "-c", code], env=ENVIRONMENT)
    assert "<string>:3: UserWarning: from -c" in done.stderr


def test_from_a_cell_of_a_notebook() -> None:
    cell = compile("1 + 1\nwarn('from a cell')\n", "/tmp/ipykernel_1/2.py", "exec")
    with pytest.warns(UserWarning, match="from a cell") as caught:
        exec(cell, {"__name__": "__main__", "warn": _messages.warn})
    assert (caught[0].filename, caught[0].lineno) == ("/tmp/ipykernel_1/2.py", 2)


@pytest.mark.usefixtures("no_extension")
class TestOnce:
    def test_in_a_process(self) -> None:
        with pytest.warns(RuntimeWarning) as caught:
            for _ in range(3):
                assert backends.load() is None
            backends.load()
        assert len(caught) == 1

    def test_again_where_a_filter_had_hidden_it(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert backends.load() is None
        with pytest.warns(RuntimeWarning, match="no extension") as caught:
            backends.load()
            backends.load()
        assert len(caught) == 1

    def test_shown_once_under_the_filter_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("once")
            warnings.showwarning = lambda message, *_: print(f"seen: {message}")
            for _ in range(2):
                backends.load()
        assert capsys.readouterr().out == "seen: sgdr_fused has no extension, in this test\n"

    def test_an_error_each_time_where_a_filter_says_so(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(2):
                with pytest.raises(RuntimeWarning, match="no extension"):
                    backends.load()
        with pytest.warns(RuntimeWarning, match="no extension"):
            assert backends.load() is None
