"""A child process that never outlives its parent, not even after ``kill -9``.

Between the parent and the server there is a guard, a small Python process. The guard holds the reading end of a pipe
whose writing end belongs to the parent: however the parent ends, the kernel closes it, and the guard stops the server.
The guard started the server with ``PR_SET_PDEATHSIG``, so the server also stops when the guard is killed. (The parent
cannot use that signal itself: it is sent when the *thread* that forked ends, and workers start and end threads all the
time. The guard forks from its main thread, which lives as long as the guard.)

    parent ──pipe──> guard ──PR_SET_PDEATHSIG──> server

Guard and server run in their own session: a Ctrl-C on the terminal reaches only the parent, which stops the server
last. On systems without ``PR_SET_PDEATHSIG`` the server survives if the guard itself is killed.

This file is also the guard's program: it is run by path, isolated, and imports only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

ASK_AGAIN = signal.SIGUSR1  # to the guard: send the stop signal to the server again

# How often the guard checks whether the parent is still there, in case a process forked by the parent keeps a copy of
# the pipe open.
PARENT_CHECK_S = 1.0


class Guarded:
    """A server that was started under a guard.

    ``argv`` is the server's command line, ``stop`` the signal for a clean shutdown, and ``grace_s`` the seconds after
    which SIGKILL follows. Its output goes to ``log``. If the parent is root, it runs as ``user`` and ``group``.
    ``pass_fds`` stay open in the server (for example a lock). ``remove``: directories that ``stop`` deletes, or the
    guard if the parent ends without calling it.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        stop: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
        user: int | None = None,
        group: int | None = None,
        pass_fds: Sequence[int] = (),
        remove: Iterable[Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._grace_s = grace_s
        self._remove = tuple(remove)
        orders = {
            "argv": [str(part) for part in argv],
            "stop": int(stop),
            "grace_s": grace_s,
            "user": user,
            "group": group,
            "pass_fds": list(pass_fds),
            "remove": [str(path) for path in self._remove],
            "parent": os.getpid(),
        }
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, json.dumps(orders)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=pass_fds,
                env=None if env is None else dict(env),
            )

    @property
    def pid(self) -> int:
        """The guard's process id (the server is its only child)."""
        return self._guard.pid

    def ended(self) -> bool:
        """Whether server and guard have ended."""
        ended = self._guard.poll() is not None
        if ended and self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.close()
        return ended

    def hurry(self) -> None:
        """Send the stop signal again, for servers that then stop faster; `stop` must still be called."""
        self._guard.send_signal(ASK_AGAIN)

    def stop(self) -> None:
        """Shut the server down and wait until it has ended; a second call does nothing."""
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        if not self.ended():
            self._guard.terminate()
        try:
            self._guard.wait(self._grace_s + 5.0)  # the guard's own SIGKILL comes first
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        for path in self._remove:
            shutil.rmtree(path, ignore_errors=True)


def _signal_on_parents_death(signum: int) -> Callable[[], None]:
    """A ``preexec_fn`` for a child that the kernel signals when its parent ends."""
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded before the fork: a child must not take the loader's lock
    return lambda: prctl(PR_SET_PDEATHSIG, signum)


class _Stop:
    """Sends the stop signal once, even if both the pipe closes and a SIGTERM arrives."""

    def __init__(self, child: subprocess.Popen[bytes], signum: int) -> None:
        self._child, self._signum, self._asked = child, signum, threading.Lock()

    def once(self) -> None:
        if self._asked.acquire(blocking=False):  # two threads may call it; never released
            self.again()

    def again(self) -> None:
        self._child.send_signal(self._signum)


def _stop_when_abandoned(
    child: subprocess.Popen[bytes], stop: _Stop, orders: Mapping[str, Any], abandoned: threading.Event
) -> None:
    """Wait until the parent closes the pipe or has ended, then stop the child, with SIGKILL after ``grace_s``."""
    while os.getppid() == orders["parent"]:
        readable, _, _ = select.select([0], [], [], PARENT_CHECK_S)
        if readable and not os.read(0, 1):
            break
    abandoned.set()
    stop.once()
    try:
        child.wait(orders["grace_s"])
    except subprocess.TimeoutExpired:
        child.kill()


def main(orders: Mapping[str, Any]) -> int:
    """Run the server until it ends or is stopped; return its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    as_other = {} if orders["user"] is None else {"user": orders["user"], "group": orders["group"], "extra_groups": []}
    child = subprocess.Popen(
        orders["argv"],
        stdin=subprocess.DEVNULL,
        pass_fds=orders["pass_fds"],
        preexec_fn=_signal_on_parents_death(orders["stop"]),
        **as_other,
    )
    stop = _Stop(child, orders["stop"])
    signal.signal(signal.SIGTERM, lambda *_: stop.once())
    signal.signal(ASK_AGAIN, lambda *_: stop.again())
    abandoned = threading.Event()
    threading.Thread(target=_stop_when_abandoned, args=(child, stop, orders, abandoned), daemon=True).start()
    status = child.wait()
    for path in orders["remove"] if abandoned.is_set() else ():  # otherwise the log may still be needed
        shutil.rmtree(path, ignore_errors=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
