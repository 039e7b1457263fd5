"""Which process leads: the holder of a lease in the ledger, as long as the ledger has lost nothing.

The dispatcher's thread takes and renews the lease (`worker.leading.dispatcher`), and stops dispatching when it is lost.
All loops that act only in the leading process check here (`worker.leading.leader_loop`).

Each renewal is compared with the counts that witnesses outside the ledger know (`sendq.ledger.dispatching.lineage`).
While the ledger has lost something, or may have, nothing is dispatched. A loss that is younger than the API's memory of
keys is repaired here: what may have gone out is sent again under its own key. An older one waits for an operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol
from uuid import UUID

from sqlalchemy import Engine

from sendq import clock
from sendq.clock import Micros, moment
from sendq.errors import SendqError
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import lineage, workers
from sendq.ledger.dispatching.lineage import Incomplete, Standing
from sendq.ledger.operators import recover
from sendq.rules.preflight import KEY_MAX_AGE
from worker.telemetry import journal
from worker.telemetry.alerts import alert

# No wait before the next attempt.
AT_ONCE = float("-inf")

# Between two looks while a repair waits for the other workers' beats.
REPAIR_PAUSE_S = 0.5

# Who repaired a ledger, in its events.
BY_LEADER = "sendq"


class Witness(Protocol):
    """Remembers how often the lease was renewed (`worker.leading.renewal_witness`, `worker.leading.renewal_file`)."""

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
        witnesses: Sequence[Witness] = (),
        key_max_age: Callable[[], Micros] = lambda: KEY_MAX_AGE,
        hear_s: float = 0.0,
    ) -> None:
        """``holder``: this worker's id. ``poll_s``: seconds between two attempts of a process that does not lead.

        ``witnesses``: none if there is nothing to compare the ledger with; it is trusted then, unless it is shut.
        ``key_max_age``: the age up to which a repeat under the same key is known to be safe. ``hear_s``: within this
        time after a stop every live worker has beaten.
        """
        self._ledger, self._holder, self._now, self._monotonic = ledger, holder, now, monotonic
        self._lease_s, self._poll_s = lease_s, poll_s
        self._witnesses, self._key_max_age, self._hear_s = witnesses, key_max_age, hear_s
        self._is_whole = not witnesses
        self._seen: tuple[UUID | None, int] = (None, 0)  # the line and count that this process found complete
        self._repaired: UUID | None = None  # of a repair: jobs up to here are done
        self._has_stopped, self._is_repairing, self._repeated = False, False, 0
        self._repair_pause_s = 0.0
        self._stopped_at: Micros | None = None  # the last stop that this process has seen
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
                fence = workers.lead(
                    connection,
                    self._holder(),
                    now=now,
                    lease=clock.seconds(self._lease_s),
                    over=over,
                    complete=self._fence is not None and self._is_whole,
                )
                found = lineage.read(connection)
            if fence is not None:
                self._check_whole(found, new=fence != self._fence)
        if fence is not None and fence != self._fence:
            self._terms += 1
            journal.became_leader(self._holder(), fence)
        self._fence = fence
        self._is_repairing = self._is_repairing and fence is not None
        pause_s = self._poll_s if fence is None else self._lease_s / 3
        self._ask_at = asked_at + (min(pause_s, self._repair_pause_s) if self._is_repairing else pause_s)

    def lose(self) -> None:
        """Note that another process has taken the lease."""
        self._fence = None

    def ledger_unavailable(self) -> None:
        """Stop leading, and ask again as soon as the ledger answers."""
        self._fence, self._ask_at = None, AT_ONCE

    def step_down(self, away_s: float) -> None:
        """Let another process lead at once, and do not lead again for so many seconds."""
        self.resign()
        self._fence, self._ask_at = None, self._monotonic() + away_s

    def resign(self) -> None:
        """Let another process lead at once."""
        if self._fence is not None:
            with suppress(SendqError), writing(self._ledger) as connection:  # on failure, the lease expires
                workers.resign(connection, self._holder())

    def _check_whole(self, found: Standing, *, new: bool) -> None:
        """Compare the ledger with the witnesses after a renewal; a ``new`` leader does not trust it before."""
        if not self._witnesses:
            self._is_whole = found.shut_at is None
            return
        if new:
            self._is_whole, self._repaired = False, None
        if found.shut_at is not None:
            self._is_whole, self._has_stopped = False, True
            self._repair(found, is_new=found.shut_at != self._stopped_at)
            self._stopped_at = found.shut_at
            return
        assert found.line is not None  # taking the lease has set it
        counts = [witness.renewals_of(found.line) for witness in self._witnesses]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts) and new:
            return  # no answer: neither would the broker answer, so waiting costs nothing
        because = found.judged(max(self._count_seen(found.line), *known, 0))
        if because is not None:
            self._shut(because, found)
            return
        if not self._is_whole or found.proven_on != found.server:
            with writing(self._ledger) as connection:
                lineage.prove(connection, found.server, now=self._now())
        self._seen = (found.line, found.renewals)
        for witness in self._witnesses:
            witness.remember(found.line, found.renewals)
        if self._has_stopped:
            journal.dispatch_resumed(self._repeated)
            self._has_stopped, self._repeated = False, 0
        self._is_whole, self._is_repairing = True, False

    def _count_seen(self, line: UUID) -> int:
        seen_line, count = self._seen
        return count if seen_line == line else 0

    def _shut(self, because: Incomplete, found: Standing) -> None:
        with writing(self._ledger) as connection:
            # Not if another process has renewed the lease while this one was frozen: then it has just told the witness.
            lineage.shut(
                connection, because=because, lost_since=found.complete_at, now=self._now(), renewals=found.renewals
            )
        self._is_whole, self._is_repairing = False, True

    def _repair(self, found: Standing, *, is_new: bool) -> None:
        """Let a chunk of what may have gone out go again under its own key; alert if that is not safe any more.

        Not before all live workers have reported which keys they moved on (`sendq.ledger.operators.recover`).
        """
        assert found.lost_since is not None
        if is_new:
            journal.dispatch_stopped(str(found.shut_because), found.lost_since)
        key_max_age = self._key_max_age()
        if self._now() - found.lost_since >= key_max_age:
            if is_new or self._is_repairing:
                alert("shut", f"ledger_{found.shut_because}", level="fatal")
            self._is_repairing = False
            return
        assert found.shut_at is not None
        if 0 <= self._now() - found.shut_at < clock.seconds(self._hear_s):
            self._is_repairing, self._repair_pause_s = True, REPAIR_PAUSE_S
            return
        self._repair_pause_s = 0.0
        with writing(self._ledger) as connection:
            repeated, self._repaired = recover.repeat_by_key(
                connection, since=found.lost_since, now=self._now(), after=self._repaired, key_max_age=key_max_age
            )
            if self._repaired is None:
                reason = f"{found.shut_because} since {moment(found.lost_since).isoformat(timespec='seconds')}"
                recover.open_again(connection, by=BY_LEADER, reason=reason, now=self._now())
        self._is_repairing, self._repeated = True, self._repeated + repeated

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
