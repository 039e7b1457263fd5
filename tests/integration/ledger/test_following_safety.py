"""Jobs that follow another, when the ledger loses records, processes act at once, or something else makes them wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, update

from sendq import NEVER, State, Window
from sendq.clock import SECOND, moment
from sendq.ledger import doubt, retention
from sendq.ledger.cancel import cancel_by
from sendq.ledger.db import schema
from sendq.ledger.dispatching import followers, parked
from sendq.ledger.dispatching.mail_news import note_news
from sendq.ledger.dispatching.rescue import expire, give_up_unapproved
from sendq.ledger.dispatching.threads import threads_to_read
from sendq.ledger.doubt import Ending
from sendq.ledger.operators import erasure, recover, retry
from sendq.ledger.operators.holds import hold_tag
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.operators import Operators
from sendq.rules.states import Event
from sendq.rules.waiting_job import HELD
from tests.integration.ledger.test_following import DAY, THREE_DAYS, after_row, sent
from tests.support.following import carry_out, lead, message_of
from tests.support.ledger import Ledger, between_statements


def lose_records(ledger: Ledger, by_key: bool) -> None:
    """Repair after a loss: by a person, or by the leader alone while the keys are young."""
    repair = recover.repeat_by_key if by_key else recover.put_in_doubt
    ledger.absorb()
    ledger.clock.advance(1)
    with ledger.writing() as connection:
        repair(connection, since=ledger.clock(), now=ledger.clock(), after=None)


def find_unsent(ledger: Ledger, *jobs: UUID) -> None:
    """Searches find none of these mails."""
    endings = {job: Ending(Event.RETURN, "not_found") for job in jobs}
    with ledger.writing() as connection:
        doubt.settle(connection, endings, by="reconciler", now=ledger.clock())


def due_work(ledger: Ledger) -> bool:
    with ledger.writing() as connection:
        return followers.may_go_on(connection, now=ledger.clock())


@pytest.mark.parametrize("by_key", [True, False])
class TestAfterALossOfRecords:
    def test_waits_for_its_job_again(self, ledger: Ledger, by_key: bool) -> None:
        first = ledger.send(due_at=moment(ledger.clock() + 2 * DAY * SECOND))
        second = ledger.send(reply_to=str(first))
        lose_records(ledger, by_key)
        ledger.clock.advance(600)
        lead(ledger)
        find_unsent(ledger, second)
        lead(ledger)
        assert (ledger.job(second).next_at, ledger.job(second).rule) == (HELD, "after")
        assert carry_out(ledger) == []
        find_unsent(ledger, first)
        ledger.clock.advance(2 * DAY)
        assert carry_out(ledger) == [first]
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_waits_for_its_delay_and_the_reading_of_the_thread_again(self, ledger: Ledger, by_key: bool) -> None:
        second = ledger.send(after=str(sent(ledger)), delay=THREE_DAYS, unless="replied")
        lead(ledger)
        lose_records(ledger, by_key)
        find_unsent(ledger, second)
        lead(ledger)
        assert carry_out(ledger) == []
        ledger.clock.advance(3 * DAY)
        assert carry_out(ledger) == []
        lead(ledger, replied=lambda job: True)
        assert ledger.job(second).rule == "unless_replied"

    def test_that_a_person_holds_waits_for_both(self, ledger: Ledger, by_key: bool) -> None:
        first = ledger.send(due_at=moment(ledger.clock() + 2 * DAY * SECOND))
        second = ledger.send(after=str(first))
        ledger.queue.hold(str(second))
        lose_records(ledger, by_key)
        find_unsent(ledger, first, second)
        ledger.queue.release(str(second))
        assert carry_out(ledger) == []
        assert ledger.job(second).next_at == HELD

    def test_in_doubt_causes_no_work(self, ledger: Ledger, by_key: bool) -> None:
        second = ledger.send(after=str(sent(ledger)))
        lose_records(ledger, by_key)
        assert ledger.state(second) is State.IN_DOUBT
        assert not due_work(ledger)
        assert not lead(ledger).released
        assert after_row(ledger, second).check_at is None
        find_unsent(ledger, second)
        assert due_work(ledger)
        assert lead(ledger).released == 1

    def test_that_was_sent_ends(self, ledger: Ledger, by_key: bool) -> None:
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        lose_records(ledger, by_key)
        with ledger.writing() as connection:
            doubt.settle(connection, {second: Ending(Event.ACCEPT, "found", "m2")}, by="x", now=ledger.clock())
        lead(ledger)
        assert after_row(ledger, second).stage == "done"


def make_due(ledger: Ledger, job: UUID) -> None:
    """Something changes the time of a parked job, which nothing should."""
    ledger.set_job(job, next_at=ledger.clock())
    with ledger.writing() as connection:
        columns = {"next_at": ledger.clock(), "high_floor": 0, "normal_floor": 0, "low_floor": 0}
        connection.execute(update(schema.lane).values(**columns))


class TestWhateverChangesItsTime:
    @pytest.mark.parametrize("own_turn", [True, False])
    @pytest.mark.parametrize("kind", ["window", "tag"])
    def test_it_is_not_sent_before_its_job(self, ledger: Ledger, kind: str, own_turn: bool) -> None:
        first = ledger.send("g2", due_at=moment(ledger.clock() + 5 * DAY * SECOND))
        options: dict[str, Any] = {"tags": {"kind": "news"}}
        if kind == "window":
            options = {"window": Window("03:00-03:10", tz="UTC")}
        second = ledger.send(after=str(first), **options)
        if not own_turn:  # it is put off with a job before it
            ledger.send(**options)
        ledger.offer()
        if kind == "tag":
            with ledger.writing() as connection:
                until = ledger.clock() + 3600 * SECOND
                hold_tag(connection, "default", "kind=news", until=until, by="anna", reason="later", now=ledger.clock())
        make_due(ledger, second)
        assert second not in carry_out(ledger)
        assert ledger.job(second).rule == "after"
        for _ in range(20):
            ledger.clock.advance(DAY / 18)
            assert second not in carry_out(ledger)
        assert ledger.job(second).rule == "after"

    def test_a_reply_without_its_id_is_not_begun(self, ledger: Ledger) -> None:
        first = ledger.send("g1", due_at=moment(ledger.clock() + 5 * DAY * SECOND))
        second = ledger.send(reply_to=str(first))
        ledger.set_job(second, rule=None)
        ledger.offer()
        make_due(ledger, second)
        assert carry_out(ledger) == []
        assert (ledger.state(second), ledger.job(second).rule) == (State.DEAD, "integrity_check_failed")


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Have something happen after followers were found and before they are locked."""
    locked = parked.lock_followers
    done: list[bool] = []

    def later(connection: Connection, ids: Sequence[UUID]) -> Any:
        if not done:
            done.append(True)
            act()
        return locked(connection, ids)

    monkeypatch.setattr(followers, "lock_followers", later)


@pytest.fixture
def at_once(ledger: Ledger) -> Ledger:
    if ledger.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    return ledger


class TestAtOnce:
    @pytest.mark.parametrize("delay", [0, 60])
    def test_two_leaders_release_a_reply_once(
        self, at_once: Ledger, monkeypatch: pytest.MonkeyPatch, delay: int
    ) -> None:
        ledger = at_once
        first = sent(ledger)
        second = ledger.send(reply_to=str(first), delay=timedelta(seconds=delay))
        if delay:
            lead(ledger, rounds=1)
            ledger.clock.advance(delay)

        def step(connection: Connection) -> None:
            followers.settle(connection, [second], now=ledger.clock())
            followers.move_on(connection, now=ledger.clock())

        def the_new_leader() -> None:
            with ledger.writing() as connection:
                step(connection)

        meanwhile(monkeypatch, the_new_leader)
        with ledger.writing() as connection:
            step(connection)
        assert carry_out(ledger) == [second]

    @pytest.mark.parametrize("replied", [False, None])
    def test_an_answer_that_is_reported_while_the_thread_is_read_counts(
        self, at_once: Ledger, monkeypatch: pytest.MonkeyPatch, replied: bool | None
    ) -> None:
        ledger = at_once
        first = sent(ledger)
        second = ledger.send(after=str(first), unless="replied")
        with ledger.writing() as connection:
            followers.settle(connection, [second], now=ledger.clock())

        def report() -> None:
            with ledger.writing() as connection:
                assert note_news(connection, answers={first: ledger.clock()}, bounced=(), now=ledger.clock()) == {first}

        meanwhile(monkeypatch, report)
        with ledger.writing() as connection:
            followers.conclude(connection, [second], replied=replied, now=ledger.clock())
        assert ledger.job(second).rule == "unless_replied"

    @pytest.mark.parametrize("row", ["erased", "deleted"])
    def test_a_thread_whose_message_was_erased_meanwhile_is_not_read(self, at_once: Ledger, row: str) -> None:
        ledger = at_once
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        with ledger.writing() as connection:
            followers.settle(connection, [second], now=ledger.clock())
        table = schema.after

        def erase() -> None:
            of_second = table.c.job_id == second
            with ledger.writing() as connection:
                erased = update(table).where(of_second).values(message_id=None)
                connection.execute(erased if row == "erased" else table.delete().where(of_second))

        with ledger.writing() as connection, between_statements(connection, 2, erase) as seen:
            assert threads_to_read(connection, now=ledger.clock(), limit=20, busy=())[0] == []
        assert len(seen) == 3

    def test_an_id_that_is_noted_while_its_grant_is_forgotten_is_erased(
        self, at_once: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = at_once
        first = sent(ledger)
        second = ledger.send("g2", after=str(first), unless="replied", delay=THREE_DAYS)
        locked = parked.lock_rows

        def later(connection: Connection, ids: Sequence[UUID]) -> Any:
            with ledger.writing() as other:  # a step of the leader that began before
                noted = update(schema.after).where(schema.after.c.job_id == second)
                other.execute(noted.values(stage="timed", message_id=message_of(first)))
            return locked(connection, ids)

        monkeypatch.setattr(erasure, "lock_rows", later)
        Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked to").finish()
        assert after_row(ledger, second).message_id is None

    def test_a_cancel_of_what_was_sent_meanwhile_leaves_no_event(self, at_once: Ledger) -> None:
        ledger = at_once
        job = ledger.send()

        def end() -> None:
            ledger.set_job(job, state="sent", finished_at=ledger.clock())

        with ledger.writing() as connection, between_statements(connection, 1, end):
            assert cancel_by(connection, job, by="anna", reason=None, now=ledger.clock()) is State.SENT
        assert "cancel" not in {row.kind for row in ledger.rows(schema.event)}


class TestApproval:
    def test_may_be_given_until_some_time_after_the_follower_is_due(self, ledger: Ledger) -> None:
        first = ledger.send(due_at=moment(ledger.clock() + 5 * DAY * SECOND))
        waits = ledger.send(after=str(first), delay=timedelta(days=7), needs_approval=True)
        self.time_passes(ledger, 5)
        assert ledger.queue.why(str(waits)).reason == "unapproved"
        assert "2300" not in ledger.queue.why(str(waits)).says
        assert carry_out(ledger) == [first]
        lead(ledger)
        assert ledger.job(waits).approve_by == ledger.clock() + 10 * DAY * SECOND
        self.time_passes(ledger, 9)
        Operators(ledger.engine, now=ledger.clock).approve([str(waits)], by="anna", reason="fine").finish()
        assert carry_out(ledger) == [waits]

    def test_ends_then_even_if_it_never_expires(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), delay=THREE_DAYS, needs_approval=True, expires_at=NEVER)
        lead(ledger)
        ledger.queue.reschedule(str(second), due_at=moment(ledger.clock() + 5 * DAY * SECOND))
        assert ledger.job(second).approve_by == ledger.clock() + 8 * DAY * SECOND
        self.time_passes(ledger, 7)
        assert ledger.state(second) is State.QUEUED
        self.time_passes(ledger, 1)
        assert ledger.job(second).rule == "not_approved"

    @staticmethod
    def time_passes(ledger: Ledger, days: int) -> None:
        ledger.clock.advance(days * DAY)
        with ledger.writing() as connection:
            give_up_unapproved(connection, now=ledger.clock(), limit=10)
            expire(connection, now=ledger.clock(), limit=10)
        lead(ledger)


class TestRetry:
    @pytest.mark.parametrize("replies", [False, True])
    def test_succeeds_though_its_job_was_deleted(self, ledger: Ledger, replies: bool) -> None:
        first, second = self.expired(ledger, replies)
        ledger.clock.advance(9 * DAY)
        lead(ledger)
        now = ledger.clock()
        with ledger.writing() as connection:
            assert retention.drop_jobs(connection, State.SENT, before=now, now=now) == 1
        self.retry(ledger, second)
        assert lead(ledger).released == 1
        assert carry_out(ledger) == [second]
        assert not replies or after_row(ledger, second).message_id == message_of(first)

    def test_does_not_expire_before_its_time(self, ledger: Ledger) -> None:
        _, second = self.expired(ledger, False)
        self.retry(ledger, second)
        lead(ledger)
        assert carry_out(ledger) == []
        ledger.clock.advance(8 * DAY)
        with ledger.writing() as connection:
            assert expire(connection, now=ledger.clock(), limit=10) == 0
        assert lead(ledger).released == 1
        assert carry_out(ledger) == [second]

    def test_waits_for_its_job_if_that_is_sent_again(self, ledger: Ledger) -> None:
        first, second = self.expired(ledger, True)
        ledger.set_job(first, state="queued", finished_at=None, message_id=None, next_at=ledger.clock() + DAY * SECOND)
        self.retry(ledger, second)
        ledger.clock.advance(9 * DAY)
        lead(ledger)
        assert (after_row(ledger, second).stage, ledger.job(second).next_at) == ("waiting", HELD)

    @staticmethod
    def expired(ledger: Ledger, replies: bool) -> tuple[UUID, UUID]:
        """A job that was sent, and one that follows it after nine days but expired after one."""
        first = sent(ledger)
        follows: dict[str, Any] = {"reply_to" if replies else "after": str(first)}
        expires_at = moment(ledger.clock() + 10 * DAY * SECOND)
        second = ledger.send(**follows, delay=timedelta(days=9), expires_at=expires_at)
        lead(ledger)
        ledger.set_job(second, expires_at=ledger.clock() + DAY * SECOND)
        ledger.clock.advance(DAY)
        with ledger.writing() as connection:
            assert expire(connection, now=ledger.clock(), limit=10) == 1
        return first, second

    @staticmethod
    def retry(ledger: Ledger, job: UUID) -> None:
        wanted = DeadLetterSelection(jobs=[job], states=(State.EXPIRED,))
        with ledger.writing() as connection:
            retry.retry(connection, wanted, after=None, first_at=ledger.clock(), by="anna", now=ledger.clock())
