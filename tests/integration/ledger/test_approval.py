"""Jobs that need approval: they wait for an operator's word, and nothing else counts as that."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from sendq import (
    NEVER,
    DeadLetterFilter,
    InvalidArgument,
    InvalidJob,
    NewBatch,
    NotFound,
    NotWaiting,
    Options,
    Query,
    Send,
    State,
    UnfinishedFilter,
    Window,
)
from sendq.clock import SECOND, moment, now
from sendq.ids import new_id
from sendq.ledger import batches, waiting_jobs, walks
from sendq.ledger.db import schema
from sendq.ledger.dispatching import rescue
from sendq.ledger.doubt import Ending, settle
from sendq.ledger.reading import gauges
from sendq.ledger.waiting_jobs import Author
from sendq.operators import Operators
from sendq.rules.states import Event
from sendq.rules.waiting_job import HELD, PUT_OFF, UNAPPROVED, Change, ChangeKind
from sendq.scope import Scope
from tests.integration.ledger.test_waiting_jobs import begun, events_of
from tests.support.ledger import MESSAGE, Ledger, between_statements, end, outcome, until_it_waits
from tests.support.waiting import LIMIT_S

HOUR = 3_600
TARGET = "https://app.example/outcomes"


def at(ledger: Ledger, seconds: float) -> datetime:
    return moment(ledger.clock() + round(seconds * SECOND))


def operators(ledger: Ledger) -> Operators:
    return Operators(ledger.engine, now=ledger.clock)


def give_up(ledger: Ledger) -> int:
    """As the leader does, first what expired: it must leave what waits for approval alone."""
    with ledger.writing() as connection:
        rescue.expire(connection, now=ledger.clock(), limit=100)
    with ledger.writing() as connection:
        return rescue.give_up_unapproved(connection, now=ledger.clock(), limit=100)


class TestReplacedAfterItsApproval:
    """Once it is approved again it begins when the hold or window ends, as if it had not been replaced."""

    def test_while_its_tag_is_held(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True, tags={"campaign": "may"})
        ledger.queue.approve(str(job), by="anna")
        ledger.absorb()
        tag = Scope("default", tag="campaign=may")
        operators(ledger).hold(tag, until=at(ledger, 40 * HOUR), by="anna", reason="a test")
        assert begun(ledger) == []
        self._replace(ledger, job)
        operators(ledger).release(tag, by="anna", reason="a test")
        self._begins(ledger, job)

    def test_while_the_window_of_its_grant_is_closed(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True)
        ledger.queue.approve(str(job), by="anna")
        ledger.absorb()
        operators(ledger).set_window("g1", Window("02:00-03:00", tz="UTC"), by="anna", reason="a test").finish()
        assert begun(ledger) == []
        self._replace(ledger, job)
        operators(ledger).set_window("g1", None, by="anna", reason="a test").finish()
        self._begins(ledger, job)

    def _replace(self, ledger: Ledger, job: UUID) -> None:
        assert ledger.job(job).rule in PUT_OFF
        ledger.queue.replace(str(job), MESSAGE.model_copy(update={"subject": "Invoice 43"}))
        assert ledger.job(job).next_at == UNAPPROVED

    def _begins(self, ledger: Ledger, job: UUID) -> None:
        ledger.clock.advance(1)
        assert begun(ledger) == []
        ledger.queue.approve(str(job), by="anna")
        assert begun(ledger) == [job]


class TestAJobThatNeedsApproval:
    def test_begins_once_it_is_approved(self, ledger: Ledger) -> None:
        job, other = ledger.send(needs_approval=True), ledger.send()
        ledger.clock.advance(HOUR)
        assert begun(ledger) == [other]
        why = ledger.queue.why(str(job))
        assert (why.reason, why.rule, why.until) == ("unapproved", "needs_approval", None)
        assert "given up unless it is approved by 2026-05-31 20:26:40 UTC" in why.says
        seen = ledger.queue.job(str(job))
        assert (seen.next_at, seen.approved_at, seen.held) == (None, None, False)
        assert seen.approve_by == seen.expires_at
        assert ledger.queue.approve(str(job), by="anna", reason="read it") == 1
        assert ledger.queue.job(str(job)).approved_at == moment(ledger.clock())
        assert ledger.queue.job(str(job)).rule is None
        assert begun(ledger) == [job]
        assert events_of(ledger) == [("approve", "anna", "read it", job, None)]

    def test_waits_for_its_due_time_after_that(self, ledger: Ledger) -> None:
        job = ledger.send(due_at=at(ledger, HOUR), needs_approval=True)
        ledger.queue.approve(str(job), by="anna")
        assert begun(ledger) == []
        assert ledger.queue.why(str(job)).reason == "not_due"
        ledger.clock.advance(HOUR)
        assert begun(ledger) == [job]

    @pytest.mark.parametrize("kind", ["release", "reschedule", "priority", "hold and release"])
    def test_is_not_approved_by_any_other_change(self, ledger: Ledger, kind: str) -> None:
        job, queue = ledger.send(needs_approval=True), ledger.queue
        match kind:
            case "release":
                assert queue.release(str(job)) == 0
            case "reschedule":
                assert queue.reschedule(str(job), due_at=at(ledger, -60)) == 1
            case "priority":
                assert queue.set_priority(str(job), priority="high") == 1
            case "hold and release":
                assert queue.hold(str(job)) == 1
                assert queue.job(str(job)).held
                assert "held" in queue.why(str(job)).says
                assert queue.release(str(job)) == 1
        ledger.clock.advance(HOUR)
        assert begun(ledger) == []
        assert ledger.job(job).next_at == UNAPPROVED
        queue.approve(str(job), by="anna")
        assert begun(ledger) == [job]

    def test_stays_held_when_it_is_approved(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True)
        ledger.queue.hold(str(job), by="anna")
        assert ledger.queue.approve(str(job), by="ben") == 1
        assert ledger.job(job).next_at == HELD
        assert begun(ledger) == []
        assert ledger.queue.why(str(job)).reason == "held"
        ledger.queue.release(str(job))
        assert begun(ledger) == [job]

    def test_is_in_the_list_and_the_counts_of_what_waits_for_approval(self, ledger: Ledger) -> None:
        job, approved = ledger.send(needs_approval=True), ledger.send(needs_approval=True)
        ledger.send(), ledger.send(expires_at=at(ledger, HOUR))
        ledger.absorb()
        ledger.queue.approve(str(approved), by="anna")
        (line,) = operators(ledger).jobs(rule="needs_approval").items
        assert (line.id, line.approve_by) == (str(job), line.expires_at)
        assert operators(ledger).count_jobs(rule="needs_approval").number == 1
        assert operators(ledger).status().approvals.waiting == 1
        assert operators(ledger).overview().approvals.first_end == line.approve_by
        ledger.clock.advance(71 * HOUR)
        with ledger.writing() as connection:
            levels = gauges.levels(connection, now=ledger.clock())
        assert levels.unapproved == {"default": (1, 1)}
        assert sum(levels.expiring.values()) == 3

    def test_keeps_its_need_out_of_what_its_key_identifies(self, ledger: Ledger) -> None:
        first = ledger.send(key="k", needs_approval=True)
        again = ledger.queue.send("g1", MESSAGE, key="k")
        assert (again.id, again.existed) == (str(first), True)
        assert begun(ledger) == []

    @pytest.mark.parametrize("given", ["yes", 1, None, 72])
    def test_says_so_with_a_bool(self, ledger: Ledger, given: Any) -> None:
        with pytest.raises(InvalidJob, match="needs_approval: is not True or False"):
            ledger.queue.send("g1", MESSAGE, needs_approval=given)
        with pytest.raises(InvalidJob, match="needs_approval: is not True or False"):
            ledger.queue.delete("g1", ["m1"], needs_approval=given)
        with pytest.raises(InvalidJob, match=r"batch\.needs_approval: is not True or False"):
            ledger.queue.send_many([], batch=NewBatch(needs_approval=given))
        assert ledger.rows(schema.job) == []

    def test_is_among_others_of_its_call(self, ledger: Ledger) -> None:
        given = [Options(needs_approval=True), Options(), Options(needs_approval=True)]
        jobs = [UUID(job.id) for job in ledger.queue.send_many([Send("g1", MESSAGE, one) for one in given])]
        ledger.clock.advance(1)
        assert begun(ledger) == [jobs[1]]
        ledger.queue.approve(str(jobs[2]), by="anna")
        assert begun(ledger) == [jobs[2]]

    def test_holds_up_later_changes_of_the_message_and_is_named_there(self, ledger: Ledger) -> None:
        ledger.queue.delete("g1", ["m1"], needs_approval=True)
        (later,) = ledger.modify("g1", ["m1"])
        ledger.clock.advance(1)
        assert begun(ledger) == []
        assert "which waits for approval" in ledger.queue.why(str(later)).says


class TestApproval:
    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_is_refused_with_the_state_of_the_job(self, ledger: Ledger, decision: str) -> None:
        jobs = {name: ledger.send(name, needs_approval=name != "plain") for name in ("plain", "wire", "late", "gone")}
        approved, expired = ledger.send("approved", needs_approval=True), ledger.send("expired", needs_approval=True)
        ledger.queue.reschedule(str(jobs["wire"]), due_at=None, expires_at=NEVER)
        ledger.queue.approve(str(jobs["wire"]), by="anna")
        ledger.claim(ledger.offer())
        ledger.set_job(jobs["plain"], state="queued")
        ledger.queue.cancel(str(jobs["gone"]))
        ledger.queue.approve(str(approved), by="anna")
        ledger.queue.reschedule(str(expired), due_at=None, expires_at=at(ledger, 60))
        ledger.queue.reschedule(str(jobs["late"]), due_at=None, expires_at=at(ledger, 100))
        ledger.clock.advance(60)
        assert give_up(ledger) == 1
        ledger.clock.advance(40)  # not given up yet
        before, events = ledger.rows(schema.job), events_of(ledger)
        for job, state, reason in (
            (jobs["plain"], "queued", "it needs no approval"),
            (jobs["wire"], "sending", "its call is being made"),
            (jobs["late"], "queued", "it was not approved in time"),
            (jobs["gone"], "cancelled", "it has ended"),
            (approved, "queued", "it is approved already"),
            (expired, "dead", "it was not approved in time; to have it wait for approval again: sendq retry"),
        ):
            with pytest.raises(NotWaiting) as error:
                getattr(ledger.queue, decision)(str(job), by="ben")
            assert error.value.state == state
            assert f"{state}: {reason}; nothing was changed" in str(error.value)
        assert (ledger.rows(schema.job), events_of(ledger)) == (before, events)

    @pytest.mark.parametrize("by", ["", "policy", None, "a\nb"])
    def test_names_a_person(self, ledger: Ledger, by: Any) -> None:
        job = ledger.send(needs_approval=True)
        with pytest.raises(InvalidArgument, match="by: "):
            operators(ledger).approve([str(job)], by=by)
        assert ledger.job(job).approved_at is None

    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_is_undone_with_the_callers_transaction(self, ledger: Ledger, decision: str) -> None:
        with Session(ledger.engine) as session:
            job = ledger.queue.send("g9", MESSAGE, needs_approval=True, on_outcome=TARGET, session=session)
            session.commit()
        before = ledger.rows(schema.job)
        with Session(ledger.engine) as session:
            assert getattr(ledger.queue, decision)(job.id, by="anna", session=session) == 1
            session.rollback()
        assert ledger.rows(schema.job) == before
        assert ledger.rows(schema.event) == ledger.rows(schema.delivery) == []


class TestAReplacementOfWhatWasApproved:
    @pytest.mark.parametrize("held", [False, True])
    def test_waits_for_approval_again(self, ledger: Ledger, held: bool) -> None:
        job = ledger.send(needs_approval=True)
        ledger.queue.replace(str(job), MESSAGE.model_copy(update={"subject": "before"}))
        ledger.queue.approve(str(job), by="anna")
        if held:
            ledger.queue.hold(str(job))
        ledger.queue.replace(str(job), MESSAGE.model_copy(update={"subject": "something else"}))
        ledger.queue.release(str(job))
        assert begun(ledger) == []
        assert ledger.queue.why(str(job)).reason == "unapproved"
        ledger.queue.approve(str(job), by="anna")
        assert begun(ledger) == [job]


class TestAnApprovalOfWhatHasBeenRead:
    """Of what was replaced since, nobody has read what it is now."""

    def replace(self, ledger: Ledger, job: UUID | str, subject: str = "something else") -> None:
        ledger.queue.replace(str(job), MESSAGE.model_copy(update={"subject": subject}))

    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_leaves_a_job_alone_whose_message_was_replaced_since(self, ledger: Ledger, decision: str) -> None:
        job = ledger.send(needs_approval=True)
        read = ledger.queue.job(str(job)).content_version
        self.replace(ledger, job)
        decide = getattr(ledger.queue, decision)
        with pytest.raises(NotWaiting, match="its content is another one: version 1, not 0") as refused_one:
            decide(str(job), content=read, by="anna")
        assert refused_one.value.content_version == 1
        refused = getattr(operators(ledger), decision)([str(job)], content=read, by="anna").finish().refused
        assert "version 1, not 0" in refused[str(job)]
        assert (ledger.job(job).approved_at, begun(ledger)) == (None, [])
        assert "approval of content version 1," in ledger.queue.why(str(job)).says
        ledger.absorb()
        (line,) = operators(ledger).jobs(rule="needs_approval").items
        assert decide(str(job), content=line.content_version, by="anna", reason="read it") == 1
        assert events_of(ledger)[-1] == (decision, "anna", "content version 1: read it", job, None)

    @pytest.mark.parametrize("content", ["1", -1, True, 1.0])
    def test_names_its_version_with_a_number(self, ledger: Ledger, content: Any) -> None:
        job = str(ledger.send(needs_approval=True))
        for approve in (ledger.queue.approve, lambda one, **given: operators(ledger).approve([one], **given)):
            with pytest.raises(InvalidArgument, match="content: is not a content version"):
                approve(job, content=content, by="anna")

    def test_names_the_version_of_one_job_only(self, ledger: Ledger) -> None:
        batch = ledger.queue.delete("g1", ["m1", "m2"], needs_approval=True).id
        with pytest.raises(InvalidArgument, match="content: is given for a batch"):
            ledger.queue.approve(batch_id=batch, content=0, by="anna")
        for which in (UnfinishedFilter(batch_id=batch), [str(row.id) for row in ledger.rows(schema.job)]):
            with pytest.raises(InvalidArgument, match="content: is given for several jobs"):
                operators(ledger).approve(which, content=0, by="anna")
        assert not any(row.approved_at for row in ledger.rows(schema.job))

    def test_leaves_alone_what_is_replaced_while_it_goes_on(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whether it was approved by then or not, and however often it was replaced before."""
        monkeypatch.setattr("sendq.ledger.operators.unfinished.STEP", 2)
        jobs = [ledger.send(needs_approval=True, expires_at=NEVER) for _ in range(5)]
        self.replace(ledger, jobs[2], "before")
        self.replace(ledger, jobs[4], "before")
        ledger.absorb()
        run = operators(ledger).approve(UnfinishedFilter(application="default"), by="anna")
        assert next(run).number == 2
        for replaced in (jobs[0], jobs[3], jobs[4]):  # no time has passed
            self.replace(ledger, replaced)
        assert run.finish().number == 3
        assert [ledger.job(job).approved_at is None for job in jobs] == [True, False, False, True, True]
        assert operators(ledger).approve(UnfinishedFilter(application="default"), by="anna").finish().number == 3

    @pytest.mark.parametrize("by_program", [False, True])
    def test_of_a_batch_leaves_alone_what_is_replaced_while_it_goes_on(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, by_program: bool
    ) -> None:
        monkeypatch.setattr("sendq.ledger.waiting_jobs.STEP", 2)
        sends = [Send("g1", MESSAGE) for _ in range(5)]
        batch = ledger.queue.send_many(sends, batch=NewBatch(needs_approval=True)).id
        jobs = sorted(row.id for row in ledger.rows(schema.job))
        self.replace(ledger, jobs[3], "before")
        if by_program:
            parts: list[Any] = []
            go_on = waiting_jobs.go_on

            def first(connection: Any, change: Any, so_far: Any, **given: Any) -> Any:
                if not parts and connection.dialect.name == "postgresql":
                    self.replace(ledger, jobs[4])
                parts.append(so_far)
                return go_on(connection, change, so_far, **given)

            monkeypatch.setattr(waiting_jobs, "go_on", first)
            ledger.queue.approve(batch_id=batch, by="anna")
            replaced = ledger.engine.dialect.name == "postgresql"
        else:
            run = operators(ledger).approve(UnfinishedFilter(batch_id=batch), by="anna")
            next(run), next(run)
            self.replace(ledger, jobs[4])
            run.finish()
            replaced = True
        assert [ledger.job(job).approved_at is None for job in jobs] == [False] * 4 + [replaced]

    @pytest.mark.parametrize("of_batch", [False, True])
    def test_leaves_alone_what_was_replaced_since_it_was_read(self, ledger: Ledger, of_batch: bool) -> None:
        ledger.clock.at = now()  # the time of ids, by which the filter goes
        sends = [Send("g1", MESSAGE, Options(needs_approval=True, tags={"a": "b"})) for _ in range(3)]
        batch = ledger.queue.send_many(sends, batch=NewBatch()).id
        jobs = sorted(row.id for row in ledger.rows(schema.job))
        self.replace(ledger, jobs[0])
        ledger.clock.advance(60)
        read_at = moment(ledger.clock())
        ledger.clock.advance(60)
        self.replace(ledger, jobs[1])
        if of_batch:
            done = operators(ledger).approve(UnfinishedFilter(batch_id=batch), seen_at=read_at, by="anna").finish()
        else:
            done = operators(ledger).approve(UnfinishedFilter(tag="a=b", until=read_at), by="anna").finish()
        assert done.number == 2
        assert [ledger.job(job).approved_at is None for job in jobs] == [False, True, False]

    @pytest.mark.parametrize("of_batch", [False, True])
    def test_approves_nothing_whose_time_ends_while_it_goes_on(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, of_batch: bool
    ) -> None:
        for name in ("sendq.ledger.operators.unfinished.STEP", "sendq.ledger.waiting_jobs.STEP"):
            monkeypatch.setattr(name, 1)
        hours = [Options(needs_approval=True, expires_at=at(ledger, n * HOUR), tags={"a": "b"}) for n in (1, 2, 3)]
        batch = ledger.queue.send_many([Send("g1", MESSAGE, one) for one in hours], batch=NewBatch()).id
        which = UnfinishedFilter(batch_id=batch) if of_batch else UnfinishedFilter(tag="a=b")
        run = operators(ledger).approve(which, by="anna")
        while next(run).number == 0:
            pass
        ledger.clock.advance(2 * HOUR)
        assert run.finish().number == 2
        late = sum(row.approved_at is None for row in ledger.rows(schema.job))
        assert late == 1


class TestADoubtAboutWhatWasNotApproved:
    @pytest.mark.parametrize("held", [False, True])
    def test_returns_it_to_its_wait_for_approval(self, ledger: Ledger, held: bool) -> None:
        """As after the restore of a backup from before its approval, if it turns out not to have been sent."""
        job = ledger.send(needs_approval=True)
        ledger.absorb()
        if held:
            ledger.queue.hold(str(job))
        ledger.set_job(job, state="in_doubt", doubt_at=ledger.clock(), key_at=ledger.clock(), rule="recovered")
        with ledger.writing() as connection:
            settle(connection, {job: Ending(Event.RETURN, "not_found")}, by="reconcile", now=ledger.clock())
        assert (ledger.job(job).next_at, ledger.job(job).rule) == (HELD if held else UNAPPROVED, "needs_approval")
        ledger.queue.approve(str(job), by="anna")
        assert begun(ledger) == ([] if held else [job])

    def test_gives_it_its_time_for_approval_again_if_it_is_to_be_sent_late(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True, expires_at=at(ledger, HOUR))
        ledger.absorb()
        ledger.clock.advance(10)
        operators(ledger).recover(moment(ledger.clock()), by="anna", reason="a backup").finish()
        ledger.clock.advance(2 * HOUR)
        operators(ledger).resolve([str(job)], "resend", by="anna", reason="not sent").finish()
        assert give_up(ledger) == 0
        seen = ledger.queue.job(str(job))
        assert seen.approve_by == seen.expires_at == at(ledger, 72 * HOUR)
        ledger.queue.approve(str(job), by="anna")
        assert begun(ledger) == [job]


class TestRejection:
    def test_ends_the_job_and_is_an_outcome(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True, on_outcome=TARGET)
        assert ledger.queue.reject(str(job), by="anna", reason="wrong price") == 1
        seen = ledger.queue.job(str(job))
        assert (seen.state, seen.rule) == (State.CANCELLED, "rejected")
        assert "was rejected" in ledger.queue.why(str(job)).says
        (delivery,) = ledger.rows(schema.delivery)
        assert (delivery.kind, '"rule": "rejected"' in delivery.facts) == ("cancelled", True)
        assert events_of(ledger) == [("reject", "anna", "wrong price", job, None)]


class TestWhatIsNotApprovedInTime:
    def test_is_a_dead_letter_that_was_not_sent_and_an_outcome(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True, expires_at=at(ledger, HOUR), on_outcome=TARGET)
        ledger.clock.advance(HOUR - 1)
        assert give_up(ledger) == 0
        ledger.clock.advance(1)
        assert give_up(ledger) == 1
        seen = ledger.queue.job(str(job))
        assert (seen.state, seen.rule, seen.attempts, seen.trail) == (State.DEAD, "not_approved", 0, ())
        assert "was not approved in time, so it was not sent" in ledger.queue.why(str(job)).says
        (delivery,) = ledger.rows(schema.delivery)
        assert (delivery.kind, '"rule": "not_approved"' in delivery.facts) == ("dead", True)

    def test_is_known_to_the_rescuers_look(self, ledger: Ledger) -> None:
        ledger.queue.delete("g1", ["m1"], needs_approval=True)
        with ledger.writing() as connection:
            assert not rescue.anything(connection, before=0, now=ledger.clock() + 72 * HOUR * SECOND - 1).jobs
            assert rescue.anything(connection, before=0, now=ledger.clock() + 72 * HOUR * SECOND).jobs

    def test_waits_for_approval_again_once_it_is_retried(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True)
        ledger.absorb()
        ledger.clock.advance(72 * HOUR)
        assert give_up(ledger) == 1
        assert operators(ledger).retry(DeadLetterFilter(rule="not_approved"), by="anna").finish().retried == 1
        assert begun(ledger) == []
        seen = ledger.queue.job(str(job))
        assert (seen.rule, seen.approve_by) == ("needs_approval", at(ledger, 72 * HOUR))
        ledger.queue.approve(str(job), by="anna")
        assert begun(ledger) == [job]

    def test_needs_no_approval_if_it_had_it_before_it_failed(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True)
        ledger.queue.approve(str(job), by="anna")
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.GIVE_UP), ends=[end(claimed)])
        operators(ledger).retry([str(job)], by="anna").finish()
        assert begun(ledger) == [job]

    def test_may_be_put_off_with_its_expiry(self, ledger: Ledger) -> None:
        job = ledger.send(needs_approval=True, expires_at=at(ledger, HOUR))
        ledger.queue.reschedule(str(job), due_at=None, expires_at=at(ledger, 3 * HOUR))
        ledger.clock.advance(2 * HOUR)
        assert give_up(ledger) == 0
        ledger.queue.reschedule(str(job), due_at=at(ledger, HOUR), expires_at=NEVER)
        assert ledger.queue.job(str(job)).approve_by == at(ledger, 73 * HOUR)
        ledger.queue.approve(str(job), by="anna")
        ledger.clock.advance(HOUR)
        assert begun(ledger) == [job]


class TestABatchThatNeedsApproval:
    def make(self, ledger: Ledger, number: int = 3, **options: Any) -> str:
        sends = [Send(f"g{n}", MESSAGE) for n in range(number)]
        return ledger.queue.send_many(sends, batch=NewBatch(needs_approval=True, **options)).id

    def test_is_approved_as_one(self, ledger: Ledger) -> None:
        batch = self.make(ledger, on_outcome=TARGET)
        ledger.clock.advance(1)
        assert ledger.offer() == []
        seen = ledger.queue.batch(batch)
        assert (seen.unapproved, seen.eta) == (3, None)
        dry = operators(ledger).approve(UnfinishedFilter(batch_id=batch), by="anna", dry_run=True).finish()
        assert (dry.number, events_of(ledger)) == (3, [])
        assert ledger.queue.approve(batch_id=batch, by="anna", reason="read") == 3
        assert ledger.queue.batch(batch).unapproved == 0
        assert sum(len(one.begun) for one in ledger.claim(ledger.offer())) == 3
        assert events_of(ledger) == [("approve", "anna", "read", UUID(batch), 3)]
        with pytest.raises(NotWaiting, match="none of its jobs waits for approval"):
            ledger.queue.approve(batch_id=batch, by="anna")

    def test_counts_what_waits_by_itself(self, ledger: Ledger) -> None:
        sends = [Send("g1", MESSAGE, Options(needs_approval=number > 0)) for number in range(3)]
        batch = ledger.queue.send_many(sends, batch=NewBatch()).id
        ledger.absorb()
        seen = ledger.queue.batch(batch)
        assert (seen.unapproved, seen.eta) == (2, None)

    def test_is_rejected_as_one(self, ledger: Ledger) -> None:
        batch = self.make(ledger, on_outcome=TARGET)
        assert ledger.queue.reject(batch_id=batch, by="anna") == 3
        with ledger.writing() as connection:
            assert batches.finish_batches(connection, now=ledger.clock(), limit=100) == [UUID(batch)]
        assert ledger.queue.batch(batch).counts == {State.CANCELLED: 3}
        assert {row.rule for row in ledger.rows(schema.job)} == {"rejected"}

    def test_is_not_decided_about_while_more_may_be_added(self, ledger: Ledger) -> None:
        batch = self.make(ledger, open=True)
        for decision in (ledger.queue.approve, ledger.queue.reject):
            with pytest.raises(NotWaiting, match="is open: more may be added to it; close it first"):
                decision(batch_id=batch, by="anna")
        ledger.queue.add(batch, [Send("g7", MESSAGE)])
        ledger.queue.hold(batch_id=batch)
        ledger.queue.add(batch, [Send("g8", MESSAGE)])
        assert ledger.offer() == []
        ledger.queue.close_batch(batch)
        ledger.clock.advance(1)
        assert ledger.queue.approve(batch_id=batch, by="anna") == 5
        assert ledger.offer() == []
        assert ledger.queue.release(batch_id=batch) == 5
        assert sum(len(one.begun) for one in ledger.claim(ledger.offer())) == 5

    def test_shows_what_a_search_finds_before_any_of_it_is_deleted(self, ledger: Ledger) -> None:
        batch = ledger.queue.delete_matching("g1", Query(unread=True), needs_approval=True).id
        (listing,) = begun(ledger)
        assert ledger.job(listing).operation == "list"
        with pytest.raises(NotWaiting, match="is incomplete: its messages are still being found"):
            ledger.queue.approve(batch_id=batch, by="anna")
        self.found(ledger, batch)
        ledger.clock.advance(60)
        assert begun(ledger) == []
        assert ledger.queue.batch(batch).unapproved == 3
        assert ledger.queue.approve(batch_id=batch, by="anna") == 3
        assert len(begun(ledger)) > 0

    def test_has_its_time_for_approval_after_a_search_that_took_longer(self, ledger: Ledger) -> None:
        batch = ledger.queue.delete_matching("g1", Query(unread=True), needs_approval=True).id
        begun(ledger)
        ledger.clock.advance(73 * HOUR)
        self.found(ledger, batch)
        assert give_up(ledger) == 0
        assert {row.approve_by for row in ledger.rows(schema.job) if row.approve_by} == {
            ledger.clock() + 72 * HOUR * SECOND
        }
        assert ledger.queue.approve(batch_id=batch, by="anna") == 3

    def found(self, ledger: Ledger, batch: str) -> None:
        """Three messages are found, and become the batch's jobs."""
        with ledger.writing() as connection:
            rows = [{"batch_id": UUID(batch), "object_id": f"m{number}"} for number in range(3)]
            connection.execute(schema.found.insert(), rows)
            connection.execute(schema.batch.update().values(total=3, making=True))
            assert walks.make_jobs(connection, UUID(batch), now=ledger.clock()) == 3

    def test_takes_its_jobs_in_parts(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sendq.ledger.waiting_jobs.STEP", 2)
        batch = self.make(ledger, 5)
        which = UnfinishedFilter(batch_id=batch)
        assert [part.number for part in operators(ledger).approve(which, by="anna")][-1] == 5
        with Session(ledger.engine) as session:
            again = self.make(ledger, 5)
            assert ledger.queue.reject(batch_id=again, by="anna", session=session) == 5
            session.commit()


class TestAllThatMatch:
    def test_are_approved_by_tag_and_application_and_no_others(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.operators.unfinished.STEP", 2)
        tagged = [ledger.send(needs_approval=True, tags={"agent": "a7"}) for _ in range(5)]
        ledger.send(tags={"agent": "a7"}, due_at=at(ledger, HOUR))
        others = [ledger.send(needs_approval=True), ledger.send(needs_approval=True, application="eu")]
        ledger.absorb()
        which = UnfinishedFilter(tag="agent=a7", application="default")
        assert operators(ledger).approve(which, by="anna", dry_run=True).finish().number == 5
        assert ledger.rows(schema.event) == []
        assert operators(ledger).approve(which, by="anna", reason="all read").finish().number == 5
        assert all(ledger.job(job).approved_at for job in tagged)
        assert not any(ledger.job(job).approved_at for job in others)
        (act,) = [row for row in ledger.rows(schema.event) if row.number is not None]
        assert (act.kind, act.number, act.tag, act.by) == ("approve", 5, "agent=a7", "anna")
        assert sum(row.act == act.id for row in ledger.rows(schema.event)) == 5
        assert operators(ledger).reject(UnfinishedFilter(application="eu"), by="anna").finish().number == 1
        assert ledger.state(others[1]) is State.CANCELLED

    @pytest.mark.parametrize("absorbed", [True, False])
    def test_take_no_more_statements_for_more_jobs_of_a_lane(self, ledger: Ledger, absorbed: bool) -> None:
        """``absorbed``: whether the dispatcher has made the lanes of the jobs."""

        def statements(number: int) -> int:
            ids = [ledger.send(needs_approval=True) for _ in range(number)]
            if absorbed:
                ledger.absorb()
            act, decision = new_id(), Change(ChangeKind.APPROVE)
            with ledger.writing() as connection, between_statements(connection, 1_000, lambda: None) as taken:
                done = waiting_jobs.decide_some(
                    connection, ids, decision, Author("anna", None), seen={}, act=act, now=ledger.clock()
                )
            assert done == number
            return len(taken)

        statements(1)  # the first one also asks what the server is
        assert statements(20) == statements(2)
        rows = [row for row in ledger.rows(schema.event) if row.kind == "approve"]
        assert {(row.application, row.grant_id) for row in rows} == {("default", "g1")}

    def test_leave_alone_what_is_enqueued_meanwhile(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sendq.ledger.operators.unfinished.STEP", 2)
        [ledger.send(needs_approval=True) for _ in range(3)]
        ledger.absorb()
        run = operators(ledger).approve(UnfinishedFilter(application="default"), by="anna")
        assert next(run).number == 2
        ledger.clock.advance(1)
        unseen = ledger.send(needs_approval=True)
        assert run.finish().number == 3
        assert ledger.job(unseen).approved_at is None

    def test_are_named_by_some_field(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidArgument, match="has no filter"):
            operators(ledger).approve(UnfinishedFilter(), by="anna")

    def test_named_by_their_ids_are_left_with_their_state(self, ledger: Ledger) -> None:
        job, plain, nothing = ledger.send(needs_approval=True), ledger.send(), UUID(int=7)
        done = operators(ledger).approve([str(job), str(plain), str(nothing)], by="anna").finish()
        assert (done.number, set(done.refused)) == (1, {str(plain), str(nothing)})
        assert "is queued: it needs no approval" in done.refused[str(plain)]
        with pytest.raises(NotFound):
            operators(ledger).approve(["no id"], by="anna")


class TestRaces:
    @pytest.mark.parametrize("decision", ["approve", "reject"])
    def test_a_decision_that_comes_while_it_is_given_up_counts(self, pg_ledger: Ledger, decision: str) -> None:
        """The leader reads what is late, then locks it: what was decided or put off in between is not given up."""
        ledger = pg_ledger
        job = ledger.send(needs_approval=True, expires_at=at(ledger, HOUR))
        ledger.clock.advance(HOUR)

        def decide() -> None:
            if decision == "approve":
                ledger.queue.reschedule(str(job), due_at=None, expires_at=NEVER)
                ledger.queue.approve(str(job), by="anna")
            else:
                ledger.queue.cancel(str(job))

        with ledger.writing() as connection, between_statements(connection, 1, decide) as seen:
            assert rescue.give_up_unapproved(connection, now=ledger.clock(), limit=10) == 0
        assert "FOR UPDATE" in seen[1]
        assert ledger.state(job) is (State.QUEUED if decision == "approve" else State.CANCELLED)

    @pytest.mark.parametrize(("first", "second"), [("approve", "reject"), ("reject", "approve")])
    @pytest.mark.parametrize("of_batch", [False, True])
    def test_of_two_decisions_at_once_the_first_counts(
        self, pg_ledger: Ledger, first: str, second: str, of_batch: bool
    ) -> None:
        """The other one waits for its transaction, and then sees what it did."""
        ledger = pg_ledger
        new = NewBatch(needs_approval=True)
        batch = ledger.queue.send_many([Send("g1", MESSAGE), Send("g2", MESSAGE)], batch=new).id
        job = str(ledger.rows(schema.job)[0].id)
        named = {"batch_id": batch} if of_batch else {"job_id": job}
        with ThreadPoolExecutor(1) as pool, Session(ledger.engine) as session:
            assert getattr(ledger.queue, first)(**named, by="anna", session=session) == 1 + of_batch
            other = pool.submit(getattr(ledger.queue, second), job_id=job, by="ben")
            until_it_waits(ledger, other)
            assert not other.done()
            session.commit()
            with pytest.raises(NotWaiting, match="approved already" if first == "approve" else "cancelled"):
                other.result(LIMIT_S)
        assert [row.kind for row in ledger.rows(schema.event)] == [first]
        assert ledger.state(UUID(job)) is (State.QUEUED if first == "approve" else State.CANCELLED)

    @pytest.mark.parametrize("replaced_first", [False, True])
    def test_an_approval_and_a_replacement_at_once_send_nothing_unread(
        self, pg_ledger: Ledger, replaced_first: bool
    ) -> None:
        ledger = pg_ledger
        job = ledger.send(needs_approval=True)
        other = MESSAGE.model_copy(update={"subject": "another"})
        approve = partial(ledger.queue.approve, str(job), content=0, by="anna")
        replace = partial(ledger.queue.replace, str(job), other)
        first, second = (replace, approve) if replaced_first else (approve, replace)
        with ThreadPoolExecutor(1) as pool, Session(ledger.engine) as session:
            first(session=session)
            waits = pool.submit(second)
            until_it_waits(ledger, waits)
            assert not waits.done()
            session.commit()
            if replaced_first:
                with pytest.raises(NotWaiting, match="version 1, not 0"):
                    waits.result(LIMIT_S)
            else:
                waits.result(LIMIT_S)
        assert (ledger.job(job).approved_at, begun(ledger)) == (None, [])
