"""The commands in docs/command_line.md run as they are written, in order, and print what stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from installs import ROOT

from sgdr_fused._cli import COMMANDS, main, timing

pytestmark = pytest.mark.once

PAGE = (ROOT / "docs" / "command_line.md").read_text()
BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
COMMAND_LINES = [(line, printed) for commands, printed in BLOCK.findall(PAGE) for line in commands.splitlines()]


def test_commands_are_found() -> None:
    assert len(COMMAND_LINES) == 9
    assert {shlex.split(line)[1] for line, _ in COMMAND_LINES} == set(COMMANDS)
    assert sum(bool(printed) for _, printed in COMMAND_LINES) == 1
    for name, module in COMMANDS.items():  # the table says what --help says
        help_line = (module.__doc__ or "").splitlines()[0].rstrip(".")
        assert f"| `{name}` | {help_line[0].lower()}{help_line[1:]} |" in PAGE


def test_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(timing, "MAX_ROUNDS", 5)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(theirs, 3)
    torch.save({"optimizer": theirs.state_dict(), "scheduler": scheduler.state_dict()}, "checkpoint.pt")
    for line, printed in COMMAND_LINES:
        program, *arguments = shlex.split(line)
        assert program == "sgdr-fused"
        assert main(arguments) == 0, line
        out = capsys.readouterr().out
        assert out
        if printed:
            assert out == printed
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "ours.pt", "back.pt", "one_cycle.png"}
