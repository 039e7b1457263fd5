"""Notifications about mail: each is applied once to the delivery of its job, many in one transaction.

    found by the job's id in the mail's metadata, else by the message's id; either only within the notification's grant
    ids of notifications ─▶ jobs locked ─▶ reports merged ─▶ delivery of jobs and recipients ─▶ states ─▶ counts

`sendq.rules.delivery` decides what a report does, and `sendq.rules.suppression` which recipients get no more mail
because of it. What becomes of one that cannot be applied:

    repeated                    it changes nothing
    no job of ours, or a job    counted, and not kept
    that was pruned
    a forgotten grant           recorded without recipients and words until its jobs are pruned
    about an earlier send       of a job that was retried since: counted
    before the outcome          waits for that record (`sendq.ledger.delivery_status`). If only the message's id could
    is recorded                 find the job, Nylas is asked to deliver it again (`AGAIN`)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Select,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    select,
    text,
)

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.facts.notices import USUAL, MailNotice, OutcomeOptions
from sendq.ids import lane_id
from sendq.ledger import suppressions
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new, one_of
from sendq.ledger.delivery_status import Status, mail_job, move_on, read_statuses, store_statuses
from sendq.ledger.dispatching.mail_news import note_news
from sendq.ledger.jobs import lock_jobs
from sendq.ledger.operators.erasure import forgotten_jobs
from sendq.ledger.outcomes import BAD_NEWS, MailNews, NewsAbout, append_news
from sendq.ledger.recipients import Change, merge_recipients
from sendq.ledger.retention import delete_where
from sendq.ledger.secrets import digest_key
from sendq.messages.digests import digest_of
from sendq.rules import delivery as rules
from sendq.rules.after import BAD_NEWS as ENDS_FOLLOWERS
from sendq.rules.delivery import Delivery, Report
from sendq.rules.states import State
from sendq.rules.suppression import ALL_MAIL, reason_of
from sendq.vault import Vault

# Receivers that count at the same moment wait for each other's commits only within a shard.
SHARDS = 8

APPLIED, REPEATED, EARLIER, UNMATCHED, UNUSED, AGAIN = (
    "applied", "repeated", "earlier_send", "unmatched", "unused", "again",
)  # fmt: skip

SAYS: Mapping[str, str] = {
    APPLIED: "done: the delivery of its job is recorded",
    REPEATED: "nothing to do: this notification was received before",
    EARLIER: "nothing to do: it is about an earlier send of a job that was retried since",
    UNMATCHED: "nothing to do: the mail is of no job in this ledger",
    UNUSED: "nothing to do: notifications of this type are only counted",
    AGAIN: "a mail of this grant whose outcome is unknown may be the one that this is about; deliver it again",
}


class _Found(NamedTuple):
    """A job that a notification may be about."""

    id: UUID
    lane_id: UUID
    provider: str
    message_id: str | None


def take_in(
    connection: Connection,
    notices: Sequence[MailNotice],
    application: str,
    *,
    vault: Vault,
    now: Micros,
    outcomes: OutcomeOptions = USUAL,
) -> list[str]:
    """Apply notifications that the webhook of ``application`` received; returns what was done with each: `SAYS`.

    One transaction; safe to repeat.
    """
    return _Intake(connection, application, vault=vault, now=now, outcomes=outcomes).run(notices)


@dataclass(slots=True)
class _Intake:
    """Some notifications being applied."""

    connection: Connection
    application: str
    vault: Vault
    now: Micros
    outcomes: OutcomeOptions
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by provider, kind and result
    micros: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    bounced: set[UUID] = field(default_factory=set)  # jobs whose mail is now known to have bounced, or the like

    def run(self, notices: Sequence[MailNotice]) -> list[str]:
        found = self._match([notice for notice in notices if notice.delivery is not None])
        fresh = self._remember([notice for notice in notices if notice.id in found])
        results: list[str] = []
        reports: list[tuple[MailNotice, _Found]] = []
        for notice in notices:
            job = found.get(notice.id)
            if notice.delivery is None:
                result = UNUSED
            elif job is None:
                result = self._without_job(notice)
            elif notice.id not in fresh:
                result = REPEATED
            else:
                result = APPLIED
                fresh.discard(notice.id)  # a second one of the same group is a repeat
                reports.append((notice, job))
            results.append(result)
        earlier = self._apply(reports)
        replied = self._note_news([notice for notice in notices if notice.delivery is None])
        results = [APPLIED if notice.id in replied else result
                   for notice, result in zip(notices, results, strict=True)]  # fmt: skip
        results = [EARLIER if notice.id in earlier and result == APPLIED else result
                   for notice, result in zip(notices, results, strict=True)]  # fmt: skip
        for notice, result in zip(notices, results, strict=True):
            provider = found[notice.id].provider if notice.id in found else ""
            self.counts[provider, notice.kind, result] += 1
        self._count()
        return results

    def _note_news(self, notices: Sequence[MailNotice]) -> set[str]:
        """Answers in the threads of mails, and bounces, may end what follows those; returns the ids of the notices of
        answers of which one did. Repeating one changes nothing.

        All at once, and after the jobs of other reports are locked: rows are locked in the leader's order.
        """
        jobs = {notice_id: job.id for notice_id, job in self._match(notices).items()}
        answers = {jobs[notice.id]: notice.at or self.now for notice in notices if notice.id in jobs}
        noted = note_news(self.connection, answers=answers, bounced=self.bounced, now=self.now)
        return {notice_id for notice_id, job_id in jobs.items() if job_id in noted}

    def _match(self, notices: Sequence[MailNotice]) -> dict[str, _Found]:
        """The jobs of notifications, by the notification's id."""
        named = {job for notice in notices for job in notice.jobs}
        messages = {notice.message_id for notice in notices if notice.message_id is not None}
        by_id: dict[UUID, _Found] = {}
        by_message: dict[tuple[UUID, str], _Found] = {}
        for column, values in ((schema.job.c.id, named), (schema.job.c.message_id, messages)):
            rows = self.connection.execute(sends(self.connection, column, values)) if values else ()
            for row in rows:
                job = by_id[row.id] = _Found(row.id, row.lane_id, row.provider, row.message_id)
                if job.message_id is not None:
                    by_message[job.lane_id, job.message_id] = job
        found: dict[str, _Found] = {}
        for notice in notices:
            lane = lane_id(self.application, notice.grant_id)
            candidates = [by_id[job] for job in notice.jobs if job in by_id and by_id[job].lane_id == lane]
            if not candidates and notice.message_id is not None and (lane, notice.message_id) in by_message:
                candidates = [by_message[lane, notice.message_id]]
            if candidates:
                found[notice.id] = candidates[0]
        return found

    def _remember(self, notices: Sequence[MailNotice]) -> set[str]:
        """The ids of those notifications that were not received before.

        Sorted, so that two receivers of the same ones wait for each other in one order.
        """
        ids = {f"{self.application}/{notice.id}": notice.id for notice in notices}
        rows = [{"id": name, "at": self.now} for name in sorted(ids)]
        return {ids[name] for name in insert_new(self.connection, schema.webhook, rows, returning="id")}

    def _without_job(self, notice: MailNotice) -> str:
        """A report may come before the ledger knows the id of its message.

        An outcome on the wire is recorded within minutes, before the second attempt of Nylas. A mail that may have gone
        out is looked for, or repeated under its key, for longer than Nylas tries.
        """
        if notice.message_id is None:
            return UNMATCHED
        lane = lane_id(self.application, notice.grant_id)
        may_be_its = self.connection.execute(UNKNOWN_OUTCOMES, {"lane": lane}).one()
        waits = may_be_its.doubtful or (may_be_its.sending and notice.attempt == 1)
        # Looked up again: its acceptance may have been recorded between the two queries.
        return AGAIN if waits or self._match([notice]) else UNMATCHED

    # --- applying -----------------------------------------------------------------------------------------------------

    def _apply(self, reports: Sequence[tuple[MailNotice, _Found]]) -> set[str]:
        """Apply reports to their jobs; returns the ids of notifications that are about an earlier send."""
        if not reports:
            return set()
        jobs = lock_jobs(self.connection, [job.id for _, job in reports])
        before = read_statuses(self.connection, list(jobs))
        after = dict(before)
        forgotten = forgotten_jobs(self.connection, list(jobs))
        earlier: set[str] = set()
        current: list[tuple[UUID, MailNotice]] = []
        self._suppress([notice for notice, _ in reports])
        for received, found in reports:
            job = jobs.get(found.id)
            if job is None:
                continue  # pruned just now
            notice = replace(received, detail=None, recipients=()) if job.id in forgotten else received
            status = _after(after.get(job.id), job, notice, now=self.now)
            if status is None:
                earlier.add(notice.id)
                continue
            after[job.id] = status
            current.append((job.id, notice))
            if job.state == State.SENT and job.finished_at is not None:
                key = (found.provider, notice.kind, APPLIED)
                self.micros[key] += max(0, status.at - job.finished_at)
        self._store(jobs, before, after, current)
        return earlier

    def _suppress(self, notices: Sequence[MailNotice]) -> None:
        """Put recipients on the suppression list: also for an earlier send, and also if the grant was forgotten since,
        because none of that makes the address deliverable or the person agree.
        """
        wanted = [
            (one.address, reason, notice)
            for notice in notices
            for one in notice.recipients
            if (reason := reason_of(notice.delivery, hard=one.hard)) is not None
        ]
        if not wanted:
            return
        key = digest_key(self.connection, self.vault)
        suppressions.add(
            self.connection,
            [
                suppressions.Entry(
                    self.application, digest_of(key, self.application, address), ALL_MAIL, reason.value, self.now,
                    notice.kind,
                )
                for address, reason, notice in wanted
            ],
        )  # fmt: skip

    def _store(
        self,
        jobs: Mapping[UUID, LockedJob],
        before: Mapping[UUID, Status],
        after: Mapping[UUID, Status],
        current: Sequence[tuple[UUID, MailNotice]],
    ) -> None:
        """Write what has become known, and what it does to jobs. ``current``: notifications about present sends."""
        changed = {job_id: status for job_id, status in after.items() if before.get(job_id) != status}
        replaced = [job for job, new in changed.items() if job in before and before[job].generation != new.generation]
        delete_where(self.connection, schema.recipient_status.c.job_id, replaced)
        changes = merge_recipients(self.connection, current, self.application, vault=self.vault, now=self.now)
        # Also where nothing is new: its state may have changed since the first report.
        touched = dict.fromkeys(job_id for job_id, _ in current)
        move_on(self.connection, [(jobs[job_id], after[job_id]) for job_id in touched], now=self.now)
        store_statuses(self.connection, changed.values(), existing=before)
        self.bounced |= {one.job_id for one in changed.values() if not one.pending and one.delivery in ENDS_FOLLOWERS}
        self._news(changed, before, changes)

    def _news(self, known: Mapping[UUID, Status], before: Mapping[UUID, Status], changes: Sequence[Change]) -> None:
        """Create the outcomes of what became of mails: one for each job and kind of news."""
        recipients: dict[tuple[UUID, Delivery], list[Change]] = {}
        for change in changes:
            if change.is_news:
                recipients.setdefault((change.job_id, change.report.delivery), []).append(change)
        news = [
            MailNews(job_id, delivery, min(one.report.at for one in about), about[0].report.source,
                     [NewsAbout(one.position, one.digest, one.address) for one in about])
            for (job_id, delivery), about in recipients.items()
        ]  # fmt: skip
        for job_id, status in known.items():
            delivery = Delivery(status.delivery)
            is_new = job_id not in before or before[job_id].delivery != status.delivery
            if is_new and (job_id, delivery) not in recipients:
                news.append(MailNews(job_id, delivery, status.at, status.source, []))
        wanted = BAD_NEWS | ({Delivery.DELIVERED} if self.outcomes.delivered else set())
        append_news(
            self.connection,
            [one for one in news if one.delivery in wanted],
            addresses=self.outcomes.addresses,
            vault=self.vault,
            now=self.now,
        )

    def _count(self) -> None:
        shard = random.randrange(SHARDS)
        for (provider, kind, result), number in sorted(self.counts.items()):
            values = {"application": self.application, "provider": provider, "kind": kind, "result": result}
            micros = self.micros[provider, kind, result]
            self.connection.execute(_COUNT, values | {"shard": shard, "number": number, "micros": micros})


# Whether a lane has a mail on the wire, or one of unknown outcome. Spelled out, or SQLite uses no partial index.
UNKNOWN_OUTCOMES = text(
    "SELECT EXISTS (SELECT 1 FROM sendq_job WHERE lane_id = :lane AND state = 'sending' AND operation = 'send')"
    " AS sending,"
    " EXISTS (SELECT 1 FROM sendq_job WHERE lane_id = :lane AND state = 'in_doubt' AND operation = 'send')"
    " OR EXISTS (SELECT 1 FROM sendq_job WHERE lane_id = :lane AND state = 'queued' AND doubt_at IS NOT NULL"
    " AND operation = 'send') AS doubtful"
).bindparams(bindparam("lane", type_=Uuid()))

# Its statement is the same on both databases.
_COUNT = text(
    "INSERT INTO sendq_notice_count (application, provider, kind, result, shard, number, micros)"
    " VALUES (:application, :provider, :kind, :result, :shard, :number, :micros)"
    " ON CONFLICT (application, provider, kind, result, shard) DO UPDATE SET"
    " number = sendq_notice_count.number + excluded.number, micros = sendq_notice_count.micros + excluded.micros"
).bindparams(
    *(bindparam(name, type_=Text()) for name in ("application", "provider", "kind", "result")),
    bindparam("shard", type_=SmallInteger()),
    bindparam("number", type_=BigInteger()),
    bindparam("micros", type_=BigInteger()),
)


def sends(connection: Connection, column: Column[Any], values: Iterable[Any]) -> Select[Any]:
    """The mails among the jobs with these ids, or with these ids of messages."""
    job, lane = schema.job, schema.lane
    return (
        select(job.c.id, job.c.lane_id, job.c.message_id, lane.c.provider)
        .join(lane, lane.c.id == job.c.lane_id)
        .where(one_of(connection, column, sorted(values)), job.c.operation == "send")
    )


def _after(status: Status | None, job: LockedJob, notice: MailNotice, *, now: Micros) -> Status | None:
    """The status of a job after a notification; None: it is about an earlier send."""
    assert notice.delivery is not None
    report = Report(notice.delivery, now if notice.at is None else notice.at, notice.kind, notice.detail)
    before = None if status is None else status.known
    known = rules.take_in(mail_job(job), before, report, notice.message_id)
    if known is None or known == before:
        return None if known is None else status
    standing = known.report
    return Status(
        job.id, standing.delivery.value, standing.at, standing.source, standing.detail, now,
        known.generation, known.message_id, known.pending,
    )  # fmt: skip
