"""Readings of mailboxes on the wire: a few at a time and one for each lane, with a pause after each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar
from uuid import UUID

from tasks.calling.nylas import NylasClient
from worker.serving.engine import Engine

# Simultaneous readings of one loop: each is a few calls, and regular jobs have priority.
READINGS_MOST = 20

# Between two readings of one mailbox: each costs about as much as a send, and Nylas recommends two seconds between
# sends.
LANE_PAUSE_S = 2.0

# Limit for a reading, which is several calls; it is not urgent.
LIMIT_S = 120.0

# Why a mailbox is not read: this process has no such application; another leader may have it.
NOT_CONFIGURED = "application_not_configured"

Subject = TypeVar("Subject")
Found = TypeVar("Found")


class MailboxReadings(Generic[Subject, Found]):
    """The readings that one loop has begun. ``late`` is the result of one that took longer than `LIMIT_S`."""

    def __init__(self, engine: Engine, *, late: Found, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._late, self._monotonic = engine, late, monotonic
        self._begun: dict[UUID, tuple[Subject, Future[Found]]] = {}  # by lane
        self._free_at: dict[UUID, float] = {}  # lanes with a recent reading; monotonic

    @property
    def room(self) -> int:
        """How many more may be begun now."""
        return READINGS_MOST - len(self._begun)

    def busy(self) -> set[UUID]:
        """The lanes whose mailboxes may not be read now."""
        at = self._monotonic()
        self._free_at = {lane: free_at for lane, free_at in self._free_at.items() if free_at > at}
        return self._begun.keys() | self._free_at.keys()

    def begin(self, lane_id: UUID, subject: Subject, read: Callable[[NylasClient], Coroutine[Any, Any, Found]]) -> None:
        """Begin to read the mailbox of a lane that is not busy."""

        async def limited(client: NylasClient) -> Found:
            try:
                return await asyncio.wait_for(read(client), LIMIT_S)
            except TimeoutError:
                return self._late

        self._begun[lane_id] = subject, self._engine.begin(limited)

    def ended(self) -> Iterator[tuple[Subject, Found]]:
        """Those that have ended, each once. One that was cancelled is left out: the process is ending, and the next
        leader begins its own.
        """
        for lane_id, (subject, future) in list(self._begun.items()):
            if future.done():
                del self._begun[lane_id]
                self._free_at[lane_id] = self._monotonic() + LANE_PAUSE_S
                if not future.cancelled():
                    yield subject, future.result()

    def forget(self) -> None:
        """Forget those on the wire: the leader begins its own."""
        self._begun.clear()
