"""Undoing a batch of changes: what is kept for it, what can be undone, and what each refusal says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from sendq import (
    Batch,
    InvalidArgument,
    InvalidJob,
    KeyConflict,
    LaneFull,
    NewBatch,
    NotFound,
    Operators,
    Query,
    Send,
    SendQueue,
    State,
    Unreadable,
    Vault,
)
from sendq.clock import SECOND
from sendq.facts.outcomes import Page
from sendq.facts.turns import Claimed, Group
from sendq.ledger import batches, retention, walks
from sendq.ledger.db import schema
from sendq.ledger.dispatching import turns
from sendq.ledger.dispatching.record import record
from sendq.ledger.operators import rekey
from sendq.ledger.undoing import Undoing, undo
from sendq.ledger.waiting_jobs import Author
from sendq.rules.message_state import read, written
from sendq.rules.states import Event
from sendq.vault import KEY_BYTES
from tests.integration.ledger.test_record import bury
from tests.support.ledger import MESSAGE, Ledger, end, outcome

RAW = {name: os.urandom(KEY_BYTES) for name in ("old", "new")}
OLD, BOTH, NONE = Vault({"old": RAW["old"]}), Vault({"new": RAW["new"], "old": RAW["old"]}), Vault()
BEFORE = {"unread": True, "folders": ["private"]}
CHANGE: dict[str, Any] = {"unread": False, "folders": ["done"]}


def claim(ledger: Ledger, vault: Vault = NONE) -> Claimed:
    ledger.clock.advance(1)
    offered = ledger.offer()
    with ledger.writing() as connection:
        (claimed,) = turns.claim(
            connection, [(turn.lane_id, turn.fence) for turn in offered], worker=ledger.worker, now=ledger.clock(),
            jobs_each=50, vault=vault,
        )  # fmt: skip
    return claimed


def answer(claimed: Claimed, job: Any, states: Mapping[str, Any], after: bytes | None) -> Any:
    match job.operation:
        case "read":
            state = written(states[job.object_id])
            return outcome(claimed, job, Event.RETURN, rule="read_first", next_at=job.next_at, state=state)
        case "list":
            page = Page(tuple(states), None, "text/plain", [written(one) for one in states.values()])
            return outcome(claimed, job, Event.ACCEPT, sent="yes", page=page)
    return outcome(claimed, job, Event.ACCEPT, sent="yes", state=after)


def work(ledger: Ledger, states: Mapping[str, Any], *, vault: Vault = NONE, after: bytes | None = None) -> None:
    """Carry out all that waits."""
    for _ in range(100):
        if State.QUEUED not in {row.state for row in ledger.rows(schema.job)}:
            break
        claimed = claim(ledger, vault)
        begun = [job for job in claimed.jobs if job.id in claimed.begun]
        with ledger.writing() as connection:
            group = Group([answer(claimed, job, states, after) for job in begun], ends=[end(claimed)])
            record(connection, group, now=ledger.clock(), vault=vault)
        lead(ledger)
    lead(ledger)


def lead(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        batches.finish_batches(connection, now=ledger.clock(), limit=10_000)
    with ledger.writing() as connection:
        for batch_id in walks.walked(connection, limit=10):
            walks.make_jobs(connection, batch_id, now=ledger.clock())


def changed(
    ledger: Ledger, *, vault: Vault = NONE, after: bytes | None = None, number: int = 3, **options: Any
) -> Batch:
    """A batch that keeps snapshots, and has ended."""
    ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=vault)
    names = [f"m{n}" for n in range(number)]
    batch = ledger.queue.modify("g1", names, **CHANGE, undoable=True, **options)
    work(ledger, dict.fromkeys(names, BEFORE), vault=vault, after=after)
    return batch


def loaded(ledger: Ledger, vault: Vault = NONE) -> list[Any]:
    return [job for job in claim(ledger, vault).jobs if job.operation == "restore"]


class TestWhatIsKept:
    def test_is_read_before_the_change_and_committed_with_the_end_of_the_read(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m0"], **CHANGE, undoable=True)
        claimed = claim(ledger)
        (job,) = claimed.jobs
        assert (job.operation, job.undoable) == ("read", True)
        ledger.record(answer(claimed, job, {"m0": BEFORE}, None), ends=[end(claimed)])
        (kept,) = ledger.rows(schema.snapshot)
        assert (kept.job_id, read(kept.before), kept.after) == (job.id, BEFORE, None)
        again = claim(ledger).jobs[0]
        assert (again.operation, again.attempts, again.body) == ("modify", 0, job.body)

    def test_is_not_what_a_change_left_whose_worker_died(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m0"], **CHANGE, undoable=True)
        claimed = claim(ledger)
        ledger.record(answer(claimed, claimed.jobs[0], {"m0": BEFORE}, None), ends=[end(claimed)])
        claim(ledger)
        bury(ledger)
        ledger.clock.advance(60)
        assert [job.operation for job in claim(ledger).jobs] == ["modify"]

    def test_of_a_walk_comes_from_its_listing(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify_matching("g1", Query(unread=True), **CHANGE, undoable=True)
        other = BEFORE | {"unread": False}
        work(ledger, {"m0": BEFORE, "m1": other})
        undo = ledger.queue.undo(batch.id)
        restored = {job.object_id: read(job.snapshot[0]) for job in loaded(ledger)}
        assert (undo.total, restored) == (2, {"m0": BEFORE, "m1": other})

    def test_is_nothing_unless_it_was_asked_for(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m0"], **CHANGE)
        work(ledger, {})
        ledger.queue.modify_matching("g1", Query(unread=True), **CHANGE)
        assert claim(ledger).jobs[0].body.decode().count("folders") == 0
        assert not ledger.rows(schema.snapshot)

    def test_is_lost_with_a_read_that_was_cancelled_meanwhile(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m0"], **CHANGE, undoable=True)
        claimed = claim(ledger)
        (job,) = claimed.jobs
        ledger.queue.cancel(str(job.id))
        ledger.record(answer(claimed, job, {"m0": BEFORE}, None), ends=[end(claimed)])
        assert ledger.job(job.id).state == State.CANCELLED
        assert not ledger.rows(schema.snapshot)


class TestUndo:
    def test_makes_a_batch_of_the_messages_that_were_changed(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        undo = ledger.queue.undo(batch.id, priority="low", by="anna", reason="a mistake")
        view = ledger.queue.batch(undo.id)
        assert (view.operation, view.total, view.undoes, view.grant_id) == ("restore", 3, batch.id, "g1")
        jobs = loaded(ledger)
        assert [job.object_id for job in jobs] == ["m0", "m1", "m2"]
        assert {(job.priority, read(job.snapshot[0])["folders"][0], job.snapshot[1]) for job in jobs} == {
            (2, "private", None)
        }
        (event,) = [row for row in ledger.rows(schema.event) if row.kind == "undo"]
        assert (event.batch_id, event.by, event.number) == (UUID(batch.id), "anna", 3)
        assert event.reason == f"by batch {undo.id}: a mistake"

    def test_knows_what_the_change_left_if_that_was_not_what_it_asked_for(self, ledger: Ledger) -> None:
        left = written({"unread": False, "folders": ["done", "IMPORTANT"]})
        batch = changed(ledger, after=left)
        ledger.queue.undo(batch.id)
        assert {job.snapshot[1] for job in loaded(ledger)} == {left}

    def test_again_while_it_goes_on_is_the_same_one(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        first = ledger.queue.undo(batch.id)
        assert ledger.queue.undo(batch.id) == replace(first, existed=True)
        work(ledger, {})
        assert ledger.queue.undo(batch.id).id != first.id

    def test_with_its_key_is_the_same_one_after_its_end(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        first = ledger.queue.undo(batch.id, undo_key="undo-1")
        work(ledger, {})
        assert ledger.queue.undo(batch.id, undo_key="undo-1") == replace(first, existed=True)
        assert ledger.queue.batch(key="undo-1").id == first.id
        operators = Operators(ledger.engine, now=ledger.clock)
        again = operators.undo(batch.id, undo_key="undo-1", by="anna")
        assert (again.undo_id, again.existed, again.total) == (first.id, True, 3)
        assert ledger.queue.undo(batch.id, undo_key="undo-2").id != first.id

    def test_with_a_new_key_while_it_goes_on_is_found_by_that_key_too(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        first = ledger.queue.undo(batch.id)
        assert ledger.queue.undo(batch.id, undo_key="undo-1") == replace(first, existed=True)
        work(ledger, {})
        assert ledger.queue.undo(batch.id, undo_key="undo-1") == replace(first, existed=True)
        assert len([row for row in ledger.rows(schema.batch) if row.undoes is not None]) == 1

    def test_with_a_key_of_something_else_is_a_conflict(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        other = ledger.queue.modify("g1", ["m7"], **CHANGE, undoable=True)
        work(ledger, {"m7": BEFORE})
        ledger.queue.undo(other.id, undo_key="other")
        ledger.queue.send("g2", MESSAGE, key="sent")
        for key in ("sent", "other"):
            with pytest.raises(KeyConflict):
                ledger.queue.undo(batch.id, undo_key=key)
        assert len([row for row in ledger.rows(schema.batch) if row.undoes is not None]) == 1

    def test_is_undone_with_the_callers_transaction(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        with Session(ledger.engine) as session:
            ledger.queue.undo(batch.id, session=session)
            session.rollback()
        assert not [row for row in ledger.rows(schema.batch) if row.undoes is not None]

    def test_is_found_by_key_and_may_be_cancelled(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m0"], **CHANGE, undoable=True, key="tidy")
        work(ledger, {"m0": BEFORE})
        undo = ledger.queue.undo(key="tidy")
        ledger.queue.cancel_batch(undo.id)
        lead(ledger)
        assert dict(ledger.queue.batch(undo.id).counts) == {State.CANCELLED: 1}
        assert ledger.queue.batch(undo.id).left == ()

    def test_of_a_dry_run_stores_nothing(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        result = Operators(ledger.engine, now=ledger.clock).undo(batch.id, by="anna", dry_run=True)
        assert (result.total, result.undo_id, result.dry_run) == (3, None, True)
        assert len(ledger.rows(schema.batch)) == 1

    def test_of_a_dry_run_is_refused_what_the_undo_is_refused(self, ledger: Ledger) -> None:
        batch = changed(ledger, vault=OLD)
        ledger.send()
        ledger.send(needs_approval=True)
        stranger = Operators(ledger.engine, now=ledger.clock)
        how = Undoing(Author("anna", None), 1, None, 4, OLD)
        before = [ledger.rows(table) for table in schema.metadata.sorted_tables]
        for dry_run in (True, False):
            with pytest.raises(Unreadable):
                stranger.undo(batch.id, by="anna", vault=Vault({"new": RAW["new"]}), dry_run=dry_run)
            with pytest.raises(LaneFull) as full, ledger.writing() as connection:
                undo(connection, UUID(batch.id), how, now=ledger.clock(), dry_run=dry_run)
            assert (full.value.waiting, full.value.cap) == (4, 4)
        assert [ledger.rows(table) for table in schema.metadata.sorted_tables] == before
        with ledger.writing() as connection:
            found = undo(connection, UUID(batch.id), replace(how, cap=5), now=ledger.clock(), dry_run=True)
        assert found.total == 3


class TestIsRefused:
    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda queue: queue.modify("g1", ["m0"], unread=False), "keeps no snapshots"),
            (lambda queue: queue.modify("g1", ["m0"], unread=False, undoable=True), "still goes on"),
            (lambda queue: queue.delete("g1", ["m0"], hard=True), "deleted messages permanently"),
            (lambda queue: queue.delete("g1", ["m0"]), "moved messages to the trash"),
            (lambda queue: queue.undo(queue.tidied), "is an undo itself"),
        ],
    )
    def test_with_one_problem_and_stores_nothing(self, ledger: Ledger, make: Any, says: str) -> None:
        batch = changed(ledger)
        ledger.queue.tidied = batch.id  # type: ignore[attr-defined]
        wanted = make(ledger.queue)
        rows = len(ledger.rows(schema.batch))
        with pytest.raises(InvalidArgument, match=f"batch_id: .*{says}"):
            ledger.queue.undo(wanted.id)
        assert len(ledger.rows(schema.batch)) == rows

    def test_of_a_batch_that_changed_nothing_and_of_none(self, ledger: Ledger) -> None:
        batch = ledger.queue.modify("g1", ["m0"], unread=False, undoable=True)
        ledger.queue.cancel_batch(batch.id)
        lead(ledger)
        with pytest.raises(InvalidArgument, match="has changed no message"):
            ledger.queue.undo(batch.id)
        with pytest.raises(NotFound):
            ledger.queue.undo("01970000-0000-7000-8000-000000000000")

    @pytest.mark.parametrize(
        "given", [{"on_outcome": "nowhere at all"}, {"priority": "urgent"}, {"by": ""}, {"undo_key": ""}]
    )
    def test_with_an_invalid_argument(self, ledger: Ledger, given: dict[str, Any]) -> None:
        batch = changed(ledger)
        with pytest.raises(InvalidArgument):
            ledger.queue.undo(batch.id, **given)

    def test_before_it_with_whole_threads_and_with_no_flag(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob, match="undoable: cannot be True for whole threads"):
            ledger.queue.modify("g1", thread_ids=["t0"], whole_threads=True, unread=False, undoable=True)
        with pytest.raises(InvalidJob, match="undoable: is not True or False"):
            ledger.queue.modify("g1", ["m0"], unread=False, undoable="yes")  # type: ignore[arg-type]


class TestPrivacy:
    def test_snapshots_are_sealed_and_bound(self, ledger: Ledger) -> None:
        batch = changed(ledger, vault=OLD, after=written({"unread": False, "folders": ["x"]}), number=2)
        kept = ledger.rows(schema.snapshot)
        assert not [row for row in kept if b"private" in row.before or b"folders" in row.after]
        assert {(row.before_key, row.after_key) for row in kept} == {("old", "old")}
        ledger.queue.undo(batch.id)
        first, second = kept
        with ledger.writing() as connection:  # one message's snapshot for another's
            table = schema.snapshot
            connection.execute(table.update().where(table.c.job_id == first.job_id).values(before=second.before))
        assert [job.object_id for job in loaded(ledger, OLD)] == ["m1"]

    def test_of_a_walk_are_sealed_from_the_listing_on(self, ledger: Ledger) -> None:
        ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=OLD)
        batch = ledger.queue.modify_matching("g1", Query(unread=True), **CHANGE, undoable=True)
        work(ledger, {"m0": BEFORE}, vault=OLD)
        assert ledger.rows(schema.snapshot)[0].before_key == "old"
        ledger.queue.undo(batch.id)
        assert read(loaded(ledger, OLD)[0].snapshot[0]) == BEFORE

    def test_are_rekeyed(self, ledger: Ledger) -> None:
        batch = changed(ledger, vault=OLD, after=written({"unread": False, "folders": ["x"]}))
        for kept in rekey.KEPT:
            with ledger.writing() as connection:
                rekey.step(connection, kept, BOTH, after=None)
        assert {(row.before_key, row.after_key) for row in ledger.rows(schema.snapshot)} == {("new", "new")}
        ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=BOTH)
        ledger.queue.undo(batch.id)
        assert read(loaded(ledger, BOTH)[0].snapshot[0]) == BEFORE

    def test_without_the_key_nothing_is_stored(self, ledger: Ledger) -> None:
        batch = changed(ledger, vault=OLD)
        stranger = SendQueue(ledger.engine, now=ledger.clock, vault=Vault({"new": RAW["new"]}))
        with pytest.raises(Unreadable):
            stranger.undo(batch.id)
        assert len(ledger.rows(schema.batch)) == 1

    def test_are_erased_when_the_grant_is_forgotten(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked").finish()
        assert not ledger.rows(schema.snapshot)
        with pytest.raises(InvalidArgument, match="was erased"):
            ledger.queue.undo(batch.id)

    def test_are_pruned_with_their_jobs(self, ledger: Ledger) -> None:
        batch = changed(ledger)
        undo = ledger.queue.undo(batch.id)
        ledger.clock.advance(3_600)
        with ledger.writing() as connection:
            now = ledger.clock()
            assert retention.drop_jobs(connection, State.SENT, before=now - 100 * SECOND, now=now) == 3
        assert not ledger.rows(schema.snapshot)
        assert [job.snapshot for job in loaded(ledger)] == [None] * 3  # left alone: `not_kept`
        ledger.queue.cancel_batch(undo.id)
        with pytest.raises(NotFound):
            ledger.queue.undo(batch.id)

    def test_a_batch_of_sends_is_refused(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many([Send("g1", MESSAGE)], batch=NewBatch())
        with pytest.raises(InvalidArgument, match="is a batch of sends"):
            ledger.queue.undo(batch.id)


class TestWhatIsReadAgain:
    def test_replaces_what_is_kept_before_the_change(self, ledger: Ledger) -> None:
        job = _read(ledger)
        moved = BEFORE | {"folders": ["mine"]}
        claimed = claim(ledger)
        (again,) = claimed.jobs
        assert again.snapshot is not None
        assert (again.operation, read(again.snapshot[0])) == ("modify", BEFORE)
        ledger.record(answer(claimed, again._replace(operation="read"), {"m0": moved}, None), ends=[end(claimed)])
        (kept,) = ledger.rows(schema.snapshot)
        assert (read(kept.before), ledger.job(job).operation) == (moved, "modify")

    def test_replaces_nothing_if_it_comes_after_its_turn(self, ledger: Ledger) -> None:
        """Another turn may have made the change since, and the message may have been read as that left it."""
        _read(ledger)
        claimed = claim(ledger)
        (again,) = claimed.jobs
        bury(ledger)
        ledger.record(answer(claimed, again._replace(operation="read"), {"m0": CHANGE}, None))
        assert [read(row.before) for row in ledger.rows(schema.snapshot)] == [BEFORE]

    def test_is_changed_by_the_turn_that_read_it(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m0"], **CHANGE, undoable=True)
        claimed = claim(ledger)
        (job,) = claimed.jobs
        recorded = ledger.record(answer(claimed, job, {"m0": BEFORE}, None), begins=[(claimed, job.id)])
        assert set(recorded.begun) == {job.id}
        assert (ledger.job(job.id).state, ledger.job(job.id).operation) == (State.SENDING, "modify")

    def test_of_a_read_that_was_lost_leaves_no_doubt_about_the_change(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m0"], **CHANGE, undoable=True)
        claim(ledger)
        bury(ledger)
        ledger.clock.advance(60)
        claimed = claim(ledger)
        (job,) = claimed.jobs
        assert (job.operation, job.doubt_at is None) == ("read", False)
        ledger.record(answer(claimed, job, {"m0": BEFORE}, None), ends=[end(claimed)])
        assert ledger.job(job.id).doubt_at is None


def _read(ledger: Ledger) -> UUID:
    """A job that has read its message."""
    ledger.queue.modify("g1", ["m0"], **CHANGE, undoable=True)
    claimed = claim(ledger)
    (job,) = claimed.jobs
    ledger.record(answer(claimed, job, {"m0": BEFORE}, None), ends=[end(claimed)])
    return UUID(str(job.id))


class TestLostChanges:
    @pytest.mark.parametrize(
        ("sent", "rule", "undone"), [("maybe", "service_unavailable", True), ("no", "refused", False)]
    )
    def test_are_undone_if_they_may_have_been_made(self, ledger: Ledger, sent: str, rule: str, undone: bool) -> None:
        job_id = _read(ledger)
        claimed = claim(ledger)
        gave_up = outcome(claimed, claimed.jobs[0], Event.GIVE_UP, rule=rule, sent=sent)
        ledger.record(gave_up, ends=[end(claimed)])
        lead(ledger)
        batch = str(ledger.job(job_id).batch_id)
        if undone:
            assert ledger.queue.undo(batch).total == 1
            assert [job.object_id for job in loaded(ledger)] == ["m0"]
        else:
            with pytest.raises(InvalidArgument, match="nothing is left to undo"):
                ledger.queue.undo(batch)

    def test_are_undone_if_their_worker_died_and_they_were_cancelled(self, ledger: Ledger) -> None:
        job_id = _read(ledger)
        claim(ledger)
        bury(ledger)
        batch = str(ledger.job(job_id).batch_id)
        ledger.queue.cancel_batch(batch)
        lead(ledger)
        assert ledger.job(job_id).state == State.CANCELLED
        assert ledger.queue.undo(batch).total == 1


class TestRetention:
    def test_that_has_deleted_some_of_the_jobs_is_not_hidden(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = changed(ledger)
        assert ledger.queue.undo(batch.id).left_out == 0
        work(ledger, {})
        monkeypatch.setattr(retention, "STEP", 1)
        ledger.clock.advance(120)
        with ledger.writing() as connection:
            retention.drop_jobs(connection, State.SENT, before=ledger.clock(), now=ledger.clock())
        operators = Operators(ledger.engine, now=ledger.clock)
        tried = operators.undo(batch.id, by="anna", dry_run=True)
        assert (tried.total, tried.left_out) == (2, 1)
        made = ledger.queue.undo(batch.id)
        assert (made.total, made.left_out) == (2, 1)
        (event,) = [row for row in ledger.rows(schema.event) if row.kind == "undo"][-1:]
        assert event.number == 2
