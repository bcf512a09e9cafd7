"""Where the tests run.

SGDR_FUSED_TEST_DEVICE=cpu (default) or cuda: on a GPU, or on one that an emulator pretends, where
`pretend_gpu` can be imported; or emulated_cuda: the CUDA kernels on the CPU, see emulation/.
SGDR_FUSED_BACKEND=reference makes the optimizers run on the reference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cases
import emulation
import pytest
import torch
from torch_features import FSDP2, NEED_FSDP2

from sgdr_fused._native import backends, toolchain

if cases.EMULATED:
    emulation.install()
if cases.PRETEND:
    import pretend_gpu

    # With these it can train a convolutional network, where cuDNN, which has no such stand-in, is switched off.
    layers = ("native_batch_norm", "avg_pool2d", "_slow_conv2d_forward")
    pretend_gpu.cpu_fallback(
        extra=[*layers, "native_batch_norm_backward", "avg_pool2d_backward", "_slow_conv2d_backward"]
    )
elif cases.DEVICE.type == "cuda" and not torch.cuda.is_available():
    raise pytest.UsageError("SGDR_FUSED_TEST_DEVICE=cuda needs a GPU, or an emulator in front of the command")
elif (
    os.environ.get("SGDR_FUSED_BACKEND") != "reference"
    and shutil.which(toolchain.compiler()[0])
    and not backends.load()
):
    # Nearly every test would pass on the reference.
    raise pytest.UsageError("the extension cannot be built or loaded; SGDR_FUSED_BACKEND=reference tests without it")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What this torch or this environment cannot import.

    tests/integrations/ needs frameworks, which `make test-integrations` installs; it runs where it is named.
    """
    if not FSDP2 and collection_path in [Path(__file__).parent / name for name in NEED_FSDP2]:
        return True
    if collection_path != Path(__file__).parent / "integrations":
        return None
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.invocation_params.args]
    return None if any(collection_path in (path, *path.parents) for path in named) else True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample",
        type=int,
        default=1,
        metavar="N",
        help="of the cases of each test function, the first and about one in N of the others, always the same ones",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("sample") < 1:
        raise pytest.UsageError(f"--sample must be at least 1, got {config.getoption('sample')}")


def leaves_out_once() -> bool:
    """Whether tests marked `once` are left out: this is not the run that they are for."""
    return cases.expected_backend() != "cpu"


def pytest_report_header(config: pytest.Config) -> str:
    emulated = " (emulated)" if cases.PRETEND else ""
    left_out = ", without the tests marked once (they run with backend cpu)" if leaves_out_once() else ""
    one_in = config.getoption("sample")
    sampled = f", about one in {one_in} of each test's cases" if one_in > 1 else ""
    unsharded = "" if FSDP2 else ", without sharded parameters (this torch has no public FSDP2)"
    return (
        f"sgdr_fused: device {cases.DEVICE}{emulated}, backend {cases.expected_backend()}{left_out}{sampled}{unsharded}"
    )


def sample(items: list[pytest.Item], one_in: int) -> list[pytest.Item]:
    """The first case of each test function, and about one in so many of the others, by a hash of their names.

    Every other case would leave out a whole value of a parameter that has two.
    """
    first: dict[str, pytest.Item] = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    kept = set(first.values())
    return [item for item in items if item in kept or zlib.crc32(item.nodeid.encode()) % one_in == 0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if not (leaves_out_once() and item.get_closest_marker("once"))]
    chosen = sample(chosen, config.getoption("sample"))
    kept = set(chosen)
    left_out = [item for item in items if item not in kept]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen


@pytest.fixture(scope="session")
def backend() -> str:
    """The backend that every optimizer of this run has to have."""
    return cases.expected_backend()


@pytest.fixture(autouse=True)
def no_invalid_access() -> Iterator[None]:
    """The emulator checks every access of every kernel; a test that made a bad one has failed."""
    yield
    if cases.PRETEND:
        faults = pretend_gpu.errors()
        pretend_gpu.reset()
        assert faults == ""


@pytest.fixture
def with_reference() -> Callable[[str], str]:
    """Run a piece of Python in a process of its own, on the reference, and return what it prints."""

    def run(code: str) -> str:
        root = Path(__file__).resolve().parent
        path = os.pathsep.join([str(root.parent), str(root), str(root / "support"), os.environ.get("PYTHONPATH", "")])
        changed = {"SGDR_FUSED_BACKEND": "reference", "SGDR_FUSED_TEST_DEVICE": "cpu", "PYTHONPATH": path}
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, env={**os.environ, **changed}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
