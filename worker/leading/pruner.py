"""The pruner: deletes rows whose retention (see the settings) is over.

It works in steps, and pauses after each step for as long as the step took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from sqlalchemy import Connection, Engine

from sendq import clock
from sendq.ledger import retention
from sendq.ledger.contents import drop_unused_contents
from sendq.ledger.db.engine import writing
from sendq.rules.states import State
from settings import Settings
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.telemetry import journal

# Retention is in days. A round with nothing to delete takes some 70 ms of CPU (the profiles of `./dev bench latency`).
ROUND_S = 60.0

# A file may be 25 MB large.
FILES_STEP = 20

DAY: clock.Micros = 86_400 * clock.SECOND

Step = Callable[[Connection], int]


class Pruner(LeaderLoop):
    """See the module."""

    def __init__(self, ledger: Engine, leadership: Leads, settings: Settings, *, now: clock.Clock) -> None:
        super().__init__("pruner", leadership, every_s=ROUND_S)
        self._ledger, self._settings, self._now = ledger, settings, now

    def lead_once(self) -> None:
        """Delete everything whose retention is over; ends early if this process stops, or no longer leads."""
        for what, step in self._steps(self._now()):
            gone = 0
            while self.may_act and not self._stopping.is_set():
                began = time.monotonic()
                with writing(self._ledger) as connection:
                    rows = step(connection)
                if not rows:
                    break
                gone += rows
                self._stopping.wait(time.monotonic() - began)
            if gone:
                journal.pruned(what, rows=gone)

    def _steps(self, now: clock.Micros) -> Iterator[tuple[str, Step]]:
        s = self._settings

        def before(days: float) -> clock.Micros:
            return now - round(days * DAY)

        for state in retention.BODILESS:
            drop = partial(retention.drop_bodies, state=state, before=before(s.keep_bodies_days), now=now)
            yield f"bodies of {state.value} jobs", drop
        for state, days in (
            (State.SENT, s.keep_sent_days),
            (State.CANCELLED, s.keep_cancelled_days),
            (State.EXPIRED, s.keep_expired_days),
            (State.DEAD, s.keep_dead_days),
        ):
            yield f"{state.value} jobs", partial(retention.drop_jobs, state=state, before=before(days), now=now)
        empty = partial(retention.drop_empty_batches, before=before(s.keep_sent_days), now=now)
        yield "batches without jobs", empty
        yield "files that no job sends any more", partial(drop_unused_contents, limit=FILES_STEP)
        yield "keys", partial(retention.drop_keys, before=before(s.keep_keys_days))
        yield "events", partial(retention.drop_events, before=before(s.keep_events_days))
        yield "told outcomes", partial(retention.drop_deliveries, before=before(s.keep_deliveries_days))
        yield "notifications", partial(retention.drop_webhooks, before=before(s.keep_webhooks_days))
