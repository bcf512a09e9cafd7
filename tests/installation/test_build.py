"""How the extension is found and built: toolkit, flags, the record of a prebuilt one, and what a failure says."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from installs import clean_environment, copy_project, load_in, needs_compiler, on_cpu_only

from sgdr_fused._native import backends, toolchain

pytestmark = on_cpu_only


def fake_toolkit(folder: Path, version: int = 13000) -> Path:
    """Headers, and an nvcc that answers --dryrun as the real one does."""
    for name in ("include", "bin"):
        (folder / name).mkdir(parents=True)
    (folder / "include" / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {version}\n")
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho '#$ _HERE_={folder}/bin' >&2\necho '#$ TOP={folder}/bin/..' >&2\n")
    nvcc.chmod(0o755)
    return folder.resolve()


def fake_torch(cuda: str | None) -> Any:
    return SimpleNamespace(__version__="2.99.0", version=SimpleNamespace(cuda=cuda, git_version="0"))


@pytest.fixture
def no_cuda_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH", "SGDR_FUSED_CUDA", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_cuda_variables")
class TestCudaToolkit:
    def test_behind_a_wrapper_script(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        toolkit = fake_toolkit(tmp_path / "toolkit")
        wrapper = tmp_path / "elsewhere" / "bin" / "nvcc"
        wrapper.parent.mkdir(parents=True)
        wrapper.write_text(f'#!/bin/sh\nexec {toolkit}/bin/nvcc "$@"\n')
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
        assert toolchain.cuda_home() == str(toolkit)

    def test_variable_wins_over_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = fake_toolkit(tmp_path / "first"), fake_toolkit(tmp_path / "second")
        monkeypatch.setenv("PATH", str(second / "bin"), prepend=os.pathsep)
        assert toolchain.cuda_home() == str(second)
        monkeypatch.setenv("CUDA_HOME", str(first))
        assert toolchain.cuda_home() == str(first)

    def test_variable_without_headers_is_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        toolkit = fake_toolkit(tmp_path / "toolkit")
        monkeypatch.setenv("PATH", str(toolkit / "bin"), prepend=os.pathsep)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        assert toolchain.cuda_home() == str(toolkit)

    def test_of_the_same_major_version_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "toolkit", version=13010)))
        assert toolchain.cuda_obstacle(fake_torch("13.0")) is None

    def test_of_another_major_version_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        toolkit = fake_toolkit(tmp_path / "toolkit", version=12060)
        monkeypatch.setenv("CUDA_HOME", str(toolkit))
        obstacle = toolchain.cuda_obstacle(fake_torch("13.0"))
        assert obstacle is not None
        assert all(part in obstacle for part in (str(toolkit), "12.6", "13.0", "CUDA_HOME"))

    def test_obstacles_name_the_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "CUDA build of torch" in str(toolchain.cuda_obstacle(fake_torch(None)))
        monkeypatch.setattr(toolchain, "cuda_home", lambda: None)
        assert "CUDA_HOME" in str(toolchain.cuda_obstacle(fake_torch("13.0")))
        monkeypatch.setenv("SGDR_FUSED_CUDA", "0")
        assert "SGDR_FUSED_CUDA=0" in str(toolchain.cuda_obstacle(fake_torch("13.0")))

    @pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
    def test_the_real_one_is_found_and_given_to_torch(self) -> None:
        home = toolchain.cuda_home()
        assert home is not None
        assert Path(home, "include", "cuda_runtime_api.h").is_file()
        before = dict(os.environ)
        with toolchain.torch_build_tools(torch, with_cuda=True) as tools:
            assert tools.CUDA_HOME == home
            assert os.environ["TORCH_CUDA_ARCH_LIST"].endswith("+PTX")
        assert dict(os.environ) == before

    def test_architectures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert toolchain.cuda_arch_list(torch) == "7.5;8.0;9.0;10.0;12.0+PTX"
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: [(9, 0), (8, 6), (9, 0)][i])
        assert toolchain.cuda_arch_list(torch) == "8.6;9.0+PTX"
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
        assert toolchain.cuda_arch_list(torch) == "8.0"

    @pytest.mark.parametrize(
        ("known", "expected"),
        [
            (["75", "80", "86", "90", "100", "110", "120", "121"], "7.5;8.0;9.0;10.0;12.0+PTX"),
            (["50", "75", "80", "90", "100"], "7.5;8.0;9.0;10.0+PTX"),
            (["52", "70", "75", "80", "86", "90"], "7.5;8.0;9.0+PTX"),
            ([], "7.5;8.0;9.0+PTX"),  # a toolkit that does not tell
        ],
    )
    def test_default_architectures_are_those_that_the_toolkit_knows(
        self, known: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = fake_toolkit(tmp_path / "toolkit")
        listing = " ".join(f"compute_{arch}" for arch in known)
        home.joinpath("bin", "nvcc").write_text(f'#!/bin/sh\n[ "$1" = --list-gpu-arch ] && echo {listing}\n')
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert toolchain.known_archs(str(home), toolchain.cuda_arch_list(torch)) == expected
        assert toolchain.known_archs(str(home), "12.1+PTX") == "12.1+PTX"  # what was asked for is nvcc's to refuse

    @pytest.mark.parametrize("forced", [False, True])
    @pytest.mark.parametrize("left_out", [False, True])
    @pytest.mark.parametrize("gpu", [False, True])
    def test_one_rule_ahead_of_time_and_at_first_use(
        self, gpu: bool, left_out: bool, forced: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A toolkit alone is no reason."""
        if forced:
            monkeypatch.setenv("FORCE_CUDA", "1")
        if left_out:
            monkeypatch.setenv("SGDR_FUSED_CUDA", "0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        reason = toolchain.no_wish_for_cuda(torch)
        assert (reason is None) == (forced or (gpu and not left_out))
        built = []
        monkeypatch.setattr(backends, "_no_cuda", None)
        monkeypatch.setattr(backends, "_cached_or_built", lambda with_cuda: built.append(with_cuda))
        backends._jit()
        assert built == [reason is None]
        assert backends._no_cuda == reason
        if reason is not None:
            assert "build it again" in reason
            assert ("SGDR_FUSED_CUDA=0" if left_out else "FORCE_CUDA=1") in reason


def test_sources_are_found_and_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [Path(path).relative_to(toolchain.csrc()).as_posix() for path in toolchain.sources(with_cuda=True)]
    assert {"bindings/module.cpp", "cpu/fused_step.cpp", "cuda/fused_step.cu"} <= set(names)
    assert not any(path.endswith(".cu") for path in toolchain.sources(with_cuda=False))
    # torch's JIT build names an object file by its source's name without the folder.
    assert len({Path(name).name for name in names}) == len(names)

    package = copy_project(tmp_path / "project") / "sgdr_fused"
    before = toolchain.source_hash()
    monkeypatch.setattr(toolchain, "PACKAGE", package)
    assert toolchain.source_hash() == before
    header = next(toolchain.csrc().rglob("*.h"))
    header.write_text(header.read_text() + "\n")
    assert toolchain.source_hash() != before


def test_flags_never_change_results() -> None:
    flags = toolchain.flags(with_cuda=True)
    assert "-ffp-contract=off" in flags["cxx"]
    assert "--fmad=false" in flags["nvcc"]
    everything = " ".join(flags["cxx"] + flags["nvcc"])
    assert not any(flag in everything for flag in ("fast-math", "fast_math", "-march", "-Ofast"))


def test_flags_of_msvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "uses_msvc", lambda: True)
    monkeypatch.delenv("CXX", raising=False)
    assert toolchain.compiler() == ["cl"]
    flags = toolchain.flags(with_cuda=True)
    assert [flag for flag in flags["cxx"] if not flag.startswith("/")] == [toolchain.CUDA_MACRO]
    assert "/fp:precise" in flags["cxx"]
    assert "--fmad=false" in flags["nvcc"]
    assert not any("-ffp-contract" in flag for flag in flags["nvcc"])


def test_only_one_header_names_what_compilers_spell_differently() -> None:
    """nvcc alone compiles cuda/. What is in math/prefetch.h is PTX, behind __CUDA_ARCH__."""
    spellings = re.compile(r"__attribute__|__builtin_|#pragma (?!once|unroll)|_?_[Pp]ragma|__(GNUC|clang)__|_MSC_VER")
    files = [path for path in toolchain.csrc().rglob("*") if path.suffix in (".h", ".cpp")]
    found = {path.name for path in files if spellings.search(path.read_text())}
    assert found == {"compilers.h"}


class TestOpenMP:
    """The compilers here are scripts that build what their kind can build."""

    @pytest.fixture
    def compiler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
        def make(version: str, body: str) -> None:
            script = tmp_path / "compiler"
            script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit 0\n{body}\n')
            script.chmod(0o755)
            monkeypatch.setenv("CXX", str(script))

        return make

    def test_as_any_compiler(self, compiler: Any, capsys: pytest.CaptureFixture[str]) -> None:
        compiler("g++ (GCC) 12", 'case "$*" in *-fopenmp*) exit 0;; esac; exit 1')
        assert toolchain.openmp_flags(again="make build") == (["-fopenmp"], ["-fopenmp"])
        assert capsys.readouterr().err == ""

    def test_as_apples(self, compiler: Any, capsys: pytest.CaptureFixture[str]) -> None:
        compiler("Apple clang version 17", 'case "$*" in *"-Xpreprocessor -fopenmp"*-lomp*) exit 0;; esac; exit 1')
        assert toolchain.openmp_flags(again="make build") == (["-Xpreprocessor", "-fopenmp"], ["-lomp"])
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("version", ["Apple clang version 17", "Debian clang version 19", "Homebrew clang 20"])
    def test_clang_without_libomp(self, version: str, compiler: Any, capsys: pytest.CaptureFixture[str]) -> None:
        compiler(version, "exit 1")
        assert toolchain.openmp_flags(again="make build") == ([], [])
        message = capsys.readouterr().err
        assert "-fopenmp" in message
        assert "one thread" in message
        assert "install libomp (apt install libomp-dev; brew install libomp), then make build" in message

    def test_gcc_without_libgomp(self, compiler: Any, capsys: pytest.CaptureFixture[str]) -> None:
        compiler("g++ (GCC) 12", "exit 1")
        assert toolchain.openmp_flags(again="make build") == ([], [])
        message = capsys.readouterr().err
        assert "install libgomp, then make build" in message
        assert "libomp" not in message


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="Apple's compiler has no -fopenmp")
def test_extension_is_built_with_openmp() -> None:
    module = backends.load()
    assert module is not None
    assert (
        b"libgomp.so" in Path(str(module.__file__)).read_bytes()
        or b"libomp.so" in Path(str(module.__file__)).read_bytes()
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"torch": "2.0.0 1234"}, "built for torch 2.0.0, this is torch"),
        ({"sources": "1234"}, "other sources"),
        ({"error": "compiling failed when the package was installed: x"}, "compiling failed"),
    ],
)
def test_record_of_a_prebuilt_extension(
    change: dict[str, str], reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    monkeypatch.setattr(toolchain, "record_path", lambda: path)
    assert toolchain.read_record(torch)[0] == "there is none"
    toolchain.write_record(path, torch, error=None, no_cuda="no toolkit")
    record = {**toolchain.json.loads(path.read_text()), **change}
    path.write_text(toolchain.json.dumps(record))
    obstacle, no_cuda = toolchain.read_record(torch)
    if reason is None:
        assert (obstacle, no_cuda) == (None, "no toolkit")
    else:
        assert obstacle is not None
        assert reason in obstacle


@pytest.mark.parametrize(
    ("version", "with_cuda", "expected"),
    [
        ("2.14.1+cu130", False, "cpu.torch2.14.1.cu130"),
        ("2.14.1+cu130", True, "cuda.torch2.14.1.cu130"),
        ("2.13.0+cpu", False, "cpu.torch2.13.0.cpu"),
        ("2.13.0", False, "cpu.torch2.13.0"),
        ("2.15.0a0+gitC0FFEE", False, "cpu.torch2.15.0a0.gitc0ffee"),
    ],
)
def test_local_version_of_a_wheel(version: str, with_cuda: bool, expected: str) -> None:
    build = SimpleNamespace(__version__=version)
    assert toolchain.local_version(build, with_cuda) == expected  # type: ignore[arg-type]


def test_backend_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGDR_FUSED_BACKEND", "reference")
    assert backends.load() is None
    assert backends.backend_for(torch.device("cpu")) == "reference"
    monkeypatch.setenv("SGDR_FUSED_BACKEND", "gpu")
    with pytest.raises(ValueError, match=r"SGDR_FUSED_BACKEND.*'gpu'"):
        backends.load()


def test_prebuilt_without_cuda_code_does_not_do_where_that_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    monkeypatch.setattr(toolchain, "record_path", lambda: path)
    monkeypatch.setattr(backends, "_no_cuda", None)
    monkeypatch.setattr(backends.importlib, "import_module", lambda name: name)
    for no_cuda, forced, taken in [("no GPU", "0", True), ("no GPU", "1", False), (None, "1", True)]:
        toolchain.write_record(path, torch, error=None, no_cuda=no_cuda)
        monkeypatch.setenv("FORCE_CUDA", forced)
        if taken:
            assert backends._prebuilt() == "sgdr_fused._C"
        else:
            with pytest.raises(backends._UnavailableError, match="FORCE_CUDA=1 is set, and no GPU"):
                backends._prebuilt()


def test_extension_without_cuda_warns_once_for_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "load", lambda: SimpleNamespace(has_cuda=False))
    monkeypatch.setattr(backends, "_no_cuda", "no toolkit, in this test")
    monkeypatch.setattr(backends, "_seen", set())
    with pytest.warns(RuntimeWarning, match="no toolkit, in this test") as caught:
        for _ in range(3):
            assert backends.backend_for(torch.device("cuda")) == "reference"
        assert backends.backend_for(torch.device("meta")) == "reference"
        assert backends.backend_for(torch.device("cpu")) == "cpu"
    assert len(caught) == 1


class TestNoExtension:
    """One warning, with every cause and its remedy, and the package works."""

    @pytest.fixture
    def empty(self, tmp_path: Path) -> Path:
        folder = tmp_path / "empty"
        folder.mkdir()
        return folder

    def report(self, project: Path, empty: Path, **changes: str) -> str:
        environment = clean_environment(empty, PYTHONPATH=str(project), **changes)
        report, _ = load_in(sys.executable, environment, empty)
        assert Path(report["package"]).parent.parent == project
        assert report["backend"] == "reference"
        assert report["extension"] is None
        (warning,) = report["warnings"]
        assert warning.startswith("RuntimeWarning: sgdr_fused")
        assert "SGDR_FUSED_BACKEND=reference" in warning
        return warning

    def test_no_compiler(self, tmp_path: Path, empty: Path) -> None:
        warning = self.report(copy_project(tmp_path / "project"), empty, PATH=str(empty))
        assert "no C++ compiler: c++ is not on PATH; install one" in warning

    def test_compiler_of_another_name(self, tmp_path: Path, empty: Path) -> None:
        warning = self.report(copy_project(tmp_path / "project"), empty, CXX="/nowhere/clang++ -v")
        assert "/nowhere/clang++ is not on PATH" in warning

    @needs_compiler
    def test_no_ninja(self, tmp_path: Path, empty: Path) -> None:
        project = copy_project(tmp_path / "project", "")
        (project / "ninja.py").write_text("raise ImportError")
        compiler = shutil.which(toolchain.compiler()[0])
        warning = self.report(project, empty, PATH=str(empty), CXX=str(compiler))
        assert "pip install ninja" in warning

    @needs_compiler
    def test_compiling_fails(self, tmp_path: Path, empty: Path) -> None:
        warning = self.report(copy_project(tmp_path / "project", "#error broken on purpose\n"), empty)
        assert "error: #error broken on purpose" in warning
        (log,) = empty.rglob("build.log")
        assert str(log) in warning
        assert not list(empty.rglob("*.so"))
        assert not list(empty.rglob("build-*"))

    def test_cache_is_not_writable(self, tmp_path: Path, empty: Path) -> None:
        (tmp_path / "file").write_text("")
        warning = self.report(copy_project(tmp_path / "project"), empty, TORCH_EXTENSIONS_DIR=str(tmp_path / "file"))
        assert "set TORCH_EXTENSIONS_DIR" in warning

    @needs_compiler
    def test_cuda_was_demanded(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("FORCE_CUDA", "1")
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        monkeypatch.setattr(toolchain, "cuda_obstacle", lambda torch: "no toolkit, in this test")
        with pytest.raises(RuntimeError, match=r"FORCE_CUDA=1.*no toolkit, in this test"):
            backends._jit()
