"""Lineage: whether this ledger is the one that the workers knew, and the highest time that it has seen.

A ledger that was restored from a backup, or a replica that took over with loss, does not know what it has lost: a send
that went out looks as if it had not. Two things show a loss. The lease's renewals are counted, and the count is also
kept outside of the ledger by *witnesses*: each worker, Redis, and a file beside a SQLite ledger; a ledger whose count
is lower has lost data. And the ledger notes on which run of which server it was last known to be complete; on another
one it is *unproven* unless a witness knows its latest renewals: a witness that knows nothing proves nothing.

A ledger that has lost something or is unproven is *shut*: no turn is offered and none is claimed. If the loss is
younger than the keys that the API remembers, the leader repairs it (`sendq.ledger.operators.recover.repeat_by_key`);
else `sendq recover` has to put in doubt what may have gone out.

A recovered ledger begins a new *line*, with a count from 0 and its own witnesses; the old ones still recognise an
older backup.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, bindparam, select, update

from sendq.clock import SECOND, Micros
from sendq.ids import new_id
from sendq.ledger.db import constant, schema
from sendq.ledger.db.server_run import same_history, server_run

DISPATCHER = "dispatcher"

# The highest time is written no more often than this: it is compared at a scale of minutes.
STEP: Micros = 1 * SECOND

# A leader may be killed between a renewal's commit and the witness: then it knows one renewal less than the ledger.
UNWITNESSED = 1

_COLUMNS = (
    "line", "renewals", "complete_at", "shut_at", "shut_because", "lost_since", "known_until", "highest_at",
    "proven_on",
)  # fmt: skip


class Incomplete(StrEnum):
    """Why a ledger is shut."""

    LOST = "lost"  # a witness has seen more of it
    UNPROVEN = "unproven"  # it is on another server, or was restarted, and no witness knows its latest renewals


@dataclass(frozen=True, slots=True)
class Standing:
    """What the leader's row says about the ledger itself, and the run of the server that answers.

    ``complete_at``: the last renewal at which it was known to have lost nothing. With ``shut_at`` are set
    ``shut_because``, ``lost_since`` (what ``complete_at`` was then) and ``known_until`` (the time of the newest record,
    at least ``lost_since``).
    """

    line: UUID | None
    renewals: int
    complete_at: Micros
    shut_at: Micros | None
    shut_because: str | None
    lost_since: Micros | None
    known_until: Micros | None
    highest_at: Micros
    proven_on: str | None
    server: str | None

    def has_lost(self, line: UUID | None, renewals: int) -> bool:
        """Whether a witness or worker has seen more of this line than the ledger knows."""
        return line is not None and self.line == line and self.renewals < renewals

    @property
    def may_be_claimed(self) -> bool:
        """Whether turns may be claimed, as far as the ledger itself shows."""
        return self.shut_at is None and (self.proven_on is None or same_history(self.proven_on, self.server))

    def judged(self, witnessed: int) -> Incomplete | None:
        """What is wrong with a ledger whose lease was just renewed; None: it is complete.

        ``witnessed``: the highest count of renewals that any witness knows of this line, the leader itself included.
        """
        if witnessed >= self.renewals:  # no other process can have reported this renewal
            return Incomplete.LOST
        if self.renewals == 1 or not self.complete_at:  # the first ones ever, or since it was recovered
            return None
        if self.server is not None and self.server == self.proven_on:
            return None
        if self.proven_on is not None and not same_history(self.proven_on, self.server):
            return Incomplete.UNPROVEN
        return None if witnessed >= self.renewals - 1 - UNWITNESSED else Incomplete.UNPROVEN


def columns(connection: Connection) -> tuple[ColumnElement[Any], ...]:
    """What to select from the leader's row for a `Standing`, in the order of its fields."""
    return _columns_with(server_run(connection))


@lru_cache
def _columns_with(server: ColumnElement[Any]) -> tuple[ColumnElement[Any], ...]:
    return *(schema.leader.c[name] for name in _COLUMNS), server


def read(connection: Connection) -> Standing:
    """The current standing; locks nothing."""
    (found,) = constant.rows(connection, _read_of(columns(connection)), {})
    return Standing(*found)


@lru_cache
def _read_of(columns: tuple[ColumnElement[Any], ...]) -> Select[Any]:
    return select(*columns).where(schema.leader.c.name == DISPATCHER)


def see(connection: Connection, at: Micros) -> None:
    """Remember the highest time that any process has seen."""
    constant.rows(connection, _SEEN, {"at": at, "before": at - STEP})


_SEEN = (
    update(schema.leader)
    .where(schema.leader.c.name == DISPATCHER, schema.leader.c.highest_at < bindparam("before", type_=BigInteger))
    .values(highest_at=bindparam("at", type_=BigInteger))
)


def prove(connection: Connection, server: str | None, *, now: Micros) -> None:
    """Note that the ledger is complete on this run of its server."""
    table = schema.leader
    connection.execute(update(table).where(table.c.name == DISPATCHER).values(proven_on=server, complete_at=now))


def shut(
    connection: Connection, *, because: Incomplete, lost_since: Micros, now: Micros, renewals: int | None = None
) -> bool:
    """Offer no more turns; False: it is shut already, or its count of renewals is no longer ``renewals``.

    ``lost_since``: the last renewal before the loss. A job that was enqueued later, while no worker ran, moves
    ``known_until`` on: it is unknown whether that was before the loss, so it is assumed to be.
    """
    table, job = schema.leader, schema.job.c
    newest = connection.execute(select(job.created_at).order_by(job.id.desc()).limit(1)).scalar()  # ids sort by time
    known_until = min(now, max(lost_since, newest or 0))
    open_one = update(table).where(table.c.name == DISPATCHER, table.c.shut_at.is_(None))
    if renewals is not None:
        open_one = open_one.where(table.c.renewals == renewals)
    facts = {"shut_at": now, "shut_because": because.value, "lost_since": lost_since, "known_until": known_until}
    return connection.execute(open_one.values(**facts)).rowcount == 1


def name_line(connection: Connection) -> None:
    """Name the ledger's history, if it has no name, before anything can be enqueued, so that every backup has it."""
    table = schema.leader
    nameless = update(table).where(table.c.name == DISPATCHER, table.c.line.is_(None))
    connection.execute(nameless.values(line=new_id()))


def begin_line(connection: Connection) -> None:
    """The ledger has been recovered: offer turns again, as a ledger that no witness has seen before."""
    table = schema.leader
    shut_facts = dict.fromkeys(("shut_at", "shut_because", "lost_since", "known_until", "proven_on"))
    fresh = {"line": new_id(), "renewals": 0, "complete_at": 0} | shut_facts
    connection.execute(update(table).where(table.c.name == DISPATCHER).values(**fresh))
