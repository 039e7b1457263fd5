"""The leader's work on batches: makes jobs of the messages found, ends cancelled jobs, and finishes batches; and on
holds of tags that are over.

The next leader continues where this one stopped: each step is one transaction over at most a thousand rows, and all
progress is in the ledger.
"""

from __future__ import annotations

import time
from uuid import UUID

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger import batches, outcomes, walks
from sendq.ledger.db.bulk import CHUNK
from sendq.ledger.db.engine import reading, writing
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.leading.tag_holds import TagHolds
from worker.leading.work_poll import WorkPoll
from worker.telemetry import journal

# How late the end of a batch may be noticed: short for people who watch it, long enough not to load an idle ledger.
ROUND_S = 1.0

# Cancelled batches, and batches whose listing is complete, per round; the rest follow in later rounds.
BATCHES_MOST = 100

# Job changes added up per round: several seconds of work of the fastest worker.
CHANGES_MOST = 10_000

# Limit for each kind of work in one round: all of them together leave a second or two until the end of the next batch
# is noticed, and a large cancelled batch does not delay the jobs of walks and of released tags.
SHARE_S = 0.7

_FIRST = UUID(int=0)


class Batches(LeaderLoop):
    """See the module."""

    def __init__(self, ledger: Engine, leadership: Leads, poll: WorkPoll, *, now: clock.Clock) -> None:
        super().__init__("batches", leadership, every_s=ROUND_S)
        self._ledger, self._poll, self._now = ledger, poll, now
        self._ended_up_to: dict[UUID, UUID] = {}  # of cancelled batches: the last job that was processed
        self._tag_holds = TagHolds(ledger, now=now)

    def stand_by(self) -> None:
        """Forget this process's progress: another process continues meanwhile."""
        self._ended_up_to.clear()

    def lead_once(self) -> None:
        """Add up changes and finish batches; then end, make and bring back as many jobs as fit into a round."""
        if not self._poll.since(self.due_at).batches:
            return
        with writing(self._ledger) as connection:
            now = self._now()
            finished = batches.finish_batches(connection, now=now, limit=CHANGES_MOST)
            outcomes.append_batches(connection, finished, now=now)
        for batch_id in finished:
            journal.batch_finished(batch_id)
        with reading(self._ledger) as connection:
            being_cancelled = batches.being_cancelled(connection, limit=BATCHES_MOST)
            walked = walks.walked(connection, limit=BATCHES_MOST)
        until = time.monotonic() + SHARE_S
        for batch_id in being_cancelled:
            self._end_jobs(batch_id, until)
        until = time.monotonic() + SHARE_S
        for batch_id in walked:
            self._make_jobs(batch_id, until)
        self._tag_holds.bring_back(time.monotonic() + SHARE_S)

    def _end_jobs(self, batch_id: UUID, until: float) -> None:
        while time.monotonic() < until:
            with writing(self._ledger) as connection:
                after = self._ended_up_to.get(batch_id, _FIRST)
                onwards = batches.end_some(connection, batch_id, after=after, now=self._now())
            if onwards is None:
                self._ended_up_to.pop(batch_id, None)
                return
            self._ended_up_to[batch_id] = onwards

    def _make_jobs(self, batch_id: UUID, until: float) -> None:
        while time.monotonic() < until:
            with writing(self._ledger) as connection:
                made = walks.make_jobs(connection, batch_id, now=self._now())
            if made:
                journal.batch_expanded(batch_id, made)
            if made < CHUNK:
                return
