"""All that may happen to jobs, together and in any order: what `test_state_machine` does, and jobs that follow others,
answers and bounces, a leader that dies, dead letters that are retried, and a ledger that is restored from a backup.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from copy import deepcopy
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine

from sendq import NEVER, InvalidJob, State, Vault, Window
from sendq.clock import SECOND, Micros
from sendq.facts.notices import MailNotice
from sendq.ids import lane_id
from sendq.ledger import delivery_status, doubt
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.dispatching import followers, rescue
from sendq.ledger.doubt import Ending
from sendq.ledger.mail_notices import take_in
from sendq.ledger.operators import recover, retry
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.messages.payload import freeze_send
from sendq.rules.delivery import Delivery
from sendq.rules.states import Event
from tests.integration.ledger.test_state_machine import GRANTS, Machine, windows
from tests.support.following import lead, message_of
from tests.support.ledger import MESSAGE, Ledger, empty

# What an application, an operator and a worker know, and a restored ledger does not: it goes back with the ledger.
BOOK = ("jobs", "held", "unapproved", "not_before", "content", "windows", "after")


class Everything(Machine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.after: dict[UUID, tuple[UUID, Micros, str | None, bool]] = {}  # the other, delay, unless, replies
        self.answered: dict[UUID, Micros] = {}
        self.bounced: set[UUID] = set()  # reported
        self.backup: tuple[dict[str, Any], Micros] | None = None
        self.notices = 0

    # --- what may happen ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(
        data=st.data(),
        delay=st.sampled_from([0, 60]),
        unless=st.sampled_from([None, "replied", "bounced", "bounced replied"]),
        replies=st.booleans(),
        gated=st.booleans(),
        window=windows,
    )
    def enqueue_after(
        self, data: st.DataObject, delay: int, unless: str | None, replies: bool, gated: bool, window: Window | None
    ) -> None:
        other = data.draw(st.sampled_from(sorted(self.jobs)))
        grants = {lane_id("default", grant): grant for grant in GRANTS}
        grant = grants[self.ledger.job(other).lane_id] if replies else data.draw(st.sampled_from(sorted(GRANTS)))
        options: dict[str, Any] = {"reply_to" if replies else "after": str(other)}
        options |= {"delay": timedelta(seconds=delay), "unless": unless.split() if unless else None}
        options |= {"needs_approval": gated, "window": window, "provider": GRANTS[grant], "expires_at": NEVER}
        with suppress(InvalidJob):  # the other has failed already, or is no send
            job = UUID(self.ledger.queue.send(grant, MESSAGE, **options).id)
            self.jobs.add(job)
            self.after[job] = (other, delay * SECOND, unless, replies)
            self.windows[job] = window
            if gated:
                self.unapproved.add(job)

    @rule(rounds=st.integers(1, 3))
    def lead(self, rounds: int) -> None:
        """The leader: reports, followers, and sends in doubt, of which it finds those that went out."""
        with self.ledger.writing() as connection:
            delivery_status.apply_known(
                connection, delivery_status.find_pending(connection, limit=100), now=self.clock()
            )
        lead(self.ledger, replied=lambda job: self.after[job][0] in self.answered, rounds=rounds)
        for row in self.ledger.rows(schema.job):
            if row.id in self.after and row.state == State.QUEUED and row.doubt_at is None:
                other, _, unless, _ = self.after[row.id]
                is_stopped = "bounced" in (unless or "") and other in self.bounced
                assert not is_stopped or self.ledger.state(other) != State.SENT, "its mail is reported as bounced"

    @rule()
    def resolve_doubts(self) -> None:
        doubts = [row.id for row in self.ledger.rows(schema.job) if row.state == State.IN_DOUBT]
        endings = {
            job: Ending(Event.ACCEPT, "found", message_of(job)) if self.mail[job] else Ending(Event.RETURN, "not_found")
            for job in doubts
        }
        with self.ledger.writing() as connection:
            doubt.settle(connection, endings, by="reconciler", now=self.clock())

    @rule()
    def lead_half_a_round(self) -> None:
        """The leader dies after its first transaction."""
        with self.ledger.writing() as connection:
            ids, _ = followers.settled(connection, after=UUID(int=0))
            followers.settle(connection, ids[:1], now=self.clock())

    @precondition(lambda self: self.mail)
    @rule(data=st.data(), what=st.sampled_from(["unnoticed", "thread.replied", "message.bounced"]))
    def report(self, data: st.DataObject, what: str) -> None:
        job = data.draw(st.sampled_from(sorted(self.mail)))
        if job not in self.jobs:
            return  # lost with the records
        self.clock.advance(1)
        if what != "message.bounced":
            self.answered.setdefault(job, self.clock())
        if what == "unnoticed":
            return
        self.notices += 1
        delivery = Delivery.BOUNCED if what == "message.bounced" else None
        grants = {lane_id("default", grant): grant for grant in GRANTS}
        grant = grants[self.ledger.job(job).lane_id]
        notice = MailNotice(f"n{self.notices}", what, delivery, grant, (job,), message_of(job), self.clock())
        with self.ledger.writing() as connection:
            take_in(connection, [notice], "default", vault=Vault(), now=self.clock())
        if delivery is not None:
            self.bounced.add(job)

    @precondition(lambda self: self.mail)
    @rule(data=st.data(), retried=st.booleans())
    def fail_later(self, data: st.DataObject, retried: bool) -> None:
        """A mail that the API accepted is reported as never sent; it may be retried at once."""
        job = data.draw(st.sampled_from(sorted(self.mail)))
        rows = {row.id: row for row in self.ledger.rows(schema.job)}
        begun = {self.after[one][0] for one in self.after if rows[one].state == State.SENDING}
        known = self.bounced | self.answered.keys() | begun  # it did go out, or a call after it is on its way
        if job not in rows or rows[job].state != State.SENT or job in known:
            return
        self.notices += 1
        grants = {lane_id("default", grant): grant for grant in GRANTS}
        notice = MailNotice(
            f"n{self.notices}", "message.failed_later", Delivery.FAILED_LATER, grants[rows[job].lane_id], (job,),
            rows[job].message_id, self.clock(),
        )  # fmt: skip
        with self.ledger.writing() as connection:
            take_in(connection, [notice], "default", vault=Vault(), now=self.clock())
        assert self.ledger.state(job) is State.DEAD
        del self.mail[job]
        self.backup = None  # of a time when it was believed to be sent
        if retried:
            self.retry([job])

    @rule()
    def retry_the_dead(self) -> None:
        self.retry([row.id for row in self.ledger.rows(schema.job) if row.state == State.DEAD])

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def retry_one(self, data: st.DataObject) -> None:
        self.retry([data.draw(st.sampled_from(sorted(self.jobs)))])

    def retry(self, jobs: list[UUID]) -> None:
        now = self.clock()
        with self.ledger.writing() as connection:
            selection = DeadLetterSelection(jobs=jobs)
            part = retry.retry(connection, selection, after=None, first_at=now, by="anna", now=now)
        for row in part.ready:
            self.not_before.pop(row.id, None)

    @precondition(lambda self: self.can_restore())
    @rule()
    def back_up(self) -> None:
        with (  # also what is only in the file of the log
            closing(sqlite3.connect(self.home / "ledger.db")) as ledger,
            closing(sqlite3.connect(self.home / "backup.db")) as backup,
        ):
            ledger.backup(backup)
        self.backup = (deepcopy({name: getattr(self, name) for name in BOOK}), self.clock())

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        """The ledger and all workers are lost. The backup is older, and says that much waits which was sent since."""
        assert self.backup is not None
        book, since = self.backup
        self.ledger.engine.dispose()
        for old in self.home.glob("ledger.db*"):
            old.unlink()
        shutil.copy(self.home / "backup.db", self.home / "ledger.db")
        clock, self.ledger = self.clock, Ledger(open_engine(f"sqlite:///{self.home / 'ledger.db'}"), clock=self.clock)
        assert clock is self.ledger.clock
        for name, value in deepcopy(book).items():
            setattr(self, name, value)
        self.bounced &= {row.job_id for row in self.ledger.rows(schema.delivery_status)}
        self.broker, self.turns = [], []
        self.starts = {grant: [] for grant in GRANTS}
        with self.ledger.writing() as connection:
            recover.put_in_doubt(connection, since=since, now=self.clock(), after=None)
        for worker in self.ledger.rows(schema.worker):  # those of the time of the backup
            with self.ledger.writing() as connection:
                rescue.bury(connection, worker.id, now=self.clock())
        self.workers = [self.new_worker(), self.new_worker()]

    def can_restore(self) -> bool:
        return self.ledger.engine.dialect.name == "sqlite"

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check_call(self, job: Any, now: Micros) -> None:
        super().check_call(job, now)
        if job.id not in self.after or job.doubt_at is not None:
            return
        other, delay, unless, _ = self.after[job.id]
        first = self.ledger.job(other)
        assert self.mail[other] == 1, "before the mail that it follows"
        assert first.state == State.SENT
        assert first.finished_at + delay <= now, "before its delay was over"
        if unless is not None and "replied" in unless and other in self.answered:
            (row,) = [row for row in self.ledger.rows(schema.after) if row.job_id == job.id]
            assert row.released_at <= self.answered[other], "though it was answered before"

    def check_content(self, job: Any) -> None:
        if job.id not in self.after or not self.after[job.id][3]:
            super().check_content(job)
            return
        body = json.loads(job.body)
        assert body.pop("reply_to_message_id") == message_of(self.after[job.id][0])
        wanted = json.loads(self.content.get(job.id, freeze_send(MESSAGE, job_id=str(job.id))))
        assert body == wanted, "it was replaced"

    def rescue(self) -> None:
        super().rescue()
        self.resolve_doubts()
        self.lead(2)


def run(machine: Any, *, examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


class TestWhateverHappensTogether:
    def test_nothing_is_lost_sent_twice_or_sent_against_what_was_said(self) -> None:
        run(Everything, examples=settings().max_examples // 5)  # 5, or 50 in ./dev test-all

    @pytest.mark.long
    def test_on_postgresql_too(self, pg_ledger: Ledger) -> None:
        class OnPostgreSQL(Everything):
            def open_ledger(self) -> Engine:
                empty(pg_ledger)
                return pg_ledger.engine

        run(OnPostgreSQL, examples=settings().max_examples // 25)  # 1, or 10 in ./dev test-all
