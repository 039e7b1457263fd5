"""Walks in the ledger: no page is lost or counted twice, and nothing is changed before the last one is listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from sendq import Batch, Query, State
from sendq.clock import moment
from sendq.facts.outcomes import Page
from sendq.facts.turns import Claimed, Group
from sendq.ledger import batches, walks
from sendq.ledger.db import schema
from sendq.ledger.dispatching import rescue
from sendq.ledger.dispatching.record import record
from sendq.ledger.operators.retry import DeadLetterSelection, retry
from sendq.ledger.reading.filters import JobFilter
from sendq.rules.states import Event
from tests.support.ledger import Ledger, end, outcome

UNREAD = Query(unread=True)


def walk(ledger: Ledger, **options: Any) -> Batch:
    return ledger.queue.modify_matching("g1", UNREAD, **({"unread": False} | options))


def serve(ledger: Ledger, **options: Any) -> Claimed:
    """A turn, when every job of the last call is due."""
    ledger.clock.advance(1)
    return ledger.serve(**options)


def page(found: Iterable[str], following: str | None = "next") -> Page:
    return Page(tuple(found), None if following is None else following.encode(), "text/plain")


def list_page(ledger: Ledger, found: Iterable[str], following: str | None = "next") -> None:
    """The one waiting page is listed."""
    claimed = serve(ledger)
    (job,) = claimed.jobs
    assert job.operation == "list"
    accepted = outcome(claimed, job, Event.ACCEPT, sent="yes", page=page(found, following))
    ledger.record(accepted, ends=[end(claimed)])


def lead(ledger: Ledger) -> list[UUID]:
    """One round of the leader's; the batches that it finished."""
    with ledger.writing() as connection:
        finished = batches.finish_batches(connection, now=ledger.clock(), limit=10_000)
    with ledger.writing() as connection:
        for batch_id in walks.walked(connection, limit=10):
            walks.make_jobs(connection, batch_id, now=ledger.clock())
    return finished


def jobs_of(ledger: Ledger, batch: Batch, operation: str) -> list[Any]:
    return [job for job in ledger.rows(schema.job) if job.batch_id == UUID(batch.id) and job.operation == operation]


def found(ledger: Ledger) -> set[str]:
    return {row.object_id for row in ledger.rows(schema.found)}


class TestAPageThatIsListed:
    def test_is_followed_by_the_next_one_in_the_place_of_its_batch(self, ledger: Ledger) -> None:
        batch = walk(ledger, priority="low", expires_at=None)
        ledger.clock.advance(60)
        list_page(ledger, ["a", "b"])
        first, second = sorted(jobs_of(ledger, batch, "list"), key=lambda job: job.id)
        assert (first.state, second.state) == ("sent", "queued")
        assert (second.priority, second.due_at, second.next_at) == (2, first.due_at, first.due_at)
        bodies = {row.job_id: bytes(row.body) for row in ledger.rows(schema.payload)}
        assert bodies[second.id] == b"next"
        assert serve(ledger).jobs[0].id == second.id

    def test_keeps_what_it_found_and_changes_nothing_yet(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        list_page(ledger, ["a", "b"])
        assert lead(ledger) == []
        assert found(ledger) == {"a", "b"}
        assert jobs_of(ledger, batch, "modify") == []
        view = ledger.queue.batch(batch.id)
        assert (batch.total, view.total, view.waiting, view.progress) == (None, None, 2, 0)
        assert view.walk is not None
        assert (view.walk.state, view.walk.pages, view.walk.found) == ("listing", 1, 2)

    def test_a_second_time_by_the_same_outcome_counts_once(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        claimed = serve(ledger)
        accepted = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", page=page(["a"]))
        ledger.record(accepted)
        ledger.record(accepted, ends=[end(claimed)])
        view = ledger.queue.batch(batch.id)
        assert view.walk is not None
        assert (view.walk.pages, view.walk.found, len(jobs_of(ledger, batch, "list"))) == (1, 1, 2)

    def test_by_a_worker_that_was_taken_for_dead_counts_once(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        late = serve(ledger)
        told = outcome(late, late.jobs[0], Event.ACCEPT, sent="yes", page=page(["a"]))
        with ledger.writing() as connection:
            rescue.bury(connection, ledger.worker, now=ledger.clock())
        list_page(ledger, ["a"])  # again, by somebody else
        ledger.record(told)
        assert len(jobs_of(ledger, batch, "list")) == 2
        # And the other way round: what it tells before anybody has listed the page again counts, and nobody does.
        second = serve(ledger, worker=UUID(int=7))
        told = outcome(second, second.jobs[0], Event.ACCEPT, sent="yes", page=page(["b"], None))
        with ledger.writing() as connection:
            rescue.bury(connection, UUID(int=7), now=ledger.clock())
        ledger.record(told)
        assert {job.state for job in jobs_of(ledger, batch, "list")} == {"sent"}
        assert found(ledger) == {"a", "b"}
        view = ledger.queue.batch(batch.id)
        assert view.walk is not None
        assert view.walk.pages == 2

    def test_again_on_the_next_page_is_found_once(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        list_page(ledger, ["a", "b", "b"])
        list_page(ledger, ["b", "c"], None)
        lead(ledger)
        assert ledger.queue.batch(batch.id).total == 3

    def test_in_a_group_that_is_not_committed_leaves_nothing(self, ledger: Ledger) -> None:
        walk(ledger)
        claimed = serve(ledger)
        accepted = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", page=page(["a"]))

        with ledger.engine.connect() as connection:
            record(connection, Group([accepted]), now=ledger.clock())
            connection.rollback()
        assert found(ledger) == set()
        assert [job.state for job in ledger.rows(schema.job)] == ["sending"]


class TestAWalkThatIsOver:
    def test_makes_a_job_of_each_message_a_thousand_at_a_time(self, ledger: Ledger) -> None:
        batch = walk(ledger, priority="high")
        names = [f"m{number:04}" for number in range(2_150)]
        for first in range(0, 2_150, 200):
            list_page(ledger, names[first : first + 200], "next" if first < 2_000 else None)
        with ledger.writing() as connection:
            assert batches.finish_batches(connection, now=ledger.clock(), limit=10_000) == []
        made = []
        for _ in range(4):
            with ledger.writing() as connection:
                walked = walks.walked(connection, limit=1)
                made.append(sum(walks.make_jobs(connection, one, now=ledger.clock()) for one in walked))
        assert made == [1_000, 1_000, 150, 0]
        rows = jobs_of(ledger, batch, "modify")
        assert sorted(row.object_id for row in rows) == names
        assert {(row.priority, row.due_at) for row in rows} == {(0, ledger.rows(schema.batch)[0].due_at)}
        assert found(ledger) == set()
        assert len(serve(ledger).jobs) == 50

    def test_with_nothing_found_is_finished_at_once(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        list_page(ledger, [], None)
        assert lead(ledger) == [UUID(batch.id)]
        view = ledger.queue.batch(batch.id)
        assert (view.total, view.progress, view.waiting) == (0, 1, 0)
        assert view.finished_at is not None

    def test_is_finished_by_its_last_job_and_not_by_its_last_page(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        list_page(ledger, ["a"], None)
        assert lead(ledger) == []
        ledger.finish(serve(ledger))
        assert lead(ledger) == [UUID(batch.id)]
        assert dict(ledger.queue.batch(batch.id).counts) == {State.SENT: 1}


class TestAWalkThatStops:
    def die(self, ledger: Ledger) -> UUID:
        claimed = serve(ledger)
        (job,) = claimed.jobs
        ledger.record(outcome(claimed, job, Event.GIVE_UP, rule="server_error"), ends=[end(claimed)])
        return UUID(str(job.id))

    def test_shows_in_its_batch_and_changes_nothing(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        list_page(ledger, ["a"])
        dead = self.die(ledger)
        assert lead(ledger) == [UUID(batch.id)]
        view = ledger.queue.batch(batch.id)
        assert view.walk is not None
        assert (view.walk.state, view.total, dict(view.counts)) == ("stopped", None, {})
        (error,) = view.errors
        assert (error.job_id, error.operation, error.rule) == (str(dead), "list", "server_error")
        assert jobs_of(ledger, batch, "modify") == []

    def test_goes_on_where_it_stopped_when_its_page_is_sent_round_again(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        list_page(ledger, ["a"])
        self.die(ledger)
        lead(ledger)
        with ledger.writing() as connection:
            wanted = DeadLetterSelection(which=JobFilter(batch_id=UUID(batch.id)))
            retry(connection, wanted, after=None, first_at=ledger.clock(), by="leyah", now=ledger.clock())
        assert ledger.queue.batch(batch.id).finished_at is None
        list_page(ledger, ["b"], None)
        lead(ledger)
        ledger.finish(serve(ledger))
        assert lead(ledger) == [UUID(batch.id)]
        assert ledger.queue.batch(batch.id).total == 2


class TestAWalkThatIsCancelled:
    def test_while_a_page_is_on_the_wire_lists_no_other(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        claimed = serve(ledger)
        ledger.queue.cancel_batch(batch.id)
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", page=page(["a"])), ends=[end(claimed)]
        )
        assert [job.state for job in jobs_of(ledger, batch, "list")] == ["sent"]
        assert ledger.offer() == []

    def test_while_its_jobs_are_being_made_makes_no_more(self, ledger: Ledger) -> None:
        batch = walk(ledger)
        list_page(ledger, ["a", "b", "c"], None)
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=10_000)
            assert walks.make_jobs(connection, UUID(batch.id), now=ledger.clock(), limit=1) == 1
        ledger.queue.cancel_batch(batch.id)
        lead(ledger)
        assert len(jobs_of(ledger, batch, "modify")) == 1


class TestAWalkByThreads:
    def test_lists_each_and_is_not_kept_back_by_one_that_cannot_be_listed(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", thread_ids=["t1", "t2"], starred=True)
        claimed = serve(ledger)
        first, second = claimed.jobs
        ledger.record(begins=[(claimed, second.id)])
        ledger.record(
            outcome(claimed, first, Event.ACCEPT, sent="yes", page=page(["a"], None)),
            outcome(claimed, second, Event.GIVE_UP, rule="message_gone"),
            ends=[end(claimed)],
        )
        lead(ledger)
        assert ledger.queue.batch(batch.id).total == 1
        ledger.finish(serve(ledger))
        assert lead(ledger) == [UUID(batch.id)]

    def test_takes_in_what_a_thread_brings_that_is_listed_later(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", thread_ids=["t1", "t2"], starred=True)
        claimed = serve(ledger)
        first, second = claimed.jobs
        ledger.record(begins=[(claimed, second.id)])
        ledger.record(
            outcome(claimed, first, Event.ACCEPT, sent="yes", page=page(["a"], None)),
            outcome(claimed, second, Event.GIVE_UP, rule="server_error"),
            ends=[end(claimed)],
        )
        lead(ledger)
        with ledger.writing() as connection:
            retry(
                connection,
                DeadLetterSelection(jobs=[second.id]),
                after=None,
                first_at=ledger.clock(),
                by="l",
                now=ledger.clock(),
            )
        claimed = serve(ledger)
        for job in claimed.jobs:
            brought = page(["b"], None) if job.operation == "list" else None
            ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes", page=brought))
        ledger.record(ends=[end(claimed)])
        assert lead(ledger) == []
        assert ledger.queue.batch(batch.id).total == 2
        ledger.finish(serve(ledger))
        assert lead(ledger) == [UUID(batch.id)]


class TestWhatWasAskedForMeanwhile:
    """⚑ A late change must not undo a newer one of the same message."""

    @pytest.fixture
    def made(self, ledger: Ledger) -> Callable[[Callable[[], object]], Batch]:
        """A walk that finds the message m; what is given happens between its call and its end."""

        def walked(meanwhile: Callable[[], object]) -> Batch:
            batch = walk(ledger)
            ledger.clock.advance(1)
            meanwhile()
            claimed = serve(ledger)
            for job in claimed.jobs:
                brought = page(["m"], None) if job.operation == "list" else None
                ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes", page=brought))
            ledger.record(ends=[end(claimed)])
            lead(ledger)
            return batch

        return walked

    def test_and_done_is_not_undone(self, ledger: Ledger, made: Callable[[Callable[[], object]], Batch]) -> None:
        batch = made(lambda: ledger.queue.modify("g1", ["m"], unread=True))
        assert ledger.claim(ledger.offer())[0].jobs == []
        (job,) = jobs_of(ledger, batch, "modify")
        assert (job.state, job.rule) == ("cancelled", "overtaken")
        assert lead(ledger) == [UUID(batch.id)]

    def test_of_other_fields_keeps_nothing_back(
        self, ledger: Ledger, made: Callable[[Callable[[], object]], Batch]
    ) -> None:
        batch = made(lambda: ledger.queue.modify("g1", ["m"], starred=True))
        (job,) = serve(ledger).jobs
        assert str(job.batch_id) == batch.id

    def test_and_waiting_still_goes_after_it(
        self, ledger: Ledger, made: Callable[[Callable[[], object]], Batch]
    ) -> None:
        batch = made(lambda: None)
        later = ledger.queue.modify("g1", ["m"], unread=True, priority="high")
        claimed = serve(ledger)
        assert [str(job.batch_id) for job in claimed.jobs] == [batch.id, later.id]
        assert len(claimed.begun) == 1


class TestTheMarkOfAMessageThatWeSent:
    def marks(self, ledger: Ledger, operation: str = "modify", **changes: Any) -> dict[str, Any]:
        sent = ledger.send("g1")
        claimed = serve(ledger)
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", message_id="ours"), ends=[end(claimed)]
        )
        other = ledger.send("g2")
        claimed = serve(ledger)
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", message_id="of-g2"), ends=[end(claimed)]
        )
        assert sent != other
        self.sent = sent
        names = ["ours", "of-g2", "foreign"]
        if operation == "delete":
            ledger.queue.delete("g1", names)
        else:
            ledger.queue.modify("g1", names, **changes)
        return {job.object_id or "": job.sender_id for job in serve(ledger).jobs}

    def test_is_known_at_the_claim_of_a_change_that_replaces_metadata(self, ledger: Ledger) -> None:
        marks = self.marks(ledger, metadata={"project": "x"}, unread=True)
        assert marks == {"ours": self.sent, "of-g2": None, "foreign": None}

    def test_is_not_asked_for_by_any_other(self, ledger: Ledger) -> None:
        assert set(self.marks(ledger, unread=True, folders=["a"]).values()) == {None}

    def test_is_not_asked_for_by_a_deletion(self, ledger: Ledger) -> None:
        assert set(self.marks(ledger, "delete").values()) == {None}


def test_the_claim_finds_marks_and_newer_changes_by_index(pg_ledger: Ledger) -> None:
    """Both are looked for under the lane's lock: a scan of all jobs there would stop the lane."""
    pg_ledger.queue.modify("g1", [f"m{number}" for number in range(3_000)], metadata={"a": "b"})
    with pg_ledger.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE sendq_job")
        for condition in ("message_id = 'x'", "object_id = 'x' AND lane_id = '0192f0c1-2f3e-7c4d-9a5b-0123456789ab'"):
            plan = connection.exec_driver_sql(f"EXPLAIN SELECT id FROM sendq_job WHERE {condition}").scalars().all()
            assert "Index" in plan[0], plan


def test_a_walk_of_an_expired_batch_stops(ledger: Ledger) -> None:
    batch = walk(ledger, expires_at=moment(ledger.clock()) + timedelta(seconds=5))
    list_page(ledger, ["a"])
    ledger.clock.advance(10)
    with ledger.writing() as connection:
        rescue.expire(connection, now=ledger.clock(), limit=10)
    assert lead(ledger) == [UUID(batch.id)]
    view = ledger.queue.batch(batch.id)
    assert view.walk is not None
    assert view.walk.state == "stopped"
    assert not ledger.rows(schema.batch)[0].making
