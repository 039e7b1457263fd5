"""Jobs that follow another: the leader moves them on, some at a time, each step a short transaction.

    waiting   all of them are looked at in turn, `SLICE` in each round. So nothing of the jobs that they follow is
              written or locked, and no outcome can be missed; with up to 10,000 of them it is found within 2 s
    timed     once its time has come: ended because of what became of the mail that it follows, or released. With
              ``unless="replied"`` only after the thread of that mail was read, which the caller does
    released  with ``unless``: looked at again until it has begun, ever more rarely (`REREAD`), and with "replied" the
              thread is read again each time. If that is not possible, it is parked again until it is

An answer or a bounce that is reported (`sendq.ledger.dispatching.mail_news`) is acted on at once in the last two.

A chain ends from its head, one job after the other. Only followers are locked, in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, and_, func, or_, select, text

from sendq.clock import SECOND, Micros
from sendq.errors import Altered, NotEncrypted, Unreadable
from sendq.ledger.contents import files_of
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.parked import (
    approve_by,
    as_waiting,
    lock_followers,
    park,
    send_stands,
)
from sendq.ledger.dispatching.replies import AmbiguousId, filled_in
from sendq.ledger.dispatching.threads import CANDIDATES, READS, is_held, is_to_be_read, waits_for_release
from sendq.ledger.enqueue import NO_VAULT, append_wakes, wakes_of
from sendq.ledger.jobs import end_waiting, hold_with_batches
from sendq.ledger.operators.erasure import forgotten_jobs
from sendq.rules.after import (
    BAD_NEWS,
    Ending,
    Stage,
    Unless,
    each_unless,
    ending,
    ending_by_facts,
    needs_message_id,
)
from sendq.rules.expiry import first_chance
from sendq.rules.preflight import must_be_repeated
from sendq.rules.rule_ids import AFTER, AFTER_FAILED, INTEGRITY, NO_KEY, NOT_ENCRYPTED
from sendq.rules.states import FINAL, Event, State
from sendq.rules.waiting_job import HELD
from sendq.vault import Vault

# Waiting followers that are looked at in one round: two look-ups in an index each, some 20 ms in all.
SLICE = 5_000

# Followers in one transaction: few enough that a row stays locked for milliseconds only.
STEP = 200

# Between two looks at a follower that waits in its lane: as long as it has waited, within these limits. An answer that
# comes within the last `REREAD_MOST` before it begins may be missed; a webhook reports it sooner.
REREAD, REREAD_MOST = 60 * SECOND, 900 * SECOND

# Bytes of replies that are completed in one step, except that one reply may be larger: each is some three times in
# memory meanwhile, and its row is locked until all are written.
FILLED_MOST = 8_000_000

# After a reading that failed, or without the encryption key: doubled each time, up to the longest.
AGAIN, AGAIN_MOST = 30 * SECOND, 600 * SECOND

_after = schema.after.c
_READS_NONE = text(schema.READS_NO_THREAD)
_RELEASED = text(f"check_at IS NOT NULL AND stage = '{Stage.RELEASED.value}'")
_ENDED = tuple(sorted(state.value for state in FINAL))


@dataclass(frozen=True, slots=True)
class Ended:
    """A follower that ended without being sent."""

    id: UUID
    after_id: UUID
    rule: str


# --- waiting ----------------------------------------------------------------------------------------------------------


def may_go_on(connection: Connection, *, now: Micros) -> bool:
    """Whether something may be decided about a follower now."""
    if settled(connection, after=UUID(int=0))[0]:
        return True
    timed = select(_after.job_id).where(_after.stage == Stage.TIMED.value, _after.check_at <= now).limit(1)
    can = (timed.where(_READS_NONE), timed.where(READS, ~is_held(now)))
    return any(connection.execute(query).first() is not None for query in can)


def followed_by(connection: Connection, job_id: UUID) -> int:
    """How many jobs wait for this one, or for one that does: they end with it."""
    found: set[UUID] = set()
    wanted = {job_id}
    while wanted:
        waiting = select(_after.job_id).where(_after.after_id.in_(wanted), _after.stage == Stage.WAITING.value)
        wanted = set(connection.execute(waiting).scalars()) - found
        found |= wanted
    return len(found)


def settled(connection: Connection, *, after: UUID) -> tuple[list[UUID], UUID | None]:
    """Of the next `SLICE` waiting followers after an id, those about which something is decided; and where to continue
    (None: that was the last).
    """
    one, other = schema.job.alias("one"), schema.job.alias("other")
    some = (
        select(_after.job_id, _after.after_id)
        .where(_after.stage == Stage.WAITING.value, _after.job_id > after)
        .order_by(_after.job_id)
        .limit(SLICE)
        .subquery()
    )
    # One that may have been sent, after a loss of records, is moved on once it is known that it was not.
    can_move = and_(one.c.state == State.QUEUED.value, one.c.doubt_at.is_(None))
    has_outcome = or_(other.c.id.is_(None), other.c.state.in_(_ENDED))
    query = (
        select(some.c.job_id, or_(one.c.id.is_(None), one.c.state.in_(_ENDED), and_(can_move, has_outcome))
                              .label("is_settled"))
        .select_from(some)
        .outerjoin(one, one.c.id == some.c.job_id)
        .outerjoin(other, other.c.id == some.c.after_id)
        .order_by(some.c.job_id)
    )  # fmt: skip
    rows = connection.execute(query).all()
    return [row.job_id for row in rows if row.is_settled], (rows[-1].job_id if len(rows) == SLICE else None)


def settle(connection: Connection, ids: Sequence[UUID], *, now: Micros, vault: Vault = NO_VAULT) -> list[Ended]:
    """Move on waiting followers whose job has an outcome; those whose time has come, at once.

    Returns those that ended.
    """
    step = _Step(connection, ids, vault, now)
    for row in step.rows:
        if row.stage != Stage.WAITING or step.is_over(row) or step.ends(row):
            continue
        if row.other_state == State.SENT:
            step.schedule(row)
    return step.write()


# --- timed ------------------------------------------------------------------------------------------------------------


def move_on(
    connection: Connection, *, now: Micros, limit: int = STEP, vault: Vault = NO_VAULT
) -> tuple[list[Ended], bool]:
    """Move on some followers whose time has come and whose threads need not be read first. Returns those that ended,
    and whether there may be more to move on.
    """
    ids = movable(connection, now=now, limit=limit)
    ended, more = move(connection, ids, now=now, vault=vault)
    return ended, more or len(ids) == limit


def move(
    connection: Connection, ids: Sequence[UUID], *, now: Micros, vault: Vault = NO_VAULT
) -> tuple[list[Ended], bool]:
    """Move on these followers, if their time has come; returns as `move_on`."""
    step = _Step(connection, ids, vault, now)
    for row in step.rows:
        if row.check_at is None or row.check_at > now:
            continue
        if row.stage in (Stage.DONE, Stage.WAITING):
            step.set(row, check_at=None)
        elif not step.is_over(row):
            step.decide(row, read=False)
    ended = step.write()
    return ended, step.left > 0


def movable(connection: Connection, *, now: Micros, limit: int) -> Sequence[UUID]:
    """Followers that are due and whose threads need not be read, or not any more, or not now."""
    due = select(_after.job_id).where(_after.check_at <= now).order_by(_after.check_at, _after.job_id)
    found = list(connection.execute(due.where(_READS_NONE).limit(limit)).scalars())
    if len(found) < limit:  # released ones of lanes that were held since
        held = due.where(_RELEASED, READS, or_(is_held(now), ~waits_for_release()))
        found += connection.execute(held.limit(limit - len(found))).scalars()
    if len(found) < limit:  # those that ended, among the first
        some = due.where(READS).limit(CANDIDATES).subquery().c.job_id
        over = select(_after.job_id).where(_after.job_id.in_(select(some)), ~waits_for_release())
        found += connection.execute(over.limit(limit - len(found))).scalars()
    return list(dict.fromkeys(found))


def conclude(
    connection: Connection,
    ids: Sequence[UUID],
    *,
    replied: bool | None,
    now: Micros,
    stated: Micros = 0,
    rule: str | None = None,
    vault: Vault = NO_VAULT,
) -> list[Ended]:
    """Act on a reading of the thread of followers (one, as a rule); returns those that ended.

    ``replied`` None: the reading failed, ``rule`` says why, and ``stated`` for how long the account asks to be left
    alone.
    """
    step = _Step(connection, ids, vault, now)
    for row in step.rows:
        if row.check_at is None or row.stage not in (Stage.TIMED, Stage.RELEASED):
            continue
        if step.is_over(row) or step.waits_again(row):
            continue
        if replied or row.replied_at is not None:  # an answer may have been reported since the thread was read
            step.set(row, replied_at=row.replied_at or now)
            step.decide(row, read=True, replied=True)
        elif replied is None:
            step.try_again(row, trouble=rule, stated=stated)
            step.put_off(row)
        else:
            step.decide(row, read=True)
    return step.write()


def put_off(connection: Connection, job_id: UUID, *, until: Micros) -> None:
    """Look at a follower only later; a released one that waits in its lane is parked until then."""
    jobs = lock_followers(connection, [job_id])
    for row in _read(connection, [job_id]):
        columns: dict[str, Any] = {"job_id": job_id, "check_at": until}
        if row.check_at is None:
            continue
        if row.stage == Stage.RELEASED:
            columns["stage"] = Stage.TIMED.value
            waits = [job for job in jobs.values() if job.state == State.QUEUED and job.doubt_at is None]
            park(connection, waits)
        update_rows(connection, schema.after, [columns], key="job_id")


# --- one step ---------------------------------------------------------------------------------------------------------


def _read(connection: Connection, ids: Sequence[UUID]) -> list[Row[Any]]:
    """Followers and what is known of the job that each follows, in the order of their times; locked in that of ids."""
    if not ids:
        return []
    other = schema.job.alias("other")
    query: Select[Any] = (
        select(
            schema.after, other.c.id.label("other_id"), other.c.state.label("other_state"),
            other.c.finished_at.label("sent_at"), other.c.message_id.label("other_message"),
            other.c.lane_id.label("other_lane"),
        )
        .outerjoin(other, other.c.id == _after.after_id)
        .where(_after.job_id.in_(ids))
        .order_by(_after.job_id)
        .with_for_update(of=schema.after)
    )  # fmt: skip
    return sorted(connection.execute(query).all(), key=lambda row: (row.check_at or 0, row.job_id.int))


class _Step:
    """Decisions about some followers, which are locked, and then written together.

    They are read after their jobs are locked: another leader, or a report of an answer, may have changed them since
    they were found.
    """

    def __init__(self, connection: Connection, ids: Sequence[UUID], vault: Vault, now: Micros) -> None:
        self._connection, self._vault, self._now = connection, vault, now
        self._jobs = lock_followers(connection, ids)
        self.rows = _read(connection, ids)
        self._bad_news = _bad_news(connection, self.rows)
        self._forgotten = _forgotten(connection, self.rows)
        self._marks: dict[UUID, dict[str, Any]] = {}
        self._times: dict[UUID, dict[str, Any]] = {}
        self._ends: dict[UUID, tuple[Row[Any], Ending]] = {}
        self._releases: list[Row[Any]] = []
        self._parks: list[UUID] = []
        self.left = 0  # replies that were not released, only because this step has enough of them

    def set(self, row: Row[Any], **columns: Any) -> None:
        """Change columns of a follower's row."""
        self._marks.setdefault(row.job_id, {}).update(columns)

    def is_over(self, row: Row[Any]) -> bool:
        """Whether there is nothing to decide (now), because the follower has ended or may have been sent."""
        job = self._jobs.get(row.job_id)
        if job is None or job.state in _ENDED:
            self.set(row, stage=Stage.DONE.value, check_at=None)
            return True
        if job.state != State.QUEUED or must_be_repeated(job.operation, job.doubt_at):
            # On the wire, in doubt, or to be repeated; it may return without having been sent.
            if row.stage != Stage.WAITING:
                stands = send_stands(row, row.other_state, row.sent_at)
                self.set(row, check_at=self._look_again_at(row) if stands else self._now + SECOND)
            return True
        return False

    def waits_again(self, row: Row[Any]) -> bool:
        """Whether a timed or released follower must wait once more, because its job is, or was, sent again."""
        if row.other_id is not None and ending(row.other_state) is not None:
            return False
        if send_stands(row, row.other_state, row.sent_at):
            return False
        self.put_off(row)
        self.set(row, **as_waiting(row))
        job = self._jobs[row.job_id]
        expires_at = job.expires_at if row.lifetime is None else None
        self._times[job.id] = {
            "id": job.id, "expires_at": expires_at, "approve_by": approve_by(job, HELD, expires_at)
        }  # fmt: skip
        return True

    def ends(self, row: Row[Any], *, replied: bool = False) -> bool:
        """Whether the follower ends because of the job that it follows, or of what became of its mail."""
        state, unless = row.other_state, each_unless(row.unless)
        if row.stage != Stage.WAITING and row.other_id is None:
            state = State.SENT  # pruned since
        end = ending(state)
        if end is None and state == State.SENT:
            end = ending_by_facts(
                unless, replied=replied or row.replied_at is not None, delivery=self._bad_news.get(row.after_id)
            )
            if end is None and needs_message_id(row.unless, replies=row.replies) and not self._has_id(row):
                end = Ending(Event.GIVE_UP, AFTER_FAILED)
        if end is not None:
            self._ends[row.job_id] = (row, end)
        return end is not None

    def try_again(self, row: Row[Any], *, trouble: str | None, stated: Micros = 0) -> None:
        """Look at a follower later that could not be released now: the longer, the more often that has happened."""
        wait = min(AGAIN_MOST, AGAIN << min(row.checks, 10))
        self.set(row, check_at=self._now + max(wait, stated), checks=min(row.checks + 1, 100), trouble=trouble)

    def put_off(self, row: Row[Any]) -> None:
        """Park a released follower again: it may begin only once its thread was read."""
        if row.stage == Stage.RELEASED:
            self.set(row, stage=Stage.TIMED.value)
            self._parks.append(row.job_id)

    def _look_again_at(self, row: Row[Any]) -> Micros:
        waited = self._now - (row.released_at or self._now)
        return self._now + min(REREAD_MOST, max(REREAD, waited))

    def _has_id(self, row: Row[Any]) -> bool:
        """Whether the id of the message that it follows is known, and was not erased."""
        if row.stage != Stage.WAITING:
            return row.message_id is not None
        return row.other_message is not None and row.after_id not in self._forgotten

    def schedule(self, row: Row[Any]) -> None:
        """The job that it follows was sent: set the time of the follower, and release it if that has come."""
        job = self._jobs[row.job_id]
        start_at = row.sent_at + row.delay
        begins = max(start_at, job.due_at)
        columns: dict[str, Any] = {"stage": Stage.TIMED.value, "start_at": start_at, "check_at": begins}
        message_id = row.other_message if needs_message_id(row.unless, replies=row.replies) else None
        self.set(row, **columns, message_id=message_id, lane_id=row.other_lane, bounced_at=None)
        expires_at = job.expires_at
        if row.lifetime is not None and expires_at is None:
            expires_at = first_chance(job.time_window or job.of_lane, begins) + row.lifetime
        times = {"expires_at": expires_at, "approve_by": approve_by(job, begins, expires_at)}
        if times != {"expires_at": job.expires_at, "approve_by": job.approve_by}:
            self._times[row.job_id] = {"id": row.job_id, **times}
        if begins <= self._now and Unless.REPLIED not in each_unless(row.unless):
            self._releases.append(row)

    def decide(self, row: Row[Any], *, read: bool, replied: bool = False) -> None:
        """End or release a timed or released follower; ``read``: its thread has just been read."""
        if self.waits_again(row) or self.ends(row, replied=replied):
            return
        if row.bounced_at is not None:  # an earlier send of that job did
            self.set(row, bounced_at=None)
        begins = max(row.start_at, self._jobs[row.job_id].due_at)
        if row.stage == Stage.RELEASED and row.unless is None:
            self.set(row, stage=Stage.DONE.value, check_at=None)
        elif row.stage == Stage.RELEASED and (read or not is_to_be_read(row)):
            self.set(row, check_at=self._look_again_at(row), checks=0, trouble=None)
        elif row.stage == Stage.RELEASED:  # its lane is held
            self.put_off(row)
            self.set(row, check_at=self._now)
        elif begins > self._now:  # rescheduled
            self.set(row, check_at=begins)
        elif not read and Unless.REPLIED in each_unless(row.unless):
            self.set(row, check_at=self._now)
        else:
            self._releases.append(row)

    def write(self) -> list[Ended]:
        """Write what was decided; returns the followers that ended."""
        self._release()
        connection, now = self._connection, self._now
        ended: list[Ended] = []
        for event, rule in sorted({(end.event, end.rule) for _, end in self._ends.values()}):
            ids = {job_id: event for job_id, (_, end) in self._ends.items() if (end.event, end.rule) == (event, rule)}
            done = end_waiting(connection, ids, now=now, rule=rule)
            ended += [Ended(job_id, self._ends[job_id][0].after_id, rule) for job_id in sorted(done)]
        for row, _ in self._ends.values():
            self.set(row, stage=Stage.DONE.value, check_at=None)
        park(connection, [self._jobs[job_id] for job_id in self._parks])
        update_rows(connection, schema.job, list(self._times.values()))
        for columns in {tuple(sorted(marks)) for marks in self._marks.values()}:
            alike = [
                {"job_id": job_id, **marks}
                for job_id, marks in sorted(self._marks.items(), key=lambda item: item[0].int)
                if tuple(sorted(marks)) == columns
            ]
            update_rows(connection, schema.after, [{name: row[name] for name in ("job_id", *columns)} for row in alike],
                        key="job_id")  # fmt: skip
        return ended

    def _release(self) -> None:
        replies = [row for row in self._releases if row.replies]
        if replies:
            self._fill_in(replies)
        for row in [row for row in self._releases if self._jobs[row.job_id].application is None]:
            # Its lane is created by the wake row of its enqueue, which names no time: it would overlook the release.
            self._releases.remove(row)
            self.set(row, check_at=self._now + SECOND)
        if not self._releases:
            return
        connection, now = self._connection, self._now
        starts = {row.job_id: now + position for position, row in enumerate(self._releases)}
        jobs = [self._jobs[row.job_id] for row in self._releases]
        free = [job for job in jobs if job.resume_at is None]
        held = [job for job in jobs if job.resume_at is not None]
        update_rows(connection, schema.job, [{"id": job.id, "rule": None, "next_at": starts[job.id]} for job in free])
        update_rows(connection, schema.job, [{"id": job.id, "resume_at": starts[job.id]} for job in held])
        waited = [{"id": job.id, "rule": None} for job in held if job.rule == AFTER]  # others also need approval
        update_rows(connection, schema.job, waited)
        update_rows(connection, schema.job, self._expire_later())
        limits = [
            {"id": job.id, "approve_by": approve_by(job, starts[job.id], job.expires_at)}
            for job in held
            if job.approve_by is not None and job.approve_by >= HELD and job.id not in self._times
        ]
        update_rows(connection, schema.job, limits)
        in_batches = [job.id for job in free if job.batch_id is not None]
        if in_batches:
            hold_with_batches(connection, in_batches)
        for row in self._releases:
            stage = Stage.DONE if row.unless is None else Stage.RELEASED
            columns = {"stage": stage.value, "check_at": None if row.unless is None else now + REREAD}
            self.set(row, **columns, released_at=row.released_at or now, checks=0, trouble=None)
        if free:
            append_wakes(connection, wakes_of(free, starts), at=now)

    def _expire_later(self) -> list[dict[str, Any]]:
        """New default expiries of released jobs whose grant got a window after their time was set."""
        rows = []
        for row in self._releases:
            job = self._jobs[row.job_id]
            if row.start_at is None or row.lifetime is None or job.of_lane is None or job.time_window is not None:
                continue
            begins = max(row.start_at, job.due_at)
            if job.expires_at == begins + row.lifetime != (at := first_chance(job.of_lane, begins) + row.lifetime):
                rows.append({"id": row.job_id, "expires_at": at})
        return rows

    def _fill_in(self, rows: Iterable[Row[Any]]) -> None:
        """Complete the bytes of replies with the id of the message that each replies to. Done once for each send of
        that message.
        """
        payload = schema.payload
        rows = self._first_bytes([row for row in rows if row.written_id != (row.message_id or row.other_message)])
        ids = [row.job_id for row in rows]
        there = {row.job_id: row for row in self._connection.execute(
            select(payload).where(payload.c.job_id.in_(ids)).order_by(payload.c.job_id).with_for_update()
        )}  # fmt: skip
        files = files_of(self._connection, ids) if ids else {}
        for row in rows:
            job, stored = self._jobs[row.job_id], there.get(row.job_id)
            message_id = row.message_id or row.other_message
            try:
                if stored is None:
                    raise Altered("")
                columns = filled_in(job, stored, files.get(row.job_id, []), row.written_id, message_id, self._vault)
            except Altered:
                self._ends[row.job_id] = (row, Ending(Event.GIVE_UP, INTEGRITY))
            except AmbiguousId:
                self._ends[row.job_id] = (row, Ending(Event.GIVE_UP, AFTER_FAILED))
            except (NotEncrypted, Unreadable) as error:
                rule = NOT_ENCRYPTED if isinstance(error, NotEncrypted) else NO_KEY
                self.try_again(row, trouble=rule)
            else:
                update_rows(self._connection, payload, [columns], key="job_id")
                self.set(row, written_id=message_id)
                if row.written_id is not None:
                    # Other bytes need another key; and a worker that has loaded the old ones does not begin.
                    another = {"id": job.id, "generation": job.generation + 1, "key_at": None}
                    update_rows(self._connection, schema.job, [another])
                continue
            self._releases.remove(row)

    def _first_bytes(self, rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
        """The first of these replies, up to `FILLED_MOST`; the others are released in a later step."""
        payload = schema.payload.c
        query = select(payload.job_id, func.length(payload.body)).where(
            payload.job_id.in_([row.job_id for row in rows])
        )
        lengths: dict[UUID, int] = {row[0]: row[1] for row in self._connection.execute(query)} if rows else {}
        chosen: list[Row[Any]] = []
        total = 0
        for row in rows:
            total += lengths.get(row.job_id, 0)
            if chosen and total > FILLED_MOST:
                break
            chosen.append(row)
        for row in rows[len(chosen) :]:
            self._releases.remove(row)
        self.left = len(rows) - len(chosen)
        return chosen


def _forgotten(connection: Connection, rows: Sequence[Row[Any]]) -> set[UUID]:
    """The jobs whose grants were forgotten, of those that were sent and whose messages' ids are needed now."""
    wanted = {
        row.after_id
        for row in rows
        if row.stage == Stage.WAITING
        and row.other_state == State.SENT
        and needs_message_id(row.unless, replies=row.replies)
    }
    return forgotten_jobs(connection, sorted(wanted)) if wanted else set()


def _bad_news(connection: Connection, rows: Sequence[Row[Any]]) -> dict[UUID, str]:
    """What became of the mails that these followers follow, if it is bad, by job."""
    wanted = {row.after_id for row in rows if Unless.BOUNCED in each_unless(row.unless)}
    if not wanted:
        return {}
    table, job = schema.delivery_status.c, schema.job.c
    bad = table.delivery.in_([delivery.value for delivery in BAD_NEWS])
    found = connection.execute(
        select(table.job_id, table.delivery)
        .outerjoin(schema.job, job.id == table.job_id)
        .where(table.job_id.in_(wanted), bad, ~table.pending)
        .where(or_(job.id.is_(None), job.generation == table.generation))  # not of an earlier send
    )
    return {row.job_id: row.delivery for row in found}
