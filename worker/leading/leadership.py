"""Which process leads: the holder of a lease in the ledger, as long as the ledger has lost nothing.

The dispatcher's thread takes and renews the lease (`worker.leading.dispatcher`), and stops dispatching when it is lost.
All loops that act only in the leading process check here (`worker.leading.leader_loop`).

Each renewal is compared with the count that a witness outside the ledger remembers. A ledger that counts fewer renewals
was restored from a backup: what was sent since then is unknown, so nothing is dispatched until an operator has decided.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol
from uuid import UUID

from sqlalchemy import Engine

from sendq import clock
from sendq.clock import Micros
from sendq.errors import SendqError
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import lineage, workers
from worker.telemetry import journal
from worker.telemetry.alerts import alert

# No wait before the next attempt.
AT_ONCE = float("-inf")


class Witness(Protocol):
    """Remembers how often the lease was renewed (`worker.leading.renewal_witness`)."""

    def renewals_of(self, line: UUID) -> int | None:
        """The highest known count of a lineage, 0 if there is none; None if the witness does not answer."""

    def remember(self, line: UUID, renewals: int) -> None:
        """Remember a count."""


class Leads(Protocol):
    """What loops need to know about the leadership of their process."""

    @property
    def leads(self) -> bool:
        """Whether this process holds the lease."""

    @property
    def serves(self) -> bool:
        """Whether it leads, and the ledger has lost nothing."""


class Leadership:
    """One per process. Only the dispatcher's thread calls `ask`, `lose` and `resign`; any thread may read the rest."""

    def __init__(
        self,
        ledger: Engine,
        *,
        holder: Callable[[], UUID],
        now: clock.Clock,
        monotonic: Callable[[], float] = time.monotonic,
        lease_s: float,
        poll_s: float,
        witness: Witness | None = None,
    ) -> None:
        """``holder``: this worker's id. ``poll_s``: seconds between two attempts of a process that does not lead.

        ``witness``: None if there is nothing to compare the ledger with; it is trusted then.
        """
        self._ledger, self._holder, self._now, self._monotonic = ledger, holder, now, monotonic
        self._lease_s, self._poll_s = lease_s, poll_s
        self._witness = witness
        self._is_whole = witness is None
        self._fence: int | None = None
        self._terms = 0
        self._ask_at = AT_ONCE  # monotonic
        self._watched: workers.Lease | None = None  # of another process
        self._watched_since = 0.0  # monotonic

    @property
    def leads(self) -> bool:
        """Whether this process holds the lease."""
        return self._fence is not None

    @property
    def serves(self) -> bool:
        """Whether it leads and the ledger has lost nothing: no loop may act on a ledger with gaps."""
        return self.leads and self._is_whole

    @property
    def terms(self) -> int:
        """How often this process became the leader: what it knew about lanes before the last time is out of date."""
        return self._terms

    def until_asking(self) -> Micros:
        """How long until `ask` queries the ledger again."""
        return max(0, clock.seconds(self._ask_at - self._monotonic()))

    def ask(self) -> None:
        """Take the lease if it is free, or renew it; does nothing before that is due."""
        asked_at = self._monotonic()
        if asked_at < self._ask_at:
            return
        now, fence = self._now(), None
        over = None if self._fence is not None else self._lease_that_is_over(now)
        if self._fence is not None or over is not None:
            with writing(self._ledger) as connection:
                known_until = lineage.read(connection).renewed_at
                fence = workers.lead(connection, self._holder(), now=now, lease=clock.seconds(self._lease_s), over=over)
                found = lineage.read(connection)
            if fence is not None:
                self._check_whole(found, known_until=known_until, new=fence != self._fence)
        if fence is not None and fence != self._fence:
            self._terms += 1
            journal.became_leader(self._holder(), fence)
        self._fence = fence
        self._ask_at = asked_at + (self._poll_s if fence is None else self._lease_s / 3)

    def lose(self) -> None:
        """Note that another process has taken the lease."""
        self._fence = None

    def ledger_unavailable(self) -> None:
        """Stop leading, and ask again as soon as the ledger answers."""
        self._fence, self._ask_at = None, AT_ONCE

    def resign(self) -> None:
        """Let another process lead at once."""
        if self._fence is not None:
            with suppress(SendqError), writing(self._ledger) as connection:  # on failure, the lease expires
                workers.resign(connection, self._holder())

    def _check_whole(self, found: lineage.Standing, *, known_until: Micros, new: bool) -> None:
        """Compare the ledger with the witness after a renewal; a ``new`` leader does not trust it before."""
        if self._witness is None:
            self._is_whole = found.shut_at is None
            return
        if new:
            self._is_whole = False
        assert found.line is not None  # taking the lease has set it
        if found.shut_at is not None:
            self._is_whole = False
            return
        seen = self._witness.renewals_of(found.line)
        if seen is None:
            return  # no answer: neither would the broker answer, so waiting costs nothing
        if seen >= found.renewals:  # no other process can have reported this renewal to the witness
            with writing(self._ledger) as connection:
                lineage.shut(connection, known_until=known_until, now=self._now())
            self._is_whole = False
            journal.dispatch_stopped(known_until)
            alert("shut", "ledger_has_lost", level="fatal")
            return
        self._witness.remember(found.line, found.renewals)
        if not self._is_whole and not new:
            journal.dispatch_resumed()
        self._is_whole = True

    def _lease_that_is_over(self, now: Micros) -> workers.Lease | None:
        """The lease, if it is free; read without a lock because all other processes read it often."""
        with reading(self._ledger) as connection:
            lease = workers.lease(connection)
        looked_at = self._monotonic()
        if lease != self._watched:
            self._watched, self._watched_since = lease, looked_at
        stood_still = looked_at - self._watched_since >= self._lease_s
        free = lease.holder in (None, self._holder()) or lease.expires_at <= now
        return lease if free or stood_still else None
