"""Sealed jobs at the claim: opened if their key is at hand; else they wait, and nothing is lost.

A job whose body no key of this worker opens is not begun, and it is not dead. When others of its turn can go, it is
looked at again after `RECHECK`. When none can, the lane is held (`NO_KEY`), for longer each time, so that a hundred
thousand such lanes cost next to nothing, and the next turn looks at the jobs behind. A worker that starts ends these
holds: it may be the one with the key.
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
from sendq.rules.lane_change import LaneChange
from sendq.rules.rule_ids import NO_KEY
from sendq.vault import Vault, context_of

RECHECK: Micros = 30 * SECOND
HOLD_MOST: Micros = 600 * SECOND

# Lanes whose holds are ended in one transaction.
RELEASE_STEP = 500


@dataclass(slots=True)
class Opened:
    """Jobs with their bodies, by lane; what was put off, and the lanes that have nothing else."""

    jobs: dict[UUID, list[ClaimedJob]] = field(default_factory=dict)
    stuck: dict[UUID, str] = field(default_factory=dict)  # lanes, and the name of a key that they wait for
    missing: Counter[str] = field(default_factory=Counter)  # jobs by the name of the key that is not at hand


def open_jobs(
    connection: Connection, loaded: Mapping[UUID, Sequence[ClaimedJob]], vault: Vault, *, now: Micros
) -> Opened:
    """Open the bodies of the jobs that a claim has loaded, and put off those that no key opens.

    Behind one of these, no other job for the same object is left in the turn.
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
        # Behind all that are due now, and a microsecond more for each: they keep their order. In a lane that is held
        # for it they need not wait any longer than it does.
        at = now if lane_id in opened.stuck else now + RECHECK
        rows += [{"id": job, "next_at": at + place, "rule": NO_KEY} for place, job in enumerate(put_off)]
    update_rows(connection, schema.job, rows)
    return opened


def _with_body(connection: Connection, job: ClaimedJob, vault: Vault) -> ClaimedJob:
    """The job with its body opened. Its files are read while they are sent; whether their keys are here is seen now."""
    if job.length is not None:
        for name in sorted(sealed_with(connection, job.id) - set(vault.names)):
            raise Unreadable(name, missing=True)
    if job.cipher_key is None:
        return job
    context = context_of("payload", job.id) if job.own_body else context_of("batch", _batch_of(job))
    body = vault.open(job.body, job.cipher_key, context=context)
    return job._replace(body=body)


def _batch_of(job: ClaimedJob) -> UUID:
    assert job.batch_id is not None  # whose body is not its own has it from its batch
    return job.batch_id


def hold_stuck(connection: Connection, lanes: Mapping[UUID, Lane], stuck: Mapping[UUID, str], *, now: Micros) -> None:
    """Close the turns of locked lanes of which nothing could be opened, and hold them for a while."""
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
    """End holds of lanes that wait for a key, up to `RELEASE_STEP` behind an id; returns where to go on, or None."""
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
