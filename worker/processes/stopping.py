"""Handling requests to stop: Ctrl-C, a supervisor's signal, or a closed terminal.

The signal handlers only set a flag, which waiting code checks a few times a second: an exception at an arbitrary point
would leave half-started processes behind.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Reaction time to a Ctrl-C: it feels immediate, and costs only a few wake-ups per second.
LOOK_S = 0.1


class Stopping(Exception):
    """Raised by `Stop.check` after a request to stop."""


class Stop:
    """Whether a stop was requested; ``signum`` is the first signal, ``times`` how many there were."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.times = 0

    def check(self) -> None:
        """Raise `Stopping` if a stop was requested."""
        if self.signum is not None:
            raise Stopping

    def wait(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Wait that long, or until the condition holds; raises `Stopping` as soon as a stop is requested."""
        # Not a threading.Event: setting one in a signal handler can deadlock on its lock, which the waiter holds.
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            left = deadline - time.monotonic()
            if left <= 0 or until():
                return
            time.sleep(min(LOOK_S, left))

    @property
    def exit_status(self) -> int:
        """The exit status of a process that ended because of this signal."""
        return 128 + (self.signum or 0)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside the block, SIGINT, SIGTERM and SIGHUP only set the flag; afterwards the old handlers are restored."""
    stop = Stop()

    def note(signum: int, _frame: object) -> None:
        stop.signum = stop.signum or signum
        stop.times += 1

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
