"""An extension that holds CUDA code can be used where there is no GPU. test_compiled_code.py compiles that code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from installs import load_in, on_cpu_only

from sgdr_fused._native import backends, toolchain

pytestmark = on_cpu_only


def test_extension_with_cuda_works_without_a_gpu(tmp_path: Path) -> None:
    module = backends.load()
    if module is None or not module.has_cuda:
        pytest.skip("the extension is built without CUDA")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(toolchain.PACKAGE.parent)}
    report, _ = load_in(sys.executable, environment, tmp_path)
    assert report["extension"] == module.__file__
    assert report["backend"] == "cpu"
