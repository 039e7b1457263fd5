"""Asks Nylas what became of Agent Accounts' mail, where no webhook says so.

Only applications without a webhook are asked: none has its secret in the settings, and no notification about their mail
ever came. The events are applied like notifications, each once. An application that does not have the endpoint is not
asked again for a day.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError

from sqlalchemy import Engine as Ledger

from sendq import clock
from sendq.clock import SECOND, Micros
from sendq.facts.notices import MailNotice
from sendq.ledger import mail_notices
from sendq.ledger.asked_mail import applications_to_ask
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.mail_notices import AGAIN, APPLIED
from settings import Settings
from tasks.calling.nylas import NylasClient
from tasks.calling.send_events import ReadEvents, read_events
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.serving.engine import Engine
from worker.telemetry import journal

# Of one application in one round: 4,000 events. What exceeds that is known from the next rounds, or not at all.
PAGES_MOST = 20

# A round that takes longer is given up: the pages are read one after another.
READ_LIMIT_S = 120.0

# An event may be listed later than it happened, and the times are of two clocks: each round reads again what is young.
AGAIN_FROM: Micros = 3600 * SECOND

# A new leader reads the last day.
FIRST_FROM: Micros = 24 * 3600 * SECOND

# Events in one transaction, as of notifications.
GROUP_MOST = 200

# Ids of events that need no look into the ledger again.
SEEN_MOST = 100_000

# Until an application without the endpoint is asked again.
ABSENT_FOR_S = 24 * 3600.0


class Absent:
    """Which applications do not have the endpoint, in this process's memory. Used by several loops."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def __contains__(self, application: str) -> bool:
        return self._monotonic() < self._until.get(application, float("-inf"))

    def note(self, application: str) -> None:
        """The application does not have it."""
        if application not in self:
            journal.no_send_events(application)
        self._until[application] = self._monotonic() + ABSENT_FOR_S


class SendEvents(LeaderLoop):
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        leadership: Leads,
        engine: Engine,
        settings: Settings,
        *,
        absent: Absent,
        now: clock.Clock,
    ) -> None:
        super().__init__("send events", leadership, every_s=settings.ask_delivery_s, whole_ledger=True)
        self._ledger, self._engine, self._settings, self._now = ledger, engine, settings, now
        self._absent = absent
        self._read_until: dict[str, Micros] = {}
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def stand_by(self) -> None:
        """Forget what was read: it may be long ago when this process leads again."""
        self._read_until.clear()

    def lead_once(self) -> None:
        """One round."""
        now = self._now()
        with reading(self._ledger) as connection:
            found = applications_to_ask(connection, since=now - FIRST_FROM)
        for name in found:
            application = self._settings.applications.get(name)
            if application is not None and application.webhook_secret is None and name not in self._absent:
                self._ask(name, now)

    def _ask(self, application: str, now: Micros) -> None:
        since = max(now - FIRST_FROM, self._read_until.get(application, 0) - AGAIN_FROM)

        async def question(client: NylasClient) -> ReadEvents:
            asked = self._engine.application(application)
            return await read_events(client, asked, since=since, now=now, pages=PAGES_MOST)

        try:
            read = self._engine.ask(question, limit_s=READ_LIMIT_S)
        except (TimeoutError, CancelledError):  # or the process is ending
            return
        if read.absent:
            self._absent.note(application)
            return
        self._apply(application, read)
        self._read_until[application] = now

    def _apply(self, application: str, read: ReadEvents) -> None:
        fresh = [one for one in read.notices if one.delivery is not None and (application, one.id) not in self._seen]
        applied = 0
        for start in range(0, len(fresh), GROUP_MOST):
            group = fresh[start : start + GROUP_MOST]
            results = self._take_in(application, group)
            applied += results.count(APPLIED)
            settled = [one for one, result in zip(group, results, strict=True) if result != AGAIN]
            self._seen.update(dict.fromkeys((application, one.id) for one in settled))
        while len(self._seen) > SEEN_MOST:
            self._seen.popitem(last=False)
        if applied or read.unknown:
            journal.send_events_read(application, applied=applied, unknown=read.unknown)

    def _take_in(self, application: str, group: Sequence[MailNotice]) -> list[str]:
        with writing(self._ledger) as connection:
            return mail_notices.take_in(
                connection,
                group,
                application,
                vault=self._settings.vault,
                now=self._now(),
                outcomes=self._settings.outcomes_of_mail,
            )
