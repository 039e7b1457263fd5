"""Being asked to stop: by Ctrl-C, by a supervisor, or by a terminal that closes.

The handlers only take a note. An exception in the middle of anything would leave half-started processes behind; whoever
waits looks at the note a few times a second.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A Ctrl-C is answered within this time, which feels like at once, for a handful of wake-ups a second.
LOOK_S = 0.1


class Stopping(Exception):
    """Raised by `Stop.check` when somebody has asked."""


class Stop:
    """Whether somebody has asked; ``signum`` says how, the first time, and ``times`` how often."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.times = 0

    def check(self) -> None:
        """Raise `Stopping` if somebody has asked."""
        if self.signum is not None:
            raise Stopping

    def wait(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Wait that long, or until the condition holds; raises `Stopping` as soon as somebody asks."""
        # Not a threading.Event: setting one from a signal handler can meet its own lock, held by the waiter beneath.
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            left = deadline - time.monotonic()
            if left <= 0 or until():
                return
            time.sleep(min(LOOK_S, left))

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that ends on this signal."""
        return 128 + (self.signum or 0)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside the block, SIGINT, SIGTERM and SIGHUP are noted; afterwards they mean what they did before."""
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
