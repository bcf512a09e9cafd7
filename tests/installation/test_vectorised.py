"""The compiler vectorises the loops over elements. Where it does not, nothing fails, but a step takes much longer."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from installs import on_cpu_only

from sgdr_fused._native import toolchain

FLAGS = [*toolchain.CXX_FLAGS, "-fopenmp", "-fPIC", "-std=c++20"]
HEADERS = ("cpu/update_loops.h", "cpu/gradients.h")


def compiler_is_gcc() -> bool:
    command = toolchain.compiler()
    if shutil.which(command[0]) is None:
        return False
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return "Free Software Foundation" in version.stdout


def lines_of_loops(header: Path) -> set[int]:
    """The loops that the header asks the compiler to vectorise."""
    lines = header.read_text().splitlines()
    return {number + 2 for number, line in enumerate(lines) if line.strip() == "SGDR_INDEPENDENT"}


@on_cpu_only
@pytest.mark.slow
@pytest.mark.skipif(not compiler_is_gcc(), reason="only GCC says which loops it vectorises")
@pytest.mark.parametrize("source", sorted(path.name for path in toolchain.csrc().glob("cpu/update_*.cpp")))
def test_every_loop_over_elements_is_vectorised(source: str, tmp_path: Path) -> None:
    command = [*toolchain.compiler(), *FLAGS, f"-I{toolchain.csrc()}", "-fopt-info-vec-all"]
    command += ["-c", str(toolchain.csrc() / "cpu" / source), "-o", str(tmp_path / "update.o")]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    for header in HEADERS:
        outcomes = re.findall(rf"{header}:(\d+):\d+: (optimized: loop vect|missed: couldn't vect)orize", log)
        vectorised = {int(line) for line, outcome in outcomes if outcome.startswith("optimized")}
        missed = {int(line) for line, outcome in outcomes if outcome.startswith("missed")}
        loops = lines_of_loops(toolchain.csrc() / header)
        assert loops
        assert vectorised >= loops, f"{header}: not vectorised: lines {loops - vectorised}"
        assert not missed & loops, f"{header}: not vectorised for some algorithm: lines {missed & loops}"
