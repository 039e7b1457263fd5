"""Changes of batches whose jobs wait, and jobs that wait when a ledger has lost something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from sendq import (
    NEVER,
    InvalidArgument,
    NewBatch,
    NotFound,
    NotWaiting,
    Options,
    Priority,
    Query,
    Send,
    State,
)
from sendq.changes import HOLD, RELEASE, priority_of
from sendq.clock import SECOND, Micros, moment
from sendq.facts.turns import Group
from sendq.ids import lane_id
from sendq.ledger import batches, doubt, waiting_jobs, walks
from sendq.ledger.db import schema
from sendq.ledger.dispatching.record import record
from sendq.ledger.doubt import Ending, settle
from sendq.ledger.operators import recover
from sendq.ledger.operators.retry import DeadLetterSelection, retry
from sendq.ledger.waiting_jobs import Author, Changing
from sendq.rules.reconcile import Delays
from sendq.rules.states import Event
from sendq.rules.waiting_job import HELD, Change, ChangeKind
from tests.integration.ledger.test_record import bury
from tests.integration.ledger.test_waiting_jobs import HOUR, at, begun, events_of
from tests.integration.ledger.test_walks import list_page
from tests.support.ledger import MESSAGE, Ledger, between_statements, empty, end, outcome, until_it_waits
from tests.support.waiting import LIMIT_S


def three_jobs(ledger: Ledger, operation: str) -> str:
    """A batch of three, that is due; returns its id."""
    if operation == "send":
        batch = ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(3)], batch=NewBatch())
    else:
        batch = ledger.queue.modify("g1", ["m1", "m2", "m3"], unread=False)
    ledger.clock.advance(1)
    return batch.id


def reschedule_to(due_at: Micros) -> Change:
    return Change(ChangeKind.RESCHEDULE, due_at=due_at)


def begin_change(ledger: Ledger, batch_id: UUID, change: Change) -> Changing:
    with ledger.writing() as connection:
        author = Author("tests", None)
        return waiting_jobs.start(connection, change, author, job_id=None, batch_id=batch_id, now=ledger.clock())


def go_on(ledger: Ledger, change: Change, so_far: Changing) -> Changing:
    with ledger.writing() as connection:
        return waiting_jobs.go_on(connection, change, so_far, now=ledger.clock())


def go_on_to_the_end(ledger: Ledger, change: Change, so_far: Changing) -> Changing:
    while so_far.after is not None:
        so_far = go_on(ledger, change, so_far)
    return so_far


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in another thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


class TestABatch:
    def test_is_rescheduled_in_its_order(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sendq.ledger.waiting_jobs.STEP", 2)
        batch = ledger.queue.modify("g1", ["m1", "m2", "m3", "m4", "m5"], unread=False, key="b")
        ledger.absorb()
        assert ledger.queue.reschedule(key="b", due_at=at(ledger, HOUR), by="anna") == 5
        jobs = sorted((row for row in ledger.rows(schema.job)), key=lambda row: row.next_at)
        assert [row.object_id for row in jobs] == ["m1", "m2", "m3", "m4", "m5"]
        assert {row.due_at for row in jobs} == {ledger.clock() + HOUR * SECOND}
        assert events_of(ledger) == [("reschedule", "anna", "due 2026-05-28 21:26:40Z", UUID(batch.id), 5)]

    def test_is_held_except_what_is_on_the_wire(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", ["m1", "m2", "m3"], unread=False)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        on_the_wire = len(claimed.begun)
        assert ledger.queue.hold(batch_id=batch.id, by="anna", reason="stop") == 3 - on_the_wire
        seen = ledger.queue.batch(batch.id)
        assert (seen.held_at, seen.eta) == (moment(ledger.clock()), None)
        ledger.record(
            *(outcome(claimed, job, Event.ACCEPT, sent="yes") for job in claimed.jobs if job.id in claimed.begun),
            ends=[end(claimed)],
        )
        ledger.clock.advance(HOUR)
        assert begun(ledger) == []
        waiting = next(row for row in ledger.rows(schema.job) if row.state == "queued")
        why = ledger.queue.why(str(waiting.id))
        assert (why.by, why.note) == ("anna", "stop")
        assert batch.id in why.says
        assert ledger.queue.release(batch_id=batch.id) == 3 - on_the_wire
        assert ledger.queue.batch(batch.id).held_at is None
        assert begun(ledger) != []

    @pytest.mark.parametrize("operation", ["send", "modify"])
    def test_that_is_held_holds_what_returns_from_the_wire(self, ledger: Ledger, operation: str) -> None:
        batch_id = three_jobs(ledger, operation)
        claimed = ledger.serve()
        ledger.queue.hold(batch_id=batch_id, by="anna", reason="stop")
        later = ledger.clock() + 30 * SECOND
        refused = [
            outcome(claimed, job, Event.RETURN, next_at=later) for job in claimed.jobs if job.id in claimed.begun
        ]
        ledger.record(*refused, ends=[end(claimed)])
        assert {ledger.job(one.job_id).resume_at for one in refused} == {later}
        ledger.clock.advance(60)
        assert begun(ledger) == []
        assert ledger.queue.why(str(refused[0].job_id)).note == "stop"
        assert ledger.queue.release(batch_id=batch_id) == 3
        assert begun(ledger) != []

    def test_that_is_held_holds_what_a_dead_worker_leaves(self, ledger: Ledger) -> None:
        batch_id = three_jobs(ledger, "send")
        claimed = ledger.serve()
        ledger.queue.hold(batch_id=batch_id)
        bury(ledger)
        ledger.clock.advance(60)
        assert {row.next_at for row in ledger.rows(schema.job)} == {HELD}
        assert claimed.begun

    def test_that_is_held_holds_its_retried_dead_letters(self, ledger: Ledger) -> None:
        batch_id = three_jobs(ledger, "send")
        claimed = ledger.serve()
        dead = [outcome(claimed, job, Event.GIVE_UP) for job in claimed.jobs if job.id in claimed.begun]
        ledger.record(*dead, ends=[end(claimed)])
        ledger.queue.hold(batch_id=batch_id)
        start = ledger.clock() + 10 * SECOND
        with ledger.writing() as connection:
            retry(connection, DeadLetterSelection(), after=None, first_at=start, by="anna", now=ledger.clock())
        row = ledger.job(dead[0].job_id)
        assert (row.state, row.next_at, row.resume_at) == ("queued", HELD, start)
        ledger.clock.advance(60)
        assert begun(ledger) == []

    @pytest.mark.parametrize("released", [False, True])
    def test_that_is_held_holds_what_was_in_doubt_until_it_is_released(self, ledger: Ledger, *, released: bool) -> None:
        batch_id = three_jobs(ledger, "send")
        claimed = ledger.serve()
        (unknown, *_) = [job.id for job in claimed.jobs if job.id in claimed.begun]
        ledger.record(
            *(outcome(claimed, job, Event.DOUBT, sent="maybe") for job in claimed.jobs if job.id in claimed.begun),
            ends=[end(claimed)],
        )
        ledger.queue.hold(batch_id=batch_id)
        if released:
            ledger.queue.release(batch_id=batch_id)
        with ledger.writing() as connection:
            settle(connection, {unknown: Ending(Event.RETURN, "not_found")}, by="reconcile", now=ledger.clock())
        row = ledger.job(unknown)
        held = (HELD, ledger.clock())
        assert (row.next_at, row.resume_at) == ((ledger.clock(), None) if released else held)

    def test_that_is_released_releases_what_went_in_doubt_while_it_was_held(self, ledger: Ledger) -> None:
        batch_id = three_jobs(ledger, "send")
        ledger.absorb()
        ledger.queue.hold(batch_id=batch_id)
        ledger.clock.advance(120)
        since = ledger.clock() - 60 * SECOND
        with ledger.writing() as connection:
            recover.put_in_doubt(connection, since=since, now=ledger.clock(), after=None)
        assert ledger.queue.release(batch_id=batch_id) == 0
        jobs = [row.id for row in ledger.rows(schema.job)]
        with ledger.writing() as connection:
            endings = dict.fromkeys(jobs, Ending(Event.RETURN, "not_found"))
            settle(connection, endings, by="reconcile", now=ledger.clock())
        assert begun(ledger) != []

    @pytest.mark.parametrize("returns", ["returned", "retried", "settled"])
    def test_that_is_held_while_a_job_returns_holds_that_job(
        self, pg_ledger: Ledger, returns: str, run: Callable[..., Future[Any]]
    ) -> None:
        ledger = pg_ledger
        at, statements = 0, 1
        while at < statements:
            batch_id = three_jobs(ledger, "send")
            claimed = ledger.serve()
            (job,) = (one for one in claimed.jobs if one.id in claimed.begun)
            if returns != "returned":
                event, sent = (Event.GIVE_UP, "no") if returns == "retried" else (Event.DOUBT, "maybe")
                ledger.record(outcome(claimed, job, event, sent=sent), ends=[end(claimed)])
            held: list[Future[Any]] = []

            def hold(batch_id: str = batch_id, held: list[Future[Any]] = held) -> None:
                held.append(run(ledger.queue.hold, batch_id=batch_id))
                until_it_waits(ledger, held[-1])

            with ledger.writing() as connection, between_statements(connection, at, hold) as seen:
                if returns == "returned":
                    group = Group([outcome(claimed, job, Event.RETURN)], ends=[end(claimed)])
                    record(connection, group, now=ledger.clock())
                elif returns == "retried":
                    these = DeadLetterSelection([job.id])
                    retry(connection, these, after=None, first_at=ledger.clock(), by="anna", now=ledger.clock())
                else:
                    settle(connection, {job.id: Ending(Event.RETURN, "r")}, by="reconcile", now=ledger.clock())
            for one in held:
                one.result(LIMIT_S)
            row = ledger.job(job.id)
            assert (row.state, row.next_at) == ("queued", HELD), seen[at - 1 : at]
            statements, at = len(seen), at + 1
            empty(ledger)
        assert statements > 1

    def test_has_what_the_last_change_asked_for_when_another_was_overtaken(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.waiting_jobs.STEP", 2)
        soon, late = ledger.clock() + HOUR * SECOND, ledger.clock() + 2 * HOUR * SECOND
        changes_and_columns: list[tuple[Change, Change, dict[str, Any]]] = [
            (HOLD, RELEASE, {"resume_at": None}),
            (RELEASE, HOLD, {"next_at": HELD}),
            (reschedule_to(soon), reschedule_to(late), {"due_at": late}),
            (priority_of("high"), priority_of("low"), {"priority": 2}),
        ]
        for first, second, columns in changes_and_columns:
            made = ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(6)], batch=NewBatch())
            batch_id = UUID(made.id)
            if first is RELEASE:
                ledger.queue.hold(batch_id=made.id)
            done = begin_change(ledger, batch_id, first)
            done = go_on(ledger, first, done)
            overtaking = go_on_to_the_end(ledger, second, begin_change(ledger, batch_id, second))
            done = go_on_to_the_end(ledger, first, done)
            assert (done.number, overtaking.left) == (2, 0)
            rows = [row for row in ledger.rows(schema.job) if row.batch_id == batch_id]
            assert {tuple(getattr(row, name) for name in columns) for row in rows} == {tuple(columns.values())}

    def test_goes_on_when_another_kind_of_change_begins(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sendq.ledger.waiting_jobs.STEP", 2)
        batch = ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(6)], batch=NewBatch())
        done = begin_change(ledger, UUID(batch.id), HOLD)
        ledger.queue.set_priority(batch_id=batch.id, priority="low")
        ledger.queue.reschedule(batch_id=batch.id, due_at=None)
        assert go_on_to_the_end(ledger, HOLD, done).number == 6
        assert {(row.next_at, row.priority) for row in ledger.rows(schema.job)} == {(HELD, 2)}

    def test_is_held_in_the_callers_transaction_as_a_whole(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.waiting_jobs.STEP", 2)
        batch = ledger.queue.modify("g1", ["m1", "m2", "m3"], unread=False)
        with Session(ledger.engine) as session:
            assert ledger.queue.hold(batch_id=batch.id, session=session) == 3
            session.rollback()
        assert {row.resume_at for row in ledger.rows(schema.job)} == {None}
        assert ledger.queue.batch(batch.id).held_at is None

    def test_that_is_held_holds_what_its_search_finds(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify_matching("g1", Query(unread=True), unread=False)
        list_page(ledger, ["m1", "m2"], following=None)
        assert ledger.queue.hold(batch_id=batch.id) == 0
        ledger.queue.set_priority(batch_id=batch.id, priority="low")
        with ledger.writing() as connection:
            batches.finish_batches(connection, now=ledger.clock(), limit=100)
        with ledger.writing() as connection:
            assert walks.make_jobs(connection, UUID(batch.id), now=ledger.clock()) == 2
        ledger.clock.advance(HOUR)
        assert begun(ledger) == []
        assert ledger.queue.release(batch_id=batch.id) == 2
        assert {row.priority for row in ledger.rows(schema.job) if row.object_id} == {Priority.LOW}
        assert begun(ledger) != []

    def test_of_sends_through_several_grants_wakes_each(self, ledger: Ledger) -> None:
        later = Options(due_at=at(ledger, HOUR))
        batch = ledger.queue.send_many([Send(grant, MESSAGE, later) for grant in ("g1", "g2")], batch=NewBatch())
        assert ledger.offer() == []
        assert ledger.queue.reschedule(batch_id=batch.id, due_at=None) == 2
        ledger.clock.advance(1)
        assert len(ledger.offer()) == 2
        (event,) = ledger.rows(schema.event)
        assert (event.application, event.grant_id, event.number) == ("default", None, 2)

    def test_that_is_held_and_open_holds_what_is_added(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch(open=True))
        ledger.queue.hold(batch_id=batch.id, by="anna", reason="stop")
        ledger.clock.advance(1)
        ledger.queue.add(batch.id, [Send("g2", MESSAGE)])
        ledger.clock.advance(HOUR)
        claimed = ledger.claim(ledger.offer())
        assert [one.jobs for one in claimed] == [[], []]
        ledger.record(ends=[end(one) for one in claimed])
        added = next(row for row in ledger.rows(schema.job) if row.lane_id == lane_id("default", "g2"))
        assert ledger.queue.why(str(added.id)).note == "stop"
        assert ledger.queue.release(batch_id=batch.id) == 2
        assert [len(one.jobs) for one in ledger.claim(ledger.offer())] == [1, 1]

    def test_that_is_held_and_open_leaves_a_job_that_was_released_when_others_are_added(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch(open=True))
        ledger.queue.hold(batch_id=batch.id)
        (first,) = ledger.rows(schema.job)
        ledger.queue.release(str(first.id))
        ledger.queue.add(batch.id, [Send("g1", MESSAGE)])
        assert ledger.job(first.id).resume_at is None
        assert sorted(row.next_at == HELD for row in ledger.rows(schema.job)) == [False, True]

    def test_of_other_grants_than_are_allowed_is_not_found(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many([Send(one, MESSAGE) for one in ("g1", "g2")], batch=NewBatch(open=True)).id
        job = str(ledger.send("g2", key="k"))
        queue = ledger.queue
        acts: list[Callable[..., Any]] = [
            queue.hold, queue.release, partial(queue.reschedule, due_at=None),
            partial(queue.set_priority, priority=Priority.LOW), queue.close_batch, queue.cancel_batch,
            partial(queue.cancel_batch, by="desk"),
        ]  # fmt: skip
        before = [ledger.rows(table) for table in (schema.job, schema.batch, schema.event)]
        for act in acts:
            for grants in (["g1"], ["g", "x*"], []):
                with pytest.raises(NotFound):
                    act(batch_id=batch, grants=grants)
        for act in acts[:4]:
            for which in ({"job_id": job}, {"key": "k"}):
                with pytest.raises(NotFound):
                    act(**which, grants=["g1"])
        with pytest.raises(NotFound), Session(ledger.engine) as session:
            queue.hold(batch_id=batch, grants=["g1"], session=session)
        assert [ledger.rows(table) for table in (schema.job, schema.batch, schema.event)] == before
        assert queue.hold(batch_id=batch, grants=["g*"]) == queue.release(batch_id=batch, grants=["g1", "g2"]) == 2
        assert queue.set_priority(job, priority="low", grants=["g2"]) == 1
        assert queue.close_batch(batch, grants=["g*"]) == 2
        queue.cancel_batch(batch, grants=["g*"])
        assert queue.batch(batch).cancelled_at is not None

    @pytest.mark.parametrize("act", ["hold", "close_batch", "cancel_batch"])
    def test_of_certain_grants_is_not_found_once_what_is_being_added_is_there(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]], act: str
    ) -> None:
        queue = pg_ledger.queue
        batch = queue.send_many([], batch=NewBatch(open=True)).id
        queue.add(batch, [Send("g1", MESSAGE), Send("g2", MESSAGE)])
        with Session(pg_ledger.engine) as session:
            queue.add(batch, [Send("foreign", MESSAGE)], session=session)
            done = run(getattr(queue, act), batch_id=batch, grants=["g*"])
            until_it_waits(pg_ledger, done)
            session.commit()
        assert isinstance(done.exception(LIMIT_S), NotFound)
        assert queue.hold(batch_id=batch, grants=["*"]) == 3

    def test_of_certain_grants_leaves_what_others_add_meanwhile(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sendq.ledger.waiting_jobs.STEP", 1)
        queue = ledger.queue
        batch = queue.send_many([Send("g1", MESSAGE)] * 2, batch=NewBatch(open=True)).id
        with ledger.writing() as connection:
            so_far = waiting_jobs.start(
                connection, priority_of("low"), Author("desk", None), job_id=None, batch_id=UUID(batch),
                now=ledger.clock(), grants=["g1"],
            )  # fmt: skip
        queue.add(batch, [Send("foreign", MESSAGE), Send("g1", MESSAGE)])
        done = go_on_to_the_end(ledger, priority_of("low"), so_far)
        assert (done.number, done.left) == (3, 1)
        low = {row.lane_id for row in ledger.rows(schema.job) if row.priority == Priority.LOW}
        assert low == {lane_id("default", "g1")}

    @pytest.mark.parametrize("over", ["cancelled", "finished"])
    def test_that_is_over_is_refused(self, ledger: Ledger, over: str) -> None:
        batch = ledger.queue.modify("g1", ["m1"], unread=False)
        ledger.queue.cancel_batch(batch.id)
        if over == "finished":
            with ledger.writing() as connection:
                values: dict[str, Micros | None] = {"finished_at": ledger.clock(), "cancel_at": None}
                connection.execute(schema.batch.update().values(values))
        with pytest.raises(NotWaiting, match=over):
            ledger.queue.hold(batch_id=batch.id)

    def test_beyond_the_expiry_of_a_job_is_refused_as_a_whole(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", ["m1", "m2"], unread=False, expires_at=at(ledger, HOUR))
        with pytest.raises(InvalidArgument, match="due_at"):
            ledger.queue.reschedule(batch_id=batch.id, due_at=at(ledger, 2 * HOUR))
        due_at, expires_at = at(ledger, 2 * HOUR), at(ledger, 3 * HOUR)
        assert ledger.queue.reschedule(batch_id=batch.id, due_at=due_at, expires_at=expires_at) == 2


class TestAfterALoss:
    def since(self, ledger: Ledger) -> int:
        """Puts in doubt what may have gone out in the last minute; returns how many."""
        with ledger.writing() as connection:
            since = ledger.clock() - 60 * SECOND
            done, _ = recover.put_in_doubt(connection, since=since, now=ledger.clock(), after=None)
        return done.sends

    def test_what_is_not_due_may_have_been_brought_forward_and_sent(self, ledger: Ledger) -> None:
        later = ledger.send(due_at=at(ledger, HOUR), expires_at=NEVER)
        other = ledger.send("g2")
        ledger.clock.advance(120)
        ledger.queue.reschedule(str(other), due_at=at(ledger, 10))
        assert self.since(ledger) == 2
        assert ledger.state(later) is State.IN_DOUBT

    def test_even_if_no_reschedule_is_known_because_its_record_was_lost_too(self, ledger: Ledger) -> None:
        later = ledger.send(due_at=at(ledger, 24 * HOUR), expires_at=NEVER)
        ledger.absorb()
        ledger.clock.advance(120)
        assert self.since(ledger) == 1
        assert ledger.state(later) is State.IN_DOUBT
        ledger.clock.advance(24 * HOUR)
        assert begun(ledger) == []

    def test_is_searched_for_soon_and_from_the_loss_on(self, ledger: Ledger) -> None:
        job = ledger.send(due_at=at(ledger, 24 * HOUR), expires_at=NEVER)
        ledger.absorb()
        ledger.clock.advance(120)
        since = ledger.clock() - 60 * SECOND
        self.since(ledger)
        with ledger.writing() as connection:
            doubt.take_up(connection, Delays(0, 0), now=ledger.clock(), limit=10)
            ledger.clock.advance(HOUR)
            (wanted,) = doubt.due(connection, now=ledger.clock(), limit=10)
        assert (wanted.id, wanted.first_at) == (job, since)
        assert wanted.job.look_at < since + HOUR * SECOND

    def test_what_is_due_is_searched_for_first(self, ledger: Ledger) -> None:
        later, due = ledger.send(due_at=at(ledger, 24 * HOUR), expires_at=NEVER), ledger.send()
        ledger.absorb()
        ledger.clock.advance(120)
        assert self.since(ledger) == 2
        ledger.set_job(later, look_at=ledger.clock() - 1)
        ledger.set_job(due, look_at=ledger.clock())
        with ledger.writing() as connection:
            assert [one.id for one in doubt.due(connection, now=ledger.clock(), limit=10)] == [due]

    def test_jobs_that_were_not_sent_keep_their_order(self, ledger: Ledger) -> None:
        options = Options(due_at=at(ledger, HOUR))
        jobs = [UUID(job.id) for job in ledger.queue.send_many([Send("g1", MESSAGE, options) for _ in range(3)])]
        ledger.absorb()
        before = [ledger.job(job).next_at for job in jobs]
        ledger.clock.advance(120)
        assert self.since(ledger) == 3
        with ledger.writing() as connection:
            endings = dict.fromkeys(jobs, Ending(Event.RETURN, "not_found"))
            settle(connection, endings, by="reconcile", now=ledger.clock())
        assert [ledger.job(job).next_at for job in jobs] == before

    def test_a_job_that_was_not_sent_returns_to_its_due_time_and_hold(self, ledger: Ledger) -> None:
        later, held = ledger.send(due_at=at(ledger, HOUR)), ledger.send()
        ledger.absorb()
        ledger.queue.hold(str(held))
        ledger.queue.reschedule(str(later), due_at=at(ledger, 2 * HOUR))
        ledger.clock.advance(120)
        assert self.since(ledger) == 2
        with ledger.writing() as connection:
            ending = Ending(Event.RETURN, "not_found")
            settle(connection, {later: ending, held: ending}, by="reconcile", now=ledger.clock())
        assert (ledger.state(later), ledger.job(later).next_at) == (State.QUEUED, ledger.job(later).due_at)
        assert ledger.job(held).next_at == HELD
        assert begun(ledger) == []
        ledger.queue.release(str(held))
        assert begun(ledger) == [held]
