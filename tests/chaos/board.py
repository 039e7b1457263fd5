"""The board: where the tests set at which place the next worker dies, and read where earlier ones died.

A file with one byte per place, mapped by all workers. A place whose byte is not 0 is armed: each worker that reaches it
counts it down, and the one that gets to 0 kills itself by SIGKILL. After these bytes comes the process with a wrong
clock.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from tasks.failpoints import POINTS

# While the API has the request but has not answered: a delay after "calling" that is shorter than the API's latency.
WAITING = "waiting"
WAITING_AFTER_S = 0.05
PLACES = {
    **POINTS,
    WAITING: f"turn: {WAITING_AFTER_S * 1000:.0f} ms after the request, which the API has and answers later",
}
_NUMBER = {name: number for number, name in enumerate(PLACES)}
_CLOCK = struct.Struct("=qq")  # a process id, and the seconds by which its clock is ahead

# The environment variable of every worker with the path of the board.
VARIABLE = "CHAOS_BOARD"


@dataclass(frozen=True, slots=True)
class Death:
    """The death of one process: where, and when by the wall clock (seconds)."""

    place: str
    pid: int
    at: float


class Board:
    """The file at ``path``, with the log of deaths beside it. The first process to open it creates it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(len(PLACES) + _CLOCK.size))
        self._log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    # --- the test's side ----------------------------------------------------------------------------------------------

    def arm(self, place: str, *, visits: int = 1) -> None:
        """Let the process that makes the ``visits``-th visit (1 to 255) to the place from now on die there."""
        self._map[_NUMBER[place]] = visits

    def disarm(self) -> None:
        """Let no process die any more."""
        self._map[: len(PLACES)] = bytes(len(PLACES))

    def armed(self, place: str) -> bool:
        """Whether a process is still to die there."""
        return self._map[_NUMBER[place]] != 0

    def set_clock(self, pid: int, seconds: int) -> None:
        """Make the clock of this process wrong by ``seconds``, and the clocks of all others right."""
        _CLOCK.pack_into(self._map, len(PLACES), pid, seconds)

    def died(self, place: str, pid: int) -> None:
        """Log a death."""
        os.write(self._log, f"{time.time():.6f} {pid} {place}\n".encode())

    def deaths(self) -> list[Death]:
        """All deaths so far."""
        lines = self.path.with_suffix(".log").read_text().splitlines()
        return [Death(place, int(pid), float(at)) for at, pid, place in (line.split(maxsplit=2) for line in lines)]

    # --- a worker's side ----------------------------------------------------------------------------------------------

    def clock_is_ahead_s(self) -> int:
        """The seconds by which the clock of this process is wrong."""
        pid, seconds = _CLOCK.unpack_from(self._map, len(PLACES))
        return int(seconds) if pid == os.getpid() else 0

    def visit(self, place: str) -> None:
        """Pass a place: continue, or die there."""
        number = _NUMBER[place]
        if self._map[number]:
            self._map[number] -= 1
            if not self._map[number]:
                self.died(place, os.getpid())
                os.kill(os.getpid(), signal.SIGKILL)
