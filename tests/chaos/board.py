"""The board: where the tests say at which place the next worker dies, and read where the last ones did.

A file of one byte for each place, mapped by all workers. A byte that is not 0 is armed: whoever comes to the place
counts it down, and dies by its own SIGKILL when it reaches 0. Behind them stands which process's clock is wrong.
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

# While the API has the request and has not answered: a while after "calling", less than the API takes.
WAITING = "waiting"
WAITING_AFTER_S = 0.05
PLACES = {
    **POINTS,
    WAITING: f"turn: {WAITING_AFTER_S * 1000:.0f} ms after the request, which the API has and answers later",
}
_NUMBER = {name: number for number, name in enumerate(PLACES)}
_CLOCK = struct.Struct("=qq")  # a process, and the seconds by which its clock is ahead

# In every worker's environment: the path of the board.
VARIABLE = "CHAOS_BOARD"


@dataclass(frozen=True, slots=True)
class Death:
    """One process that died: where, and when on the wall clock (seconds)."""

    place: str
    pid: int
    at: float


class Board:
    """The file at ``path`` with its log of deaths beside it. The first to open it makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(len(PLACES) + _CLOCK.size))
        self._log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    # --- the test's side ----------------------------------------------------------------------------------------------

    def arm(self, place: str, *, visits: int = 1) -> None:
        """Whoever makes the ``visits``-th visit to the place from now on dies there (1 to 255)."""
        self._map[_NUMBER[place]] = visits

    def disarm(self) -> None:
        """Nobody dies any more."""
        self._map[: len(PLACES)] = bytes(len(PLACES))

    def armed(self, place: str) -> bool:
        """Whether nobody has died there yet."""
        return self._map[_NUMBER[place]] != 0

    def set_clock(self, pid: int, seconds: int) -> None:
        """The clock of this process is wrong by so many seconds, and everybody else's is right again."""
        _CLOCK.pack_into(self._map, len(PLACES), pid, seconds)

    def died(self, place: str, pid: int) -> None:
        """Write down a death."""
        os.write(self._log, f"{time.time():.6f} {pid} {place}\n".encode())

    def deaths(self) -> list[Death]:
        """All deaths so far."""
        lines = self.path.with_suffix(".log").read_text().splitlines()
        return [Death(place, int(pid), float(at)) for at, pid, place in (line.split(maxsplit=2) for line in lines)]

    # --- a worker's side ----------------------------------------------------------------------------------------------

    def clock_is_ahead_s(self) -> int:
        """By how many seconds this process's clock is wrong."""
        pid, seconds = _CLOCK.unpack_from(self._map, len(PLACES))
        return int(seconds) if pid == os.getpid() else 0

    def visit(self, place: str) -> None:
        """Be at a place: go on, or die."""
        number = _NUMBER[place]
        if self._map[number]:
            self._map[number] -= 1
            if not self._map[number]:
                self.died(place, os.getpid())
                os.kill(os.getpid(), signal.SIGKILL)
