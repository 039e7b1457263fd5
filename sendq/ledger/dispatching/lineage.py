"""Lineage: whether this ledger is the one that the workers knew, and the highest time that it has seen.

A ledger that was restored from a backup, or a replica that took over with loss, does not know what it has lost: a send
that went out looks as if it had not. So the lease's renewals are counted, and the count is also kept outside of the
ledger: by each worker, and in Redis (the *witness*). A ledger whose count is lower has lost data, and is *shut*: no
turn is offered and none is claimed until `sendq.ledger.operators.recover` has put in doubt what may have gone out. A
loss shorter than one renewal (a third of the lease) is not detected.

A recovered ledger begins a new *line*, with a count from 0 and its own witness; the old witness still recognises an
older backup.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select, update

from sendq.clock import SECOND, Micros
from sendq.ids import new_id
from sendq.ledger.db import schema

DISPATCHER = "dispatcher"

# The highest time is written no more often than this: it is compared at a scale of minutes.
STEP: Micros = 1 * SECOND

COLUMNS = ("line", "renewals", "renewed_at", "shut_at", "known_until", "highest_at")


@dataclass(frozen=True, slots=True)
class Standing:
    """What the leader's row says about the ledger itself. ``known_until`` is set with ``shut_at``."""

    line: UUID | None
    renewals: int
    renewed_at: Micros
    shut_at: Micros | None
    known_until: Micros | None
    highest_at: Micros

    def has_lost(self, line: UUID | None, renewals: int) -> bool:
        """Whether a witness or worker has seen more of this line than the ledger knows."""
        return line is not None and self.line == line and self.renewals < renewals


def read(connection: Connection) -> Standing:
    """The current standing; locks nothing."""
    table = schema.leader.c
    columns = (table[name] for name in COLUMNS)
    return Standing(*connection.execute(select(*columns).where(table.name == DISPATCHER)).one())


def see(connection: Connection, at: Micros) -> None:
    """Remember the highest time that any process has seen."""
    table = schema.leader
    raised = update(table).where(table.c.name == DISPATCHER, table.c.highest_at < at - STEP)
    connection.execute(raised.values(highest_at=at))


def shut(connection: Connection, *, known_until: Micros, now: Micros) -> bool:
    """Offer no more turns; False: it is shut already.

    ``known_until``: the last renewal before the loss. A job that was enqueued later, while no worker ran, moves it on:
    it is unknown whether that was before the loss, so it is assumed to be.
    """
    table, job = schema.leader, schema.job.c
    newest = connection.execute(select(job.created_at).order_by(job.id.desc()).limit(1)).scalar()  # ids sort by time
    known_until = min(now, max(known_until, newest or 0))
    open_one = update(table).where(table.c.name == DISPATCHER, table.c.shut_at.is_(None))
    return connection.execute(open_one.values(shut_at=now, known_until=known_until)).rowcount == 1


def name_line(connection: Connection) -> None:
    """Name the ledger's history, if it has no name, before anything can be enqueued, so that every backup has it."""
    table = schema.leader
    nameless = update(table).where(table.c.name == DISPATCHER, table.c.line.is_(None))
    connection.execute(nameless.values(line=new_id()))


def begin_line(connection: Connection) -> None:
    """The ledger has been recovered: offer turns again, as a ledger that no witness has seen before."""
    table = schema.leader
    fresh = {"line": new_id(), "renewals": 0, "shut_at": None, "known_until": None}
    connection.execute(update(table).where(table.c.name == DISPATCHER).values(**fresh))
