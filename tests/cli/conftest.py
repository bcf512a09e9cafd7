"""What the tests of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import Refused

from sgdr_fused._cli import main


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Converts what is given, or a file, and returns the error; nothing may have been written, nor be left behind."""

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
