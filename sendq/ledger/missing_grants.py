"""Grants that the API does not know: are they gone, or does the API key belong to another application?

404 ──▶ closed, nothing ends; without a recent success of the application, or if a second grant is missing too,
│       the application is paused (`key_check`)
└─▶ the API is asked about the grant, and about others of its application
        ├─ it knows the grant now ─▶ the key is right, and the grant is opened
        ├─ it knows one of them ──▶ the key is right: the grant is gone, and its waiting jobs end
        ├─ it knows none ──▶ the application is held (`wrong_application`), every missing grant is opened
        └─ there is no other ──▶ it is asked again for a while, then the grant is gone
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.facts.outcomes import Hold, Scope
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.dispatching.pairs import end_key_check, hold_for_answer, lock_pairs, make_pairs
from sendq.ledger.enqueue import notify
from sendq.ledger.grants import Check, note_event
from sendq.rules.rule_ids import GRANT_NOT_FOUND, KEY_CHECK

# Grants that are asked about to check a key. The latest surely existed a moment ago, but a customer who leaves may
# have been served last with all mailboxes; so others are asked about too.
LATEST = 2
ANY = 3

# The lanes among which they are chosen: enough that most of them are of other customers.
SAMPLE = 200

# A lane that was reopened within this time may have been missing, and is missing again if it was deleted.
REOPENED_LATELY: Micros = 3600 * SECOND


def others(
    connection: Connection, application: str, besides: Collection[UUID], *, start: UUID, now: Micros
) -> list[Check]:
    """Other grants of an application to ask about: `LATEST` that were served last, and `ANY` of the others.

    They are chosen among `SAMPLE` lanes from the id ``start`` on, which is random: ids of lanes are digests. Open lanes
    come first, and of these the ones that have worked and were not reopened lately.
    """
    table = schema.lane.c
    of_it = select(schema.lane).where(
        table.application == application, table.id.not_in(besides), table.gone.is_(False)
    ).order_by(table.id)  # fmt: skip
    rows = list(connection.execute(of_it.where(table.id >= start).limit(SAMPLE)))
    rows += connection.execute(of_it.where(table.id < start).limit(SAMPLE - len(rows)))

    def doubt(row: Row[Any]) -> tuple[bool, bool, bool]:
        lately = (row.opened_at or 0) > now - REOPENED_LATELY
        return row.closed_at is not None, lately, row.served_at is None

    latest = sorted(rows, key=lambda row: (*doubt(row), -(row.served_at or 0)))[:LATEST]
    chosen = latest + [row for row in sorted(rows, key=doubt) if row not in latest][:ANY]
    return [Check(row.id, application, row.grant_id, row.suspected) for row in chosen]


def key_is_right(connection: Connection, application: str, *, now: Micros) -> None:
    """The API knows a grant of the application, so its key is right: end its pause, if there is one."""
    pair = schema.pair.c
    paused = select(pair.held_rule).where(
        pair.application == application, pair.provider == WHOLE_APPLICATION, pair.held_rule == KEY_CHECK
    )
    if connection.execute(paused).first() is None:
        return
    whole = lock_pairs(connection, [application]).get((application, WHOLE_APPLICATION))
    if whole is None or whole.held_rule != KEY_CHECK or (whole.held_until or 0) <= now:
        return
    end_key_check(connection, application)
    events.append(connection, "release", at=now, by="check", application=application, rule=KEY_CHECK)
    notify(connection, at=now)


def key_is_wrong(
    connection: Connection,
    application: str,
    *,
    hold_of: Callable[[int], tuple[str, Micros]],
    since: Micros,
    now: Micros,
) -> str | None:
    """The API knows none of several grants: open the lanes that were closed for it, and hold the application.

    If a call of the application that began after ``since`` has succeeded, only these grants are held: pass the time at
    which the last of them was missing, not that of the check, because not every success is recorded. ``hold_of`` gives
    the rule and the length of the hold, for a number of holds before it without a success. Returns the rule if the
    hold began a new incident of the application, else None.
    """
    table = schema.lane.c
    # A time of the next check (of any value) leaves out the grants that are gone, in the index of closed lanes.
    closed = (table.closed_at.is_not(None), table.check_at >= 0)
    missing = (*closed, table.closed_rule == GRANT_NOT_FOUND, table.suspected, ~table.gone)
    ids = connection.execute(select(table.id).where(table.application == application, *missing)).scalars().all()
    changes = [
        change
        for change in lock_changes(connection, ids).values()
        if change.lane.is_closed and change.lane.suspected and change.lane.closed_rule == GRANT_NOT_FOUND
    ]
    whole = (application, WHOLE_APPLICATION)
    make_pairs(connection, [whole])
    pairs = lock_pairs(connection, [application])
    works = any((pair.proven_at or 0) >= since for pair in pairs.values())
    rule, lasts = hold_of(pairs[whole].streak)
    for change in changes:
        change.reopen(now=now)
        if works:
            change.hold_after_check(now + lasts, rule=rule, by="policy", now=now)
    incident = False
    end_key_check(connection, application)
    if not works:
        hold = Hold(Scope.APPLICATION, rule, "policy", now + lasts)
        streak = hold_for_answer(connection, application, WHOLE_APPLICATION, hold, begun_at=now, now=now)
        if streak is not None:
            events.append(connection, "hold", at=now, by="policy", application=application, rule=rule)
        incident = streak == 1
    notify(connection, at=write_changes(connection, changes, now=now))
    for change in changes:
        note_event(connection, "reopened", change.lane, by="check", rule=change.lane.closed_rule, now=now)
    return rule if incident else None
