"""The pulse of a worker: a small file that its event loop writes every second, and the probe that reads it.

    sendq health --live      does the process live, and does its event loop turn?
    sendq health --ready     can it take on work: does its lease hold, does it read from the broker, is it not stopping?

A probe asks nobody but the file, so it costs a start of the interpreter (this module imports next to nothing, and the
command line comes here before it loads anything else) and does not fail because Redis or the ledger is away: whoever
restarted a worker for that would lose the outcomes that it keeps for the ledger's return.

A worker holds a lock on its file for as long as it lives, so that what a killed one left behind is known as such. The
files lie in ``SENDQ_RUN_DIR``, by default a directory of this user in the directory for temporary files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A loop that is late by this much has lost its turns long ago (SENDQ_STALE_AFTER_S); a busy machine is not that late.
LIVE_S = 20.0

SUFFIX = ".pulse"
BYTES = 512  # one write, one read


def run_directory(environ: Mapping[str, str]) -> Path:
    """Where the pulses of this user's workers are."""
    given = environ.get("SENDQ_RUN_DIR")
    return Path(given) if given else Path(environ.get("TMPDIR") or "/tmp") / f"sendq-{os.getuid()}"  # noqa: S108


class HeartbeatFile:
    """The file of this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}{SUFFIX}"
        self._file: int | None = None

    def open(self) -> None:
        """Begin; raises ``OSError`` where no file can be written."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._directory} belongs to somebody else")
        for _ in pulses(self._directory):  # clears away what killed workers left
            pass
        unready = self._path.with_suffix(".new")  # a probe must not find it before it is locked
        self._file = os.open(unready, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.beat(["starting"])
        unready.rename(self._path)

    def beat(self, obstacles: Sequence[str]) -> None:
        """Say that the loop turns, and what keeps this worker from work."""
        if self._file is not None:
            says = json.dumps({"at": time.monotonic(), "obstacles": list(obstacles)})
            os.pwrite(self._file, says.encode().ljust(BYTES), 0)

    def close(self) -> None:
        """End; the file goes as well."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = None


@dataclass(frozen=True)
class Seen:
    """The pulse of a worker that is alive: seconds since its loop last turned, and its obstacles then."""

    pid: int
    age_s: float
    obstacles: tuple[str, ...]

    @property
    def live(self) -> bool:
        return self.age_s <= LIVE_S

    @property
    def ready(self) -> bool:
        return self.live and not self.obstacles

    def __str__(self) -> str:
        if not self.live:
            return f"worker {self.pid}: its event loop has not turned for {self.age_s:.0f} s"
        if self.obstacles:
            return f"worker {self.pid}: lives, and cannot take work ({', '.join(self.obstacles)})"
        return f"worker {self.pid}: lives, and can take work"


def pulses(directory: Path) -> Iterator[Seen]:
    """The pulses of all processes that live."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = json.loads(file.read(BYTES))
                yield Seen(int(path.stem), max(0.0, time.monotonic() - said["at"]), tuple(said["obstacles"]))
            else:
                path.unlink()  # nobody holds it: its process was killed


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """``--live`` or ``--ready``, with ``--json``; status 0 if all workers here are, 1 if not or if there are none."""
    found = list(pulses(run_directory(environ)))
    fine = bool(found) and all(one.ready if "--ready" in arguments else one.live for one in found)
    if "--json" in arguments:
        workers = [{"pid": one.pid, "age_s": round(one.age_s, 3), "obstacles": one.obstacles} for one in found]
        sys.stdout.write(json.dumps({"healthy": fine, "workers": workers}) + "\n")
    else:
        sys.stdout.write("".join(f"{one}\n" for one in found) or "no worker runs here\n")
    return 0 if fine else 1
