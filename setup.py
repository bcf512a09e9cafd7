"""Builds the extension ahead of time where torch can be imported: pip install --no-build-isolation .

Plain `pip install .` has no torch in its build environment. It then makes a wheel of Python and C++ sources, and so it
does where compiling fails: sgdr_fused/_backend.py builds at first use, or says why it cannot. FORCE_CUDA=1 wants the
CUDA code or an error; SGDR_FUSED_CUDA=0 leaves it out. The rest of the metadata is in pyproject.toml.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def load_build_module():
    """sgdr_fused/_build.py by its path: importing the package would import torch."""
    spec = importlib.util.spec_from_file_location("_build", ROOT / "sgdr_fused" / "_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_build = load_build_module()


def import_torch():
    try:
        import torch
    except Exception as error:  # not installed, or broken
        say(f"no extension in this build, torch cannot be imported ({error})")
        return None
    return torch


class BuildPy(build_py):
    """Puts csrc/ into the package, so that an installed package can build the extension far from any checkout."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "sgdr_fused", "csrc")
            shutil.rmtree(target, ignore_errors=True)  # build/ may be left from other sources
            shutil.copytree(_build.csrc(), target)


class BdistWheel(bdist_wheel):
    """Tags the wheel for every platform where the extension could not be compiled."""

    def run_command(self, command):
        super().run_command(command)
        if command == "build" and not self.distribution.ext_modules:
            self.root_is_pure = True


def extension(tools, with_cuda):
    flags = _build.flags(with_cuda)
    openmp = _build.openmp_flags()
    return (tools.CUDAExtension if with_cuda else tools.CppExtension)(
        "sgdr_fused._C",
        [os.path.relpath(path, ROOT) for path in _build.sources(with_cuda)],
        include_dirs=[str(_build.csrc())],
        extra_compile_args={"cxx": flags["cxx"] + openmp, "nvcc": flags["nvcc"]},
        extra_link_args=openmp,
    )


def build_ext_class(torch, tools, no_cuda, forced):
    """torch's build_ext, which here may fail: then the CPU code is tried alone, and then the package does without."""

    class BuildExt(tools.BuildExtension):
        def run(self):
            if not self.extensions:
                return
            self.error, self.no_cuda = None, no_cuda
            path = Path(self.get_ext_fullpath("sgdr_fused._C"))
            super().run()
            _build.write_record(_build.record_path(path.parent), torch, self.error, self.no_cuda)
            if self.error:
                path.unlink(missing_ok=True)  # an older one must not stand in for it
                self.distribution.ext_modules = []

        def build_extensions(self):
            try:
                if self.no_cuda is None:
                    try:
                        return super().build_extensions()
                    except Exception as error:
                        if forced:
                            raise
                        self.no_cuda = say(f"compiling the CUDA code failed when the package was installed: {error}")
                        vars(self.extensions[0]).update(sources_and_flags(extension(tools, with_cuda=False)))
                super().build_extensions()
            except Exception as error:
                if forced:
                    raise
                self.error = say(f"compiling failed when the package was installed: {error}")
                self.extensions = []

    return BuildExt


def sources_and_flags(ext):
    return {name: value for name, value in vars(ext).items() if not name.startswith("_")}


def say(message):
    print(f"sgdr_fused: {message}", file=sys.stderr)
    return message


def main():
    cmdclass = {"build_py": BuildPy, "bdist_wheel": BdistWheel}
    forced = os.environ.get("FORCE_CUDA") == "1"
    torch = import_torch()
    if torch is None or shutil.which(_build.compiler()[0]) is None:
        if forced:
            raise SystemExit(
                "FORCE_CUDA=1 needs torch and a C++ compiler at build time: pip install --no-build-isolation ."
            )
        setup(cmdclass=cmdclass)
        return
    no_cuda = _build.cuda_obstacle(torch)
    if forced and no_cuda:
        raise SystemExit(f"FORCE_CUDA=1, but the CUDA code cannot be built: {no_cuda}")
    with _build.torch_build_tools(torch, with_cuda=no_cuda is None) as tools:
        cmdclass["build_ext"] = build_ext_class(torch, tools, no_cuda, forced)
        setup(ext_modules=[extension(tools, with_cuda=no_cuda is None)], cmdclass=cmdclass)


main()
