"""Starts workers as forks of a process that has imported what they need, which saves most of the CPU of a start.

They are real processes, with memory, signals, environment and an exit of their own. Only the start of the interpreter
and the imports are shared.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.support.preloaded"])

# Read when a worker runs, unlike those that Python and its libraries read when they are imported.
SETTINGS = re.compile(r"(SENDQ|NYLAS|SENTRY)_\w+|DATABASE_URL|REDIS_URL").fullmatch


def can_fork(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment imports what one with ours would."""
    changed = {name for name in environ.keys() | os.environ.keys() if environ.get(name) != os.environ.get(name)}
    paths = {"PYTHONPATH"} if Path(environ.get("PYTHONPATH", "")) == Path.cwd() else set()
    return all(SETTINGS(name) for name in changed - paths)


class Forked:
    """``python -m PROGRAM ARGUMENTS`` in a fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, program: Sequence[str], environ: Mapping[str, str], *, cwd: Path, log: Path) -> None:
        self._process = _forks.Process(target=_run, args=(list(program), dict(environ), str(cwd), str(log)))
        with _no_main_module():
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, if it has ended; the negative number of a signal that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Its exit status; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired("a forked worker", timeout)
        return status

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """``kill -9``."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Children import the parent's main module, which here is pytest; hide it."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run(program: Sequence[str], environ: Mapping[str, str], cwd: str, log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    sys.argv = list(program)
    try:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    finally:  # multiprocessing ends without what Python does at its end
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
