"""The CUDA code compiles, and an extension that holds it can be used where there is no GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from installs import load_in, on_cpu_only, run

from sgdr_fused import _backend, _build

pytestmark = on_cpu_only


@pytest.mark.slow
@pytest.mark.skipif(_build.cuda_home() is None, reason="no CUDA toolkit")
@pytest.mark.parametrize("arch", ["80", "90"])
@pytest.mark.parametrize(
    "source", [path for path in _build.sources(True) if path.endswith(".cu")], ids=lambda p: Path(p).name
)
def test_cuda_sources_compile(source: str, arch: str, tmp_path: Path) -> None:
    """Without torch's headers, which the kernels do not need; a warning is an error."""
    nvcc = Path(str(_build.cuda_home()), "bin", "nvcc")
    target = ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "--Werror", "all-warnings"]
    cubin = tmp_path / "kernels.cubin"
    run([str(nvcc), *_build.flags(True)["nvcc"], *target, "-cubin", "-o", str(cubin), source])
    assert cubin.stat().st_size > 0


def test_extension_with_cuda_works_without_a_gpu(tmp_path: Path) -> None:
    module = _backend.load()
    if module is None or not module.has_cuda:
        pytest.skip("the extension is built without CUDA")
    report, _ = load_in(sys.executable, {**os.environ, "CUDA_VISIBLE_DEVICES": ""}, tmp_path)
    assert report["extension"] == module.__file__
    assert report["backend"] == "cpu"
