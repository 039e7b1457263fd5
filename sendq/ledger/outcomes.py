"""Outcomes: deliveries are created in the same transaction as the event they report.

One row of ``sendq_delivery`` per target and event: for a job when it ends or goes in doubt, or when it is reported what
became of its mail; for a batch when its last job has ended, for a grant when its owner must sign in. All changes of
jobs go through `sendq.ledger.jobs.store_changes`, which calls this module; jobs without a target cost nothing. The
facts are those of that moment: ids, states, rules, times and the caller's key; no address, subject or body.

Deliveries about one subject are ordered by ``sequence``: a time that only increases, whatever the clocks do. The
subject's row is locked while its sequence is assigned.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, Select, func, literal_column, select

from sendq.bindings import delivery_context
from sendq.clock import SECOND, Micros, moment
from sendq.enqueueing.targets import parse_target
from sendq.errors import Altered, NotEncrypted, Problem, Unreadable
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows, update_rows
from sendq.rules.delivery import Delivery
from sendq.rules.rule_ids import FAILED_LATER
from sendq.rules.states import State
from sendq.vault import Vault

# The receiver of targets that only another version can parse.
UNKNOWN_RECEIVER = "unknown"

# The states of a job that have an outcome; its kind is the state's name.
REPORTED = frozenset({State.SENT, State.DEAD, State.EXPIRED, State.CANCELLED, State.IN_DOUBT})
BATCH_FINISHED = "batch_finished"
REAUTH_REQUIRED = "reauth_required"

# Dead by the report that what was accepted never went out: not "dead", because the receiver already had "sent".
FAILED_LATER_KIND = Delivery.FAILED_LATER.value

# What became of a mail that was sent. "delivered" is reported only on request: there is one for nearly every mail.
BAD_NEWS = frozenset({Delivery.BOUNCED, Delivery.COMPLAINED})
OF_MAIL = (Delivery.BOUNCED.value, Delivery.COMPLAINED.value, Delivery.DELIVERED.value, FAILED_LATER_KIND)

KINDS = (*sorted(state.value for state in REPORTED), *OF_MAIL, BATCH_FINISHED, REAUTH_REQUIRED)

# Long enough for a receiver that is down over a long weekend.
GIVE_UP_AFTER: Micros = 72 * 3600 * SECOND

# Of the jobs that wait for a grant, at most this many are searched for targets, and at most this many targets notified.
ASKED_MOST = 10_000
TARGETS_MOST = 20


class NewsAbout(NamedTuple):
    """A recipient that a report is about: its place in the mail, the digest of its address, and the address itself."""

    position: int | None
    digest: bytes
    address: str


class MailNews(NamedTuple):
    """What a report says of a mail. ``recipients``: those that it is about."""

    job_id: UUID
    delivery: Delivery
    at: Micros
    source: str
    recipients: Sequence[NewsAbout]


def append_jobs(connection: Connection, ids: Collection[UUID], *, now: Micros) -> None:
    """Create deliveries for those of these locked, just changed jobs that have a target and a reported state."""
    job = schema.job
    statement = _with_target(ids).where(job.c.state.in_([state.value for state in REPORTED]))
    rows = connection.execute(statement).all()
    # Cancelled before the dispatcher saw it: only its wake row names its lane.
    unseen = _from_wakes(connection, {row.lane_id for row in rows if row.grant_id is None})
    events = []
    for row in rows:
        application, grant_id = unseen.get(row.lane_id, (row.application, row.grant_id))
        facts = _job_facts(row) | {"application": application, "grant_id": grant_id}
        failed_later = row.state == State.DEAD and row.rule == FAILED_LATER
        kind = FAILED_LATER_KIND if failed_later else row.state
        events.append((row.on_outcome, kind, row.id, row.lane_id, facts))
    _append(connection, events, now=now)


def append_news(
    connection: Connection, news: Sequence[MailNews], *, addresses: Collection[str], vault: Vault, now: Micros
) -> None:
    """Create deliveries of what became of mails, for those of their (locked) jobs that have a target.

    Recipients are named by place and digest. For the receivers in ``addresses`` their addresses are kept too, encrypted
    like a body, until the outcome is delivered.
    """
    rows = {row.id: row for row in connection.execute(_with_target([one.job_id for one in news]))} if news else {}
    events, shown = [], list[list[str]]()
    for one in news:
        row = rows.get(one.job_id)
        if row is not None:
            facts = _job_facts(row) | {"application": row.application, "grant_id": row.grant_id}
            facts |= {"happened_at": _iso(one.at), "source": one.source}
            facts["recipients"] = [{"position": who.position, "digest": who.digest.hex()} for who in one.recipients]
            events.append((row.on_outcome, one.delivery.value, row.id, row.lane_id, facts))
            shown.append([who.address for who in one.recipients])
    made = _append(connection, events, now=now)
    trusted = [(row, who) for row, who in zip(made, shown, strict=True) if who and row["receiver"] in addresses]
    update_rows(connection, schema.delivery, [_sealed(row["id"], who, vault) for row, who in trusted])


def _sealed(delivery_id: UUID, addresses: Sequence[str], vault: Vault) -> dict[str, Any]:
    sealed = vault.seal(json.dumps(addresses).encode(), context=delivery_context(delivery_id))
    return {"id": delivery_id, "addresses": sealed.data, "cipher_key": sealed.key_name}


def addresses_of(row: Row[Any], vault: Vault) -> Sequence[str] | None:
    """The addresses of a delivery's recipients, in their order; None: it has none, or they cannot be decrypted."""
    if row.addresses is None:
        return None
    try:
        opened = vault.open(bytes(row.addresses), row.cipher_key, context=delivery_context(row.id))
    except (Unreadable, NotEncrypted, Altered):
        return None
    return [str(one) for one in json.loads(opened)]


def _with_target(ids: Collection[UUID]) -> Select[Any]:
    job, lane = schema.job, schema.lane
    return (
        select(job, lane.c.application, lane.c.grant_id)
        .outerjoin(lane, lane.c.id == job.c.lane_id)
        .where(job.c.id.in_(ids), job.c.on_outcome.is_not(None))
        .order_by(job.c.id)
    )


# Of an outcome that is about several grants.
NO_LANE = UUID(int=0)


def append_batches(connection: Connection, ids: Collection[UUID], *, now: Micros) -> None:
    """Create deliveries for those of these batches that have a target. They are locked and have just ended."""
    batch, lane, change = schema.batch, schema.lane, schema.batch_change
    rows = connection.execute(
        select(batch, lane.c.grant_id)
        .outerjoin(lane, lane.c.id == batch.c.lane_id)
        .where(batch.c.id.in_(ids), batch.c.on_outcome.is_not(None))
        .order_by(batch.c.id)
    ).all()
    if not rows:
        return
    sums = connection.execute(
        select(change.c.batch_id, change.c.state, func.sum(change.c.count).label("sum"))
        .where(change.c.batch_id.in_([row.id for row in rows]))
        .group_by(change.c.batch_id, change.c.state)
    )
    counts: dict[UUID, dict[str, int]] = {row.id: {} for row in rows}
    for found in sums:
        if found.sum and found.state in REPORTED:  # the others are counts of a walk
            counts[found.batch_id][found.state] = int(found.sum)
    _append(
        connection,
        [
            (row.on_outcome, BATCH_FINISHED, row.id, row.lane_id or NO_LANE, _batch_facts(row, counts[row.id]))
            for row in rows
        ],
        now=now,
    )


def append_reauth(connection: Connection, lanes: Iterable[Row[Any]], *, also: str | None, now: Micros) -> None:
    """Create deliveries of "the owner must sign in" to all targets of jobs in these lanes, and to ``also``."""
    events = []
    for lane in lanes:
        targets = dict.fromkeys([*([also] if also else []), *_targets_in(connection, lane.id)])
        facts = {"application": lane.application, "grant_id": lane.grant_id, "rule": lane.closed_rule}
        events += [(target, REAUTH_REQUIRED, lane.id, lane.id, facts) for target in targets]
    _append(connection, events, now=now)


def _targets_in(connection: Connection, lane_id: UUID) -> Sequence[str]:
    """The targets of the waiting jobs of a lane, or of their batches."""
    job, batch = schema.job, schema.batch
    waiting = (
        select(job.c.on_outcome, job.c.batch_id)
        .where(job.c.lane_id == lane_id, job.c.state == literal_column(f"'{State.QUEUED.value}'"))
        .limit(ASKED_MOST)
        .subquery()
    )
    target = func.coalesce(waiting.c.on_outcome, batch.c.on_outcome)
    query = select(target).outerjoin(batch, batch.c.id == waiting.c.batch_id).where(target.is_not(None)).distinct()
    return connection.execute(query.order_by(target).limit(TARGETS_MOST)).scalars().all()


def _append(
    connection: Connection, events: Sequence[tuple[str, str, UUID, UUID, Mapping[str, Any]]], *, now: Micros
) -> Sequence[Mapping[str, Any]]:
    """Insert deliveries: target, kind, subject, lane and facts of each. Returns their rows, in the same order."""
    table = schema.delivery
    last: dict[UUID, Micros] = {}
    if events:
        numbered = (
            select(table.c.subject, func.max(table.c.sequence).label("last"))
            .where(table.c.subject.in_({subject for _, _, subject, _, _ in events}))
            .group_by(table.c.subject)
        )
        last = {row.subject: row.last for row in connection.execute(numbered)}
    rows = []
    for target, kind, subject, lane_id, facts in events:
        parsed = parse_target(target)
        sequence = max(now, last.get(subject, 0) + 1)
        rows.append(
            {
                "id": new_id(),
                "target": target,
                "receiver": UNKNOWN_RECEIVER if isinstance(parsed, Problem) else parsed.receiver,
                "kind": kind,
                "subject": subject,
                "lane_id": lane_id,
                "sequence": sequence,
                "facts": json.dumps({"kind": kind, "sequence": sequence, "at": _iso(now), **facts}),
                "state": "waiting",
                "created_at": now,
                "next_at": now,
                "until": now + GIVE_UP_AFTER,
            }
        )
    insert_rows(connection, table, rows)
    return rows


def _from_wakes(connection: Connection, lanes: Collection[UUID]) -> dict[UUID, tuple[str, str]]:
    """The applications and grants of lanes that the dispatcher has not seen yet."""
    if not lanes:
        return {}
    table = schema.wake.c
    found = connection.execute(
        select(table.lane_id, table.application, table.grant_id).where(table.lane_id.in_(lanes)).distinct()
    )
    return {row.lane_id: (row.application, row.grant_id) for row in found}


def _job_facts(row: Row[Any]) -> dict[str, Any]:
    return {
        "job_id": str(row.id),
        "batch_id": None if row.batch_id is None else str(row.batch_id),
        "operation": row.operation,
        "key": row.key,
        "state": row.state,
        "rule": row.rule,
        "message_id": row.message_id,
        "attempts": row.attempts,
        "created_at": _iso(row.created_at),
        "due_at": _iso(row.due_at),
        "finished_at": _iso(row.finished_at),
    }


def _batch_facts(row: Row[Any], counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "application": row.application,
        "grant_id": row.grant_id,
        "batch_id": str(row.id),
        "operation": row.operation,
        "key": row.key,
        "total": row.total,
        "counts": dict(counts),
        "created_at": _iso(row.created_at),
    }


def _iso(at: Micros | None) -> str | None:
    return None if at is None else moment(at).isoformat()
