"""A worker's heartbeat file, which its event loop writes every second, and the probe that reads it.

    sendq health --live      is the process alive, and is its event loop running?
    sendq health --ready     can it accept work: valid lease, reading from the broker, not stopping?

The probe reads only the file. So it costs no more than starting the interpreter (this module imports very little, and
the command line gets here before it loads anything else), and it does not fail while Redis or the ledger is
unavailable: restarting a worker for that would lose the outcomes that it keeps until the ledger is back.

A live worker holds a lock on its file, which distinguishes it from the file that a killed worker left behind. The
files are in ``SENDQ_RUN_DIR``, by default a directory of this user in the directory for temporary files.
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

# A loop that is this late has long been declared dead (SENDQ_STALE_AFTER_S); a busy machine is not that late.
LIVE_S = 20.0

SUFFIX = ".heartbeat"
BYTES = 512  # one write, one read


def run_directory(environ: Mapping[str, str]) -> Path:
    """The directory of this user's heartbeat files."""
    given = environ.get("SENDQ_RUN_DIR")
    return Path(given) if given else Path(environ.get("TMPDIR") or "/tmp") / f"sendq-{os.getuid()}"  # noqa: S108


class HeartbeatFile:
    """The heartbeat file of this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / f"{os.getpid()}{SUFFIX}"
        self._file: int | None = None

    def open(self) -> None:
        """Create the file; raises ``OSError`` if that is not possible."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._directory} belongs to another user")
        for _ in heartbeats(self._directory):  # removes the files of killed workers
            pass
        unready = self._path.with_suffix(".new")  # a probe must not find it before it is locked
        self._file = os.open(unready, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.beat(["starting"])
        unready.rename(self._path)

    def beat(self, obstacles: Sequence[str]) -> None:
        """Write that the loop is running, and why this worker cannot accept work, if so."""
        if self._file is not None:
            says = json.dumps({"at": time.monotonic(), "obstacles": list(obstacles)})
            os.pwrite(self._file, says.encode().ljust(BYTES), 0)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = None


@dataclass(frozen=True)
class Heartbeat:
    """The heartbeat of a live worker: seconds since its loop last wrote it, and the obstacles at that time."""

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
            return f"worker {self.pid}: its event loop has been stuck for {self.age_s:.0f} s"
        if self.obstacles:
            return f"worker {self.pid}: alive, but not ready ({', '.join(self.obstacles)})"
        return f"worker {self.pid}: alive and ready"


def heartbeats(directory: Path) -> Iterator[Heartbeat]:
    """The heartbeats of all live workers."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = json.loads(file.read(BYTES))
                yield Heartbeat(int(path.stem), max(0.0, time.monotonic() - said["at"]), tuple(said["obstacles"]))
            else:
                path.unlink()  # not locked: its process was killed


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """``--live`` or ``--ready``, optionally ``--json``; status 0 if all workers here are, 1 if not or without any."""
    found = list(heartbeats(run_directory(environ)))
    fine = bool(found) and all(one.ready if "--ready" in arguments else one.live for one in found)
    if "--json" in arguments:
        workers = [{"pid": one.pid, "age_s": round(one.age_s, 3), "obstacles": one.obstacles} for one in found]
        sys.stdout.write(json.dumps({"healthy": fine, "workers": workers}) + "\n")
    else:
        sys.stdout.write("".join(f"{one}\n" for one in found) or "no worker is running on this machine\n")
    return 0 if fine else 1
