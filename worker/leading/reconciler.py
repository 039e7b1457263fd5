"""The reconciler: finds out whether sends with an unknown outcome went out.

`sendq.rules.reconcile` decides what a look (a search in the mailbox) shows and when it counts. This module begins the
looks, a few at a time and one per grant, and records their results as they arrive: a grant that answers slowly does not
delay the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Engine as Ledger

from sendq import clock
from sendq.clock import Micros
from sendq.facts.outcomes import Outcome
from sendq.ledger import doubt
from sendq.ledger.asked_mail import AGENT_ACCOUNTS
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.doubt import Ending, Wanted, trail
from sendq.rules.reconcile import (
    Choice,
    Delays,
    Look,
    Seen,
    after_absence,
    by_itself,
    counts_from,
    judge,
    next_look,
    request_over,
)
from sendq.rules.states import Event
from settings import Settings
from tasks.calling import mailbox
from tasks.calling.mailbox import Brought
from tasks.policy.failure import Failure, parse
from tasks.policy.row import DAY_S
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.leading.mailbox_readings import NOT_CONFIGURED, MailboxReadings
from worker.leading.send_events import Absent
from worker.leading.work_poll import WorkPoll
from worker.serving.engine import Engine
from worker.telemetry import journal
from worker.telemetry.alerts import Alerts

ROUND_S = 1.0

# The shortest pause for a mailbox that refused the search.
REFUSED_REST: Micros = clock.seconds(300)

TAKE_UP_MOST = 100
RIPE_MOST = 100

BY = "reconcile"

# The rules recorded for jobs that end by a look or without one.
FOUND, ABSENT = "found", "not_in_mailbox"
_RULE_OF = {Event.RETURN: ABSENT, Event.GIVE_UP: ABSENT, Event.EXPIRE: "expired", Event.CANCEL: "cancelled"}
_BY_ITSELF = {Event.RETURN: "in_doubt_resent", Event.GIVE_UP: "in_doubt_given_up"}


class _Begun(NamedTuple):
    """A look, and when it was begun."""

    wanted: Wanted
    at: Micros


class Reconciler(LeaderLoop):
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        leadership: Leads,
        poll: WorkPoll,
        engine: Engine,
        settings: Settings,
        alerts: Alerts,
        *,
        on_resolved: Callable[[Outcome], None],
        absent: Absent,
        now: clock.Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_resolved`` is called with the outcome of each doubt that ends. ``absent``: who has no send events."""
        super().__init__("reconciler", leadership, every_s=ROUND_S, whole_ledger=True)
        self._ledger, self._poll, self._engine = ledger, poll, engine
        self._settings, self._alerts = settings, alerts
        self._on_resolved, self._absent, self._now = on_resolved, absent, now
        self._delays = Delays(settle=clock.seconds(settings.index_lag_s), look_for=clock.seconds(settings.look_for_s))
        self._choice = Choice(settings.in_doubt)
        self._readings: MailboxReadings[_Begun, Brought] = MailboxReadings(
            engine, late=Brought(Look(answered=False), None), monotonic=monotonic
        )

    def stand_by(self) -> None:
        """Forget the looks on the wire: the leader begins its own."""
        self._readings.forget()

    def lead_once(self) -> None:
        """One round: record results, take up new doubts, end those that looks could not resolve, begin looks."""
        self._readings.conclude(self._note, loop="reconciler")
        if not self._poll.since(self.due_at).doubts:
            return
        self._take_up()
        self._end_by_itself()
        self._begin_looks()

    def _take_up(self) -> None:
        with writing(self._ledger) as connection:
            jobs = doubt.take_up(connection, self._delays, now=self._now(), limit=TAKE_UP_MOST)
        for job in jobs:
            journal.in_doubt(job.id, job.grant_id, job.rule)
            self._alerts.in_doubt(job.id, job.rule)

    # --- looks --------------------------------------------------------------------------------------------------------

    def _begin_looks(self) -> None:
        room, now = self._readings.room, self._now()
        if room <= 0:
            return
        with writing(self._ledger) as connection:
            wanted = doubt.due(connection, now=now, limit=room, busy=self._readings.busy())
        for one in wanted:
            try:
                application = self._engine.application(one.job.application)
            except KeyError:  # it is looked for again after `doubt.BEGUN_FOR`
                journal.mailbox_searched(one.id, one.job.grant_id, one.job.rule, NOT_CONFIGURED)
                continue
            look = partial(mailbox.look, application=application, wanted=self._wanted(one, now))
            self._readings.begin(one.job.lane_id, _Begun(one, now), look)

    def _wanted(self, one: Wanted, now: Micros) -> mailbox.Wanted:
        job = one.job
        return mailbox.Wanted(
            grant_id=job.grant_id,
            provider=job.provider,
            mark=str(one.id),
            metadata_key=self._settings.metadata_key,
            first_at=one.first_at,
            over_at=request_over(job),
            now=now,
            quiet=job.refused_at is not None,
            events=job.provider == AGENT_ACCOUNTS and job.application not in self._absent,
        )

    def _note(self, begun: _Begun, brought: Brought) -> None:
        """Record the result of a look, and act on it."""
        wanted, look = begun.wanted, brought.look
        job = wanted.job
        if brought.no_events:
            self._absent.note(job.application)
        # The earlier of two clocks: if ours were ahead, "not found" would count too early.
        asked_at = min(begun.at, brought.api_time or begun.at)
        with reading(self._ledger) as connection:
            later = doubt.was_later(connection, wanted, look)
        seen = judge(look, job, self._delays, asked_at=asked_at, later=later)
        journal.mailbox_searched(wanted.id, job.grant_id, job.rule, seen.value)
        event = self._event_of(job, seen)
        if event is not None:
            self._end_by_look(begun, look, seen, event)
            return
        now = self._now()
        with writing(self._ledger) as connection:
            doubt.note(
                connection,
                wanted,
                seen,
                counts=asked_at >= counts_from(job, self._delays),
                next_at=next_look(job, seen, self._delays, now=now),
            )
            if seen is Seen.REFUSED:
                doubt.rest(connection, job.lane_id, until=now + self._rest_after(brought, job.provider, now))

    def _event_of(self, job: Any, seen: Seen) -> Event | None:
        if seen is Seen.FOUND:
            return Event.ACCEPT
        return after_absence(job, self._choice_of(job), now=self._now()) if seen is Seen.ABSENT else None

    def _choice_of(self, job: Any) -> Choice:
        return Choice(job.in_doubt) if job.in_doubt is not None else self._choice

    def _rest_after(self, brought: Brought, provider: str, now: Micros) -> Micros:
        """The pause for a mailbox that refused: as long as its answer states, but at least `REFUSED_REST`."""
        if brought.refusal is None:
            return REFUSED_REST
        said = parse(brought.refusal, provider=provider, operation="modify", now=now)
        stated = said.stated if isinstance(said, Failure) else None
        return max(REFUSED_REST, min(stated or 0, clock.seconds(DAY_S)))

    # --- endings ------------------------------------------------------------------------------------------------------

    def _end_by_look(self, begun: _Begun, look: Look, seen: Seen, event: Event) -> None:
        job, now = begun.wanted.job, self._now()
        rule = FOUND if seen is Seen.FOUND else _RULE_OF[event]
        sent = "yes" if seen is Seen.FOUND else "no"
        attempt = trail(job, rule, sent=sent, begun_at=begun.at, now=now, status=200)
        self._end(job, Ending(event, rule, message_id=look.found, attempt=attempt), sent=sent, now=now)

    def _end_by_itself(self) -> None:
        now = self._now()
        before = now - self._delays.settle - self._delays.look_for
        with reading(self._ledger) as connection:
            jobs: Sequence[Any] = doubt.ripe(connection, self._choice, before=before, now=now, limit=RIPE_MOST)
        for job in jobs:
            choice = self._choice_of(job)
            event = by_itself(job, choice, self._delays, gone=job.gone, now=now)
            if event is None:
                continue
            words = f"{job.looks or 0} looks did not settle it, and it is set to {choice.value}"
            attempt = trail(job, _BY_ITSELF[event], sent="maybe", begun_at=now, now=now, error=words)
            self._end(job, Ending(event, _BY_ITSELF[event], attempt=attempt, reason=words), sent="maybe", now=now)

    def _end(self, job: Any, ending: Ending, *, sent: str, now: Micros) -> None:
        with writing(self._ledger) as connection:
            done = doubt.settle(connection, {job.id: ending}, by=BY, now=now, generation=job.generation)
        if not done:
            return  # meanwhile it was resolved in another way
        (row,) = done
        assert ending.attempt is not None
        outcome = Outcome(
            id=ending.attempt.id,
            lane_id=job.lane_id,
            fence=0,
            job_id=job.id,
            operation=job.operation,
            event=ending.event,
            rule=ending.rule,
            next_at=now,
            attempt=ending.attempt,
            sent=sent,
            message_id=ending.message_id,
            application=row.application,
            provider=row.provider,
            grant_id=row.grant_id,
        )
        self._on_resolved(outcome)
