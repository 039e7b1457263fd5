"""Batches in the ledger: their sums, their one end, their progress, and how they are cancelled."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from sendq import Batch, NotFound, Query, State
from sendq.clock import SECOND
from sendq.facts.outcomes import Page
from sendq.ledger import batches, walks
from sendq.ledger.db import schema
from sendq.ledger.dispatching import rescue
from sendq.ledger.operators.retry import DeadLetterSelection, retry
from sendq.ledger.reading.filters import JobFilter
from sendq.rules.states import Event
from tests.support.ledger import Ledger, end, outcome
from tests.support.waiting import LIMIT_S


def of_batch(batch: Batch) -> DeadLetterSelection:
    return DeadLetterSelection(which=JobFilter(batch_id=UUID(batch.id)))


def modify(ledger: Ledger, count: int = 3, **options: Any) -> Batch:
    return ledger.queue.modify("g1", [f"m{number}" for number in range(count)], **({"unread": False} | options))


def serve_all(ledger: Ledger, event: Event = Event.ACCEPT, **given: Any) -> None:
    """A turn in which all that is due ends alike, one job after another."""
    ledger.clock.advance(1)
    claimed = ledger.serve()
    sent = "yes" if event is Event.ACCEPT else "no"
    for job in claimed.jobs:
        if job.id not in claimed.begun:
            ledger.record(begins=[(claimed, job.id)])
        ledger.record(outcome(claimed, job, event, sent=sent, **given))
    ledger.record(ends=[end(claimed)])


def finish(ledger: Ledger, limit: int = 10_000) -> list[str]:
    with ledger.writing() as connection:
        return [str(one) for one in batches.finish_batches(connection, now=ledger.clock(), limit=limit)]


def end_cancelled(ledger: Ledger) -> int:
    """What the leader does about cancelled batches; how many steps it took."""
    steps = 0
    with ledger.writing() as connection:
        wanted = batches.being_cancelled(connection, limit=10)
    for batch_id in wanted:
        after: UUID | None = UUID(int=0)
        while after is not None:
            steps += 1
            with ledger.writing() as connection:
                after = batches.end_some(connection, batch_id, after=after, now=ledger.clock())
    return steps


class TestTheEndOfABatch:
    def test_is_told_once(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        assert finish(ledger) == []
        serve_all(ledger)
        assert finish(ledger) == [batch.id]
        assert finish(ledger) == []
        assert ledger.queue.batch(batch.id).finished_at is not None

    def test_comes_with_the_last_job_and_not_before(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        for job in claimed.jobs:
            ledger.record(begins=[(claimed, job.id)])
            assert finish(ledger) == []
            ledger.record(outcome(claimed, job, Event.GIVE_UP))
        assert finish(ledger) == [batch.id]

    def test_is_told_though_the_leader_died_after_adding_up(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        serve_all(ledger)
        with ledger.engine.connect() as connection:
            assert batches.finish_batches(connection, now=ledger.clock(), limit=10) != []
            connection.rollback()
        assert finish(ledger) == [batch.id]

    def test_is_told_when_many_changes_are_added_up_a_few_at_a_time(self, ledger: Ledger) -> None:
        batch = modify(ledger, 6)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        for job in claimed.jobs:
            ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes"))
        assert [one for _ in range(5) for one in finish(ledger, limit=2)] == [batch.id]
        assert all(row.summed for row in ledger.rows(schema.batch_change))

    def test_of_several_batches_is_told_of_each(self, ledger: Ledger) -> None:
        ended = [modify(ledger, 2).id for _ in range(3)]
        waiting = modify(ledger, 1, priority="low")
        ledger.clock.advance(1)
        claimed = ledger.serve()
        done = [job for job in claimed.jobs if str(job.batch_id) != waiting.id]
        ledger.record(*(outcome(claimed, job, Event.ACCEPT, sent="yes") for job in done), ends=[end(claimed)])
        assert sorted(finish(ledger)) == sorted(ended)

    def test_comes_again_after_a_retry_of_its_dead_letters(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        serve_all(ledger, Event.GIVE_UP, rule="server_error")
        assert finish(ledger) == [batch.id]
        with ledger.writing() as connection:
            retry(
                connection, of_batch(batch), after=None, first_at=ledger.clock(), by="l",
                now=ledger.clock(),
            )  # fmt: skip
        assert ledger.queue.batch(batch.id).finished_at is None
        assert finish(ledger) == []
        serve_all(ledger)
        assert finish(ledger) == [batch.id]
        assert dict(ledger.queue.batch(batch.id).counts) == {State.SENT: 3}

    def test_does_not_come_between_a_retry_and_its_commit(self, pg_ledger: Ledger) -> None:
        """The leader waits for the retry, and sees what it has written."""
        ledger = pg_ledger
        batch = modify(ledger, 1)
        serve_all(ledger, Event.GIVE_UP, rule="server_error")
        told: list[list[str]] = []
        leader = threading.Thread(target=lambda: told.append(finish(ledger)))
        with ledger.writing() as connection:
            retry(
                connection, of_batch(batch), after=None, first_at=ledger.clock(), by="l",
                now=ledger.clock(),
            )  # fmt: skip
            leader.start()
            leader.join(0.3)
            assert leader.is_alive()
        leader.join(LIMIT_S)
        assert told == [[]]


class TestTheSums:
    def test_stay_few_however_much_happens(self, ledger: Ledger) -> None:
        batch = modify(ledger, 1)
        with ledger.writing() as connection:
            for _ in range(400):
                connection.execute(
                    schema.batch_change.insert(),
                    [{"batch_id": UUID(batch.id), "state": "sent", "count": 1, "at": ledger.clock()}] * 3,
                )
                ledger.clock.advance(1)
                batches.finish_batches(connection, now=ledger.clock(), limit=100)
        rows = ledger.rows(schema.batch_change)
        assert len(rows) <= 122
        assert sum(row._mapping["count"] for row in rows) == 1_200
        assert ledger.queue.batch(batch.id).rate == pytest.approx(3, rel=0.1)

    def test_are_the_same_for_whoever_reads_while_they_are_made(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        serve_all(ledger)
        before = ledger.queue.batch(batch.id).counts
        finish(ledger)
        assert ledger.queue.batch(batch.id).counts == before == {State.SENT: 3}


class TestProgress:
    def test_tells_the_rate_of_the_last_minute_and_when_it_may_be_done(self, ledger: Ledger) -> None:
        batch = modify(ledger, 40)
        assert ledger.queue.batch(batch.id).eta is None
        for _ in range(10):
            ledger.clock.advance(1)
            claimed = ledger.serve(jobs_each=2)
            ledger.record(
                *(outcome(claimed, job, Event.ACCEPT, sent="yes") for job in claimed.jobs), ends=[end(claimed)]
            )
        view = ledger.queue.batch(batch.id)
        assert view.rate == pytest.approx(2, rel=0.2)
        assert view.eta is not None
        assert (view.eta.timestamp() * SECOND - ledger.clock()) / SECOND == pytest.approx(10, rel=0.2)
        held_until = ledger.clock() + 600 * SECOND
        ledger.set_lane(held_until=held_until)
        view = ledger.queue.batch(batch.id)
        assert view.eta is not None
        assert view.eta.timestamp() * SECOND > held_until
        ledger.set_lane(closed_at=ledger.clock())
        assert ledger.queue.batch(batch.id).eta is None
        ledger.clock.advance(120)
        assert ledger.queue.batch(batch.id).rate == 0

    def test_shows_the_first_dead_letters_with_what_was_said(self, ledger: Ledger) -> None:
        batch = modify(ledger, 12)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        for number, job in enumerate(claimed.jobs):
            ledger.record(begins=[(claimed, job.id)])
            died = outcome(claimed, job, Event.GIVE_UP, rule="message_gone")
            ledger.record(died._replace(attempt=died.attempt and died.attempt._replace(error=f"not found ({number})")))
        view = ledger.queue.batch(batch.id)
        assert len(view.errors) == 10
        assert {error.rule for error in view.errors} == {"message_gone"}
        assert [error.object_id for error in view.errors] == [f"m{number}" for number in range(10)]
        assert view.errors[3].error == "not found (3)"

    def test_as_json_is_plain(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify_matching("g1", Query(unread=True), unread=False)
        shown = json.loads(json.dumps(ledger.queue.batch(batch.id).as_json()))
        assert shown["walk"]["state"] == "listing"
        assert shown["total"] is None


class TestCancellingABatch:
    def test_ends_all_that_waits(self, ledger: Ledger) -> None:
        batch = modify(ledger, 1_200)
        other = modify(ledger, 2)
        ledger.queue.cancel_batch(batch.id)
        view = ledger.queue.batch(batch.id)
        assert (dict(view.counts), view.waiting) == ({State.CANCELLED: 1_200}, 0)
        assert view.cancelled_at is not None
        assert finish(ledger) == [batch.id]
        assert ledger.queue.batch(other.id).waiting == 2

    def test_by_its_key(self, ledger: Ledger) -> None:
        batch = modify(ledger, key="tidy")
        ledger.queue.cancel_batch(key="tidy")
        assert ledger.queue.batch(batch.id).counts == {State.CANCELLED: 3}

    def test_ends_what_is_on_the_wire_only_if_it_comes_back(self, ledger: Ledger) -> None:
        batch = modify(ledger, 3, provider="google")
        ledger.clock.advance(1)
        claimed = ledger.serve()
        first, second, third = claimed.jobs
        ledger.record(begins=[(claimed, second.id), (claimed, third.id)])
        ledger.queue.cancel_batch(batch.id)
        assert [ledger.state(job.id) for job in claimed.jobs] == [State.SENDING] * 3
        ledger.record(outcome(claimed, first, Event.ACCEPT, sent="yes"), outcome(claimed, second, Event.RETURN))
        with ledger.writing() as connection:
            rescue.bury(connection, ledger.worker, now=ledger.clock())
        states = [ledger.state(job.id) for job in (first, second, third)]
        assert states == [State.SENT, State.CANCELLED, State.CANCELLED]
        assert finish(ledger) == [batch.id]

    def test_begins_nothing_more_from_then_on_though_its_jobs_are_not_ended_yet(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        with Session(ledger.engine) as session, session.begin():
            ledger.queue.cancel_batch(batch.id, session=session)
        assert ledger.queue.batch(batch.id).counts == {}
        ledger.clock.advance(1)
        assert ledger.serve().jobs == []
        assert ledger.queue.batch(batch.id).counts == {State.CANCELLED: 3}

    def test_in_a_transaction_that_rolls_back_never_was(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        with Session(ledger.engine) as session:
            ledger.queue.cancel_batch(batch.id, session=session)
            session.rollback()
        assert ledger.queue.batch(batch.id).cancelled_at is None

    def test_is_taken_up_by_the_leader_where_the_caller_left_it(self, ledger: Ledger) -> None:
        batch = modify(ledger, 1_700)
        with ledger.writing() as connection:
            batches.cancel_batch(connection, UUID(batch.id), now=ledger.clock())
        with ledger.writing() as connection:
            batches.end_some(connection, UUID(batch.id), after=UUID(int=0), now=ledger.clock())
        assert ledger.queue.batch(batch.id).counts == {State.CANCELLED: batches.CANCEL_STEP}
        assert end_cancelled(ledger) == 1_700 // batches.CANCEL_STEP + 2
        assert ledger.queue.batch(batch.id).counts == {State.CANCELLED: 1_700}
        assert end_cancelled(ledger) == 0

    def test_that_has_ended_changes_nothing(self, ledger: Ledger) -> None:
        batch = modify(ledger)
        serve_all(ledger)
        finish(ledger)
        ledger.queue.cancel_batch(batch.id)
        view = ledger.queue.batch(batch.id)
        assert (view.cancelled_at, dict(view.counts)) == (None, {State.SENT: 3})

    def test_that_is_not_there_is_said_so(self, ledger: Ledger) -> None:
        with pytest.raises(NotFound):
            ledger.queue.cancel_batch("0192f0c1-2f3e-7c4d-9a5b-0123456789ab")


class TestCancellingAWalk:
    def walk(self, ledger: Ledger, found: Iterable[str], following: str | None) -> Batch:
        batch = ledger.queue.modify_matching("g1", Query(unread=True), unread=False)
        brought = Page(tuple(found), None if following is None else following.encode(), "text/plain")
        serve_all(ledger, page=brought)
        return batch

    def test_lists_no_further_page_and_forgets_what_was_found(self, ledger: Ledger) -> None:
        batch = self.walk(ledger, ["a", "b"], "next")
        ledger.queue.cancel_batch(batch.id)
        assert ledger.rows(schema.found) == []
        assert finish(ledger) == [batch.id]
        view = ledger.queue.batch(batch.id)
        assert view.walk is not None
        assert (view.walk.state, view.total) == ("stopped", None)

    def test_while_a_page_is_on_the_wire_is_followed_by_none(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify_matching("g1", Query(unread=True), unread=False)
        claimed = ledger.serve()
        ledger.queue.cancel_batch(batch.id)
        brought = Page(("a",), b"next", "text/plain")
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", page=brought), ends=[end(claimed)])
        assert [job.state for job in ledger.rows(schema.job)] == ["sent"]
        assert finish(ledger) == [batch.id]

    def test_while_its_jobs_are_made_counts_those_that_never_were(self, ledger: Ledger) -> None:
        batch = self.walk(ledger, [f"m{number}" for number in range(150)], None)
        finish(ledger)
        with ledger.writing() as connection:
            assert walks.make_jobs(connection, UUID(batch.id), now=ledger.clock(), limit=100) == 100
        ledger.queue.cancel_batch(batch.id)
        with ledger.writing() as connection:
            assert walks.make_jobs(connection, UUID(batch.id), now=ledger.clock(), limit=100) == 0
        view = ledger.queue.batch(batch.id)
        assert (view.total, dict(view.counts), view.waiting) == (150, {State.CANCELLED: 150}, 0)
        assert finish(ledger) == [batch.id]
