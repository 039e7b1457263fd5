"""An event loop in its own thread, to which other threads hand over work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from worker.telemetry import journal

# Seconds between two ticks, which show that the loop is running.
TICK_S = 1.0

T = TypeVar("T")


class EventLoop:
    """`start`, `stop`, `call` and `run` may be called from any thread."""

    def __init__(self, name: str, *, at_end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """``at_end`` runs on the loop just before it is closed."""
        self.asyncio = _new_loop()
        self.ticks: list[Callable[[], None]] = []  # called on the loop every second; add to it before `start`
        self._at_end = at_end
        self._forever: list[Coroutine[Any, Any, None]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, *forever: Coroutine[Any, Any, None]) -> None:
        """Start the thread; ``forever`` run on the loop until it is stopped."""
        self._forever = [*forever, self._tick_for_ever()]
        self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Stop the loop and cancel what still runs on it; waits for at most ``limit_s`` seconds.

        What its tasks run in threads (`asyncio.to_thread`) is waited for too.
        """
        self.asyncio.call_soon_threadsafe(self.asyncio.stop)
        self._thread.join(limit_s)

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function on the loop soon. Raises `RuntimeError` if the loop is closed."""
        self.asyncio.call_soon_threadsafe(function, *arguments)

    def call_if_open(self, function: Callable[..., object], *arguments: Any) -> None:
        """Like `call`, but does nothing if the loop is closed."""
        with suppress(RuntimeError):
            self.call(function, *arguments)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.asyncio)

    def _run(self) -> None:
        loop = self.asyncio
        asyncio.set_event_loop(loop)
        self._running = [loop.create_task(one) for one in self._forever]
        loop.run_forever()
        loop.run_until_complete(self._end())
        loop.close()

    async def _end(self) -> None:
        await self._at_end()
        for task in asyncio.all_tasks(self.asyncio) - {asyncio.current_task()}:
            task.cancel()
        # A beat that a thread is still writing would register a worker that has deregistered, and keep its connection.
        await self.asyncio.shutdown_default_executor()

    async def _tick_for_ever(self) -> None:
        while True:
            for tick in self.ticks:
                try:
                    tick()
                except Exception:
                    journal.bug("tick")
            await asyncio.sleep(TICK_S)


def is_done(future: Future[None], limit_s: float) -> bool:
    """Whether a future ends within ``limit_s`` seconds (never if its loop hangs). Raises the future's exception."""
    try:
        future.result(limit_s)
    except TimeoutError:
        return False
    return True


def _new_loop() -> asyncio.AbstractEventLoop:
    """A uvloop if it is installed: it takes half the CPU of asyncio's own loop."""
    loop: asyncio.AbstractEventLoop
    try:
        import uvloop

        loop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    # The default handler would log the exception's message, and the repr of tasks with their contents.
    loop.set_exception_handler(lambda _, context: journal.unhandled_exception(context.get("exception")))
    return loop
