"""Tracks the calls of this process that are on the wire: a slow call gives its slot to others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.serving.slots import Slots, Usual

# How often a call that has lasted longer than usual is checked: when slots are scarce, it gives up its slot.
LOOK_S = 0.25


class Wire:
    """Belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slots: Slots, *, slow_after_s: float) -> None:
        self.loop, self.slots, self.slow_after_s = loop, slots, slow_after_s
        self.usual = Usual()
        self.calls = 0

    def call(self, provider: str, slow: Callable[[], None]) -> Call:
        """Count a call and have it give up its slot once it is slow (if slots are scarce: once it is unusually long).

        ``slow`` is called when it gives up its slot.
        """
        return Call(self, provider, slow)


class Call:
    """One call, as a context manager. It avoids closures and reference cycles: at a thousand calls per second, these
    would keep the turns and the bodies of their jobs in memory until the garbage collector runs.
    """

    __slots__ = ("_began", "_is_slow", "_provider", "_slow", "_timer", "_wire")

    def __init__(self, wire: Wire, provider: str, slow: Callable[[], None]) -> None:
        self._wire, self._provider, self._slow = wire, provider, slow
        self._is_slow = False
        self._began = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        wire = self._wire
        wire.calls += 1
        self._began = wire.loop.time()
        self._look_in(wire.usual.patience(self._provider, most_s=wire.slow_after_s))

    def __exit__(self, *_: object) -> None:
        wire = self._wire
        wire.calls -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_slow:
            wire.slots.slow_call_ended(self._provider)
        else:
            wire.usual.ended(self._provider, wire.loop.time() - self._began)

    def _look_in(self, seconds: float) -> None:
        self._timer = self._wire.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        wire = self._wire
        left = self._began + wire.slow_after_s - wire.loop.time()
        if (left <= 0 or wire.slots.scarce) and wire.slots.slow_down(self._provider):
            self._timer = None
            self._is_slow = True
            self._slow()
        else:
            self._look_in(min(LOOK_S, left) if left > 0 else LOOK_S)
