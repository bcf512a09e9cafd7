"""Sources, flags and toolchain of the C++/CUDA extension, for setup.py (ahead of time) and backends.py (at first use).

setup.py loads this file by its path, also where torch is missing. So it imports neither torch nor the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent

# No flag may change a result from one machine to the next: no -march, no -ffast-math, no contraction of a*b + c.
# Without -fno-math-errno and -fno-trapping-math, sqrt sets errno and comparisons may trap, and either
# keeps the compiler from vectorising a loop. -g0 is there because Python's own flags may ask for debug information,
# which would be that of all of torch's headers.
CXX_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
CXX_FLAGS += ["-Wno-unknown-pragmas"]  # the headers that nvcc shares have such pragmas
# What the same is called for MSVC, with which nothing has been compiled yet. csrc/math/compilers.h forbids contraction.
MSVC_FLAGS = ["/O2", "/fp:precise", "/bigobj", "/wd4068"]
# --threads=0 compiles for several architectures side by side.
NVCC_FLAGS = ["-O3", "--fmad=false", "-std=c++17", "--threads=0"]
CUDA_MACRO = "-DSGDR_FUSED_WITH_CUDA"

# If no GPU is visible at build time, there is native code for the common data centre generations that the toolkit
# knows, and PTX for all later ones.
DEFAULT_ARCHS = ("7.5", "8.0", "9.0", "10.0", "12.0")


def csrc() -> Path:
    """The folder of the sources: inside the package once installed, beside it in a checkout."""
    inside = PACKAGE / "csrc"
    return inside if inside.is_dir() else PACKAGE.parent / "csrc"


def sources(with_cuda: bool) -> list[str]:
    patterns = ["*.cpp"] + (["*.cu"] if with_cuda else [])
    return [str(path) for pattern in patterns for path in sorted(csrc().rglob(pattern))]


def source_hash() -> str:
    """A hash of all sources and headers, so that nothing built from other sources is ever loaded."""
    digest = hashlib.sha256()
    for path in sorted(csrc().rglob("*")):
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            digest.update(f"{path.relative_to(csrc()).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def flags(with_cuda: bool) -> dict[str, list[str]]:
    """Compiler flags by language. Those of openmp_flags(), which has to run the compiler, are added to them."""
    macro = [CUDA_MACRO] if with_cuda else []
    cxx, host = (MSVC_FLAGS, []) if uses_msvc() else (CXX_FLAGS, ["-Xcompiler=-ffp-contract=off"])
    return {"cxx": cxx + macro, "nvcc": NVCC_FLAGS + host + macro}


def uses_msvc() -> bool:
    return os.name == "nt"


def compiler() -> list[str]:
    """The C++ compiler's command, as torch.utils.cpp_extension chooses it."""
    return shlex.split(os.environ.get("CXX", "cl" if uses_msvc() else "c++"))


def openmp_flags(again: str) -> tuple[list[str], list[str]]:
    """The flags of OpenMP for compiling and linking, if the compiler can build a program with them; else none.

    If there are none, a message says so. `again` says what the user does for another build, once OpenMP is installed.
    """
    apple = (["-Xpreprocessor", "-fopenmp"], ["-lomp"])  # its clang has no -fopenmp, but can use Homebrew's library
    candidates = [(["/openmp"], [])] if uses_msvc() else [(["-fopenmp"], ["-fopenmp"]), apple]
    for folder in ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"):
        if Path(folder).is_dir():
            candidates.append(([*apple[0], f"-I{folder}/include"], [f"-L{folder}/lib", *apple[1]]))
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.cpp")
        probe.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
        for compile_flags, link_flags in candidates:
            program = probe.with_suffix(".exe")
            output = [f"/Fe{program}", f"/Fo{probe.with_suffix('.obj')}"] if uses_msvc() else ["-o", str(program)]
            command = [*compiler(), *compile_flags, str(probe), *output, *link_flags]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return compile_flags, link_flags
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    remedy = "install libomp (apt install libomp-dev; brew install libomp)" if "clang" in version else "install libgomp"
    # Without OpenMP at::parallel_for is a plain loop, and says nothing.
    say(
        f"{shlex.join(compiler())} cannot build with -fopenmp: steps on the CPU will use one thread; {remedy}, "
        f"then {again}"
    )
    return [], []


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Says that something is compiled: at the start, every minute, and at the end."""
    say(f"compiling {what}; a minute or two for CPU code, several for CUDA code ...")
    start = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        while not done.wait(60):
            say(f"still compiling after {time.monotonic() - start:.0f} s ...")

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
        say(f"compiled in {time.monotonic() - start:.0f} s")
    finally:
        done.set()


def first_errors(log: str) -> str:
    """The part of a compiler's output that is shown: its first errors, or its end."""
    lines = log.strip().splitlines()
    errors = [line for line in lines if re.search(r"\berror: |undefined reference|cannot find ", line)]
    return "\n    ".join(errors[:5] or lines[-5:])


def say(message: str) -> None:
    print(f"sgdr_fused: {message}", file=sys.stderr, flush=True)


def torch_id(torch: ModuleType) -> str:
    """The build of torch that an extension is bound to: its binary interface changes from one build to the next."""
    return f"{torch.__version__} {torch.version.git_version}"


def local_version(torch: ModuleType, with_cuda: bool) -> str:
    """What stands behind the "+" in the name of a wheel for this build of torch, such as cpu.torch2.14.1.cu130.

    First comes which code is in it. Then comes torch's version, whole, with a dot for its own "+": read_record()
    refuses 2.14.0 and 2.14.1+cpu where an extension was built for 2.14.1+cu130, so a shorter name would promise too
    much. The commit, which read_record() compares too, is the same in all that is released under one version.
    """
    build = re.sub("[^a-z0-9]+", ".", torch.__version__.lower()).strip(".")
    return f"{'cuda' if with_cuda else 'cpu'}.torch{build}"


# ---- the CUDA toolkit ------------------------------------------------------------------------------


def cuda_home() -> str | None:
    """The CUDA toolkit's folder, or None.

    torch takes the parent of the folder that nvcc on PATH is in. If nvcc is a wrapper script, that is not the toolkit.
    So every candidate must hold the headers and nvcc.
    """
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        dryrun = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True, check=False).stderr
        top = re.search(r"^#\$ TOP=(.+)$", dryrun, re.MULTILINE)
        candidates += [top and top.group(1).strip(), os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))]
    for candidate in [*candidates, "/usr/local/cuda"]:
        if (
            candidate
            and Path(candidate, "include", "cuda_runtime_api.h").is_file()
            and Path(candidate, "bin", "nvcc").is_file()
        ):
            return os.path.realpath(candidate)
    return None


def cuda_is_forced() -> bool:
    return os.environ.get("FORCE_CUDA") == "1"


def no_wish_for_cuda(torch: ModuleType) -> str | None:
    """Why no CUDA code is to be built, with the remedy; None if it is to be built, ahead of time or at first use.

    Many machines without a GPU have a CUDA build of torch, and a toolkit beside it, and nvcc takes minutes.
    """
    if cuda_is_forced():
        return None
    if os.environ.get("SGDR_FUSED_CUDA") == "0":
        return "it was built with SGDR_FUSED_CUDA=0; build it again without"
    if not torch.cuda.is_available():
        return "it was built where torch saw no GPU; build it again where it sees one, or anywhere with FORCE_CUDA=1"
    return None


def cuda_obstacle(torch: ModuleType) -> str | None:
    """Why no CUDA code can be built for this torch on this machine, with the remedy; None if it can."""
    if os.environ.get("SGDR_FUSED_CUDA") == "0":
        return "SGDR_FUSED_CUDA=0 is set"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch"
    home = cuda_home()
    if home is None:
        return f"no CUDA toolkit with headers and nvcc was found; install CUDA {torch.version.cuda} or set CUDA_HOME"
    header = Path(home, "include", "cuda_runtime_api.h").read_text(errors="replace")
    version = re.search(r"^#define CUDART_VERSION\s+(\d+)", header, re.MULTILINE)
    if version:
        major, minor = int(version.group(1)) // 1000, int(version.group(1)) % 1000 // 10
        if major != int(torch.version.cuda.split(".")[0]):
            return (
                f"the CUDA toolkit in {home} is version {major}.{minor}, torch was built with {torch.version.cuda}; "
                "set CUDA_HOME to a toolkit of that major version"
            )
    return None


def cuda_arch_list(torch: ModuleType) -> str:
    """TORCH_CUDA_ARCH_LIST; if it is unset, the architectures of the visible GPUs; if there are none, DEFAULT_ARCHS.

    It runs no compiler.
    """
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if listed:
        return listed
    visible = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    archs = [f"{major}.{minor}" for major, minor in sorted(visible)] or DEFAULT_ARCHS
    return ";".join(archs) + "+PTX"


def known_archs(home: str, archs: str) -> str:
    """Of the default architectures, those that the toolkit in `home` knows.

    Other choices stay as they are: nvcc will say what it does not know.
    """
    if archs != ";".join(DEFAULT_ARCHS) + "+PTX":
        return archs
    listing = [str(Path(home, "bin", "nvcc")), "--list-gpu-arch"]
    known = subprocess.run(listing, capture_output=True, text=True, check=False).stdout.split()
    kept = [arch for arch in DEFAULT_ARCHS if f"compute_{arch.replace('.', '')}" in known]
    return ";".join(kept or DEFAULT_ARCHS[:3]) + "+PTX"  # those that the oldest toolkits know that torch is built with


# ---- torch's build tools ---------------------------------------------------------------------------


@contextlib.contextmanager
def torch_build_tools(torch: ModuleType, with_cuda: bool, for_shell: bool = False) -> Iterator[Any]:
    """torch.utils.cpp_extension, which finds ninja and, with CUDA, the toolkit and architectures while this lasts.

    `for_shell` is for cpp_extension.load(), whose command line names the folder of torch's libraries without quotes: in
    an environment whose path has a space the linker would look for two other things.
    """
    logger = logging.getLogger("torch.utils.cpp_extension")
    logger.disabled, was_disabled = True, logger.disabled  # its import warns of its own guess of the toolkit
    try:
        cpp_extension: Any = importlib.import_module("torch.utils.cpp_extension")
    finally:
        logger.disabled = was_disabled

    environment = {}
    if shutil.which("ninja") is None:
        # pip puts ninja into the environment's bin folder, which is on PATH only where the environment was activated.
        with contextlib.suppress(ImportError):
            environment["PATH"] = os.pathsep.join(
                [importlib.import_module("ninja").BIN_DIR, os.environ.get("PATH", "")]
            )
    if with_cuda:
        home = cuda_home()
        assert home is not None  # or there is a cuda_obstacle()
        environment["TORCH_CUDA_ARCH_LIST"] = known_archs(home, cuda_arch_list(torch))

    saved = {name: os.environ.get(name) for name in environment}
    saved_home, saved_libraries = cpp_extension.CUDA_HOME, cpp_extension.TORCH_LIB_PATH
    os.environ.update(environment)
    if with_cuda:
        cpp_extension.CUDA_HOME = home
    if for_shell:
        cpp_extension.TORCH_LIB_PATH = shlex.quote(saved_libraries)
    try:
        yield cpp_extension
    finally:
        cpp_extension.CUDA_HOME, cpp_extension.TORCH_LIB_PATH = saved_home, saved_libraries
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- the record beside a prebuilt extension --------------------------------------------------------
# Importing an extension that was built for another torch may crash rather than fail. So setup.py writes down what it
# built for, or why it could not build, and backends.py reads that first.


def record_path(package: Path = PACKAGE) -> Path:
    return package / f"_C.{sysconfig.get_config_var('SOABI')}.json"


def write_record(path: Path, torch: ModuleType, error: str | None, no_cuda: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"torch": torch_id(torch), "sources": source_hash(), "error": error, "no_cuda": no_cuda}
    path.write_text(json.dumps(record, indent=1) + "\n")


def read_record(torch: ModuleType) -> tuple[str | None, str | None]:
    """Why the prebuilt extension cannot be used, and why it has no CUDA code; None if it can be used, or has it."""
    if not record_path().is_file():
        return "there is none", None
    record = json.loads(record_path().read_text())
    if record["error"]:
        return record["error"], None
    if record["torch"] != torch_id(torch):
        return f"it was built for torch {record['torch'].split()[0]}, this is torch {torch.__version__}", None
    if record["sources"] != source_hash():
        return f"it was built from other sources than those in {csrc()}", None
    return None, record["no_cuda"]
