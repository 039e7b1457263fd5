"""Sealed jobs at the claim: opened, and compared with everything that they are bound to (`sendq.bindings`).

    its key is not at hand     it waits: `NO_KEY`
    it is not encrypted        it waits: `NOT_ENCRYPTED`, unless the vault accepts that
    it was altered             it ends: `INTEGRITY`; if an earlier request may have gone out, it is in doubt
    it is not complete         the same: a reply without the id of the message that it replies to
    its lane was altered       the lane is held: `INTEGRITY`

A job that waits is not begun, and not dead-lettered. If other jobs of its turn can run, it is looked at again after
`RECHECK`. If none can and the turn was full, its jobs are put off, and the next turn looks at the jobs behind at once.
If none can and nothing is behind, the lane is held. Both last longer each time, so that a hundred thousand such lanes
cost next to nothing. A worker that starts ends the holds: its keys may be others.

An altered job is not kept waiting, because its lane's other jobs would wait with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.bindings import File, batch_context, payload_context, tag_context
from sendq.clock import SECOND, Micros
from sendq.errors import Altered, NotEncrypted, Unreadable
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.facts.turns import Unopened
from sendq.ids import lane_id
from sendq.ledger import events
from sendq.ledger.contents import files_of, keys_of_files
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.enqueue import notify
from sendq.ledger.jobs import changed_since, end_waiting, lock_due
from sendq.ledger.snapshots import of_changes, of_restores
from sendq.messages.reply_place import is_incomplete
from sendq.rules.job_change import event_of_end
from sendq.rules.lane_change import LaneChange
from sendq.rules.rule_ids import INTEGRITY, NO_KEY, NOT_ENCRYPTED, SUPPRESSED
from sendq.vault import Vault

if TYPE_CHECKING:
    from sendq.ledger.dispatching.suppression import Suppression

RECHECK: Micros = 30 * SECOND
HOLD_MOST: Micros = 600 * SECOND

# Lanes whose holds are ended in one transaction.
RELEASE_STEP = 500


class Cause(NamedTuple):
    """Why jobs wait: the rule, and what the event of the hold says."""

    rule: str
    reason: str


_UNENCRYPTED = Cause(NOT_ENCRYPTED, "its jobs are stored unencrypted, though there are encryption keys")
_ALTERED_LANE = Cause(INTEGRITY, "its application or grant was changed in the ledger: they are not those of its id")


@dataclass(slots=True)
class Opened:
    """Jobs with their bodies, by lane; the lanes that have none, and why; and what was not opened."""

    jobs: dict[UUID, list[ClaimedJob]] = field(default_factory=dict)
    stuck: dict[UUID, Cause] = field(default_factory=dict)
    full: set[UUID] = field(default_factory=set)  # those of them behind whose jobs others may be due
    unopened: Unopened = field(default_factory=Unopened)


def open_jobs(
    connection: Connection,
    lanes: Mapping[UUID, Lane],
    loaded: Mapping[UUID, Sequence[ClaimedJob]],
    vault: Vault,
    *,
    jobs_each: int,
    now: Micros,
    suppression: Suppression | None = None,
) -> Opened:
    """Open the bodies of the jobs that a claim has loaded. Those that cannot be opened are put off, or end.

    Later jobs for the same object as one that is put off are removed from the turn too. With ``suppression``, mail to a
    suppressed recipient ends too.
    """
    opened = Opened()
    files = _Files(connection, loaded.values())
    put_off: list[dict[str, Any]] = []
    altered: list[ClaimedJob] = []
    for id_, jobs in loaded.items():
        lane = lanes[id_]
        if vault and id_ != lane_id(lane.application, lane.grant_id):
            opened.jobs[id_], opened.stuck[id_] = [], _ALTERED_LANE
            opened.unopened.altered_lanes.append(id_)
            continue
        sorted_ = _sort(jobs, files, vault, opened.unopened, suppression, lane.application)
        opened.jobs[id_] = sorted_.ready
        altered += sorted_.altered
        if sorted_.waiting and not sorted_.ready:
            opened.stuck[id_] = sorted_.waiting[0][1]
        # Behind all jobs that are due now, each a microsecond later to keep their order. In a lane that is held for
        # them they need not wait longer than the hold.
        at = now + RECHECK
        if id_ in opened.stuck:
            if len(jobs) >= jobs_each:
                opened.full.add(id_)
            at = now + _pause(lane, opened.stuck[id_], now=now) if id_ in opened.full else now
        put_off += [
            {"id": job.id, "next_at": at + place, "rule": cause.rule}
            for place, (job, cause) in enumerate(sorted_.waiting)
        ]
    suppressed = suppression.suppressed(lanes, opened.jobs) if suppression is not None else []
    if put_off or altered or suppressed:
        due = lock_due(connection, [job.id for jobs in loaded.values() for job in jobs], now=now)
        replaced = _leave_out_replaced(connection, loaded, opened)
        update_rows(connection, schema.job, [row for row in put_off if row["id"] in due - replaced])
        altered = [job for job in altered if job.id not in replaced]
        suppressed = [job for job in suppressed if job.id not in replaced]
    if altered:
        ends = {job.id: event_of_end(job.operation, job.doubt_at) for job in altered}
        opened.unopened.altered += sorted(end_waiting(connection, ends, now=now, rule=INTEGRITY))
    if suppressed:
        ends = {job.id: event_of_end(job.operation, job.doubt_at) for job in suppressed}
        end_waiting(connection, ends, now=now, rule=SUPPRESSED)
        opened.jobs = {id_: [job for job in jobs if job.id not in ends] for id_, jobs in opened.jobs.items()}
    return opened


def _leave_out_replaced(
    connection: Connection, loaded: Mapping[UUID, Sequence[ClaimedJob]], opened: Opened
) -> set[UUID]:
    """The (locked) jobs whose message has been replaced since they were loaded: nothing is known of the new one.

    They are removed from the turn, and their lane is not held for the old ones.
    """
    jobs = {job.id: job for some in loaded.values() for job in some}
    replaced = changed_since(connection, {job.id: job.content_version for job in jobs.values()})
    for lane in {jobs[job_id].lane_id for job_id in replaced}:
        opened.jobs[lane] = [job for job in opened.jobs[lane] if job.id not in replaced]
        opened.stuck.pop(lane, None)
    return replaced


def open_at_once(
    connection: Connection,
    lanes: Mapping[UUID, Lane],
    loaded: Mapping[UUID, Sequence[ClaimedJob]],
    vault: Vault,
    *,
    suppression: Suppression | None = None,
) -> dict[UUID, list[ClaimedJob]] | None:
    """The jobs with their bodies, as by `open_jobs`; None, and nothing is changed, if one of them cannot be opened, or
    has a suppressed recipient.
    """
    files = _Files(connection, loaded.values())
    opened: dict[UUID, list[ClaimedJob]] = {}
    for id_, jobs in loaded.items():
        if vault and id_ != lane_id(lanes[id_].application, lanes[id_].grant_id):
            return None
        sorted_ = _sort(jobs, files, vault, Unopened(), suppression, lanes[id_].application)
        if sorted_.waiting or sorted_.altered:
            return None
        opened[id_] = sorted_.ready
    return None if suppression is not None and suppression.suppressed(lanes, opened) else opened


@dataclass(slots=True)
class _Sorted:
    """The jobs of one lane, by whether they could be opened."""

    ready: list[ClaimedJob] = field(default_factory=list)
    waiting: list[tuple[ClaimedJob, Cause]] = field(default_factory=list)
    altered: list[ClaimedJob] = field(default_factory=list)


def _sort(
    jobs: Sequence[ClaimedJob],
    files: _Files,
    vault: Vault,
    unopened: Unopened,
    suppression: Suppression | None,
    application: str,
) -> _Sorted:
    found = _Sorted()
    objects: dict[str, Cause] = {}
    for job in jobs:
        if job.object_id is not None and job.object_id in objects:
            found.waiting.append((job, objects[job.object_id]))
            continue
        try:
            job_opened = _opened(job, files, vault)
            if suppression is not None:
                suppression.open_key(job, application)
            found.ready.append(job_opened)
            continue
        except Altered:
            found.altered.append(job)
            continue
        except NotEncrypted:
            unopened.unencrypted += 1
            cause = _UNENCRYPTED
        except Unreadable as error:
            unopened.missing[error.key_name] += 1
            cause = Cause(NO_KEY, f"no worker that looked has the encryption key {error.key_name!r}")
        found.waiting.append((job, cause))
        if job.object_id is not None:
            objects[job.object_id] = cause
    return found


class _Files:
    """The files of the jobs of a claim, read at once, and the snapshots that they restore or may replace."""

    def __init__(self, connection: Connection, loaded: Iterable[Sequence[ClaimedJob]]) -> None:
        jobs, restores, changes = [], [], []
        for job in (job for some in loaded for job in some):
            if job.length is not None:
                jobs.append(job.id)
            elif job.operation == "restore":
                restores.append(job.id)
            elif job.undoable and job.operation == "modify":
                changes.append(job.id)
        self._files = files_of(connection, jobs) if jobs else {}
        self._keys = keys_of_files(connection, jobs) if jobs else {}
        self.snapshots = of_restores(connection, restores) | of_changes(connection, changes)

    def of(self, job: ClaimedJob) -> tuple[File, ...]:
        return tuple(self._files.get(job.id, ()))

    def check_keys(self, job: ClaimedJob, vault: Vault) -> None:
        """Raise `NotEncrypted` or `Unreadable` if this vault cannot open them; they are opened while they are sent."""
        names = self._keys.get(job.id, set())
        if None in names and not vault.accepts_unencrypted:
            raise NotEncrypted
        for name in sorted(name for name in names if name is not None and name not in vault.names):
            raise Unreadable(name, missing=True)


def _opened(job: ClaimedJob, files: _Files, vault: Vault) -> ClaimedJob:
    """The job with its body decrypted, if everything that it is bound to is as it was."""
    if job.length is not None:
        files.check_keys(job, vault)
    if job.own_body:
        own = _with_own_body(job, files.of(job) if job.length is not None else (), vault)
        if is_incomplete(own.body, own.id):
            raise Altered(job.cipher_key or "")
        return own
    if job.cipher_key is None and job.seal_key is None and vault.accepts_unencrypted:
        return _with_snapshot(job, files, vault)
    if job.batch_id is None or job.target is None or job.fields is None:  # its payload or its batch has been deleted
        raise Altered(job.seal_key or "")
    vault.verify(
        job.seal or b"", job.seal_key, context=tag_context(job.batch_id, job.lane_id, job.operation, job.object_id)
    )
    context = batch_context(
        job.batch_id, job.lane_id, job.operation, job.target, bool(job.hard), job.fields, job.content_type
    )
    return _with_snapshot(job._replace(body=vault.open(job.body, job.cipher_key, context=context)), files, vault)


def _with_snapshot(job: ClaimedJob, files: _Files, vault: Vault) -> ClaimedJob:
    if (stored := files.snapshots.get(job.id)) is None:
        return job
    return job._replace(snapshot=stored.opened(vault))


def _with_own_body(job: ClaimedJob, files: tuple[File, ...], vault: Vault) -> ClaimedJob:
    if job.cipher_key is None and vault.accepts_unencrypted:
        return job
    context = payload_context(
        job.id, job.lane_id, job.batch_id, job.operation, job.form, job.object_id, job.content_type, job.length, files
    )
    body = vault.open(job.body, job.cipher_key, context=context)
    return job._replace(body=body, files=files if job.length is not None else None)


def _since(lane: Lane, cause: Cause, *, now: Micros) -> Micros:
    """Since when the lane waits for this cause."""
    return lane.held_since if lane.held_rule == cause.rule and lane.held_since is not None else now


def _pause(lane: Lane, cause: Cause, *, now: Micros) -> Micros:
    return min(HOLD_MOST, max(RECHECK, now - _since(lane, cause, now=now)))


def hold_stuck(connection: Connection, lanes: Mapping[UUID, Lane], opened: Opened, *, now: Micros) -> None:
    """Close the turns of locked lanes none of whose jobs could be opened, and hold the lanes for a while.

    A lane behind whose jobs others may be due is held for no time: that keeps since when it waits, and why.
    """
    changes = []
    for id_, cause in opened.stuck.items():
        lane = lanes[id_]
        pause = 0 if id_ in opened.full else _pause(lane, cause, now=now)
        change = LaneChange(lane)
        change.close_turn()
        change.hold_until(now + pause, since=_since(lane, cause, now=now), rule=cause.rule, by="policy")
        changes.append(change)
        if lane.held_rule != cause.rule:
            _event(connection, lane, cause, now=now)
    notify(connection, at=write_changes(connection, changes, now=now))


def release(connection: Connection, *, after: UUID, now: Micros) -> UUID | None:
    """End holds of up to `RELEASE_STEP` lanes after an id whose jobs could not be opened.

    Returns where to continue, or None.
    """
    table = schema.lane.c
    rules = (NO_KEY, NOT_ENCRYPTED, INTEGRITY)
    held = select(table.id).where(table.held_rule.in_(rules), table.held_until > now, table.id > after)
    ids = connection.execute(held.order_by(table.id).limit(RELEASE_STEP)).scalars().all()
    changes = lock_changes(connection, ids).values()
    for change in changes:
        change.release()
    notify(connection, at=write_changes(connection, changes, now=now))
    return ids[-1] if len(ids) == RELEASE_STEP else None


def _event(connection: Connection, row: Lane, cause: Cause, *, now: Micros) -> None:
    events.append(
        connection,
        "hold",
        at=now,
        by="policy",
        application=row.application,
        provider=row.provider,
        grant_id=row.grant_id,
        rule=cause.rule,
        reason=cause.reason,
    )
