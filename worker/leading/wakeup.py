"""How the sleeping dispatcher notices a commit that makes work for it.

PostgreSQL notifies (NOTIFY) a listening connection, except through PgBouncer in transaction mode. SQLite cannot notify,
but Linux says when something is written to its log. The dispatcher also polls, for what both miss.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine

from sendq.clock import Micros, seconds
from sendq.ledger.db.signals import NoNotifications, WriteCounter, listen
from sendq.ledger.enqueue import CHANNEL
from worker.telemetry import journal

if TYPE_CHECKING:
    from asyncinotify import Inotify

# Where nothing says that SQLite's log is written, its file is checked this often: a commit waits for half of it on
# average, and a check every 0.01 s would permanently cost 1 % of a core.
SQLITE_LOOK_S = 0.03

# What is written to the log is a commit only after an fsync: look again so soon, then after twice the time, and so on.
SQLITE_FIRST_LOOK_S = 0.001

# So many commits in a row without a report, and none will come. One report may be of two commits: it is read when the
# second has been written and the first has not been seen.
SILENT_AFTER = 3

# Pause after a failed attempt to listen.
RETRY_S = 5.0

# Pause after it was found that a pooler keeps notifications back: its configuration rarely changes.
RETRY_POOLER_S = 600.0


class Wakeup(Protocol):
    """Waits until it is woken, or for a limited time."""

    @property
    def can_notify(self) -> bool:
        """Whether commits can wake it (on request)."""

    @property
    def poll_every(self) -> Micros:
        """The longest wait between two rounds if they cannot."""

    def wait_for(self, limit_s: float) -> bool:
        """Return when woken, or after ``limit_s`` seconds: whether there was a commit that may have made work."""

    def catch_up(self) -> None:
        """Do not be woken by what has been committed so far: a round follows, which will see it."""

    def wake(self) -> None:
        """Wake it from any thread of this process."""

    def close(self) -> None:
        """Close its connection or files."""


class _Pipe:
    """Wakes from within this process."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is already woken
            os.write(self._write, b"!")

    def _select(self, others: list[int], limit_s: float) -> list[int]:
        ready, _, _ = select.select([self._read, *others], [], [], limit_s)
        if self._read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return ready

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class PostgresWakeup(_Pipe):
    """Listens on its own connection; if that is not possible (a pooler, an outage), the dispatcher polls."""

    poll_every = seconds(0.05)

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._connection: Any = None
        self._retry_at = 0.0
        self._is_new = False  # the connection: notifications before it were missed

    @property
    def can_notify(self) -> bool:
        return self._listening() is not None

    def wait_for(self, limit_s: float) -> bool:
        connection = self._listening()
        if connection is None:
            self._select([], limit_s)
            return False
        if self._is_new:
            self._is_new = False
            return False  # a round finds what was committed before
        try:
            ready = self._select([connection.fileno()], limit_s)
            if connection.fileno() not in ready:
                return False
            for _ in connection.notifies(timeout=0):
                pass
        except Exception:  # whatever the error, the next round listens on a new connection
            self._disconnect()
        return True

    def catch_up(self) -> None:
        """Does nothing: there are few notifications that a round has already seen."""

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _listening(self) -> Any:
        if self._connection is None and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + RETRY_S
            try:
                self._connection = listen(self._engine, CHANNEL)
                self._is_new = True
            except NoNotifications:
                journal.notifications_kept_back()
                self._retry_at = time.monotonic() + RETRY_POOLER_S
            except Exception:
                self._disconnect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None


class SqliteWakeup(_Pipe):
    """Watches the write-ahead log of the file; without inotify, or if it is silent, checks the file every 30 ms."""

    can_notify = False
    poll_every = seconds(1)

    def __init__(self, path: str) -> None:
        super().__init__()
        self._writes = WriteCounter(path)  # keeps the log, which the last connection deletes
        self._watch = _watch(f"{path}-wal")
        self._unreported = 0  # commits since the last report

    def wait_for(self, limit_s: float) -> bool:
        fds = [] if self._watch is None else [self._watch.fd]
        deadline = time.monotonic() + limit_s
        look_s = most_s = SQLITE_LOOK_S if self._watch is None else limit_s
        while (left := deadline - time.monotonic()) > 0:
            ready = self._select(fds, min(left, look_s))
            written = any(fd in ready for fd in fds)
            if written:
                self._read_reports(fds[0])
            if self._read in ready:
                return False
            if self._writes.has_changed():
                self._leave_if_silent()
                return True
            look_s = SQLITE_FIRST_LOOK_S if written else min(most_s, 2 * look_s)
        return False

    def catch_up(self) -> None:
        """A round must follow. It waits for the lock of a write that is not committed yet, whose report is dropped."""
        if not self._writes.has_changed():
            return
        if self._watch is not None and select.select([self._watch.fd], [], [], 0)[0]:
            self._read_reports(self._watch.fd)
        self._leave_if_silent()

    def _read_reports(self, fd: int) -> None:
        self._unreported = 0
        with contextlib.suppress(BlockingIOError):
            os.read(fd, 65_536)  # only that something was written is of interest

    def _leave_if_silent(self) -> None:
        """After a commit: watch no longer if nothing says that the log is written (some file systems of networks and
        containers take a watch and report nothing).
        """
        if self._watch is None or select.select([self._watch.fd], [], [], 0)[0]:
            return
        self._unreported += 1
        if self._unreported == SILENT_AFTER:
            self._watch.close()
            self._watch = None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._writes.close()
        super().close()


def _watch(log: str) -> Inotify | None:
    """An inotify watch of the log; None if this system has no inotify, or no watch left."""
    try:
        from asyncinotify import Inotify, Mask

        watch = Inotify()
        try:
            watch.add_watch(log, Mask.MODIFY)
        except OSError:
            watch.close()
            raise
    except (ImportError, RuntimeError, OSError):  # RuntimeError: its import found no inotify
        return None
    return watch
