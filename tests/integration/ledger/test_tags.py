"""Tags in the ledger: jobs are found, counted, held, released, retried and cancelled by them."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import func, select

from sendq import (
    DeadLetterFilter,
    InvalidArgument,
    Message,
    NewBatch,
    Operators,
    Options,
    Query,
    Scope,
    Send,
    State,
    UnfinishedFilter,
)
from sendq.clock import SECOND, micros, moment
from sendq.facts.outcomes import Page
from sendq.ledger import batches, pending_work, retention, walks
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.dispatching import tag_holds
from sendq.rules.states import Event
from tests.integration.ledger.test_state_machine import MEMORY, template
from tests.support.leading import FixedLeadership
from tests.support.ledger import MESSAGE, Ledger, between_statements, end, outcome, until_it_waits
from tests.support.waiting import LIMIT_S
from worker.leading.batches import Batches
from worker.leading.tag_holds import TagHolds
from worker.leading.work_poll import WorkPoll

MAY, JUNE = {"campaign": "may"}, {"campaign": "june", "tenant": "7"}
WHO: Any = {"by": "anna", "reason": "wrong price in the subject"}
HOUR = 3_600 * SECOND


def operators(ledger: Ledger) -> Operators:
    return Operators(ledger.engine, now=ledger.clock)


def send(ledger: Ledger, grant: str = "g1", **options: Any) -> str:
    return ledger.queue.send(grant, MESSAGE, **options).id


def hold(ledger: Ledger, tag: str = "campaign=may", hours: float = 2) -> None:
    until = moment(ledger.clock()) + timedelta(hours=hours)
    assert operators(ledger).hold(Scope.of_tag(tag), until=until, **WHO).done


def release(ledger: Ledger, tag: str = "campaign=may") -> str | None:
    return operators(ledger).release(Scope.of_tag(tag), **WHO).outcome


def bring_back(ledger: Ledger) -> int:
    """What the leader does after a hold's end."""
    with ledger.writing() as connection:
        ended = tag_holds.ended(connection, now=ledger.clock())
    number = 0
    for name in ended:
        more = True
        while more:
            with ledger.writing() as connection:
                part, more = tag_holds.bring_back(connection, *name, now=ledger.clock())
            number += part
    return number


def turn(ledger: Ledger, event: Event = Event.ACCEPT) -> list[str]:
    """A turn of each lane in which all that it may run ends alike; the ids of these jobs, in their order."""
    ledger.clock.advance(1)
    went = []
    for claimed in ledger.claim(ledger.offer()):
        for job in claimed.jobs:
            if job.id not in claimed.begun:
                ledger.record(begins=[(claimed, job.id)])
            ledger.record(outcome(claimed, job, event, sent="yes" if event is Event.ACCEPT else "no"))
            went.append(str(job.id))
        ledger.record(ends=[end(claimed)])
    return went


def turns(ledger: Ledger, number: int) -> list[str]:
    return [job for _ in range(number) for job in turn(ledger)]


def counted(ledger: Ledger, tag: str = "campaign=may") -> dict[State, int]:
    ledger.absorb()
    return dict(ledger.queue.count(tag=tag).states)


def listed(ledger: Ledger, **filters: Any) -> list[str]:
    ledger.absorb()
    return [line.id for line in ledger.queue.jobs(**filters).items]


class TestFinding:
    def test_lists_the_jobs_with_a_tag_the_latest_first(self, ledger: Ledger) -> None:
        first, other, plain = send(ledger, tags=MAY), send(ledger, tags=JUNE), send(ledger)
        second = send(ledger, "g2", tags=MAY | {"tenant": "7"})
        ledger.absorb()
        assert listed(ledger, tag="campaign=may") == [second, first]
        assert listed(ledger, tag="tenant=7") == [second, other]
        assert listed(ledger, tag="tenant=7", grant_id="g1") == [other]
        assert listed(ledger, tag="campaign=july") == []
        page = ledger.queue.jobs(tag="tenant=7", limit=1)
        assert [*page.items, *ledger.queue.jobs(tag="tenant=7", limit=1, cursor=page.next).items][1].id == other
        assert ledger.queue.job(first).tags == MAY
        assert ledger.queue.job(plain).tags == {}
        assert {line.id: line.tags for line in ledger.queue.jobs("g1").items} == {first: MAY, other: JUNE, plain: {}}

    def test_counts_by_state(self, ledger: Ledger) -> None:
        for _ in range(3):
            send(ledger, tags=MAY)
        send(ledger, tags=JUNE)
        ended = turn(ledger)
        sent = sum(line.state is State.SENT and line.tags == MAY for line in ledger.queue.jobs("g1").items)
        assert len(ended) >= 1
        states = ledger.queue.count(tag="campaign=may").states
        assert states.get(State.SENT, 0) == sent
        assert sum(states.values()) == ledger.queue.count(tag="campaign=may").number == 3
        assert ledger.queue.count(tag="campaign=may", state="dead").states == {}
        assert operators(ledger).count_jobs(tag="tenant=7").number == 1

    def test_refuses_what_is_no_tag(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidArgument, match="tag: has no ="):
            ledger.queue.jobs(tag="campaign")
        with pytest.raises(InvalidArgument, match="looks like an email address"):
            operators(ledger).count_jobs(tag="to=ann@example.com")

    def test_finds_the_jobs_of_a_batch_and_those_that_its_walk_makes(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify_matching("g1", Query(unread=True), unread=False, tags=JUNE)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        (listing,) = claimed.jobs
        ledger.record(
            outcome(claimed, listing, Event.ACCEPT, sent="yes", page=Page(["m1", "m2"], None, "")), ends=[end(claimed)]
        )
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=100)
        with ledger.writing() as connection:
            assert walks.make_jobs(connection, UUID(batch.id), now=ledger.clock()) == 2
        assert len(listed(ledger, tag="tenant=7")) == 3
        assert ledger.queue.batch(batch.id).tags == JUNE

    def test_of_a_repeated_call_adds_nothing(self, ledger: Ledger) -> None:
        assert send(ledger, key="a", tags=MAY) == send(ledger, key="a", tags=JUNE)
        assert len(listed(ledger, tag="campaign=may")) == 1
        assert listed(ledger, tag="campaign=june") == []

    def test_of_many_jobs_at_once(self, ledger: Ledger) -> None:
        sends = [Send("g1", MESSAGE, Options(tags=MAY if number % 2 else None)) for number in range(1_100)]
        ledger.queue.send_many(sends)
        assert counted(ledger) == {State.QUEUED: 550}
        assert ledger.queue.count("g1").number == 1_100


class TestAHoldOfATag:
    def test_lets_the_others_of_the_lane_go_on(self, ledger: Ledger) -> None:
        held = [send(ledger, tags=MAY) for _ in range(3)]
        other, plain = send(ledger, tags=JUNE), send(ledger)
        hold(ledger)
        later = send(ledger, tags=MAY)  # after the hold
        assert turns(ledger, 2) == [other, plain]
        why = ledger.queue.why(held[0])
        assert (why.reason, why.by, why.note) == ("held", "anna", WHO["reason"])
        assert why.says.startswith("the tag campaign=may is held")
        assert ledger.queue.why(later).reason == "held"
        assert counted(ledger) == {State.QUEUED: 4}

    def test_that_is_released_lets_them_go_in_their_order(self, ledger: Ledger) -> None:
        held = [send(ledger, tags=MAY) for _ in range(3)]
        hold(ledger)
        assert turn(ledger) == []
        assert release(ledger) == "released"
        assert bring_back(ledger) == 3
        assert turns(ledger, 3) == held
        assert release(ledger) is None

    def test_ends_by_itself(self, ledger: Ledger) -> None:
        held = send(ledger, tags=MAY)
        hold(ledger, hours=1)
        assert turn(ledger) == []
        ledger.clock.advance(3_601)
        assert turn(ledger) == [held]

    def test_is_never_shortened(self, ledger: Ledger) -> None:
        hold(ledger, hours=2)
        until = moment(ledger.clock()) + timedelta(hours=1)
        assert not operators(ledger).hold(Scope.of_tag("campaign=may"), until=until, **WHO).allowed
        before = operators(ledger).hold(Scope.of_tag("campaign=may"), until=until, **WHO, dry_run=True).before
        assert before.held_by == "anna"

    def test_of_another_tag_of_the_job_still_holds(self, ledger: Ledger) -> None:
        job = send(ledger, tags=MAY | {"tenant": "7"})
        hold(ledger)
        hold(ledger, "tenant=7")
        assert turn(ledger) == []
        release(ledger)
        assert bring_back(ledger) == 1
        assert turn(ledger) == []
        assert ledger.queue.why(job).says.startswith("the tag tenant=7 is held")

    def test_of_another_application_holds_nothing_here(self, ledger: Ledger) -> None:
        job = send(ledger, tags=MAY)
        until = moment(ledger.clock()) + timedelta(hours=1)
        operators(ledger).hold(Scope.of_tag("campaign=may", "other"), until=until, **WHO)
        assert turn(ledger) == [job]

    def test_leaves_later_jobs_to_their_time(self, ledger: Ledger) -> None:
        job = send(ledger, tags=MAY, due_at=moment(ledger.clock()) + timedelta(hours=5))
        hold(ledger, hours=2)
        ledger.absorb()
        assert ledger.queue.why(job).reason == "not_due"
        release(ledger)
        assert bring_back(ledger) == 0
        assert ledger.queue.why(job).reason == "not_due"

    def test_that_is_taken_up_again_while_it_is_released_holds_on(self, ledger: Ledger) -> None:
        send(ledger, tags=MAY)
        hold(ledger)
        assert turn(ledger) == []
        release(ledger)
        hold(ledger, hours=3)
        assert bring_back(ledger) == 0
        ledger.clock.advance(2.5 * 3_600)
        assert turn(ledger) == []

    @pytest.mark.parametrize("leader_looks", [False, True])
    def test_that_is_shorter_than_one_released_before_ends_at_its_own_time(
        self, ledger: Ledger, leader_looks: bool
    ) -> None:
        job = send(ledger, tags=MAY)
        hold(ledger, hours=48)
        assert turn(ledger) == []
        release(ledger)
        hold(ledger, hours=1)
        if leader_looks:
            assert bring_back(ledger) == 0
        ledger.clock.advance(3_590)
        assert turns(ledger, 2) == []
        assert ledger.queue.why(job).reason == "held"
        ledger.clock.advance(20)
        assert bring_back(ledger) == 1
        assert turns(ledger, 2) == [job]

    def test_that_ends_before_another_of_the_same_job_leaves_it_to_that_one(self, ledger: Ledger) -> None:
        job = send(ledger, tags=MAY | {"tenant": "7"})
        hold(ledger, hours=48)
        hold(ledger, "tenant=7", hours=1)
        assert turn(ledger) == []
        ledger.clock.advance(2 * 3_600)
        bring_back(ledger)
        assert turns(ledger, 2) == []
        assert ledger.queue.why(job).says.startswith("the tag campaign=may is held")
        release(ledger)
        bring_back(ledger)
        assert turns(ledger, 2) == [job]

    def test_that_is_released_again_brings_back_those_that_came_back_before(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = [send(ledger, tags=MAY) for _ in range(3)]
        hold(ledger, hours=48)
        assert turns(ledger, 2) == []
        leader = TagHolds(ledger.engine, now=ledger.clock)
        release(ledger)
        monkeypatch.setattr(tag_holds, "STEP", 2)
        leader.bring_back(monotonic=iter([2.0]).__next__, until=1.0)  # two of the three
        monkeypatch.undo()
        hold(ledger, hours=48)
        ledger.clock.advance(5)
        assert turns(ledger, 2) == []
        release(ledger)
        leader.bring_back(until=time.monotonic() + LIMIT_S)
        assert turns(ledger, 4) == jobs

    def test_that_is_released_does_not_wait_for_a_large_batch_that_was_cancelled(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = [send(ledger, tags=MAY) for _ in range(3)]
        hold(ledger)
        assert turns(ledger, 2) == []
        batch = ledger.queue.modify("g2", [f"m{number}" for number in range(1_500)], unread=False)
        with ledger.writing() as connection:  # the caller ended before it had cancelled the jobs
            batches.cancel_batch(connection, UUID(batch.id), now=ledger.clock())
        release(ledger)
        monkeypatch.setattr("worker.leading.batches.SHARE_S", 0.01)  # less than one step of the batch takes
        Batches(
            ledger.engine, FixedLeadership(), WorkPoll(ledger.engine, now=ledger.clock), now=ledger.clock
        ).run_once()
        assert not ledger.rows(schema.batch)[0].cancelled
        assert turns(ledger, 3) == jobs

    def test_leaves_no_row_when_it_is_over(self, ledger: Ledger) -> None:
        job = send(ledger, tags=MAY)
        hold(ledger, hours=1)
        hold(ledger, "tenant=7", hours=1)
        assert turn(ledger) == []
        ledger.clock.advance(2 * 3_600)
        assert turn(ledger) == [job]
        with ledger.writing() as connection:
            assert pending_work.find(connection, now=ledger.clock()).batches
        assert bring_back(ledger) == 0
        assert ledger.rows(schema.tag_hold) == []
        with ledger.writing() as connection:
            assert not pending_work.find(connection, now=ledger.clock()).batches

    def test_that_is_made_while_the_leader_ends_the_last_one_holds(self, pg_ledger: Ledger) -> None:
        ledger = pg_ledger
        job = send(ledger, tags=MAY)
        hold(ledger, hours=48)
        assert turn(ledger) == []
        release(ledger)
        with ThreadPoolExecutor(1) as pool:
            made: list[Future[None]] = []

            def hold_again() -> None:
                made.append(pool.submit(hold, ledger))
                until_it_waits(ledger, made[0])

            with ledger.writing() as connection:
                ((application, tag),) = tag_holds.ended(connection, now=ledger.clock())
                with between_statements(connection, 1, hold_again):  # the row is locked, and about to be deleted
                    tag_holds.bring_back(connection, application, tag, now=ledger.clock())
            made[0].result(LIMIT_S)
        assert turns(ledger, 2) == []
        assert ledger.queue.why(job).reason == "held"

    def test_leaves_a_send_that_is_repeated_because_its_outcome_is_unknown(self, ledger: Ledger) -> None:
        doubtful = send(ledger, tags=MAY)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        soon = ledger.clock() + 10 * SECOND
        repeat = outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe", next_at=soon)
        ledger.record(repeat, ends=[end(claimed)])
        hold(ledger, hours=24)
        held = send(ledger, tags=MAY)
        ledger.clock.advance(5)
        assert turns(ledger, 2) == []
        assert ledger.queue.why(doubtful).reason == "retry"
        ledger.clock.advance(10)
        assert turns(ledger, 2) == [doubtful]
        assert ledger.queue.why(held).reason == "held"

    def test_that_is_released_leaves_jobs_that_were_held_or_rescheduled_meanwhile(self, ledger: Ledger) -> None:
        held, later, free = (send(ledger, tags={"campaign": "may"}) for _ in range(3))
        hold(ledger)
        assert turns(ledger, 2) == []
        due_at = moment(ledger.clock() + 3_600 * SECOND)
        ledger.queue.hold(held)
        ledger.queue.reschedule(later, due_at=due_at)
        release(ledger)
        bring_back(ledger)
        assert turns(ledger, 3) == [free]
        ledger.queue.release(held)
        assert turns(ledger, 2) == [held]
        assert ledger.queue.job(later).next_at == due_at

    def test_keeps_changes_of_one_message_in_order(self, ledger: Ledger) -> None:
        first = ledger.queue.modify("g1", ["m1"], unread=True, tags=MAY)
        ledger.clock.advance(1)
        second = ledger.queue.modify("g1", ["m1"], unread=False)
        hold(ledger)
        assert turns(ledger, 2) == []
        release(ledger)
        bring_back(ledger)
        ledger.clock.advance(31)
        jobs = [listed(ledger, batch_id=batch.id)[0] for batch in (first, second)]
        assert turns(ledger, 3) == jobs

    def test_puts_off_many_at_once(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE, Options(tags=MAY)) for _ in range(600)])
        plain = send(ledger)
        hold(ledger)
        assert turns(ledger, 2) == [plain]
        release(ledger)
        assert bring_back(ledger) == 600

    def test_is_shown(self, ledger: Ledger) -> None:
        send(ledger, tags=MAY)
        ledger.absorb()
        hold(ledger)
        (held,) = operators(ledger).status().holds
        assert (held.tag, held.application, held.by) == ("campaign=may", "default", "anna")
        assert operators(ledger).overview().holds == (held,)
        (event,) = operators(ledger).events(kind="hold").items
        assert (event.tag, event.reason) == ("campaign=may", WHO["reason"])

    @pytest.mark.parametrize("tagged", ["batch", "jobs"])
    @pytest.mark.parametrize("grants", [1, 2])
    def test_delays_the_end_of_a_batch_and_is_shown_with_it(self, ledger: Ledger, tagged: str, grants: int) -> None:
        options = Options(tags=MAY if tagged == "jobs" else None)
        new = NewBatch(tags=MAY if tagged == "batch" else None)
        sends = [Send(f"g{n % grants}", Message(to=[f"r{n}@example.com"]), options) for n in range(30)]
        batch = ledger.queue.send_many(sends, batch=new)
        send(ledger, "g0", tags=JUNE)
        ledger.absorb()
        claimed = ledger.serve(jobs_each=1)
        ledger.record(*(outcome(claimed, job, Event.ACCEPT, sent="yes") for job in claimed.jobs), ends=[end(claimed)])
        ledger.absorb()
        hold(ledger, "campaign=june", hours=9)
        hold(ledger, "campaign=may", hours=2)
        operators(ledger).hold(Scope.of_tag("campaign=may", "other"), until=moment(ledger.clock() + 5 * HOUR), **WHO)
        seen = ledger.queue.batch(batch.id)
        assert [(one.tag, one.until, one.by) for one in seen.holds] == [
            ("campaign=may", moment(ledger.clock() + 2 * HOUR), "anna")
        ]
        assert seen.eta is not None
        assert 2 * HOUR <= micros(seen.eta) - ledger.clock() < 3 * HOUR
        release(ledger)
        after = ledger.queue.batch(batch.id)
        assert after.holds == ()
        assert after.eta is not None
        assert micros(after.eta) - ledger.clock() < HOUR


class TestActs:
    def test_cancel_the_jobs_with_a_tag(self, ledger: Ledger) -> None:
        for tags in (MAY, JUNE, None):
            send(ledger, tags=tags)
        ledger.absorb()
        which = UnfinishedFilter(tag="campaign=may")
        assert operators(ledger).cancel_jobs(which, **WHO, dry_run=True).finish().number == 1
        assert operators(ledger).cancel_jobs(which, **WHO).finish().number == 1
        assert counted(ledger) == {State.CANCELLED: 1}
        assert ledger.queue.count("g1", state="queued").number == 2
        assert operators(ledger).events(kind="cancel").items[0].tag == "campaign=may"

    def test_retry_the_dead_letters_with_a_tag(self, ledger: Ledger) -> None:
        send(ledger, tags=MAY)
        send(ledger, "g2", tags=JUNE)
        turn(ledger, Event.GIVE_UP)
        assert {one.number for one in operators(ledger).dead_letter_counts(tag="campaign=may")} == {1}
        assert len(operators(ledger).dead_letters(tag="tenant=7").items) == 1
        assert operators(ledger).retry(DeadLetterFilter(tag="campaign=may"), **WHO).finish().retried == 1
        assert counted(ledger) == {State.QUEUED: 1}


class TestRetention:
    def test_deletes_the_tags_with_the_job(self, ledger: Ledger) -> None:
        send(ledger, tags=JUNE)
        turn(ledger)
        kept = send(ledger, "g2", tags=JUNE)
        now = ledger.clock.advance(1_000)
        with ledger.writing() as connection:
            assert retention.drop_jobs(connection, State.SENT, before=now, now=now) == 1
            left = connection.execute(select(schema.job_tag.c.job_id).distinct()).scalars().all()
            assert connection.execute(select(func.count()).select_from(schema.job_tag)).scalar_one() == 2
        assert [str(one) for one in left] == [kept]


class Machine(RuleBasedStateMachine):
    """Jobs with and without tags, holds, their ends, releases and turns in any order: none with a held tag goes, and
    none is lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="sendq-tags-", dir=MEMORY))
        shutil.copy(template(), self.directory / "ledger.db")
        self.ledger = Ledger(open_engine(f"sqlite:///{self.directory / 'ledger.db'}"))
        self.tags: dict[str, set[str]] = {}
        self.ends: dict[str, int] = {}
        self.went: list[str] = []

    @property
    def held(self) -> set[str]:
        return {tag for tag, end in self.ends.items() if end > self.ledger.clock()}

    def teardown(self) -> None:
        for tag in sorted(self.held):
            release(self.ledger, tag)
        self.ends.clear()
        bring_back(self.ledger)
        for _ in range(len(self.tags) + 1):
            self.turns(1)
        self.ledger.engine.dispose()
        shutil.rmtree(self.directory)
        assert sorted(self.went) == sorted(self.tags)  # each once

    @rule(grant=st.sampled_from(["g1", "g2"]), tags=st.sets(st.sampled_from(["a", "b"])))
    def enqueue(self, grant: str, tags: set[str]) -> None:
        job = send(self.ledger, grant, tags=dict.fromkeys(tags, "x"))
        self.tags[job] = {f"{tag}=x" for tag in tags}

    @rule(tag=st.sampled_from(["a=x", "b=x"]), hours=st.integers(1, 3))
    def hold(self, tag: str, hours: int) -> None:
        until = self.ledger.clock() + hours * HOUR
        done = operators(self.ledger).hold(Scope.of_tag(tag), until=moment(until), **WHO)
        assert done.done == (self.ends.get(tag, 0) <= until)
        if done.done:
            self.ends[tag] = until

    @rule(tag=st.sampled_from(["a=x", "b=x"]))
    def release(self, tag: str) -> None:
        assert (release(self.ledger, tag) is not None) == (tag in self.held)
        self.ends.pop(tag, None)

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.ledger.clock.advance(hours * 3_600)

    @rule()
    def lead(self) -> None:
        bring_back(self.ledger)

    @rule(number=st.integers(1, 3))
    def turns(self, number: int) -> None:
        for _ in range(number):
            gone = turn(self.ledger)
            assert [job for job in gone if self.tags[job] & self.held] == []
            self.went += gone


def test_no_order_lets_a_held_job_go_or_loses_one() -> None:
    most = settings().max_examples * 2 // 5
    run_state_machine_as_test(Machine, settings=settings(max_examples=most, stateful_step_count=15, deadline=None))
