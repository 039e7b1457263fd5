"""Readings of mailboxes on the wire: a few at a time and one for each lane, with a pause after each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar
from uuid import UUID

from sendq.errors import LedgerUnavailable, Retryable, SchemaMismatch
from tasks.calling.nylas import NylasClient
from worker.serving.engine import Engine
from worker.telemetry import journal

# Simultaneous readings of one loop: each is a few calls, and regular jobs have priority.
READINGS_MOST = 20

# A reading takes longer than this only if the mailbox is slow or hangs. It counts as slow from then on, so that it does
# not keep others from being read; so many may be slow at once, in 20 + 80 connections.
SLOW_AFTER_S = 5.0
SLOW_MOST = 80

# Between two readings of one mailbox: each costs about as much as a send, and Nylas recommends two seconds between
# sends.
LANE_PAUSE_S = 2.0

# Limit for a reading, which is several calls; it is not urgent.
LIMIT_S = 120.0

# Why a mailbox is not read: this process has no such application; another leader may have it.
NOT_CONFIGURED = "application_not_configured"

# Not the fault of what is looked at: the next round tries again.
OF_THE_LEDGER = (Retryable, LedgerUnavailable, SchemaMismatch)

Subject = TypeVar("Subject")
Found = TypeVar("Found")


class MailboxReadings(Generic[Subject, Found]):
    """The readings that one loop has begun. ``late`` is the result of one that took longer than `LIMIT_S`,
    or failed unexpectedly.
    """

    def __init__(self, engine: Engine, *, late: Found, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._late, self._monotonic = engine, late, monotonic
        self._begun: dict[UUID, tuple[Subject, Future[Found], float]] = {}  # by lane; when it began, monotonic
        self._free_at: dict[UUID, float] = {}  # lanes with a recent reading; monotonic

    @property
    def room(self) -> int:
        """How many more may be begun now."""
        slow_before = self._monotonic() - SLOW_AFTER_S
        quick = sum(began_at > slow_before for _, _, began_at in self._begun.values())
        return min(READINGS_MOST - quick, READINGS_MOST + SLOW_MOST - len(self._begun))

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

        self._begun[lane_id] = subject, self._engine.begin(limited), self._monotonic()

    def conclude(self, act: Callable[[Subject, Found], None], *, loop: str) -> None:
        """Act on those that have ended, each once; an unexpected error is logged for that ``loop``, and stops no other.
        One that was cancelled is left out: the process is ending, and the next leader begins its own.

        Raises:
            SendqError: the ledger cannot be used now. The others are acted on in the next call.
        """
        for lane_id, (subject, future, _) in list(self._begun.items()):
            if not future.done():
                continue
            del self._begun[lane_id]
            self._free_at[lane_id] = self._monotonic() + LANE_PAUSE_S
            if future.cancelled():
                continue
            try:
                act(subject, self._found(future, loop, lane_id))
            except OF_THE_LEDGER:
                raise
            except Exception:
                journal.bug(loop, lane=str(lane_id))

    def _found(self, future: Future[Found], loop: str, lane_id: UUID) -> Found:
        try:
            return future.result()
        except Exception:
            journal.bug(loop, lane=str(lane_id))
            return self._late

    def forget(self) -> None:
        """Forget those on the wire: the leader begins its own."""
        self._begun.clear()
