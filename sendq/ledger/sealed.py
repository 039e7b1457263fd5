"""Sealed jobs at the claim: decrypted if this worker has their key; else they wait, and nothing is lost.

A job whose body no key of this worker decrypts is not begun, and not dead-lettered. If other jobs of its turn can run,
it is looked at again after `RECHECK`. If none can, the lane is held (`NO_KEY`), longer each time, so that a hundred
thousand such lanes cost next to nothing, and the next turn looks at the jobs behind. A worker that starts ends these
holds, because it may have the key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.clock import SECOND, Micros
from sendq.errors import Unreadable
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ledger import events
from sendq.ledger.contents import sealed_with
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.enqueue import notify
from sendq.ledger.jobs import lock_in_order
from sendq.rules.lane_change import LaneChange
from sendq.rules.rule_ids import NO_KEY
from sendq.vault import Vault, context_of

RECHECK: Micros = 30 * SECOND
HOLD_MOST: Micros = 600 * SECOND

# Lanes whose holds are ended in one transaction.
RELEASE_STEP = 500


@dataclass(slots=True)
class Opened:
    """Jobs with their bodies, by lane; the jobs put off, and the lanes that have no others."""

    jobs: dict[UUID, list[ClaimedJob]] = field(default_factory=dict)
    stuck: dict[UUID, str] = field(default_factory=dict)  # lanes, with the name of a key that they wait for
    missing: Counter[str] = field(default_factory=Counter)  # jobs by the name of the missing key


def open_jobs(
    connection: Connection, loaded: Mapping[UUID, Sequence[ClaimedJob]], vault: Vault, *, now: Micros
) -> Opened:
    """Decrypt the bodies of the jobs that a claim has loaded, and put off those that no key decrypts.

    Later jobs for the same object as one that is put off are removed from the turn too.
    """
    opened = Opened()
    rows: list[dict[str, Any]] = []
    for lane_id, jobs in loaded.items():
        ready: list[ClaimedJob] = []
        put_off: list[UUID] = []
        objects: set[str | None] = set()
        names: list[str] = []
        for job in jobs:
            if job.object_id is not None and job.object_id in objects:
                put_off.append(job.id)
                continue
            try:
                ready.append(_with_body(connection, job, vault))
            except Unreadable as error:
                names.append(error.key_name)
                put_off.append(job.id)
                objects.add(job.object_id)
        opened.jobs[lane_id] = ready
        opened.missing.update(names)
        if names and not ready:
            opened.stuck[lane_id] = names[0]
        # Behind all jobs that are due now, each a microsecond later to keep their order. In a lane that is held for
        # them they need not wait longer than the hold.
        at = now if lane_id in opened.stuck else now + RECHECK
        rows += [{"id": job, "next_at": at + place, "rule": NO_KEY} for place, job in enumerate(put_off)]
    if rows:
        lock_in_order(connection, [job.id for jobs in loaded.values() for job in jobs])
    update_rows(connection, schema.job, rows)
    return opened


def _with_body(connection: Connection, job: ClaimedJob, vault: Vault) -> ClaimedJob:
    """The job with its body decrypted. Its files are read while they are sent; only their keys are checked now."""
    if job.length is not None:
        for name in sorted(sealed_with(connection, job.id) - set(vault.names)):
            raise Unreadable(name, missing=True)
    if job.cipher_key is None:
        return job
    context = context_of("payload", job.id) if job.own_body else context_of("batch", _batch_of(job))
    body = vault.open(job.body, job.cipher_key, context=context)
    return job._replace(body=body)


def _batch_of(job: ClaimedJob) -> UUID:
    assert job.batch_id is not None  # a job without its own body has its batch's
    return job.batch_id


def hold_stuck(connection: Connection, lanes: Mapping[UUID, Lane], stuck: Mapping[UUID, str], *, now: Micros) -> None:
    """Close the turns of locked lanes none of whose jobs could be decrypted, and hold the lanes for a while."""
    changes = []
    for lane_id, name in stuck.items():
        lane = lanes[lane_id]
        again = lane.held_rule == NO_KEY
        since = lane.held_since if again and lane.held_since is not None else now
        pause = min(HOLD_MOST, max(RECHECK, now - since))
        change = LaneChange(lane)
        change.close_turn()
        change.hold_until(now + pause, since=since, rule=NO_KEY, by="policy")
        changes.append(change)
        if not again:
            _event(connection, lane, name, now=now)
    write_changes(connection, changes, now=now)


def release(connection: Connection, *, after: UUID, now: Micros) -> UUID | None:
    """End holds of up to `RELEASE_STEP` lanes after an id that wait for a key; returns where to continue, or None."""
    table = schema.lane.c
    held = select(table.id).where(table.held_rule == NO_KEY, table.held_until > now, table.id > after)
    ids = connection.execute(held.order_by(table.id).limit(RELEASE_STEP)).scalars().all()
    changes = lock_changes(connection, ids).values()
    for change in changes:
        change.release()
    notify(connection, at=write_changes(connection, changes, now=now))
    return ids[-1] if len(ids) == RELEASE_STEP else None


def _event(connection: Connection, row: Lane, name: str, *, now: Micros) -> None:
    events.append(
        connection,
        "hold",
        at=now,
        by="policy",
        application=row.application,
        provider=row.provider,
        grant_id=row.grant_id,
        rule=NO_KEY,
        reason=f"no worker that looked has the encryption key {name!r}",
    )
