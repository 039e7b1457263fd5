"""Storing what a call planned, all or nothing, and returning the result to its caller."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from sendq.clock import Micros
from sendq.enqueueing.plan import Planned
from sendq.ledger import admission
from sendq.ledger.enqueue import store
from sendq.ledger.following import store_followings
from sendq.vault import Vault
from sendq.views import Batch, Job

_TAKE_THE_LOCK = "DELETE FROM sendq_wake WHERE 0"


def store_jobs(
    connection: Connection, planned: Planned, *, now: Micros, cap: int | None, vault: Vault, last: bool = False
) -> list[Job]:
    """Store planned sends. Returns a job for each: the new one, or the older one that its key already names.

    ``last``: this is the last step of the transaction, which is not a caller's.
    """
    found = _store(connection, planned, now=now, cap=cap, vault=vault, last=last)
    return [
        Job(str(found[name]), existed=True) if name is not None and name in found else Job(str(job_id))
        for job_id, name in zip(planned.ids, planned.names, strict=True)
    ]


def store_batch(
    connection: Connection, planned: Planned, total: int | None, *, now: Micros, cap: int | None, vault: Vault
) -> Batch:
    """Store a planned batch. Returns it, or the older one that its key already names."""
    found = _store(connection, planned, now=now, cap=cap, vault=vault)
    name = planned.names[0]
    if name is not None and name in found:
        return Batch(str(found[name]), total, existed=True)
    return Batch(str(planned.ids[0]), total)


def _store(
    connection: Connection, planned: Planned, *, now: Micros, cap: int | None, vault: Vault, last: bool = False
) -> Mapping[tuple[str, str], UUID]:
    """Store all of a plan or nothing, even if the caller catches the error and commits the rest of its transaction."""
    plan = planned.plan
    may_fail_halfway = len(plan.keys) > 1 or cap is not None or bool(plan.contents) or bool(plan.followings)
    if may_fail_halfway:
        begin_before_savepoint(connection)
    with connection.begin_nested() if may_fail_halfway else nullcontext():
        found = store(connection, plan, at=now, vault=vault, last=last and not may_fail_halfway)
        if plan.followings:
            store_followings(connection, planned, found)
        if cap is not None and len(found) < len(planned.ids):
            lanes = [(wake["application"], wake["grant_id"]) for wake in plan.wakes]
            admission.admit(connection, lanes, cap=cap, now=now)
        return found


def begin_before_savepoint(connection: Connection) -> None:
    """Begin the transaction now: on a caller's engine, Python's sqlite3 begins it only at the first INSERT.

    Otherwise the savepoint would be the outermost transaction, and releasing it would commit unexpectedly.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def lock_before_reading(connection: Connection) -> None:
    """SQLite: wait for the write lock now. It refuses a transaction that read first, if another has written since."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_TAKE_THE_LOCK)
