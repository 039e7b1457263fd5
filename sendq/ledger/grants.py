"""Grants whose owner must sign in again: closed lanes, from the first suspicion to the reopening.

    an answer says so ──▶ closed (suspected if the answer could mean something else)
        │                    │
        │                    ├─ the API is asked: valid ──▶ open again, one call first
        │                    ├─ invalid, or certain from the start ──▶ announced: one event, one alert
        │                    ├─ unknown to the API ──▶ others are asked about (`sendq.ledger.missing_grants`)
        │                    ├─ the question is refused ──▶ open again, its application held: the key is at fault
        │                    └─ many alike within minutes ──▶ one hold above (`sendq.ledger.escalation`)
        └─ webhook, check or operator ──▶ open again

Announcing waits a little, so that a problem of the application is not announced to a thousand people.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, exists, literal_column, or_, select, update

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import UNKNOWN, WHOLE_APPLICATION, Lane
from sendq.facts.outcomes import Hold, Scope
from sendq.ledger import events, outcomes
from sendq.ledger.db import schema
from sendq.ledger.dispatching.lane_paces import name_providers
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.dispatching.pairs import hold_for_answer, lock_pairs, make_pairs
from sendq.ledger.enqueue import notify
from sendq.ledger.jobs import end_waiting, lock_jobs
from sendq.rules import refused_jobs
from sendq.rules.job_change import event_of_end
from sendq.rules.lane_change import CHECK_FIRST, LaneChange, pause_after
from sendq.rules.paces import Paces
from sendq.rules.rule_ids import GRANT_DELETED, GRANT_NOT_FOUND, JOB_REFUSED, KEY_CHECK
from sendq.rules.states import State

# A suspicion is checked at once, and again soon if the API's answer was inconclusive.
SUSPECT_AGAIN: Micros = 15 * SECOND

# If the API does not answer what a grant's provider is, it is asked again after this.
ASK_AGAIN: Micros = 5 * 60 * SECOND

# The API says that the grant is valid, but the provider refuses it: after this many times the refusal is believed.
SUSPECTED_MOST = 3

# How long a refused job lets the others of its lane go first: long enough for one of them to be called, whatever the
# lane's pace. It ends earlier, because the first success shows that the refused job is at fault.
SET_ASIDE: Micros = 5 * 60 * SECOND


@dataclass(frozen=True, slots=True)
class Check:
    """A grant that the API should be asked about."""

    lane_id: UUID
    application: str
    grant_id: str
    suspected: bool
    rule: str | None = None
    closed_at: Micros | None = None

    @property
    def is_missing(self) -> bool:
        """Whether an answer said that the API does not know the grant."""
        return self.suspected and self.rule == GRANT_NOT_FOUND


def lane_of(connection: Connection, application: str, grant_id: str) -> UUID | None:
    """The lane of a grant; None: it never had a job."""
    table = schema.lane.c
    wanted = select(table.id).where(table.application == application, table.grant_id == grant_id)
    return connection.execute(wanted).scalar()


def close(connection: Connection, lane_id: UUID, *, rule: str, by: str, now: Micros) -> bool:
    """Close a lane because its grant is known to be invalid; False if it was closed already."""
    change = _locked(connection, lane_id)
    lane = change.lane
    if lane.is_closed and not lane.suspected:
        return False
    change.close(rule, at=now, check_at=now + CHECK_FIRST)
    change.restart_checks()
    write_changes(connection, [change], now=now)
    note_event(connection, "closed", lane, by=by, rule=rule, now=now)
    return True


def reopen(connection: Connection, lane_id: UUID, *, by: str, now: Micros, reason: str | None = None) -> bool:
    """Open a closed lane again, with a single call first; False if it was open."""
    change = _locked(connection, lane_id)
    lane = change.lane
    if not lane.is_closed:
        return False
    change.reopen_authorised(now=now)
    notify(connection, at=write_changes(connection, [change], now=now))
    note_event(connection, "reopened", lane, by=by, rule=lane.closed_rule, now=now, reason=reason)
    return True


def _locked(connection: Connection, lane_id: UUID) -> LaneChange:
    return lock_changes(connection, [lane_id])[lane_id]


# --- asking the API ---------------------------------------------------------------------------------------------------


def to_check(connection: Connection, *, now: Micros, limit: int) -> list[Check]:
    """Closed lanes with jobs that wait, or are in doubt, about which the API should be asked now; no other caller gets
    them for a while.

    While their application or provider is held, nothing is asked, unless to check the application's key.
    """
    table, pair = schema.lane, schema.pair
    held = exists().where(
        pair.c.application == table.c.application,
        pair.c.provider.in_([table.c.provider, WHOLE_APPLICATION]),
        pair.c.held_until > now,
        pair.c.held_rule.is_distinct_from(KEY_CHECK),
    )
    # One condition for each state: each has its own partial index.
    waits = or_(
        *(
            exists().where(schema.job.c.lane_id == table.c.id, schema.job.c.state == literal_column(f"'{state.value}'"))
            for state in (State.QUEUED, State.IN_DOUBT)
        )
    )
    rows = connection.execute(
        select(table)
        .where(table.c.closed_at.is_not(None), table.c.check_at <= now, table.c.gone.is_(False), waits, ~held)
        .order_by(table.c.check_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        pause = SUSPECT_AGAIN if row.suspected else pause_after(row.checks)
        connection.execute(
            update(table).where(table.c.id == row.id).values(check_at=now + pause, checks=min(row.checks + 1, 30))
        )
    return [Check(row.id, row.application, row.grant_id, row.suspected, row.closed_rule, row.closed_at) for row in rows]


def to_ask(connection: Connection, *, now: Micros, limit: int) -> list[Check]:
    """Lanes whose provider is unknown and not yet asked for; no other caller gets them for a while.

    While their application is held, nothing is asked.
    """
    table, pair = schema.lane, schema.pair
    held = exists().where(
        pair.c.application == table.c.application,
        pair.c.provider == WHOLE_APPLICATION,
        pair.c.held_until > now,
    )
    rows = connection.execute(
        select(table)
        .where(table.c.provider == UNKNOWN, table.c.ask_at <= now, table.c.gone.is_(False), ~held)
        .order_by(table.c.ask_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if rows:
        ids = [row.id for row in rows]
        connection.execute(update(table).where(table.c.id.in_(ids)).values(ask_at=now + ASK_AGAIN))
    return [Check(row.id, row.application, row.grant_id, suspected=False) for row in rows]


def found_provider(
    connection: Connection,
    lane_id: UUID,
    provider: str,
    *,
    paces: Paces,
    now: Micros,
    provider_rules: Collection[str] = (),
) -> str | None:
    """The API has named the grant's provider; ``unknown``: one that sendq does not know.

    If the grant is held by one of ``provider_rules``, its provider is held instead. Returns the rule of such a hold if
    it began a new incident.
    """
    change = _locked(connection, lane_id)
    lane = change.lane
    connection.execute(update(schema.lane).where(schema.lane.c.id == lane_id).values(ask_at=None))
    if lane.provider != UNKNOWN or provider == UNKNOWN:
        return None
    make_pairs(connection, name_providers(connection, {lane_id: lane}, {lane_id: provider}, paces=paces))
    if lane.held_rule not in provider_rules or lane.held_since is None or (lane.held_until or 0) <= now:
        return None
    hold = Hold(Scope.PROVIDER, str(lane.held_rule), "policy", lane.held_until)
    lock_pairs(connection, [lane.application])
    streak = hold_for_answer(connection, lane.application, provider, hold, begun_at=lane.held_since, now=now)
    if streak is not None:
        what = {"application": lane.application, "provider": provider, "rule": hold.rule}
        events.append(
            connection, "hold", at=now, by="policy", reason=f"grant {lane.grant_id} has this provider", **what
        )
    change.release()
    notify(connection, at=write_changes(connection, [change], now=now))
    return hold.rule if streak == 1 else None


def found_valid(connection: Connection, lane_id: UUID, *, now: Micros) -> None:
    """The API says that the grant is valid: open its lane.

    If the provider has refused one job twice, another job of the lane goes first: it shows whether the job or the grant
    is at fault. If the provider has refused the grant several times since its last success, its owner must sign in
    again, whatever the API says. Until a call succeeds, checks and notices are remembered: the next check comes later,
    and no owner is notified twice.
    """
    change = _locked(connection, lane_id)
    lane = change.lane
    if not lane.is_closed or lane.gone:  # changed while the API was asked
        return
    if lane.suspected and lane.refused >= SUSPECTED_MOST:
        change.believe(now=now)
        write_changes(connection, [change], now=now)
        return
    if not lane.suspected or refused_jobs.blamed(lane.refused_jobs):
        _try_another_job(connection, lane, now=now)
    change.reopen_on_trial(now=now)
    notify(connection, at=write_changes(connection, [change], now=now))
    note_event(connection, "reopened", lane, by="check", rule=lane.closed_rule, now=now)


def _try_another_job(connection: Connection, lane: Lane, *, now: Micros) -> None:
    """Let a due job that was not refused go before those that were; without one, nothing changes.

    It must be of the same kind: a grant that may modify messages may lack the right to send any.
    """
    refused = refused_jobs.counts(lane.refused_jobs)
    later = now + SET_ASIDE
    # One that is held, or rescheduled to a later time, goes after the others anyway.
    waiting = [
        found
        for found in lock_jobs(connection, list(refused)).values()
        if found.state == State.QUEUED and found.next_at < later
    ]
    if not waiting:
        return
    job, ids = schema.job, [found.id for found in waiting]
    same_object = job.alias()
    another = exists().where(
        job.c.lane_id == lane.id,
        job.c.state == State.QUEUED,
        job.c.next_at <= now,
        job.c.operation.in_({found.operation for found in waiting}),
        job.c.id.not_in(refused),
        # Jobs of one object wait for each other.
        ~exists().where(same_object.c.id.in_(ids), same_object.c.object_id == job.c.object_id),
    )
    if connection.execute(select(another)).scalar_one():
        connection.execute(update(job).where(job.c.id.in_(ids)).values(next_at=later, rule=JOB_REFUSED))


def found_invalid(connection: Connection, lane_id: UUID, *, now: Micros) -> None:
    """The API says that the owner must sign in again: the suspicion is confirmed."""
    change = _locked(connection, lane_id)
    if change.lane.is_closed and change.lane.suspected:
        change.confirm(now=now)
        write_changes(connection, [change], now=now)


def question_refused(
    connection: Connection,
    lane_id: UUID,
    *,
    refusal: Callable[[int], tuple[str, Micros]],
    asked_at: Micros,
    now: Micros,
) -> str | None:
    """The question about a suspected grant was refused itself, which says nothing about the grant: open its lane, and
    hold what is at fault. Returns the rule of a hold that began a new incident of the application, else None.

    That is the application; but if any call of it has succeeded since the lane was closed, this grant alone is held.
    ``refusal`` gives the rule and the length of the hold, for a number of holds before it without a success. A lane
    whose owner has been asked to sign in stays closed.
    """
    change = _locked(connection, lane_id)
    lane = change.lane
    if not lane.is_closed or lane.gone or not lane.suspected:
        return None
    whole = (lane.application, WHOLE_APPLICATION)
    make_pairs(connection, [whole])
    pairs = lock_pairs(connection, [lane.application])
    works = any((pair.proven_at or 0) >= (lane.closed_at or 0) for pair in pairs.values())
    rule, lasts = refusal(lane.streak if works else pairs[whole].streak)
    change.reopen(now=now)
    incident = False
    if works:
        change.hold_after_check(now + lasts, rule=rule, by="policy", now=now)
        note_event(connection, "hold", lane, by="policy", rule=rule, now=now)
    else:
        hold = Hold(Scope.APPLICATION, rule, "policy", now + lasts)
        streak = hold_for_answer(connection, lane.application, WHOLE_APPLICATION, hold, begun_at=asked_at, now=now)
        if streak is not None:
            events.append(connection, "hold", at=now, by="policy", application=lane.application, rule=rule)
        incident = streak == 1
    notify(connection, at=write_changes(connection, [change], now=now))
    note_event(connection, "reopened", lane, by="check", rule=lane.closed_rule, now=now)
    return rule if incident else None


def found_gone(connection: Connection, lane_id: UUID, *, rule: str, by: str, now: Micros) -> None:
    """The grant no longer exists: its lane stays closed, and its waiting jobs end (`end_gone`).

    If a notification has said before that it was deleted, that stays the lane's rule.
    """
    change = _locked(connection, lane_id)
    lane = change.lane
    if lane.gone:
        return
    rule = GRANT_DELETED if lane.closed_rule == GRANT_DELETED else rule
    change.close(rule, at=lane.closed_at or now, check_at=None, gone=True)
    write_changes(connection, [change], now=now)
    note_event(connection, "grant_gone", lane, by=by, rule=rule, now=now)


def end_gone(connection: Connection, *, now: Micros, limit: int) -> int:
    """Dead-letter up to ``limit`` jobs that wait for grants that no longer exist."""
    job, lane = schema.job.c, schema.lane.c
    rows = connection.execute(
        select(job.id, job.operation, job.doubt_at)
        .join(schema.lane, lane.id == job.lane_id)
        .where(lane.closed_at.is_not(None), lane.gone.is_(True), job.state == State.QUEUED.value)
        .limit(limit)
    ).all()
    ends = {row.id: event_of_end(row.operation, row.doubt_at) for row in rows}
    return len(end_waiting(connection, ends, now=now, rule=GRANT_NOT_FOUND))


# --- announcing ----------------------------------------------------------------------------------------------------


def announce_closed(
    connection: Connection, *, closed_before: Micros, now: Micros, limit: int, receiver: str | None = None
) -> list[Row[Any]]:
    """Announce lanes that were closed for certain by ``closed_before`` and not announced yet; returns them.

    The notice goes to the receivers that the waiting jobs name, and to ``receiver``.
    """
    table = schema.lane
    rows = connection.execute(
        select(table)
        .where(
            table.c.closed_at <= closed_before,
            table.c.suspected.is_(False),
            table.c.announced_at.is_(None),
            table.c.gone.is_(False),
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        connection.execute(update(table).where(table.c.id == row.id).values(announced_at=now))
        note_event(connection, "reauth_required", row, by="policy", rule=row.closed_rule, now=now)
    outcomes.append_reauth(connection, rows, also=receiver, now=now)
    return list(rows)


def note_event(
    connection: Connection,
    kind: str,
    row: Lane | Row[Any],
    *,
    by: str,
    rule: str | None,
    now: Micros,
    reason: str | None = None,
) -> None:
    events.append(
        connection,
        kind,
        at=now,
        by=by,
        application=row.application,
        provider=row.provider,
        grant_id=row.grant_id,
        rule=rule,
        reason=reason,
    )
