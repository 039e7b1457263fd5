"""Jobs that follow another which is reported as never sent, and is sent again: only its last send counts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from sendq import NEVER, State, Window
from sendq.clock import SECOND, moment
from sendq.facts.turns import Claimed
from sendq.ledger.db import schema
from sendq.ledger.dispatching.threads import threads_to_read
from sendq.ledger.operators import retry
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.rules.delivery import Delivery
from sendq.rules.states import Event
from sendq.rules.waiting_job import HELD
from tests.integration.ledger.test_following import DAY, THREE_DAYS, after_row, sent
from tests.integration.ledger.test_following_news import report, waits_for_its_window
from tests.support.following import carry_out, lead, message_of
from tests.support.ledger import MESSAGE, Ledger, end, outcome

# What is parametrized with these is alike, so the rest is for the long run.
_long = pytest.mark.long
CONDITIONS = [None, "replied", pytest.param("bounced", marks=_long), pytest.param(["bounced", "replied"], marks=_long)]


def retried(ledger: Ledger, *jobs: UUID) -> None:
    with ledger.writing() as connection:
        wanted = DeadLetterSelection(jobs=jobs)
        part = retry.retry(connection, wanted, after=None, first_at=ledger.clock(), by="anna", now=ledger.clock())
    assert [row.id for row in part.ready] == sorted(jobs)


def fails(ledger: Ledger, job: UUID) -> None:
    """The mail of a job is reported as never sent."""
    report(ledger, job, Delivery.FAILED_LATER)
    assert (ledger.state(job), ledger.job(job).rule) == (State.DEAD, "failed_later")


def sent_again(ledger: Ledger, job: UUID) -> None:
    """The mail of a job is reported as never sent, and goes out with a retry."""
    fails(ledger, job)
    retried(ledger, job)
    ledger.clock.advance(60)
    assert carry_out(ledger, message_id="the second") == [job]


def body(ledger: Ledger, job: UUID) -> Any:
    with ledger.engine.connect() as connection:
        return json.loads(
            connection.execute(select(schema.payload.c.body).where(schema.payload.c.job_id == job)).scalar_one()
        )


class TestWhatFollowsAJobThatIsSentAgain:
    @pytest.mark.parametrize("looked", [True, False], ids=["looked", "unseen"])
    @pytest.mark.parametrize("unless", CONDITIONS, ids=str)
    @pytest.mark.parametrize("option", ["after", "reply_to"])
    def test_counts_its_delay_from_the_last_send(self, ledger: Ledger, option: str, unless: Any, looked: bool) -> None:
        first = sent(ledger)
        second = ledger.send(**{option: str(first)}, delay=THREE_DAYS, unless=unless)
        lead(ledger)
        ledger.clock.advance(DAY)
        fails(ledger, first)
        retried(ledger, first)
        assert ledger.queue.why(str(second)).reason == "after"
        if looked:
            lead(ledger)
        assert carry_out(ledger, message_id="the second") == [first]
        ledger.clock.advance(2 * DAY)
        lead(ledger, replied=lambda job: pytest.fail("the thread was read too early"))
        assert carry_out(ledger) == []
        assert ledger.job(second).expires_at == ledger.clock() + 4 * DAY * SECOND
        ledger.clock.advance(DAY)
        with ledger.engine.connect() as connection:
            threads, _ = threads_to_read(connection, now=ledger.clock(), limit=20, busy=())
        assert {thread.message_id for thread in threads} <= {"the second"}
        lead(ledger)
        assert carry_out(ledger) == [second]
        assert body(ledger, second).get("reply_to_message_id") == ("the second" if option == "reply_to" else None)

    @pytest.mark.parametrize("unless", CONDITIONS, ids=str)
    def test_goes_back_to_wait_though_it_was_released(self, ledger: Ledger, unless: Any) -> None:
        first, second = waits_for_its_window(ledger, unless)
        fails(ledger, first)
        retried(ledger, first)
        assert (ledger.job(second).next_at, after_row(ledger, second).stage) == (HELD, "waiting")
        ledger.set_lane(held_until=ledger.clock() + 10.5 * 3600 * SECOND)
        ledger.clock.advance(10.5 * 3600)
        lead(ledger)
        assert carry_out(ledger) == [first]
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_replies_to_the_last_send_though_its_bytes_were_complete(self, ledger: Ledger) -> None:
        second = self.released_reply(ledger)
        (first,) = {after_row(ledger, second).after_id}
        before = ledger.job(second).generation
        ledger.queue.replace(str(second), MESSAGE.model_copy(update={"subject": "Another"}))
        assert body(ledger, second)["reply_to_message_id"] == message_of(first)
        fails(ledger, first)
        retried(ledger, first)
        ledger.queue.replace(str(second), MESSAGE.model_copy(update={"subject": "A third"}))
        assert carry_out(ledger, message_id="the second") == [first]
        lead(ledger)
        ledger.queue.replace(str(second), MESSAGE.model_copy(update={"subject": "A fourth"}))
        assert (body(ledger, second)["reply_to_message_id"], body(ledger, second)["subject"]) == (
            "the second",
            "A fourth",
        )
        assert ledger.job(second).generation > before
        ledger.clock.advance(10.5 * 3600)
        assert carry_out(ledger) == [second]

    @pytest.mark.parametrize("unless", CONDITIONS, ids=str)
    def test_comes_back_from_the_wire_to_wait_for_the_last_send(self, ledger: Ledger, unless: Any) -> None:
        first, second, claimed = self.on_the_wire(ledger, unless)
        fails(ledger, first)
        retried(ledger, first)
        lead(ledger)
        assert ledger.state(second) is State.SENDING
        later = outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=ledger.clock() + 60 * SECOND)
        ledger.record(later, ends=[end(claimed)])
        ledger.clock.advance(2)
        lead(ledger)
        assert (ledger.job(second).next_at, after_row(ledger, second).stage) == (HELD, "waiting")
        assert carry_out(ledger, message_id="the second") == [first]
        lead(ledger)
        assert carry_out(ledger) == [second]
        assert body(ledger, second)["reply_to_message_id"] == "the second"

    def test_is_looked_at_no_more_once_it_was_sent(self, ledger: Ledger) -> None:
        first, second, claimed = self.on_the_wire(ledger, None)
        fails(ledger, first)
        retried(ledger, first)
        ledger.finish(claimed)
        ledger.clock.advance(2)
        lead(ledger)
        assert ledger.state(second) is State.SENT
        assert (after_row(ledger, second).stage, after_row(ledger, second).check_at) == ("done", None)

    @staticmethod
    def on_the_wire(ledger: Ledger, unless: Any) -> tuple[UUID, UUID, Claimed]:
        """A job that was sent, and a reply to it whose call is being made."""
        first = sent(ledger)
        second = ledger.send(reply_to=str(first), unless=unless)
        lead(ledger)
        claimed = ledger.serve()
        assert [job.id for job in claimed.jobs] == [second]
        return first, second, claimed

    def test_is_given_up_if_the_old_id_cannot_be_told_from_other_text(self, ledger: Ledger) -> None:
        second = self.released_reply(ledger)
        (first,) = {after_row(ledger, second).after_id}
        named = {"reply_to_message_id": message_of(first)}
        changed = json.dumps(body(ledger, second) | {"metadata": named}, separators=(",", ":")).encode()
        payload = schema.payload
        with ledger.writing() as connection:
            connection.execute(update(payload).where(payload.c.job_id == second).values(body=changed))
        sent_again(ledger, first)
        lead(ledger)
        assert (ledger.state(second), ledger.job(second).rule) == (State.DEAD, "after_failed")

    @staticmethod
    def released_reply(ledger: Ledger) -> UUID:
        """A reply that waits for its window, complete."""
        first = sent(ledger)
        opens = moment(ledger.clock() + 10 * 3600 * SECOND)
        window = Window(f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}", tz="UTC")
        second = ledger.send(reply_to=str(first), window=window, expires_at=NEVER)
        assert lead(ledger).released == 1
        assert body(ledger, second)["reply_to_message_id"] == message_of(first)
        return second

    def test_is_not_ended_by_an_answer_to_the_first_send(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), delay=THREE_DAYS, unless="replied")
        lead(ledger)
        with ledger.writing() as connection:
            follower = schema.after.c.job_id == second
            connection.execute(update(schema.after).where(follower).values(replied_at=ledger.clock()))
        sent_again(ledger, first)
        lead(ledger)
        assert ledger.state(second) is State.QUEUED

    @pytest.mark.parametrize("enqueued", ["before", "after"])
    def test_is_not_ended_by_a_report_about_an_earlier_send(self, ledger: Ledger, enqueued: str) -> None:
        first = sent(ledger)
        options: dict[str, Any] = {"after": str(first), "unless": "bounced", "delay": THREE_DAYS}
        second = ledger.send(**options) if enqueued == "before" else None
        lead(ledger)
        report(ledger, first, Delivery.REJECTED)
        retried(ledger, first)
        carry_out(ledger, message_id="the second")
        second = second or ledger.send(**options)
        lead(ledger)
        ledger.clock.advance(3 * DAY)
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_is_ended_by_a_report_about_the_last_send(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), unless="bounced", delay=THREE_DAYS)
        lead(ledger)
        sent_again(ledger, first)
        lead(ledger)
        report(ledger, first, number=2, message_id="the second")
        lead(ledger)
        assert ledger.job(second).rule == "unless_bounced"


class TestRetryOfBoth:
    @pytest.mark.parametrize("unless", CONDITIONS, ids=str)
    @pytest.mark.parametrize("option", ["after", "reply_to"])
    @pytest.mark.parametrize("in_one_call", [True, False], ids=["together", "one by one"])
    @pytest.mark.parametrize("ends", ["at once", "after a retry"])
    def test_sends_both_in_their_order(
        self, ledger: Ledger, option: str, unless: Any, in_one_call: bool, ends: str
    ) -> None:
        first = sent(ledger)
        opens = moment(ledger.clock() + 10 * 3600 * SECOND)
        window = Window(f"{opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}", tz="UTC")
        second = ledger.send(**{option: str(first)}, unless=unless, window=window, expires_at=NEVER)
        assert lead(ledger).released == 1
        fails(ledger, first)
        if ends == "after a retry":
            retried(ledger, first)
            ledger.clock.advance(1000)
            lead(ledger)
            assert carry_out(ledger, Event.GIVE_UP) == [first]
        ledger.clock.advance(1000)
        lead(ledger)
        if ledger.state(second) is not State.DEAD:
            assert (unless, ends) == (None, "at once")  # released, and nothing is decided any more
            ledger.set_job(second, state="dead", finished_at=ledger.clock())
        else:
            assert ledger.job(second).rule == "after_failed"
        if in_one_call:
            retried(ledger, first, second)
        else:
            retried(ledger, first)
        lead(ledger)
        assert carry_out(ledger, message_id="the second") == [first]
        if not in_one_call:
            retried(ledger, second)
        ledger.queue.reschedule(str(second), due_at=moment(ledger.clock() + 3600 * SECOND))
        lead(ledger)
        ledger.clock.advance(10 * 3600)
        lead(ledger)
        assert carry_out(ledger) == [second]
        assert body(ledger, second).get("reply_to_message_id") == ("the second" if option == "reply_to" else None)
