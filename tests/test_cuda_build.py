"""The CUDA code compiles, and an extension that holds it can be used where there is no GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from installs import load_in, needs_compiler, on_cpu_only, run

from sgdr_fused import _backend, _build

pytestmark = on_cpu_only


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(_build.cuda_home() is None, reason="no CUDA toolkit")
@pytest.mark.parametrize(
    "source", [path for path in _build.sources(True) if path.endswith(".cu")], ids=os.path.basename
)
def test_cuda_sources_compile_for_sm_80_and_sm_90(source: str, tmp_path: Path) -> None:
    """Without torch's headers, which the kernels do not need; a warning is an error."""
    nvcc = Path(str(_build.cuda_home()), "bin", "nvcc")
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ("80", "90")]
    binary = tmp_path / "kernels.fatbin"
    flags = [*_build.flags(True)["nvcc"], "--Werror=all-warnings"]
    run([str(nvcc), *flags, *targets, "-fatbin", "-o", str(binary), source])
    assert binary.stat().st_size > 0


def test_extension_with_cuda_works_without_a_gpu(tmp_path: Path) -> None:
    module = _backend.load()
    if module is None or not module.has_cuda:
        pytest.skip("the extension is built without CUDA")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(_build.PACKAGE.parent)}
    report, _ = load_in(sys.executable, environment, tmp_path)
    assert report["extension"] == module.__file__
    assert report["backend"] == "cpu"
