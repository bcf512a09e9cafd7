"""`doctor`: its facts against other ways to find them, and a self-test that fails where something is wrong."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from installs import ROOT

import sgdr_fused
from sgdr_fused import reference
from sgdr_fused._cli import doctor, main, self_test
from sgdr_fused._native import backends, toolchain

real_devices = pytest.mark.skipif(cases.EMULATED or cases.PRETEND, reason="a doctor looks at no emulator")


def examined(capsys: pytest.CaptureFixture[str], status: int = 0) -> dict[str, Any]:
    """What --json prints, and nothing else."""
    capsys.readouterr()
    assert main(["doctor", "--json"]) == status
    out, error = capsys.readouterr()
    assert error == ""
    return json.loads(out)


@real_devices
def test_facts(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the extension, and on the reference alone."""
    facts = examined(capsys)
    assert facts["passed"] is True
    assert facts["sgdr_fused"] == sgdr_fused.__version__
    assert facts["torch"] == torch.__version__
    assert facts["python"] == platform.python_version()
    assert facts["cuda_of_torch"] == torch.version.cuda
    assert Path(facts["package"]) == Path(sgdr_fused.__file__).parent
    assert len(facts["devices"]) == 1 + torch.cuda.device_count()
    cpu = facts["devices"][0]
    assert (cpu["device"], cpu["backend"]) == ("cpu", "reference" if backend == "reference" else "cpu")
    assert backend != "cuda" or {device["backend"] for device in facts["devices"][1:]} == {"cuda"}
    assert len(cpu["self_test"]["checks"]) == len(self_test.CHECKS) >= 5
    assert cpu["self_test"]["seconds"] < 30  # a fifth of a second, where nothing else runs
    module = backends.load()
    assert cpu["extension"] == facts["extension"] == (None if module is None else module.__file__)
    assert (facts["openmp"] is None) == (module is None)
    if os.environ.get("SGDR_FUSED_BACKEND") == "reference":
        assert cpu["why"] == "SGDR_FUSED_BACKEND=reference is set"


@real_devices
def test_text_has_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    facts = examined(capsys)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for value in (facts["torch"], facts["python"], facts["platform"], facts["package"], facts["cache"]["folder"]):
        assert value in text
    for device in facts["devices"]:
        assert f"{device['device']} ({device['name']})\n  backend    {device['backend']}: {device['why']}" in text
    assert text.count("PASS") == sum(1 + len(device["self_test"]["checks"]) for device in facts["devices"])


@real_devices
@pytest.mark.parametrize("check", self_test.CHECKS, ids=lambda check: check.optimizer)
def test_a_wrong_step_fails(
    check: self_test.Check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One element of one parameter that is off by little, in one of the steps, is enough."""
    right, calls = check.by_reference, []

    def wrong(param: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        right(param, *args, **kwargs)
        calls.append(param)
        if len(calls) == 11:
            param[-1] += 1e-9 * param.abs().max()

    checks = tuple(each._replace(by_reference=wrong) if each is check else each for each in self_test.CHECKS)
    monkeypatch.setattr(self_test, "CHECKS", checks)
    facts = examined(capsys, status=1)
    assert facts["passed"] is False
    checked = facts["devices"][0]["self_test"]["checks"]
    assert [each["optimizer"] for each in checked if not each["passed"]] == [check.optimizer]
    calls.clear()
    assert main(["doctor"]) == 1
    assert f"    {check.optimizer:<13} FAIL  largest error " in capsys.readouterr().out


@pytest.mark.once
def test_a_wrong_schedule_and_a_raised_error_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = reference.cosine_warm_restarts
    monkeypatch.setattr(
        reference, "cosine_warm_restarts", lambda t, **fields: right(t, **fields) * (1 + 1e-6 * (t == 6))
    )
    checks = examined(capsys, status=1)["devices"][0]["self_test"]["checks"]
    assert not any(check["passed"] for check in checks)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(reference, "cosine_warm_restarts", broken)
    checks = examined(capsys, status=1)["devices"][0]["self_test"]["checks"]
    assert {check["found"] for check in checks} == {"RuntimeError: the device is on fire"}


@pytest.mark.once
def test_no_number_is_no_success() -> None:
    ours, theirs = torch.tensor([1.0, float("nan")]), torch.ones(2)
    assert self_test._error(ours, theirs) > 1
    assert self_test._error(torch.ones(2), theirs) == 0


@pytest.mark.once
def test_backends_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of a device in each of the ways in which an extension is found, or not."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.delenv("SGDR_FUSED_BACKEND", raising=False)
    assert backends.choice_for(torch.device("meta"))[:2] == (
        "reference",
        "there is compiled code for the CPU and for CUDA alone",
    )
    module = backends.load()
    assert module is not None

    class Built:
        __name__, __file__, has_cuda = "sgdr_fused_C", "/cache/sgdr_fused_C.so", False

    monkeypatch.setattr(backends, "_found", (Built, "\n  prebuilt extension: there is none"))
    monkeypatch.setattr(backends, "_no_cuda", "torch saw no GPU")
    assert backends.choice_for(cpu) == (
        "cpu",
        "an extension that was built at first use, since:\n  prebuilt extension: there is none",
        "/cache/sgdr_fused_C.so",
    )
    assert backends.choice_for(cuda) == ("reference", "the extension has no CUDA code: torch saw no GPU", None)
    monkeypatch.setattr(Built, "__name__", "sgdr_fused._C")
    assert backends.choice_for(cpu)[:2] == ("cpu", "the prebuilt extension")
    monkeypatch.setattr(Built, "has_cuda", True)
    assert backends.choice_for(cuda)[:2] == ("cuda", "the prebuilt extension")
    monkeypatch.setattr(backends, "_found", (None, "no extension, in this test"))
    assert backends.choice_for(cpu) == ("reference", "no extension, in this test", None)
    monkeypatch.setenv("SGDR_FUSED_BACKEND", "reference")
    assert backends.choice_for(cpu) == ("reference", "SGDR_FUSED_BACKEND=reference is set", None)


@pytest.mark.once
def test_no_fact_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SGDR_FUSED_BACKEND", "cuda")
    assert main(["doctor"]) == 2
    assert 'error: SGDR_FUSED_BACKEND must be "reference" or unset' in capsys.readouterr().err


@pytest.mark.once
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A prebuilt extension needs no cache, so nothing is wrong."""
    assert backends.load() is not None
    for name in ("HOME", "XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    facts = examined(capsys)
    assert facts["cache"]["folder"] is None
    assert facts["cache"]["writable"] is False
    assert main(["doctor"]) == 0
    assert f"cache         {facts['cache']['problem']}\n" in capsys.readouterr().out
    assert "TORCH_EXTENSIONS_DIR must name a folder" in facts["cache"]["problem"]


@pytest.mark.once
def test_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compiler, ninja and cache: found, missing, not writable."""
    facts = examined(capsys)
    assert facts["compiler"]["path"] == shutil.which(toolchain.compiler()[0])
    assert facts["ninja"] is not None
    monkeypatch.setenv("CXX", "no_such_compiler -x")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "new" / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = examined(capsys)
    assert facts["compiler"] == {"command": "no_such_compiler -x", "path": None, "version": ""}
    folder = str(tmp_path / "new" / "cache" / "sgdr_fused")
    assert facts["cache"] == {"folder": folder, "writable": True, "problem": None}
    assert not (tmp_path / "new").exists()
    assert main(["doctor"]) == 0
    assert "no_such_compiler -x is not on PATH" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert not doctor.is_writable(tmp_path / "file" / "cache")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not doctor.is_writable(tmp_path / "new")


@pytest.mark.once
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("flags", [[], ["-fopenmp"]], ids=["without", "with"])
def test_openmp_is_seen_in_a_library(flags: list[str], tmp_path: Path) -> None:
    source = tmp_path / "x.cpp"
    source.write_text("void f(int* a) {\n#pragma omp parallel for\n for (int i = 0; i < 9; ++i) a[i] = i;\n}\n")
    library = tmp_path / "x.so"
    subprocess.run(["c++", "-shared", "-fPIC", *flags, str(source), "-o", str(library)], check=True)
    assert doctor.uses_openmp(library) == bool(flags)


# ---- the command line itself


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "sgdr_fused", *arguments],
        env={**os.environ, **paths, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.once
def test_as_a_command(tmp_path: Path) -> None:
    done = command("doctor", "--json", SGDR_FUSED_BACKEND="reference")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["devices"][0]["backend"] == "reference"
    assert facts["extension"] is None
    done = command("plot", "Stepp(0.1, step_size=30)", "--steps", "90")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sgdr-fused plot: error: column 1: there is no schedule 'Stepp'; did you mean Step?")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    torch.save({"optimizer": theirs.state_dict()}, tmp_path / "a.pt")
    done = command("convert", str(tmp_path / "a.pt"), "-o", str(tmp_path / "b.pt"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'b.pt'}: for sgdr_fused\n  group 0: lr is the number 0.1")
    assert "lr_schedule" in torch.load(tmp_path / "b.pt")["optimizer"]["param_groups"][0]


@pytest.mark.once
def test_help_and_wrong_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    for name in ("doctor", "plot", "bench", "convert"):
        assert name in out
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: sgdr-fused {name} ")
    for wrong in ([], ["dcotor"], ["doctor", "--jsn"]):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)


@pytest.mark.once
def test_a_reader_that_has_read_enough() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "sgdr_fused", "plot", "Table([" + "0.1," * 1000 + "])", "--steps", "9"]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
    process.stderr.close()


@pytest.mark.once
def test_the_script_is_declared() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert '[project.scripts]\nsgdr-fused = "sgdr_fused._cli:main"\n' in pyproject
    assert '  "sgdr_fused._cli",\n' in pyproject
