"""Installs a wheel into an empty environment, far from any checkout, and does what the first pages tell.

    python tests/installation/stranger.py dist/sgdr_fused-...whl

It needs Python alone, and pip's index for torch. It ends with status 1 at the first thing that goes wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
# What a stranger's shell has too: how pip reaches its index, and the compiler. HOME and PYTHONPATH are not among them.
KEPT = re.compile(r"PATH|LANG|TMPDIR|CXX|MAX_JOBS|PIP_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|.*_proxy|.*_PROXY")

# One step, by which code, and from where.
STEP = """
import importlib.metadata, pathlib, sys, torch
from sgdr_fused import FusedSGD
from sgdr_fused._native import backends
environment, version, prebuilt = pathlib.Path(sys.prefix), sys.argv[1], sys.argv[2] == "prebuilt"
assert importlib.metadata.version("sgdr_fused") == version, importlib.metadata.version("sgdr_fused")
weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
optimizer = FusedSGD([weight], lr=0.5)
weight.grad = torch.tensor([2.0, 4.0])
optimizer.step()
assert weight.tolist() == [2.0, -4.0], weight
choice = backends.choice_for(weight.device)
print(f"backend {optimizer.backend}, {choice.file}, torch {torch.__version__}")
assert optimizer.backend == "cpu", choice.why
package = pathlib.Path(backends.__file__).parents[1]
assert package.is_relative_to(environment), package
assert pathlib.Path(choice.file).is_relative_to(package) == prebuilt, choice.why
cache = pathlib.Path.home() / ".cache" / "torch_extensions"
assert cache.exists() != prebuilt, f"{cache}: {cache.exists()}"
"""


def blocks(page: Path) -> str:
    """The Python blocks of a page, as one program."""
    found = BLOCK.findall(page.read_text())
    if not found:
        raise ValueError(f"{page} must have Python blocks, got none")
    return "\n".join(found)


@dataclass
class Wheel:
    """What a wheel's name says: the version, whether compiled code is in it, and for which release of torch."""

    version: str
    prebuilt: bool
    torch: str | None


def read_name(wheel: Path) -> Wheel:
    name = re.fullmatch(r"sgdr_fused-([^-]+)-[^-]+-([^-]+)-[^-]+\.whl", wheel.name)
    if name is None or not wheel.is_file():
        raise ValueError(f"WHEEL must be a wheel of sgdr_fused, got {str(wheel)!r}")
    torch = re.search(r"torch(\d+\.\d+\.\d+)", name[1])
    return Wheel(name[1], name[2] != "none", torch and f"torch=={torch[1]}")


class Stranger:
    """An environment, a home and a folder to work in, all of them empty. `commands` run there."""

    def __init__(self, folder: Path, python: str) -> None:
        self.home, self.work, self.environment = folder / "home", folder / "work", folder / "environment"
        self.home.mkdir()
        self.work.mkdir()
        kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
        path = os.pathsep.join([str(self.environment / "bin"), kept.get("PATH", os.defpath)])
        self.variables = {**kept, "PATH": path, "HOME": str(self.home)}
        self.base = python
        self.python = str(self.environment / "bin" / "python")

    def run(self, *command: str) -> str:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=self.work, env=self.variables, text=True, check=False, **pipes)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)[:200]}\nended with status {done.returncode}:\n{done.stdout}")
        return done.stdout

    def install(self, wheel: Path, requirement: str | None) -> str:
        self.run(self.base, "-m", "venv", str(self.environment))
        wanted = [str(wheel), *([requirement] if requirement else [])]
        return self.run(self.python, "-m", "pip", "install", "--no-cache-dir", *wanted)

    def install_beside(self, wheel: Path) -> str:
        """With the packages of another environment, which has torch, in sight. What is editable there is not."""
        self.run(self.base, "-m", "venv", "--without-pip", str(self.environment))
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        theirs, ours = self.run(self.base, "-c", where).strip(), self.run(self.python, "-c", where).strip()
        Path(ours, "theirs.pth").write_text(f"{theirs}\n")
        return self.run(self.base, "-m", "pip", "--python", self.python, "install", "--no-deps", str(wheel))


def steps(stranger: Stranger, wheel: Path, args: argparse.Namespace) -> dict[str, Callable[[], str]]:
    """What is done, in this order, under its title."""
    named, python, program = read_name(wheel), stranger.python, str(stranger.environment / "bin" / "sgdr-fused")
    if args.torch_of:
        install = lambda: stranger.install_beside(wheel)  # noqa: E731
    else:
        install = lambda: stranger.install(wheel, args.torch or named.torch)  # noqa: E731
    kind = "prebuilt" if named.prebuilt else "built at first use"
    warnings = ["-W", "error::RuntimeWarning"]  # such as that of the reference
    plot = [program, "plot", "CosineWarmRestarts(0.1, T_0=10)", "--steps", "40"]
    return {
        "install": install,
        f"a step on the extension that is {kind}": lambda: stranger.run(
            python, *warnings, "-c", STEP, named.version, kind
        ),
        "sgdr-fused doctor": lambda: stranger.run(program, "doctor"),
        "README.md": lambda: stranger.run(python, *warnings, "-c", blocks(ROOT / "README.md")),
        "sgdr-fused plot": lambda: stranger.run(*plot),
        "sgdr-fused bench": lambda: stranger.run(program, "bench", "--seconds", str(args.bench_seconds)),
        "docs/index.md": lambda: stranger.run(python, *warnings, "-c", blocks(ROOT / "docs" / "index.md")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", metavar="WHEEL", type=Path)
    parser.add_argument("--torch", metavar="REQUIREMENT", help="default: the release that the wheel's name has")
    parser.add_argument("--torch-of", metavar="PYTHON", help="use the torch of this environment, and install none")
    parser.add_argument("--bench-seconds", type=float, default=2.0, metavar="S", help="how long bench runs; default: 2")
    parser.add_argument("--quiet", action="store_true", help="print the seconds alone, while all goes well")
    args = parser.parse_args()
    try:
        read_name(args.wheel)
    except ValueError as error:
        parser.error(str(error))
    wheel = args.wheel.resolve()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="a stranger ") as folder:  # with a space, as a home may have
        python = os.path.abspath(args.torch_of or sys.executable)
        for title, step in steps(Stranger(Path(folder), python), wheel, args).items():
            begun = time.monotonic()
            try:
                said = step()
            except (OSError, RuntimeError, ValueError) as error:
                print(f"==== {title}: FAILED after {time.monotonic() - begun:.1f} s\n{error}", file=sys.stderr)
                return 1
            shown = "" if args.quiet or title == "install" else said
            print(f"{shown}==== {title}: {time.monotonic() - begun:.1f} s", flush=True)
    print(f"==== {wheel.name}: all of it works, {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
