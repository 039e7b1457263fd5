"""What a notice does to its grant's lane, in one transaction with the note that it was seen.

Two clocks are compared here. A notice tells when something happened by the clock of Nylas; a lane tells when we closed
or opened it by ours, which was later, since a notification takes seconds to minutes. So:

    expired, before the lane was last opened            late: its owner has signed in since; nothing
    expired, within `SKEW` after it, or at no time      either may have come first: closed, and the API is asked at once
    expired, later, or the lane was never opened        closed; its owner is called for
    signed in, no more than `SKEW` before the closing   open again: at worst one call is refused and closes it
    signed in, earlier, or changed in some other way    stays closed, and the API is asked at once
    signed in, while the lane is open                   noted, so that an older "expired" behind it closes nothing
    deleted                                             gone, whatever comes later: ids of grants are not used again

A lane that nobody closes by webhook is closed by the first call that is refused.
"""

from __future__ import annotations

from sqlalchemy import Connection, update

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import Lane
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.dispatching.lanes import lock, settle
from sendq.webhooks.notice import Kind, Notice

EXPIRED = "grant_expired"
DELETED = "grant_deleted"
AUTHOR = "webhook"

# By how much the clocks of Nylas and ours may differ, the rounding of its times to seconds included. A clock that is
# off by more than this breaks TLS and idempotency keys first.
SKEW: Micros = 5 * 60 * SECOND


def apply(connection: Connection, notice: Notice, *, application: str, now: Micros) -> str:
    """Let a notice take effect, once; gives a sentence about what it did.

    ``application`` is our name of the Nylas application whose webhook it came by.
    """
    lane_id = grants.lane_of(connection, application, notice.grant_id)
    if lane_id is None:
        return "nothing to do: no job ever went through this grant"
    # Ids are unique for their source. Where the same one is being taken in, this waits for that transaction's end.
    seen = {"id": f"{application}/{notice.id}", "at": now}
    if not insert_new(connection, schema.webhook, [seen], returning="id"):
        return "nothing to do: it was taken in before"
    row = lock(connection, [lane_id])[lane_id]
    match notice.kind:
        case Kind.EXPIRED:
            return _expired(connection, row, notice.at, now=now)
        case Kind.BACK:
            return _back(connection, row, notice.at, now=now)
        case Kind.CHANGED:
            return _ask(connection, row, now=now)
        case Kind.DELETED:
            grants.found_gone(connection, row.id, rule=DELETED, by=AUTHOR, now=now)
            return "done: what waits for the grant will end"


def _expired(connection: Connection, row: Lane, at: Micros | None, *, now: Micros) -> str:
    opened = row.opened_at
    if opened is not None and at is not None and at < opened:
        return "nothing to do: the grant's owner has signed in since"
    if row.closed_at is not None and not row.suspected:
        return "nothing to do: the lane is closed already"
    if opened is None or (at is not None and at >= opened + SKEW):
        grants.close(connection, row.id, rule=EXPIRED, by=AUTHOR, now=now)
        return "done: the lane is closed until the grant's owner signs in"
    change = {"closed_at": row.closed_at or now, "closed_rule": EXPIRED, "suspected": True, "check_at": now}
    settle(connection, {row.id: row}, {row.id: change | {"checks": 0}}, now=now)
    return "done: the lane is closed, and the API is asked about the grant"


def _back(connection: Connection, row: Lane, at: Micros | None, *, now: Micros) -> str:
    if row.closed_at is None:
        return _vouch(connection, row, now if at is None else min(at, now))
    if row.gone and row.closed_rule == DELETED:
        return "nothing to do: the grant was deleted"
    if at is not None and at < row.closed_at - SKEW:
        return _ask(connection, row, now=now)
    grants.reopen(connection, row.id, by=AUTHOR, now=now)
    return "done: the lane is open again"


def _vouch(connection: Connection, row: Lane, at: Micros) -> str:
    """The owner of an open lane signed in then: what failed or expired before does not close it any more."""
    if row.opened_at is None or row.opened_at < at:
        table = schema.lane
        connection.execute(update(table).where(table.c.id == row.id).values(opened_at=at))
    return "nothing to do: the lane is open already"


def _ask(connection: Connection, row: Lane, *, now: Micros) -> str:
    """Whoever checks closed lanes asks the API about this one next."""
    if row.closed_at is None or row.gone:
        return "nothing to do: the lane is not closed for its owner"
    table = schema.lane
    connection.execute(update(table).where(table.c.id == row.id).values(check_at=now))
    return "done: the API is asked about the grant"
