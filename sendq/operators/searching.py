"""The queries behind a page that people read: the ledger in numbers, a search by any name, batches, a grant's pace."""

from __future__ import annotations

from datetime import datetime

from sendq.filter_checks import limit_of, name_of, period_of, scope_of
from sendq.ids import lane_id
from sendq.ledger.reading import batches, overview, search
from sendq.operators.base import LedgerAccess
from sendq.scope import DEFAULT_APPLICATION
from sendq.views import BatchLine, Found, Overview, PaceView, Page


class Searching(LedgerAccess):
    """Further queries of the ledger; what is said of filters, pages and errors in `Reading` applies."""

    def overview(self) -> Overview:
        """What waits and what moves, in bounded numbers: for pages and graphs that are read every few seconds.

        `status` counts more, and reads every job that has ended for it.
        """
        return self._read(lambda connection: overview.overview(connection, now=self._now()))

    def search(self, text: str) -> Found:
        """The jobs, batches and grants with this id, key, message id or grant id, in any application."""
        wanted = name_of("text", text.strip() or None)
        if wanted is None:
            return Found()
        return self._read(lambda connection: search.search(connection, wanted))

    def batches(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        finished: bool | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[BatchLine]:
        """Batches, the most recently enqueued first. ``since`` and ``until``: when they were enqueued."""
        which = batches.BatchQuery(
            scope=scope_of(application, provider, grant_id), finished=finished, period=period_of(since, until)
        )
        size = limit_of(limit)
        return self._read(lambda connection: batches.batches(connection, which, after=cursor, limit=size))

    def pace(self, grant_id: str, *, application: str = DEFAULT_APPLICATION) -> PaceView | None:
        """How fast a grant's calls may go; None: the dispatcher has not seen a job of it yet."""
        scope_of(application, None, grant_id)
        lane = lane_id(application, grant_id)
        return self._read(lambda connection: overview.pace(connection, lane, now=self._now()))
