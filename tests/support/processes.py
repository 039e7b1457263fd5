"""Processes of the command line, and finding whatever they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]

# Set for a process under test and so for all that it starts: whoever carries it later is a leftover.
MARK = "LEFT_BEHIND_BY"


class Running:
    """One process of the command line with a temporary directory of its own."""

    def __init__(self, arguments: list[str], tmp: Path, environment: dict[str, str]) -> None:
        self.mark, self.tmp = uuid.uuid4().hex, tmp
        # As short as it gets: a socket's path has room for 107 bytes.
        inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        with (tmp / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", *arguments],
                cwd=ROOT,
                env={**inherited, "HOME": str(tmp), "TMPDIR": str(tmp), MARK: self.mark, **environment},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    @property
    def stderr(self) -> str:
        """What it has said on stderr so far."""
        return (self.tmp / "stderr").read_text()

    def line_with(self, words: str) -> str:
        """Read stdout up to a line with these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return line
        raise AssertionError(f"it ended without a line with {words!r}: {self.stderr}")

    def interrupt(self, signum: signal.Signals = signal.SIGINT, *, limit_s: float = LIMIT_S) -> int:
        """What a terminal does on Ctrl-C: signal the whole foreground group. Gives the exit status.

        Raises ``subprocess.TimeoutExpired`` if it has not ended within the limit.
        """
        os.killpg(self.process.pid, signum)
        self.process.communicate(timeout=limit_s)
        return self.process.returncode

    def family(self) -> Iterator[tuple[psutil.Process, str]]:
        """Every process that carries the mark, with its command line. (The embedded Redis has an environment of its
        own; its guard shows for it.)
        """
        for each in psutil.process_iter():
            try:
                if each.environ().get(MARK) == self.mark and each.status() != psutil.STATUS_ZOMBIE:
                    yield each, " ".join(each.cmdline())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def alive(self) -> list[str]:
        """The command lines of every process that carries the mark, or works in our temporary directory."""
        servers = [
            each.info["cmdline"]
            for each in psutil.process_iter(["cmdline"])
            if each.info["cmdline"] and any(str(self.tmp) in part for part in each.info["cmdline"])
        ]
        return [line for _, line in self.family()] + [" ".join(line) for line in servers]

    def files(self) -> list[str]:
        """What stands in its temporary directory, but for what we put there."""
        return sorted(path.name for path in self.tmp.iterdir() if path.name != "stderr")


@contextmanager
def running(arguments: list[str], tmp: Path, **environment: str) -> Iterator[Running]:
    """Run a command; whatever is left of it at the end is killed."""
    it = Running(arguments, tmp, environment)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.wait()
        assert it.process.stdout is not None
        it.process.stdout.close()
