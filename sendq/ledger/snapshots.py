"""Snapshots: what messages were before a change that can be undone, and what the change left of them.

    named by their ids   a job reads its message first (operation ``read``), and is a modification from then on: what it
                         read is committed before the change is made, so that a repeat does not take what a lost change
                         left for what was there before
    found by a walk      the listing shows it; it is kept with what the walk has found

A change that does not follow its read at once reads the message again, and if that is not as it is kept, the snapshot
is replaced before the change is made: what others have changed meanwhile is what an undo restores.

What a change left is kept only if the answer shows something else than was asked for. A snapshot is deleted with its
job, and when its grant is forgotten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, select, update

from sendq.bindings import snapshot_context
from sendq.facts.jobs import LockedJob
from sendq.facts.outcomes import Outcome
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new, update_rows
from sendq.rules.states import State
from sendq.vault import Vault


class Stored(NamedTuple):
    """The snapshot that a job restores, as it is stored, and what it is bound to."""

    batch_id: UUID
    lane_id: UUID
    object_id: str
    before: bytes
    before_key: str | None
    after: bytes | None
    after_key: str | None

    def opened(self, vault: Vault) -> tuple[bytes, bytes | None]:
        """What the message was before, and what was left of it. Raises `Unreadable`."""
        bound = (self.batch_id, self.lane_id, self.object_id)
        before = vault.open(bytes(self.before), self.before_key, context=snapshot_context(*bound, "before"))
        if self.after is None:
            return before, None
        return before, vault.open(bytes(self.after), self.after_key, context=snapshot_context(*bound, "after"))


def sealed(batch_id: UUID, lane_id: UUID, object_id: str, when: str, state: bytes, vault: Vault) -> dict[str, Any]:
    """The columns of a state from ``before`` or ``after`` a change."""
    made = vault.seal(state, context=snapshot_context(batch_id, lane_id, object_id, when))
    return {when: made.data, f"{when}_key": made.key_name}


def record(
    connection: Connection,
    outcomes: Sequence[Outcome],
    jobs: Mapping[UUID, LockedJob],
    *,
    late: Collection[UUID],
    vault: Vault,
) -> None:
    """Keep what the calls of these outcomes saw. Call it in the transaction that has written them to their jobs.

    A job that has read its message, and still waits, is a modification from now on. ``late``: the outcomes that came
    after the turns of their jobs; what these have read may by now be what another turn's change has left.
    """
    seen = [one for one in outcomes if one.state is not None and one.batch_id is not None and one.job_id in jobs]
    if not seen:
        return
    table, job = schema.snapshot, schema.job
    named = select(job.c.id, job.c.object_id).where(job.c.id.in_([one.job_id for one in seen]))
    objects = {row.id: row.object_id for row in connection.execute(named)}
    befores, afters = [], []
    for one in seen:
        assert one.batch_id is not None
        assert one.state is not None
        state, bound = jobs[one.job_id].state, (one.batch_id, one.lane_id, objects[one.job_id])
        if one.operation == "read" and state == State.QUEUED and one.id not in late:
            befores.append({"job_id": one.job_id, **sealed(*bound, "before", one.state, vault)})
        elif one.operation == "modify" and state == State.SENT:
            afters.append({"job_id": one.job_id, **sealed(*bound, "after", one.state, vault)})
    if befores:
        new = insert_new(connection, table, befores, returning="job_id")
        update_rows(connection, table, [row for row in befores if row["job_id"] not in new], key="job_id")
        these = job.c.id.in_([row["job_id"] for row in befores])
        first = update(job).where(these, job.c.operation == "read")
        # A read that was lost has changed nothing.
        connection.execute(first.values(operation="modify", doubt_at=None))
    update_rows(connection, table, afters, key="job_id")


def of_changes(connection: Connection, jobs: Sequence[UUID]) -> dict[UUID, Stored]:
    """The snapshots of what these jobs change; none for one that has none yet."""
    if not jobs:
        return {}
    job, kept = schema.job.c, schema.snapshot.c
    query = (
        select(
            job.id, job.batch_id, job.lane_id, job.object_id, kept.before, kept.before_key, kept.after, kept.after_key
        )
        .join(schema.snapshot, kept.job_id == job.id)
        .where(job.id.in_(jobs))
    )
    return {row[0]: Stored._make(row[1:]) for row in connection.execute(query)}


def of_restores(connection: Connection, jobs: Sequence[UUID]) -> dict[UUID, Stored]:
    """The snapshots that these jobs restore; none for one that is no longer kept."""
    if not jobs:
        return {}
    restoring, first, batch = schema.job.c, schema.job.alias(), schema.batch.c
    kept = schema.snapshot.c
    query = (
        select(
            restoring.id, first.c.batch_id, first.c.lane_id, first.c.object_id,
            kept.before, kept.before_key, kept.after, kept.after_key,
        )
        .join(schema.batch, batch.id == restoring.batch_id)
        .join(
            first,
            (first.c.batch_id == batch.undoes)
            & (first.c.lane_id == restoring.lane_id)
            & (first.c.object_id == restoring.object_id),
        )
        .join(schema.snapshot, kept.job_id == first.c.id)
        .where(restoring.id.in_(jobs))
    )  # fmt: skip
    return {row[0]: Stored._make(row[1:]) for row in connection.execute(query)}
