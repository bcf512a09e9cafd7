"""Builds the extension ahead of time where torch can be imported: pip install --no-build-isolation .

With CUDA code where torch sees a GPU, as at first use (no_wish_for_cuda in sgdr_fused/_native/toolchain.py);
FORCE_CUDA=1 wants it or an error, SGDR_FUSED_CUDA=0 leaves it out. Plain `pip install .` has no torch in its build
environment. It then makes a wheel of Python and C++ sources, and so it does where compiling fails:
sgdr_fused/_native/backends.py builds at first use, or says why it cannot. The rest of the metadata is
in pyproject.toml.

SGDR_FUSED_NAME_TORCH=1, which `make wheels` sets, is for a wheel that goes to other machines: its version names the
build of torch, as in 0.1.0+cpu.torch2.14.1.cu130, and the extension is in it, or there is an error and no wheel. It
is a variable for two reasons. pip asks for the version before anything is compiled, when it is not known whether there
will be an extension. And what `pip install .` makes stays in this environment, where a version that changes with torch
would only be in the way of requirements.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent


def load_build_module():
    """sgdr_fused/_native/toolchain.py by its path: importing the package would import torch."""
    spec = importlib.util.spec_from_file_location("toolchain", ROOT / "sgdr_fused" / "_native" / "toolchain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toolchain = load_build_module()


def import_torch():
    try:
        import torch
    except Exception as error:  # not installed, or broken
        toolchain.say(f"no extension in this build, torch cannot be imported ({error})")
        return None
    return torch


class BuildPy(build_py):
    """Puts csrc/ into the package, so that an installed package can build the extension far from any checkout."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "sgdr_fused", "csrc")
            shutil.rmtree(target, ignore_errors=True)  # build/ may be left from other sources
            shutil.copytree(toolchain.csrc(), target)


class BdistWheel(bdist_wheel):
    """Tags the wheel for every platform where the extension could not be compiled."""

    def run_command(self, command):
        super().run_command(command)
        if command == "build" and not self.distribution.ext_modules:
            self.root_is_pure = True


def egg_info_class(local_version):
    class EggInfo(egg_info):
        def finalize_options(self):
            self.tag_build = f"+{local_version}"  # here, because the setup.cfg of a source distribution sets it too
            super().finalize_options()

    return EggInfo


def extension(tools, with_cuda):
    flags = toolchain.flags(with_cuda)
    openmp_compile, openmp_link = toolchain.openmp_flags(again="build sgdr_fused again")
    return (tools.CUDAExtension if with_cuda else tools.CppExtension)(
        "sgdr_fused._C",
        [os.path.relpath(path, ROOT) for path in toolchain.sources(with_cuda)],
        include_dirs=[str(toolchain.csrc())],
        extra_compile_args={"cxx": flags["cxx"] + openmp_compile, "nvcc": flags["nvcc"]},
        extra_link_args=openmp_link,
    )


def build_ext_class(torch, tools, no_cuda, has_to_succeed):
    """torch's build_ext, which here may fail: then the CPU code is tried alone, and then the package does without."""

    class BuildExt(tools.BuildExtension):
        def run(self):
            if not self.extensions:
                return
            self.error, self.no_cuda = None, no_cuda
            path = Path(self.get_ext_fullpath("sgdr_fused._C"))
            record = toolchain.record_path(path.parent)
            record.unlink(missing_ok=True)  # so what an interrupted build leaves is not taken for an extension
            super().run()
            toolchain.write_record(record, torch, self.error, self.no_cuda)
            if self.error:
                path.unlink(missing_ok=True)  # an older one must not stand in for it
                self.distribution.ext_modules = []

        def build_extensions(self):
            try:
                if self.no_cuda is None:
                    try:
                        return self.compile_with(super().build_extensions, "CPU and CUDA")
                    except Exception as error:
                        if has_to_succeed:
                            raise
                        self.no_cuda = f"compiling the CUDA code failed when the package was installed: {error}"
                        toolchain.say(self.no_cuda)
                        vars(self.extensions[0]).update(sources_and_flags(extension(tools, with_cuda=False)))
                self.compile_with(super().build_extensions, "CPU")
            except Exception as error:
                if has_to_succeed:
                    raise
                self.error = f"compiling failed when the package was installed: {error}"
                toolchain.say(self.error)
                self.extensions = []

        def compile_with(self, build, kind):
            """The commands and the compilers' output go into a file: they are thousands of characters a line."""
            Path(self.build_temp).mkdir(parents=True, exist_ok=True)
            log = Path(self.build_temp, "build.log").resolve()
            try:
                with toolchain.compiling(f"the {kind} extension; the compilers' output is in {log}"), stdout_in(log):
                    build()
            except Exception as error:
                raise RuntimeError(f"{error}\n    {toolchain.first_errors(log.read_text(errors='replace'))}") from error

    return BuildExt


@contextlib.contextmanager
def stdout_in(file):
    """What this process and those that it starts write to file descriptor 1."""
    sys.stdout.flush()
    before = os.dup(1)
    try:
        with file.open("w") as stream:
            os.dup2(stream.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)


def sources_and_flags(ext):
    return {name: value for name, value in vars(ext).items() if not name.startswith("_")}


def main():
    cmdclass = {"build_py": BuildPy, "bdist_wheel": BdistWheel}
    forced, named = toolchain.cuda_is_forced(), os.environ.get("SGDR_FUSED_NAME_TORCH") == "1"
    torch = import_torch()
    if torch is None or shutil.which(toolchain.compiler()[0]) is None:
        if forced or named:
            raise SystemExit(
                f"{'FORCE_CUDA' if forced else 'SGDR_FUSED_NAME_TORCH'}=1 needs torch and a C++ compiler at build "
                "time: pip install --no-build-isolation ."
            )
        setup(cmdclass=cmdclass)
        return
    no_cuda = toolchain.no_wish_for_cuda(torch) or toolchain.cuda_obstacle(torch)
    if forced and no_cuda:
        raise SystemExit(f"FORCE_CUDA=1, but the CUDA code cannot be built: {no_cuda}")
    with_cuda = no_cuda is None
    if named:
        cmdclass["egg_info"] = egg_info_class(toolchain.local_version(torch, with_cuda))
    with toolchain.torch_build_tools(torch, with_cuda) as tools:
        cmdclass["build_ext"] = build_ext_class(torch, tools, no_cuda, has_to_succeed=forced or named)
        setup(ext_modules=[extension(tools, with_cuda)], cmdclass=cmdclass)


main()
