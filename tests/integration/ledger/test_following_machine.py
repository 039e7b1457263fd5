"""Chains of jobs under whatever may happen to them, in any order: each mail at most once, and never before its time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from sendq import NEVER, InvalidJob, NotWaiting, State, Vault
from sendq.clock import SECOND, Micros, moment
from sendq.facts.notices import MailNotice
from sendq.ids import lane_id
from sendq.ledger import doubt
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.dispatching import followers, rescue
from sendq.ledger.dispatching.mail_news import note_news
from sendq.ledger.doubt import Ending
from sendq.ledger.mail_notices import take_in
from sendq.ledger.operators import retry
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.rules.delivery import Delivery
from sendq.rules.states import FINAL, Event
from tests.integration.ledger.test_state_machine import MEMORY, template
from tests.support.following import lead, message_of
from tests.support.ledger import MESSAGE, Ledger, end, outcome

# What becomes of a call, and how often each is tried.
ANSWERS = ("accepted", "accepted", "accepted", "refused", "given up", "died before", "died after")


class Machine(RuleBasedStateMachine):
    """Every rule is something that may happen; the API's book is kept here, and compared."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="sendq-machine-", dir=MEMORY))
        shutil.copy(template(), self.home / "ledger.db")
        self.ledger = Ledger(open_engine(f"sqlite:///{self.home / 'ledger.db'}"))
        self.jobs: list[UUID] = []
        self.after: dict[UUID, tuple[UUID, Micros, bool, bool]] = {}  # the other, delay, unless replied, replies
        self.accepted: set[str] = set()  # by idempotency key
        self.mail: Counter[UUID] = Counter()
        self.bytes: dict[str, bytes] = {}  # by idempotency key
        self.answered: dict[UUID, Micros] = {}
        self.notices = 0

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.ledger.engine.dispose()
            shutil.rmtree(self.home)

    # --- what may happen ----------------------------------------------------------------------------------------------

    @rule(grant=st.sampled_from(["g1", "g2"]))
    def enqueue(self, grant: str) -> None:
        self.jobs.append(self.ledger.send(grant, expires_at=NEVER))

    @precondition(lambda self: self.jobs)
    @rule(
        which=st.integers(0, 50), delay=st.sampled_from([0, 60]), unless=st.booleans(), replies=st.booleans(),
        expires=st.booleans(),
    )  # fmt: skip
    def enqueue_after(self, which: int, delay: int, unless: bool, replies: bool, expires: bool) -> None:
        other = self.jobs[which % len(self.jobs)]
        options: dict[str, Any] = {"delay": timedelta(seconds=delay), "unless": "replied" if unless else None}
        options["reply_to" if replies else "after"] = str(other)
        options |= {} if expires else {"expires_at": NEVER}
        if replies and self.ledger.job(other).lane_id != lane_id("default", "g1"):
            return
        with suppress(InvalidJob):  # it has failed already
            job = UUID(self.ledger.queue.send("g1", MESSAGE, **options).id)
            self.jobs.append(job)
            self.after[job] = (other, delay * SECOND, unless, replies)

    @rule(answer=st.sampled_from(ANSWERS))
    def serve(self, answer: str) -> None:
        """A turn of each due lane. Before a call that is made, what must hold for it is checked."""
        for claimed in self.ledger.claim(self.ledger.offer()):
            jobs = [job for job in claimed.jobs if job.id in claimed.begun]
            if answer != "died before":
                for job in jobs:
                    self.call(job, accepted=answer in ("accepted", "died after"))
            if answer.startswith("died"):
                with self.ledger.writing() as connection:
                    rescue.take_back_strays(connection, self.ledger.worker, in_flight=(), now=self.ledger.clock())
                continue
            self.ledger.record(*(self.told(claimed, job, answer) for job in jobs), ends=[end(claimed)])

    def told(self, claimed: Any, job: Any, answer: str) -> Any:
        if answer == "accepted" or f"{job.id}:{job.generation}" in self.accepted:  # the API replays its answer
            return outcome(claimed, job, Event.ACCEPT, sent="yes", message_id=self.message_of(job))
        if answer == "refused":
            return outcome(claimed, job, Event.RETURN, next_at=self.ledger.clock() + 5 * SECOND, new_generation=True)
        return outcome(claimed, job, Event.GIVE_UP)

    @staticmethod
    def message_of(job: Any) -> str:
        """The id of the message of this send of a job."""
        return f"{message_of(job.id)}-{job.generation}"

    def call(self, job: Any, *, accepted: bool) -> None:
        key, now = f"{job.id}:{job.generation}", self.ledger.clock()
        body = bytes(job.body)
        assert self.bytes.setdefault(key, body) == body, "the bytes of a repeated request have changed"
        if job.id in self.after and job.doubt_at is None:  # else it is repeated, whatever became of the other since
            other, delay, unless, replies = self.after[job.id]
            first = self.ledger.job(other)
            assert self.mail[other] == 1, "before the mail that it follows"
            assert first.state == State.SENT
            assert first.finished_at + delay <= now, "before its delay was over"
            if replies:
                assert json.loads(body)["reply_to_message_id"] == first.message_id == self.message_of(first)
            if unless and other in self.answered:
                row = self.follower(job.id)
                assert row.released_at <= self.answered[other], "though it was answered before"
        if accepted and key not in self.accepted:
            self.accepted.add(key)
            self.mail[job.id] += 1

    def follower(self, job: UUID) -> Any:
        with self.ledger.engine.connect() as connection:
            return connection.execute(select(schema.after).where(schema.after.c.job_id == job)).one()

    def thread_shows(self, job: UUID) -> bool:
        return self.after[job][0] in self.answered

    @rule(rounds=st.integers(1, 3))
    def lead(self, rounds: int) -> None:
        lead(self.ledger, replied=self.thread_shows, rounds=rounds)

    @rule()
    def lead_half_a_round(self) -> None:
        """The leader dies after its first transaction."""
        with self.ledger.writing() as connection:
            ids, _ = followers.settled(connection, after=UUID(int=0))
            followers.settle(connection, ids[:1], now=self.ledger.clock())

    @precondition(lambda self: self.mail)
    @rule(which=st.integers(0, 50), notified=st.booleans())
    def answer(self, which: int, notified: bool) -> None:
        job = sorted(self.mail)[which % len(self.mail)]
        self.answered.setdefault(job, self.ledger.clock() + 1)  # after what was released at this moment
        self.ledger.clock.advance(1)
        if notified:
            with self.ledger.writing() as connection:
                note_news(connection, answers={job: self.ledger.clock()}, bounced=(), now=self.ledger.clock())

    @precondition(lambda self: self.mail)
    @rule(which=st.integers(0, 50), retried=st.booleans())
    def fail_later(self, which: int, retried: bool) -> None:
        """A mail that the API accepted is reported as never sent; it may be retried at once."""
        job = self.ledger.job(sorted(self.mail)[which % len(self.mail)])
        if job.state != State.SENT or job.id in self.answered:
            return
        self.notices += 1
        kind, now = "message.failed_later", self.ledger.clock()
        grant = "g1" if job.lane_id == lane_id("default", "g1") else "g2"
        notice = MailNotice(
            f"n{self.notices}", kind, Delivery.FAILED_LATER, grant, (job.id,), job.message_id, now
        )  # fmt: skip
        with self.ledger.writing() as connection:
            take_in(connection, [notice], "default", vault=Vault(), now=now)
        assert self.ledger.state(job.id) is State.DEAD
        del self.mail[job.id]
        if retried:
            self.retry([job.id])

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 50), what=st.sampled_from(["cancel", "hold", "release", "earlier", "later", "urgent"]))
    def change(self, which: int, what: str) -> None:
        job, queue, now = str(self.jobs[which % len(self.jobs)]), self.ledger.queue, self.ledger.clock()
        with suppress(NotWaiting):
            match what:
                case "cancel":
                    queue.cancel(job)
                case "hold":
                    queue.hold(job)
                case "release":
                    queue.release(job)
                case "earlier":
                    queue.reschedule(job, due_at=moment(now - SECOND), expires_at=NEVER)
                case "later":
                    queue.reschedule(job, due_at=moment(now + 120 * SECOND), expires_at=NEVER)
                case "urgent":
                    queue.set_priority(job, priority="high")

    @rule()
    def retry_the_dead(self) -> None:
        self.retry(None)

    def retry(self, jobs: list[UUID] | None) -> None:
        now, selection = self.ledger.clock(), DeadLetterSelection(jobs=jobs)
        with self.ledger.writing() as connection:
            retry.retry(connection, selection, after=None, first_at=now, by="anna", now=now)

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 50))
    def retry_one(self, which: int) -> None:
        self.retry([self.jobs[which % len(self.jobs)]])

    @rule()
    def resolve_doubts(self) -> None:
        """Searches find the mails that went out."""
        doubts = [row for row in self.ledger.rows(schema.job) if row.state == State.IN_DOUBT]
        endings = {
            row.id: Ending(Event.ACCEPT, "found", self.message_of(row))
            if row.id in self.mail
            else Ending(Event.RETURN, "not_found")
            for row in doubts
        }
        with self.ledger.writing() as connection:
            doubt.settle(connection, endings, by="reconciler", now=self.ledger.clock())

    @rule(seconds=st.sampled_from([5, 31, 61, 130]))
    def time_passes(self, seconds: int) -> None:
        self.ledger.clock.advance(seconds)

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_sent_twice(self) -> None:
        assert all(number == 1 for number in self.mail.values()), self.mail

    def drain(self) -> None:
        """Nothing goes wrong any more: every job comes to its end."""
        for job in self.jobs:
            with suppress(NotWaiting):
                self.ledger.queue.release(str(job))
        for _ in range(200):
            self.resolve_doubts()
            lead(self.ledger, replied=self.thread_shows)
            self.serve("accepted")
            self.nothing_is_sent_twice()
            if all(self.ledger.state(job) in FINAL for job in self.jobs):
                break
            self.ledger.clock.advance(31)
        states = {job: self.ledger.state(job) for job in self.jobs}
        assert set(states.values()) <= FINAL, states
        assert {job for job, state in states.items() if state is State.SENT} == set(self.mail)
        lead(self.ledger)
        self.ledger.clock.advance(followers.REREAD_MOST / SECOND)
        lead(self.ledger)
        assert {row.stage for row in self.ledger.rows(schema.after)} <= {"done"}


class TestWhateverHappensToChains:
    def test_each_mail_goes_out_at_most_once_and_in_its_order(self) -> None:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=settings().max_examples // 5,  # 5, or 50 in ./dev test-all
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            ),
        )
