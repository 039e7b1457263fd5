"""Batches of sends: many messages as one thing, made at once or left open and added to."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sendq import (
    Batch,
    InvalidJob,
    KeyConflict,
    LaneFull,
    Message,
    MimeMessage,
    NewBatch,
    NotFound,
    Operators,
    Options,
    Retryable,
    Send,
    SendQueue,
    State,
    SuppressionListFailed,
    Unreadable,
    Vault,
)
from sendq.errors import SuppressedRecipients
from sendq.ids import lane_id
from sendq.ledger import batches
from sendq.ledger.db import schema
from sendq.rules.states import Event
from sendq.testing import enqueued
from tests.support.ledger import Ledger, end, outcome
from tests.support.waiting import LIMIT_S

LONG = "<p>" + "news of May, " * 400 + "</p>"


def message(number: int, body: str = LONG) -> Message:
    return Message(to=[f"reader{number}@example.com"], subject=f"Hello {number}", body=body)


def sends(count: int, *, first: int = 0, grants: int = 1, keys: bool = False, body: str = LONG) -> list[Send]:
    return [
        Send(f"g{n % grants}", message(n, body), Options(key=f"n-{n}" if keys else None))
        for n in range(first, first + count)
    ]


def rows(ledger: Ledger, table: Any) -> int:
    with ledger.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def lead(ledger: Ledger) -> list[str]:
    """What the leader does about batches; those that have ended."""
    with ledger.writing() as connection:
        finished = batches.finish_batches(connection, now=ledger.clock(), limit=10_000)
        wanted = batches.being_cancelled(connection, limit=10)
    for batch_id in wanted:
        after: UUID | None = UUID(int=0)
        while after is not None:
            with ledger.writing() as connection:
                after = batches.end_some(connection, batch_id, after=after, now=ledger.clock())
    with ledger.writing() as connection:
        finished += batches.finish_batches(connection, now=ledger.clock(), limit=10_000)
    return [str(one) for one in finished]


def serve(ledger: Ledger, event: Event = Event.ACCEPT, **given: Any) -> int:
    """A turn of each lane; how many jobs ended."""
    ledger.clock.advance(1)
    number = 0
    for claimed in ledger.claim(ledger.offer()):
        for job in claimed.jobs:
            if job.id not in claimed.begun:
                ledger.record(begins=[(claimed, job.id)])
            ledger.record(outcome(claimed, job, event, sent="yes" if event is Event.ACCEPT else "no", **given))
        ledger.record(ends=[end(claimed)])
        number += len(claimed.jobs)
    return number


class TestABatchOfSends:
    def test_has_progress_and_one_end(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many(sends(5), batch=NewBatch(tags={"campaign": "may"}))
        assert (batch.total, batch.existed) == (5, False)
        ledger.absorb()
        seen = ledger.queue.batch(batch.id)
        assert (seen.operation, seen.total, seen.waiting, seen.progress, seen.tags) == (
            "send", 5, 5, 0.0, {"campaign": "may"},
        )  # fmt: skip
        assert (seen.application, seen.grant_id, seen.open) == ("default", "g0", False)
        assert ledger.queue.count(tag="campaign=may").number == 5
        while serve(ledger):
            pass
        assert lead(ledger) == [batch.id]
        assert lead(ledger) == []
        seen = ledger.queue.batch(batch.id)
        assert (seen.counts, seen.progress) == ({State.SENT: 5}, 1.0)
        assert seen.finished_at is not None

    def test_over_several_grants_shows_their_end_from_the_rate(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many(sends(4, grants=2), batch=NewBatch())
        serve(ledger)
        seen = ledger.queue.batch(batch.id)
        assert (seen.grant_id, seen.total) == (None, 4)
        assert seen.eta is not None
        (line,) = Operators(ledger.engine, now=ledger.clock).batches(application="default").items
        assert (line.id, line.total, line.application) == (batch.id, 4, "default")
        assert Operators(ledger.engine).batches(application="other").items == ()

    def test_reports_once_when_its_last_job_has_ended(self, ledger: Ledger) -> None:
        ledger.queue.send_many(sends(2, grants=2), batch=NewBatch(on_outcome="mails.done", key="may"))
        serve(ledger, Event.GIVE_UP)
        with ledger.writing() as connection:
            from sendq.ledger import outcomes

            finished = batches.finish_batches(connection, now=ledger.clock(), limit=100)
            outcomes.append_batches(connection, finished, now=ledger.clock())
        (delivery,) = ledger.rows(schema.delivery)
        assert delivery.kind == "batch_finished"
        assert '"total":2' in delivery.facts.replace(" ", "")
        assert '"application":"default"' in delivery.facts.replace(" ", "")

    def test_is_repeated_harmlessly_with_its_key(self, ledger: Ledger) -> None:
        first = ledger.queue.send_many(sends(3), batch=NewBatch(key="may"))
        again = ledger.queue.send_many(sends(3), batch=NewBatch(key="may"))
        assert again == Batch(first.id, 3, existed=True)
        assert rows(ledger, schema.job) == 3
        with pytest.raises(KeyConflict):
            ledger.queue.send_many(sends(4), batch=NewBatch(key="may"))
        assert rows(ledger, schema.job) == 3
        assert ledger.queue.batch(key="may").id == first.id

    def test_skips_messages_whose_keys_were_used(self, ledger: Ledger) -> None:
        ledger.queue.send_many(sends(2, keys=True))
        batch = ledger.queue.send_many(sends(3, keys=True), batch=NewBatch())
        assert batch.total == 1
        none = ledger.queue.send_many(sends(3, keys=True), batch=NewBatch())
        assert none.total == 0
        assert lead(ledger) == [none.id]

    def test_stores_equal_texts_once_and_sends_them_whole(self, ledger: Ledger) -> None:
        queue = SendQueue(ledger.engine, now=ledger.clock, vault=Vault({"k1": b"k" * 32}))
        some = [*sends(30), *sends(3, first=100, body=LONG + "other"), *sends(1, first=200, body=LONG + "one")]
        queue.send_many(some, batch=NewBatch())
        assert rows(ledger, schema.content) == 2
        bodies = {job.to[0]: job.body for job in enqueued(queue)}
        assert len(bodies) == 34
        for send in some:
            assert isinstance(send.message, Message)
            body = bodies[send.message.to[0].email]
            assert body is not None
            assert (body["body"], body["subject"]) == (send.message.body, send.message.subject)

    def test_of_many_is_read_a_part_at_a_time(self, ledger: Ledger) -> None:
        alive = most = 0

        class Counted(Message):
            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        def generated() -> Iterator[Send]:
            nonlocal alive, most
            for number in range(3_500):
                alive += 1
                most = max(most, alive)
                yield Send("g1", Counted(to=[f"r{number}@example.com"], subject="x", body="x"))

        batch = ledger.queue.send_many(generated(), batch=NewBatch())
        assert batch.total == 3_500
        assert most <= 2_100


class TestWhatIsRefused:
    def refused(self, ledger: Ledger, *problems: str, **given: Any) -> None:
        with pytest.raises(InvalidJob) as wrong:
            ledger.queue.send_many(**given)
        assert [f"{one.field}: {one.reason}" for one in wrong.value.problems] == list(problems)
        for table in (
            schema.job,
            schema.batch,
            schema.payload,
            schema.content,
            schema.wake,
            schema.job_tag,
            schema.key,
        ):
            assert rows(ledger, table) == 0

    def test_stores_nothing(self, ledger: Ledger) -> None:
        bad = Send("g1", Message(to=["nobody"], subject="x", body="x"))
        self.refused(
            ledger, "[1200].to[0].email: is not an email address", sends=[*sends(1_200, keys=True), bad],
            batch=NewBatch(tags={"a": "b"}),
        )  # fmt: skip

    def test_names_repeated_keys(self, ledger: Ledger) -> None:
        twice = [*sends(1_100, keys=True), *sends(1, first=7, keys=True)]
        self.refused(ledger, "[1100].key: is the same as the key of [7]", sends=twice, batch=NewBatch())

    def test_names_another_application(self, ledger: Ledger) -> None:
        other = Send("g1", message(1), Options(application="other"))
        self.refused(ledger, "[0].application: is not the application of the batch", sends=[other], batch=NewBatch())

    def test_names_what_is_wrong_with_the_batch(self, ledger: Ledger) -> None:
        new = NewBatch(key="", tags={"to": "ann@example.com"}, on_outcome="x", open="yes")  # type: ignore[arg-type]
        self.refused(
            ledger, "batch.key: is empty", "batch.tags.to: looks like an email address",
            "batch.on_outcome: is neither a task's dotted name nor a URL", "batch.open: is not True or False",
            sends=sends(1), batch=new,
        )  # fmt: skip
        self.refused(ledger, "batch: is not a sendq.NewBatch", sends=sends(1), batch="may")

    def test_counts_what_it_does_not_list(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidJob) as wrong:
            ledger.queue.send_many([Send("me", message(1))] * 150, batch=NewBatch())
        assert len(wrong.value.problems) == 101
        assert wrong.value.problems[-1].reason == "has 50 more problems"

    def test_refuses_none(self, ledger: Ledger) -> None:
        self.refused(ledger, "sends: is empty", sends=[], batch=NewBatch())

    def test_passes_an_exception_of_the_iterable_on(self, ledger: Ledger) -> None:
        def broken() -> Iterator[Send]:
            yield from sends(1_500)
            raise OSError("the file is gone")

        with pytest.raises(OSError, match="the file is gone"):
            ledger.queue.send_many(broken(), batch=NewBatch())
        assert rows(ledger, schema.job) == 0


class TestAnOpenBatch:
    def test_is_added_to_until_it_is_closed(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many([], batch=NewBatch(open=True, tags={"campaign": "may"}))
        assert ledger.queue.add(batch.id, sends(2)).total == 2
        assert ledger.queue.add(batch.id, sends(3, first=10, grants=2)).total == 3
        while serve(ledger):
            pass
        assert lead(ledger) == []
        seen = ledger.queue.batch(batch.id)
        assert (seen.open, seen.total, seen.waiting, seen.finished_at) == (True, 5, 0, None)
        assert ledger.queue.count(tag="campaign=may").number == 5
        assert ledger.queue.close_batch(batch.id) == 5 == ledger.queue.close_batch(batch.id)
        assert lead(ledger) == [batch.id]
        assert (ledger.queue.batch(batch.id).open, ledger.queue.batch(batch.id).total) == (False, 5)

    def test_of_certain_grants_takes_nothing_once_others_have_added_to_it(self, pg_ledger: Ledger) -> None:
        """The other one commits on another connection, between the first look at the batch and the insert."""
        queue = pg_ledger.queue
        batch = queue.send_many(sends(1), batch=NewBatch(open=True))
        assert queue.add(batch.id, sends(1, first=1), grants=["g0", "team-*"]).total == 1

        def meanwhile() -> Iterator[Send]:
            yield from sends(1, first=2)
            with ThreadPoolExecutor() as pool:
                pool.submit(queue.add, batch.id, [Send("foreign", message(3))]).result(LIMIT_S)

        for given in (meanwhile(), sends(1, first=4)):
            before = rows(pg_ledger, schema.job)
            with pytest.raises(NotFound):
                queue.add(batch.id, given, grants=["g0", "team-*"])
            assert {row.lane_id for row in pg_ledger.rows(schema.job)} == {
                lane_id("default", one) for one in ("g0", "foreign")
            }
            assert rows(pg_ledger, schema.job) == (3 if before == 2 else before)
        assert queue.add(batch.id, sends(1, first=5), grants=["g*", "foreign"]).total == 1
        assert queue.batch(batch.id).total == queue.close_batch(batch.id) == 4

    def test_refuses_more_once_it_is_closed_or_cancelled(self, ledger: Ledger) -> None:
        closed = ledger.queue.send_many(sends(1), batch=NewBatch())
        with pytest.raises(InvalidJob, match="batch: is not open"):
            ledger.queue.add(closed.id, sends(1))
        cancelled = ledger.queue.send_many(sends(1), batch=NewBatch(open=True))
        ledger.queue.cancel_batch(cancelled.id)
        with pytest.raises(InvalidJob, match="batch: was cancelled"):
            ledger.queue.add(cancelled.id, sends(1))
        changes = ledger.queue.modify("g1", ["m1"], unread=False)
        with pytest.raises(InvalidJob, match="is not open"):
            ledger.queue.add(changes.id, sends(1))
        with pytest.raises(InvalidJob, match="is not a batch of sends"):
            ledger.queue.close_batch(changes.id)
        with pytest.raises(NotFound):
            ledger.queue.add(str(UUID(int=1)), sends(1))
        assert ledger.queue.count("g0").number == 2

    def test_adds_all_or_none_in_the_callers_transaction(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many(sends(1), batch=NewBatch(open=True))
        with Session(ledger.engine) as session:
            ledger.queue.add(batch.id, sends(2, first=5), session=session)
            session.rollback()
        with pytest.raises(InvalidJob):
            ledger.queue.add(batch.id, [*sends(1, first=9), Send("me", message(1))])
        assert ledger.queue.batch(batch.id).total == 1

    def test_is_closed_after_what_is_being_added(self, pg_ledger: Ledger) -> None:
        ledger = pg_ledger  # SQLite has one writer at a time
        batch = ledger.queue.send_many([], batch=NewBatch(open=True))
        closed: Future[int] = Future()
        with Session(ledger.engine) as session, Session(ledger.engine) as other:
            ledger.queue.add(batch.id, sends(2), session=session)
            ledger.queue.add(batch.id, sends(1, first=9), session=other)  # waits for no one
            other.commit()
            assert lead(ledger) == []  # and neither does the leader
            close = threading.Thread(target=lambda: closed.set_result(ledger.queue.close_batch(batch.id)))
            close.start()
            with pytest.raises(TimeoutError):
                closed.result(timeout=0.2)
            session.commit()
        assert closed.result(LIMIT_S) == 3
        close.join(LIMIT_S)

    def test_counts_a_repeated_part_once(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many([], batch=NewBatch(open=True))
        assert [ledger.queue.add(batch.id, sends(3, keys=True)).total for _ in range(2)] == [3, 0]
        assert ledger.queue.close_batch(batch.id) == 3


class TestACancelledBatchOfSends:
    def test_ends_what_waits(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many(sends(3), batch=NewBatch(open=True))
        ledger.queue.cancel_batch(batch.id)
        assert lead(ledger) == [batch.id]
        seen = ledger.queue.batch(batch.id)
        assert (seen.counts, seen.total, seen.open) == ({State.CANCELLED: 3}, 3, False)

    def test_leaves_what_may_have_gone_out_in_doubt(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many(sends(2), batch=NewBatch())
        ledger.absorb()
        first = min(job.id for job in ledger.rows(schema.job))
        ledger.set_job(first, doubt_at=ledger.clock(), key_at=ledger.clock())
        with Session(ledger.engine) as session:  # the request alone: a turn may come before the rest
            ledger.queue.cancel_batch(batch.id, session=session)
            session.commit()
        assert serve(ledger) == 0
        assert ledger.state(first) is State.IN_DOUBT
        lead(ledger)
        assert ledger.queue.batch(batch.id).counts == {State.IN_DOUBT: 1, State.CANCELLED: 1}
        assert ledger.job(first).cancel_at is not None


@pytest.mark.long
def test_twenty_thousand_take_little_memory(ledger: Ledger) -> None:
    def generated() -> Iterator[Send]:
        return (Send("g1", message(number), Options(key=f"n-{number}")) for number in range(20_000))

    tracemalloc.start()
    try:
        batch = ledger.queue.send_many(generated(), batch=NewBatch(key="may"))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert batch.total == 20_000
    assert rows(ledger, schema.content) == 1


class TestSuppressedRecipients:
    def test_are_named_by_their_place_in_the_call(self, ledger: Ledger) -> None:
        def own(application: str, category: str | None, addresses: Any) -> list[str]:
            return [one for one in addresses if one.startswith(("reader3@", "reader1005@"))]

        queue = SendQueue(ledger.engine, now=ledger.clock, suppressed=own)
        with pytest.raises(SuppressedRecipients) as refused:
            queue.send_many(sends(1_010, body="x"), batch=NewBatch())
        assert [one.field for one in refused.value.problems] == ["[3].to[0]", "[1005].to[0]"]
        assert rows(ledger, schema.job) == rows(ledger, schema.batch) == 0

    def test_are_left_out_of_a_batch_if_the_caller_drops_them(self, ledger: Ledger) -> None:
        """One bounce does not stop the next newsletter."""
        ledger.queue.suppress("reader1@example.com", source="test")
        ledger.queue.suppress("reader1003@example.com", source="test")
        people = [{"email": f"reader{n}@example.com", "key": f"may-{n}"} for n in range(1_005)]
        common, new = Message(subject="May", body="x"), NewBatch(key="may")
        made = ledger.queue.mail_merge("g1", common, people, batch=new, suppressed="drop")
        assert made == Batch(made.id, 1_003, left_out=2)
        assert ledger.queue.batch(made.id).total == 1_003
        mailed = {row.key for row in ledger.rows(schema.job)}
        assert mailed == {one["key"] for one in people} - {"may-1", "may-1003"}
        assert {row.key for row in ledger.rows(schema.key)} == mailed | {"may"}
        (noted,) = (row for row in ledger.rows(schema.event) if row.kind == "recipients_dropped")
        assert (noted.number, noted.reason) == (2, "messages left out: 2 added")
        assert str(noted.batch_id) == made.id
        again = ledger.queue.mail_merge("g1", common, people, batch=new, suppressed="drop")
        assert (again.id, again.existed, len(ledger.rows(schema.job))) == (made.id, True, 1_003)

    def test_that_are_all_of_a_batch_leave_an_empty_one_that_ends(self, ledger: Ledger) -> None:
        ledger.queue.suppress("reader1@example.com", source="test")
        options = Options(suppressed="drop")
        finished = MimeMessage(b"To: reader1@example.com\nCc: reader2@example.com\n\n.")
        both = [Send("g1", message(1, "x"), options), Send("g1", finished, options)]
        made = ledger.queue.send_many(both, batch=NewBatch())
        assert (made.total, made.left_out) == (0, 2)
        assert lead(ledger) == [made.id]
        opened = ledger.queue.send_many([], batch=NewBatch(open=True))
        added = ledger.queue.add(opened.id, [*both, Send("g1", message(2, "x"), options)])
        assert (added.total, added.left_out) == (1, 2)

    def test_that_are_only_some_of_a_message_are_dropped_from_it(self, ledger: Ledger) -> None:
        ledger.queue.suppress("reader1@example.com", source="test")
        options = Options(suppressed="drop")
        to_both = Message(to=["reader1@example.com", "reader2@example.com"], subject="s", body="b")
        made = ledger.queue.send_many(
            [Send("g1", one, options) for one in (message(1, "x"), to_both)], batch=NewBatch()
        )
        assert (made.total, made.left_out) == (1, 1)
        (stored,) = enqueued(ledger.queue)
        assert stored.body is not None
        assert stored.body["to"] == [{"email": "reader2@example.com"}]


class TestAKeyThatWasUsed:
    """A repeat returns the first batch, as with a single message, whatever has become of its recipients and jobs."""

    def test_counts_more_than_who_was_suppressed_since(self, ledger: Ledger) -> None:
        asked: list[str] = []

        def own(application: str, category: str | None, addresses: Any) -> list[str]:
            asked.extend(addresses)
            return []

        queue = SendQueue(ledger.engine, now=ledger.clock, suppressed=own)
        first = queue.send_many(sends(3), batch=NewBatch(key="may"))
        queue.suppress("reader1@example.com")
        asked.clear()
        assert queue.send_many(sends(3), batch=NewBatch(key="may")) == Batch(first.id, 3, existed=True)
        assert asked == []
        with pytest.raises(KeyConflict):
            queue.send_many(sends(2), batch=NewBatch(key="may"))
        with pytest.raises(InvalidJob, match="sends: is empty"):
            queue.send_many([], batch=NewBatch(key="may"))
        wrong = Send("g1", Message(to=["nobody"], subject="x", body="x"))
        with pytest.raises(InvalidJob, match=r"\[1\].to\[0\].email"):
            queue.send_many([*sends(1), wrong], batch=NewBatch(key="may"))
        assert rows(ledger, schema.job) == 3

    def test_counts_more_than_how_many_jobs_wait(self, ledger: Ledger) -> None:
        queue = SendQueue(ledger.engine, now=ledger.clock, lane_cap=4)
        first = queue.send_many(sends(3), batch=NewBatch(key="may"))
        assert queue.send_many(sends(3), batch=NewBatch(key="may")) == Batch(first.id, 3, existed=True)
        with pytest.raises(LaneFull):
            queue.send_many(sends(3), batch=NewBatch(key="june"))
        assert rows(ledger, schema.job) == 3

    @pytest.mark.parametrize("refusal", ["suppressed", "full"])
    def test_by_another_call_while_this_one_was_reading(
        self, pg_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, refusal: str
    ) -> None:
        ledger = pg_ledger  # SQLite has one writer at a time
        monkeypatch.setattr("sendq.enqueueing.batch_sends.STEP", 2)
        queue = SendQueue(ledger.engine, now=ledger.clock, lane_cap=5 if refusal == "full" else None)
        firsts: list[Batch] = []

        def interrupted() -> Iterator[Send]:
            yield from sends(1)
            firsts.append(queue.send_many(sends(5), batch=NewBatch(key="may")))
            if refusal == "suppressed":
                queue.suppress("reader1@example.com")
            yield from sends(4, first=1)

        again = queue.send_many(interrupted(), batch=NewBatch(key="may"))
        assert again == Batch(firsts[0].id, 5, existed=True)
        assert rows(ledger, schema.job) == 5


class TestWithoutTheKeyOfTheLinks:
    """A program whose vault lacks the key of the digests sends what needs no link, as `send` does."""

    @pytest.fixture
    def other(self, ledger: Ledger) -> SendQueue:
        vault = Vault({"k1": b"k" * 32})
        SendQueue(ledger.engine, now=ledger.clock, vault=vault).suppress("ann@example.com")
        return SendQueue(ledger.engine, now=ledger.clock, unsubscribe_url="https://mail.example.com/unsubscribe")

    def test_batches_are_stored(self, ledger: Ledger, other: SendQueue) -> None:
        batch = other.send_many(sends(1), batch=NewBatch(open=True))
        assert other.add(batch.id, sends(1, first=2)).total == 1
        wanting = Send("g1", Message(to=["bob@example.com"], subject="x", body="x", unsubscribe="news"))
        with pytest.raises(Unreadable):
            other.add(batch.id, [*sends(1, first=3), wanting])
        assert rows(ledger, schema.job) == 2

    def test_links_of_a_batch_work_even_if_they_are_the_first(self, ledger: Ledger) -> None:
        queue = SendQueue(ledger.engine, now=ledger.clock, unsubscribe_url="https://mail.example.com/unsubscribe")
        queue.send_many(sends(2), batch=NewBatch())
        assert rows(ledger, schema.secret) == 0
        wanting = Send("g1", Message(to=["bob@example.com"], subject="x", body="x", unsubscribe="news"))
        with Session(ledger.engine) as session:
            queue.send_many([*sends(1), wanting], batch=NewBatch(), session=session)
            session.commit()
        body = enqueued(queue)[-1].body
        assert body is not None
        (link,) = [one["value"] for one in body["custom_headers"] if one["name"] == "List-Unsubscribe"]
        assert link == f"<{queue.unsubscribe_url('bob@example.com', 'news')}>"


class TestMessagesThatAreReadInTheTransaction:
    def test_are_named_by_the_failure_of_the_own_list_on_sqlite(self, ledger: Ledger) -> None:
        def own(application: str, category: str | None, addresses: Any) -> list[str]:
            raise OSError("locked")

        queue = SendQueue(ledger.engine, now=ledger.clock, suppressed=own)
        with pytest.raises(SuppressionListFailed) as failed:
            queue.send_many(sends(1), batch=NewBatch())
        on_sqlite = ledger.engine.dialect.name == "sqlite"
        assert ("in its transaction, so it cannot write to the file" in str(failed.value)) == on_sqlite
        assert isinstance(failed.value.__cause__, OSError)

    def test_are_asked_for_again_after_a_deadlock(self, pg_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two batches whose messages have the same keys, in another order and in different parts."""
        monkeypatch.setattr("sendq.enqueueing.batch_sends.STEP", 1)
        both_hold_one = threading.Barrier(2)

        def generated(*keys: str) -> Iterator[Send]:
            yield Send("g1", message(1), Options(key=keys[0]))
            both_hold_one.wait(LIMIT_S)
            yield Send("g1", message(1), Options(key=keys[1]))

        def enqueue(*keys: str) -> Batch | Retryable:
            try:
                return pg_ledger.queue.send_many(generated(*keys), batch=NewBatch())
            except Retryable as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            results = [one.result(LIMIT_S) for one in [pool.submit(enqueue, *keys) for keys in ("ab", "ba")]]
        (refused,) = (one for one in results if isinstance(one, Retryable))
        assert "from a new generator" in str(refused)
        assert rows(pg_ledger, schema.job) == 2


class TestForgetting:
    def test_one_of_several_grants_erases_the_digest_of_the_batchs_key(self, ledger: Ledger) -> None:
        batch = ledger.queue.send_many(sends(4, grants=2), batch=NewBatch(key="may"))
        ledger.queue.send_many(sends(1, first=1, grants=2), batch=NewBatch(key="june"))
        Operators(ledger.engine, now=ledger.clock).forget("g0", by="anna", reason="asked for").finish()
        assert {row.key: len(row.digest) for row in ledger.rows(schema.key)} == {"may": 0, "june": 32}
        assert ledger.queue.send_many(sends(4, grants=2), batch=NewBatch(key="may")).id == batch.id
