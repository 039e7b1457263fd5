"""Runs the command line in processes, and finds what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from tests.support.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]

# Set for a process under test and thereby for all that it starts: a process that still has it later is a leftover.
MARK = "PYTHON_LEFT_BEHIND_BY"  # Flower is given variables of Python, but none that nobody knows


class Running:
    """One process of the command line (this checkout's, or ``program`` in ``cwd``) with its own temporary directory."""

    def __init__(
        self,
        arguments: list[str],
        tmp: Path,
        environment: dict[str, str],
        *,
        program: Sequence[str] = (sys.executable, "-m", "worker.cli"),
        cwd: Path = ROOT,
    ) -> None:
        self.mark, self.tmp = uuid.uuid4().hex, tmp
        # As short as possible: the path of a socket may have at most 107 bytes.
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        with (tmp / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [*program, *arguments],
                cwd=cwd,
                env={**inherited, "HOME": str(tmp), "TMPDIR": str(tmp), MARK: self.mark, **environment},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    @property
    def stderr(self) -> str:
        """Its stderr so far."""
        return (self.tmp / "stderr").read_text()

    def line_with(self, words: str) -> str:
        """Read stdout up to a line with these words, and return that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return line
        raise AssertionError(f"it ended without a line with {words!r}: {self.stderr}")

    def interrupt(self, signum: signal.Signals = signal.SIGINT, *, limit_s: float = LIMIT_S) -> int:
        """Signal the whole process group, as a terminal does on Ctrl-C; returns the exit status.

        Raises ``subprocess.TimeoutExpired`` if it has not ended within the limit.
        """
        os.killpg(self.process.pid, signum)
        self.process.communicate(timeout=limit_s)
        return self.process.returncode

    def family(self) -> Iterator[tuple[psutil.Process, str]]:
        """Every process with the mark, with its command line. (The embedded Redis has its own environment; its guard
        is found instead.)
        """
        for each in psutil.process_iter():
            try:
                if each.environ().get(MARK) == self.mark and each.status() != psutil.STATUS_ZOMBIE:
                    yield each, " ".join(each.cmdline())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def alive(self) -> list[str]:
        """The command lines of all processes with the mark or with our temporary directory among their arguments."""
        servers = [
            each.info["cmdline"]
            for each in psutil.process_iter(["cmdline"])
            if each.info["cmdline"] and any(str(self.tmp) in part for part in each.info["cmdline"])
        ]
        return [line for _, line in self.family()] + [" ".join(line) for line in servers]

    def files(self) -> list[str]:
        """The names in its temporary directory, except ours."""
        return sorted(path.name for path in self.tmp.iterdir() if path.name != "stderr")


def running(arguments: list[str], tmp: Path, **environment: str) -> AbstractContextManager[Running]:
    """Run a command of this checkout; its process is killed at the end."""
    return ending(Running(arguments, tmp, environment))


@contextmanager
def ending(it: Running) -> Iterator[Running]:
    """Kill its process at the end."""
    try:
        yield it
    finally:
        it.process.kill()
        it.process.wait()
        assert it.process.stdout is not None
        it.process.stdout.close()
