"""load() while it looks for the extension or builds it: handlers, interrupts, threads, forks, other processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from installs import ROOT, SMALL_EXTENSION, clean_environment, copy_project, needs_compiler

from sgdr_fused._native import backends

pytestmark = pytest.mark.once

START = """
import os, signal, sys, threading, types, warnings
import torch
from sgdr_fused import FusedSGD
from sgdr_fused._native import backends
from sgdr_fused.schedules import CosineWarmRestarts
warnings.simplefilter("error")
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in a shell's background
there_is = types.SimpleNamespace(has_cuda=False)
"""


def child(code: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", START + textwrap.dedent(code)]  # which puts the current folder before PYTHONPATH
    return subprocess.Popen(command, env=environment, cwd="/", text=True, start_new_session=True, **pipes)


def output(process: subprocess.Popen[str]) -> str:
    """What the process printed. A process that waits for itself is ended, and that is a failure."""
    try:
        out, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("it waits for ever: " + "".join(process.communicate()))
    assert process.returncode == 0, errors
    return out


def environment(tmp_path: Path) -> dict[str, str]:
    return clean_environment(tmp_path / "cache", PYTHONPATH=str(ROOT))


def test_signal_handler_in_the_middle(tmp_path: Path) -> None:
    """It assigns, steps and asks: on the reference, without a warning. What comes after it has the extension."""
    code = """
        weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        weight.grad = torch.ones_like(weight)
        optimizer = FusedSGD([weight], lr=0.5)
        there = []

        def handler(*_):
            there.append(backends.load())
            optimizer.param_groups[0]["lr"] = CosineWarmRestarts(0.25, T_0=10)
            there.append(optimizer.backend)
            optimizer.step()

        find = backends._prebuilt

        def interrupted():
            signal.raise_signal(signal.SIGUSR1)
            return find()

        signal.signal(signal.SIGUSR1, handler)
        backends._prebuilt = interrupted
        assert backends.load() is not None
        assert there == [None, "reference"], there
        assert optimizer.backend == "cpu"
        optimizer.step()
        expected = 0.75 - CosineWarmRestarts(0.25, T_0=10)(1)
        assert abs(weight[0].item() - expected) < 1e-12, (weight, expected)
        assert type(optimizer._session.built.plans[0]).__name__ == "Plan"
        print("done")
        """
    assert output(child(code, environment(tmp_path))) == "done\n"


def test_signal_handler_while_another_process_builds(tmp_path: Path) -> None:
    """The lock is a file's, and a second descriptor of the same process would wait for the first."""
    code = """
        def closed(): raise backends._UnavailableError("in this test")
        backends._prebuilt = closed
        backends._build_library = lambda name, library, with_cuda: library.write_text("")
        backends._imported = lambda name, library: there_is
        there = []

        def handler(*_):
            there.append(backends.load())
            print("handled", flush=True)

        signal.signal(signal.SIGUSR1, handler)
        print(backends._cache_folder(False), flush=True)
        sys.stdin.readline()
        assert backends.load() is there_is
        assert there == [None]
        print("done")
        """
    command = [sys.executable, "-c", START + textwrap.dedent(code)]
    process = subprocess.Popen(
        command,
        env=environment(tmp_path),
        cwd="/",
        text=True,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    folder = Path(process.stdout.readline().strip())
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert "waiting for another process" in process.stderr.readline()
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "handled\n"
    assert output(process) == "done\n"


@needs_compiler
def test_interrupt_in_the_middle_of_a_build(tmp_path: Path) -> None:
    """Ctrl-C reaches this process and the compilers. The next load() of the process builds, under the same name."""
    project = copy_project(tmp_path / "project", SMALL_EXTENSION)
    started, compiler = tmp_path / "started", tmp_path / "compiler"
    slow_once = f"[ -e {started} ] || {{ touch {started}; sleep 300; }}"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *" -c "*) {slow_once};; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    code = """
        try:
            backends.load()
        except KeyboardInterrupt:
            print("interrupted")
        module = backends.load()
        print(module.__file__)
        assert backends.load() is module
        assert not backends.load().has_cuda
        """
    variables = clean_environment(tmp_path / "cache", PYTHONPATH=str(project), CXX=str(compiler))
    process = child(code, variables)
    while not started.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    first, library = output(process).splitlines()
    assert first == "interrupted"
    assert Path(library).name == "sgdr_fused_C.so"
    assert list((tmp_path / "cache").rglob("*.so")) == [Path(library)]
    assert not list((tmp_path / "cache").rglob("build-*"))
    again = child("print(backends.load().__file__)", {**variables, "PATH": str(tmp_path)})
    assert output(again) == f"{library}\n"


@pytest.fixture
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed() -> None:
        raise backends._UnavailableError("in this test")

    monkeypatch.setattr(backends, "_found", None)
    monkeypatch.setattr(backends, "_prebuilt", closed)
    monkeypatch.delenv("SGDR_FUSED_BACKEND", raising=False)


@pytest.mark.usefixtures("nothing_found")
class TestInThisProcess:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
    def test_what_interrupts_leaves_nothing_behind(
        self, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module, outcomes = SimpleNamespace(has_cuda=False), [error(), error()]

        def build() -> Any:
            if outcomes:
                raise outcomes.pop()
            return module

        monkeypatch.setattr(backends, "_jit", build)
        for _ in range(2):
            with pytest.raises(error):
                backends.load()
        assert backends.load() is module

    def test_interrupt_at_every_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A trace function raises at the n-th line that load() passes, for every n, and other threads get on as well.

        Not at the line of a `with`: it is passed once more on the way out, before the lock is released, where no
        interrupt is ever raised.
        """
        module = SimpleNamespace(has_cuda=False)
        monkeypatch.setattr(backends, "_jit", lambda: module)
        lines, n = 0, 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != backends.__file__:
                return None
            if event == "line" and frame.f_lineno not in withs:
                lines += 1
                if lines == n:
                    raise KeyboardInterrupt
            return trace

        source = Path(backends.__file__).read_text().splitlines()
        withs = {number for number, line in enumerate(source, 1) if line.strip() == "with _lock:"}
        assert len(withs) == 1
        before = sys.gettrace()
        interrupted = 0
        while True:
            backends._found = None
            lines, n = 0, n + 1
            sys.settrace(trace)
            try:
                assert backends.load() is module
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                sys.settrace(before)
            thread = threading.Thread(target=backends.load, daemon=True)
            thread.start()
            thread.join(60)
            assert not thread.is_alive(), f"after line {n}"
            assert backends.load() is module, f"after line {n}"
            if lines < n:
                break
        assert interrupted >= 10

    def test_other_threads_wait_for_the_one_that_builds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module, builds = SimpleNamespace(has_cuda=False), []
        inside, go_on = threading.Event(), threading.Event()

        def build() -> Any:
            builds.append(threading.current_thread())
            inside.set()
            assert go_on.wait(60)
            return module

        monkeypatch.setattr(backends, "_jit", build)
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.append(backends.load())) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert inside.wait(60)
        time.sleep(0.2)  # a thread that did not wait would have come back with something else
        assert found == []
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert found == [module] * 3
        assert len(builds) == 1


def test_fork_while_another_thread_builds(tmp_path: Path) -> None:
    """A DataLoader starts its workers so: the thread that holds the lock does not exist in the child."""
    code = """
        inside, go_on = threading.Event(), threading.Event()

        def build():
            inside.set()
            assert go_on.wait(60)
            return there_is

        backends._prebuilt = build
        thread = threading.Thread(target=backends.load)
        thread.start()
        assert inside.wait(60)
        warnings.simplefilter("ignore")  # that of Python 3.12, of threads and forks
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            backends._prebuilt = lambda: there_is
            os._exit(0 if backends.load() is there_is else 1)
        assert os.waitpid(pid, 0)[1] == 0
        go_on.set()
        thread.join()
        print("done")
        """
    assert output(child(code, environment(tmp_path))) == "done\n"


def test_failure_is_looked_into_once(tmp_path: Path) -> None:
    """Compiling again and again at each optimizer would take minutes each time, also where the warning is an error."""
    code = """
        tried = []
        def closed():
            tried.append(1)
            raise backends._UnavailableError("in this test")
        backends._prebuilt = backends._jit = closed
        errors = 0
        for _ in range(3):
            try:
                backends.load()
            except RuntimeWarning as warning:
                errors += "in this test" in str(warning)
        import json
        print(json.dumps([len(tried), errors]))
        """
    assert json.loads(output(child(code, environment(tmp_path)))) == [2, 3]
