"""The event loop of a worker: what is still running when it stops."""

from __future__ import annotations

import asyncio
import threading

from tests.support.waiting import LIMIT_S
from worker.serving.event_loop import EventLoop


class TestStopping:
    def test_waits_for_what_a_task_runs_in_a_thread(self) -> None:
        """A beat, for example: it has a connection, and may be registering the worker again."""
        began, goes_on = threading.Event(), threading.Event()
        ended: list[bool] = []

        def write() -> None:
            began.set()
            ended.append(goes_on.wait(LIMIT_S))

        async def beat() -> None:
            await asyncio.to_thread(write)

        async def nothing() -> None: ...

        loop = EventLoop("test", at_end=nothing)
        loop.start(beat())
        assert began.wait(LIMIT_S)
        threading.Timer(0.1, goes_on.set).start()
        loop.stop(LIMIT_S)
        assert ended == [True]
