"""Calls that are made in separate processes: limits how many run at once, and logs those that cannot start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sendq.facts.jobs import ClaimedJob
from settings import Settings
from tasks.calling.isolated import Alone, NoProcess
from worker.telemetry import journal

# Processes at once: each takes 40 MB, and half a second of CPU to start. A worker that dies twice with all slots in use
# leaves hundreds of such jobs, of which only one is to blame.
ALONE_MOST = 4


class Isolation:
    """Belongs to the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = asyncio.Semaphore(ALONE_MOST)

    @asynccontextmanager
    async def alone(self, provider: str, job: ClaimedJob) -> AsyncIterator[Alone]:
        """A client whose single call is made by a separate process. Raises `NoProcess` if none can be started."""
        s = self._settings
        async with self._places:
            try:
                async with Alone(
                    job, provider=provider, connect_s=s.connect_timeout_s, read_s=s.read_timeout_s
                ) as child:
                    yield child
            except NoProcess as error:
                journal.process_not_started(error)
                raise
