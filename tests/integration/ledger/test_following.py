"""Jobs that follow another: what is refused, what is stored, and how the leader moves them on."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from sendq import InvalidJob, KeyConflict, Options, Send, SendQueue, State, Window
from sendq.clock import SECOND, moment
from sendq.facts.notices import MailNotice
from sendq.ids import new_id
from sendq.ledger import retention
from sendq.ledger.db import schema
from sendq.ledger.dispatching.rescue import expire
from sendq.ledger.mail_notices import APPLIED, UNUSED, take_in
from sendq.ledger.operators import retry
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.ledger.sealed import open_at_once
from sendq.operators import Operators
from sendq.rules.states import Event
from sendq.rules.waiting_job import HELD
from sendq.vault import Vault, new_key
from tests.support.following import carry_out, lead, message_of
from tests.support.ledger import MESSAGE, Ledger

DAY = 86_400
THREE_DAYS = timedelta(days=3)


def after_row(ledger: Ledger, job_id: UUID) -> Any:
    with ledger.engine.connect() as connection:
        return connection.execute(select(schema.after).where(schema.after.c.job_id == job_id)).one()


def sent(ledger: Ledger, **options: Any) -> UUID:
    """A job that was sent."""
    job = ledger.send(**options)
    assert carry_out(ledger) == [job]
    return job


def problems(ledger: Ledger, **options: Any) -> dict[str, str]:
    before = len(ledger.rows(schema.job)), len(ledger.rows(schema.after)), len(ledger.rows(schema.key))
    with pytest.raises(InvalidJob) as refused:
        ledger.queue.send("g1", options.pop("message", MESSAGE), key="refused", **options)
    assert (len(ledger.rows(schema.job)), len(ledger.rows(schema.after)), len(ledger.rows(schema.key))) == before
    return {problem.field: problem.reason for problem in refused.value.problems}


class TestAFollowerThatCannotBeginInTime:
    @pytest.mark.parametrize("window", [None, Window("00:00-24:00", tz="UTC")])
    def test_is_refused(self, ledger: Ledger, window: Window | None) -> None:
        first = ledger.send()
        until = moment(ledger.clock() + 3 * DAY * SECOND)
        wrong = problems(ledger, after=str(first), delay=THREE_DAYS, expires_at=until, window=window)
        assert wrong == {"expires_at": f"is before it can begin, which is at {until:%Y-%m-%d %H:%M:%S} UTC at best"}
        ledger.send(after=str(first), delay=THREE_DAYS, expires_at=until + timedelta(seconds=1), window=window)

    def test_is_not_refused_if_the_other_was_sent_long_ago(self, ledger: Ledger) -> None:
        first = sent(ledger)
        ledger.clock.advance(3 * DAY - 30)
        soon = moment(ledger.clock() + 60 * SECOND)
        second = ledger.send(after=str(first), delay=THREE_DAYS, expires_at=soon)
        ledger.clock.advance(40)
        lead(ledger)
        assert carry_out(ledger) == [second]

    @pytest.mark.parametrize("in_one_call", [True, False])
    def test_is_refused_if_the_other_is_due_later(self, ledger: Ledger, in_one_call: bool) -> None:
        opens = moment(ledger.clock() + 5 * 3_600 * SECOND)
        window = Window(f"{opens:%H}:00-{opens:%H}:30", tz="UTC")
        soon = moment(ledger.clock() + 3_600 * SECOND)
        for when in ({"due_at": moment(ledger.clock() + 2 * DAY * SECOND)}, {"window": window}):
            first = Send("g1", MESSAGE, Options(**when))
            if in_one_call:
                sends = [first, Send("g1", MESSAGE, Options(after=0, expires_at=soon))]
            else:
                sends = [Send("g1", MESSAGE, Options(after=str(ledger.send(**when)), expires_at=soon))]
            with pytest.raises(InvalidJob) as refused:
                ledger.queue.send_many(sends)
            assert [problem.field for problem in refused.value.problems] == [f"[{len(sends) - 1}].expires_at"]

    def test_is_refused_at_the_end_of_a_chain_and_before_its_window_opens(self, ledger: Ledger) -> None:
        soon = moment(ledger.clock() + 2 * DAY * SECOND)
        opens = moment(ledger.clock() + 2 * 3_600 * SECOND)
        window = Window(f"{opens:%H}:00-{opens:%H}:01", days=f"{opens:%a}".lower(), tz="UTC")
        later = timedelta(days=1)
        chain = [
            Send("g1", MESSAGE),
            Send("g1", MESSAGE, Options(after=0, delay=later)),
            Send("g1", MESSAGE, Options(after=1, delay=later, expires_at=soon)),
            Send("g1", MESSAGE, Options(after=0, delay=later, expires_at=soon, window=window)),
        ]
        with pytest.raises(InvalidJob) as refused:
            ledger.queue.send_many(chain)
        assert [problem.field for problem in refused.value.problems] == ["[2].expires_at", "[3].expires_at"]
        assert ledger.rows(schema.job) == []


class TestAFollower:
    def test_begins_once_the_other_was_sent_and_not_before(self, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first))
        lead(ledger)
        assert ledger.job(second).next_at == HELD
        assert carry_out(ledger) == [first]
        assert carry_out(ledger) == []
        assert lead(ledger).released == 1
        assert carry_out(ledger) == [second]
        assert lead(ledger).released == 0

    def test_begins_at_once_though_its_lane_did_not_exist_when_the_other_was_sent(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send("g2", after=str(first))
        lead(ledger)  # before the dispatcher has seen the new lane
        assert carry_out(ledger) == []
        ledger.clock.advance(1)
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_waits_for_its_delay_and_its_due_time(self, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first), delay=THREE_DAYS)
        third = ledger.send("g2", after=str(first), delay=THREE_DAYS, due_at=moment(ledger.clock() + 5 * DAY * SECOND))
        ledger.clock.advance(60)
        carry_out(ledger)
        lead(ledger)
        assert after_row(ledger, second).check_at == ledger.clock() + 3 * DAY * SECOND
        assert ledger.job(second).expires_at == ledger.clock() + 6 * DAY * SECOND  # 72 hours after its wait
        ledger.clock.advance(3 * DAY - 1)
        lead(ledger)
        assert carry_out(ledger) == []
        ledger.clock.advance(1)
        lead(ledger)
        assert carry_out(ledger) == [second]
        ledger.clock.advance(2 * DAY)
        lead(ledger)
        assert carry_out(ledger) == [third]

    def test_of_a_job_that_was_sent_counts_from_then(self, ledger: Ledger) -> None:
        first = sent(ledger)
        ledger.clock.advance(2 * DAY)
        second = ledger.send(after=str(first), delay=THREE_DAYS)
        lead(ledger)
        assert after_row(ledger, second).check_at == ledger.job(first).finished_at + 3 * DAY * SECOND

    def test_named_by_its_position_in_the_same_call(self, ledger: Ledger) -> None:
        sends = [
            Send("g1", MESSAGE, Options(key="a")),
            Send("g1", MESSAGE, Options(key="b", after=0)),
            Send("g1", MESSAGE, Options(key="c", reply_to=1)),
        ]
        first, second, third = (UUID(job.id) for job in ledger.queue.send_many(sends))
        assert after_row(ledger, second).after_id == first
        assert (after_row(ledger, third).after_id, after_row(ledger, third).depth) == (second, 2)
        again = ledger.queue.send_many(sends)
        assert [job.existed for job in again] == [True] * 3
        # A new one follows the job that the key of its position names.
        more = ledger.queue.send_many([sends[0], Send("g1", MESSAGE, Options(key="d", after=0))])
        assert after_row(ledger, UUID(more[1].id)).after_id == first

    def test_keeps_its_place_whatever_is_done_to_it(self, ledger: Ledger) -> None:
        first = ledger.send(due_at=moment(ledger.clock() + 3600 * SECOND))
        second = ledger.send(after=str(first))
        ledger.queue.hold(str(second))
        ledger.queue.release(str(second))
        ledger.queue.reschedule(str(second), due_at=moment(ledger.clock() - SECOND))
        ledger.queue.set_priority(str(second), priority="high")
        assert carry_out(ledger) == []
        # Not even if something else has changed its time.
        ledger.set_job(second, next_at=ledger.clock())
        ledger.set_lane(next_at=ledger.clock())
        assert carry_out(ledger) == []
        assert ledger.job(second).next_at == HELD
        ledger.clock.advance(3600)
        assert carry_out(ledger) == [first]
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_that_a_person_holds_is_sent_once_released(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)))
        ledger.queue.hold(str(second))
        lead(ledger)
        assert carry_out(ledger) == []
        ledger.queue.release(str(second))
        assert carry_out(ledger) == [second]

    @pytest.mark.parametrize("approved_first", [True, False])
    def test_that_needs_approval_waits_for_both(self, ledger: Ledger, approved_first: bool) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first), needs_approval=True)
        operators = Operators(ledger.engine, now=ledger.clock)
        if approved_first:
            operators.approve([str(second)], by="anna", reason="fine").finish()
            assert ledger.queue.why(str(second)).reason == "after"
            assert carry_out(ledger) == [first]
            assert carry_out(ledger) == []
            lead(ledger)
        else:
            assert carry_out(ledger) == [first]
            lead(ledger)
            assert carry_out(ledger) == []
            assert ledger.queue.why(str(second)).reason == "unapproved"
            operators.approve([str(second)], by="anna", reason="fine").finish()
        assert carry_out(ledger) == [second]

    def test_can_be_rescheduled_while_its_delay_runs(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), delay=timedelta(days=1))
        lead(ledger)
        ledger.queue.reschedule(
            str(second),
            due_at=moment(ledger.clock() + 5 * DAY * SECOND),
            expires_at=moment(ledger.clock() + 9 * DAY * SECOND),
        )
        ledger.clock.advance(4 * DAY)
        lead(ledger)
        assert carry_out(ledger) == []
        ledger.queue.reschedule(str(second), due_at=None)
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_waits_while_the_outcome_of_the_other_is_unknown(self, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first))
        carry_out(ledger, Event.DOUBT, sent="maybe")
        lead(ledger)
        assert ledger.state(second) is State.QUEUED
        ledger.set_job(first, state="sent", finished_at=ledger.clock())
        lead(ledger)
        assert carry_out(ledger) == [second]


class TestAFollowerEnds:
    @pytest.mark.parametrize(
        ("state", "ends"), [("dead", State.DEAD), ("expired", State.DEAD), ("cancelled", State.CANCELLED)]
    )
    def test_with_its_whole_chain(self, ledger: Ledger, state: str, ends: State) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first), on_outcome="webhook:shop")
        third = ledger.send(after=str(second), delay=THREE_DAYS)
        ledger.set_job(first, state=state, finished_at=ledger.clock())
        found = lead(ledger)
        assert [(one.id, one.after_id) for one in found.ended] == [(second, first), (third, second)]
        assert {ledger.state(second), ledger.state(third)} == {ends}
        assert ledger.job(second).rule == ledger.job(third).rule == "after_failed"
        assert [(row.kind, row.subject) for row in ledger.rows(schema.delivery)] == [(ends.value, second)]

    def test_if_the_report_that_the_other_never_went_out_comes_during_its_delay(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), delay=THREE_DAYS)
        lead(ledger)
        ledger.set_job(first, state="dead", rule="failed_later")
        ledger.clock.advance(3 * DAY)
        lead(ledger)
        assert (ledger.state(second), ledger.job(second).rule) == (State.DEAD, "after_failed")

    def test_by_its_own_expiry_or_cancel(self, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first), expires_at=moment(ledger.clock() + 60 * SECOND))
        third = ledger.send(after=str(first))
        ledger.queue.reschedule(str(first), due_at=moment(ledger.clock() + DAY * SECOND))
        ledger.queue.cancel(str(third))
        ledger.clock.advance(60)
        with ledger.writing() as connection:
            expire(connection, now=ledger.clock(), limit=10)
        lead(ledger)
        assert [ledger.state(job) for job in (second, third)] == [State.EXPIRED, State.CANCELLED]
        assert {row.stage for row in ledger.rows(schema.after)} == {"done"}

    def test_and_waits_again_once_both_are_retried(self, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first), delay=timedelta(hours=1))
        carry_out(ledger, Event.GIVE_UP)
        lead(ledger)
        for job in (first, second):
            with ledger.writing() as connection:
                retry.retry(
                    connection,
                    DeadLetterSelection(jobs=[job]),
                    after=None,
                    first_at=ledger.clock(),
                    by="anna",
                    now=ledger.clock(),
                )
        lead(ledger)
        assert carry_out(ledger) == [first]
        lead(ledger)
        assert carry_out(ledger) == []
        ledger.clock.advance(3600)
        lead(ledger)
        assert carry_out(ledger) == [second]


class TestUnlessReplied:
    def test_is_cancelled_if_the_thread_shows_an_answer(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        third = ledger.send(after=str(second))
        lead(ledger, replied=lambda job: True)
        assert [(ledger.state(job), ledger.job(job).rule) for job in (second, third)] == [
            (State.CANCELLED, "unless_replied"), (State.CANCELLED, "after_failed"),
        ]  # fmt: skip

    def test_is_sent_if_it_shows_none_and_read_again_while_it_waits(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        assert lead(ledger).released == 1
        ledger.clock.advance(61)
        lead(ledger, replied=lambda job: True)
        assert ledger.job(second).rule == "unless_replied"

    def test_waits_while_the_thread_cannot_be_read(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        lead(ledger, replied=lambda job: None)
        assert (ledger.state(second), after_row(ledger, second).trouble) == (State.QUEUED, "too_many")
        assert carry_out(ledger) == []
        ledger.clock.advance(30)
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_asks_nothing_of_a_held_account(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        asked = []
        ledger.set_lane(held_until=ledger.clock() + 600 * SECOND)
        lead(ledger, replied=lambda job: asked.append(job) or False)  # type: ignore[func-returns-value]
        assert not asked
        ledger.clock.advance(600)
        lead(ledger)
        assert carry_out(ledger) == [second]

    def test_is_parked_again_if_its_lane_is_held_before_it_begins(self, ledger: Ledger) -> None:
        second = ledger.send(after=str(sent(ledger)), unless="replied")
        lead(ledger)
        ledger.set_lane(held_until=ledger.clock() + 600 * SECOND)
        ledger.clock.advance(61)
        lead(ledger)
        ledger.clock.advance(600)
        assert carry_out(ledger) == []
        lead(ledger, replied=lambda job: True)
        assert ledger.job(second).rule == "unless_replied"

    def test_needs_the_id_of_the_message(self, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(after=str(first), unless="replied")
        ledger.set_job(first, state="sent", finished_at=ledger.clock())
        lead(ledger)
        assert (ledger.state(second), ledger.job(second).rule) == (State.DEAD, "after_failed")

    @pytest.mark.parametrize("delivery", ["bounced", "complained", "rejected", "delivered"])
    def test_or_bounced(self, ledger: Ledger, delivery: str) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), unless=["bounced", "replied"], delay=THREE_DAYS)
        lead(ledger)
        with ledger.writing() as connection:
            connection.execute(schema.delivery_status.insert().values(
                job_id=first, delivery=delivery, at=ledger.clock(), source="test", noted_at=ledger.clock(), generation=0
            ))  # fmt: skip
        ledger.clock.advance(3 * DAY)
        lead(ledger)
        ended = (State.CANCELLED, "unless_bounced")
        assert (ledger.state(second), ledger.job(second).rule) == (
            ended if delivery != "delivered" else (State.QUEUED, None)
        )


class TestAReportedAnswer:
    def test_ends_what_follows_in_the_thread_at_once(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(reply_to=str(first), delay=THREE_DAYS, unless="replied")
        third = ledger.send(reply_to=str(second), unless="replied")
        aside = ledger.send(after=str(first), delay=THREE_DAYS)
        lead(ledger)
        notice = MailNotice("n1", "thread.replied", None, "g1", (), message_of(first), ledger.clock())
        with ledger.writing() as connection:
            assert take_in(connection, [notice], "other", vault=Vault(), now=ledger.clock()) == [UNUSED]
            assert take_in(connection, [notice], "default", vault=Vault(), now=ledger.clock()) == [APPLIED]
            assert take_in(connection, [notice], "default", vault=Vault(), now=ledger.clock()) == [UNUSED]
        lead(ledger)
        rules = [ledger.job(job).rule for job in (second, third, aside)]
        assert rules == ["unless_replied", "after_failed", "after"]

    def test_that_comes_too_late_changes_nothing(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), unless="replied")
        lead(ledger)
        assert carry_out(ledger) == [second]
        # Noted between the leader's look and its write.
        with ledger.writing() as connection:
            late = {"stage": "done", "check_at": ledger.clock(), "replied_at": ledger.clock()}
            connection.execute(update(schema.after).where(schema.after.c.job_id == second).values(**late))
        lead(ledger)
        assert (ledger.state(second), after_row(ledger, second).check_at) == (State.SENT, None)


class TestAReply:
    def body(self, ledger: Ledger, job_id: UUID) -> bytes:
        with ledger.engine.connect() as connection:
            return bytes(
                connection.execute(select(schema.payload.c.body).where(schema.payload.c.job_id == job_id)).scalar_one()
            )

    def test_gets_the_id_once_and_its_bytes_never_change_again(self, ledger: Ledger) -> None:
        first = ledger.send()
        second = ledger.send(reply_to=str(first))
        carry_out(ledger)
        lead(ledger)
        frozen = self.body(ledger, second)
        assert json.loads(frozen)["reply_to_message_id"] == message_of(first)
        assert carry_out(ledger, Event.RETURN) == [second]
        ledger.set_job(first, message_id="another")
        lead(ledger)
        assert self.body(ledger, second) == frozen

    @pytest.mark.parametrize("released", [False, True])
    def test_whose_message_is_replaced_stays_one(self, ledger: Ledger, released: bool) -> None:
        first = ledger.send()
        second = ledger.send(reply_to=str(first), key="reply")
        carry_out(ledger)
        if released:
            lead(ledger)
        ledger.queue.replace(str(second), MESSAGE.model_copy(update={"subject": "Another"}))
        lead(ledger)
        body = json.loads(self.body(ledger, second))
        assert (body["subject"], body["reply_to_message_id"]) == ("Another", message_of(first))

    def test_is_stored_in_every_form_with_the_right_length(self, ledger: Ledger) -> None:
        from sendq import Attachment

        first = ledger.send()
        for size in (10, 4_000_000):
            file = Attachment(filename="a.txt", content=b"x" * size)
            message = MESSAGE.model_copy(update={"attachments": (file,)})
            second = UUID(ledger.queue.send("g1", message, reply_to=str(first)).id)
            with ledger.engine.connect() as connection:
                query = select(schema.payload).where(schema.payload.c.job_id == second)
                before = connection.execute(query).one()
            if ledger.state(first) is State.QUEUED:
                carry_out(ledger)
            lead(ledger)
            with ledger.engine.connect() as connection:
                after = connection.execute(query).one()
            assert message_of(first).encode() in bytes(after.body)
            assert after.length - before.length == len(after.body) - len(before.body)

    def test_is_encrypted_and_bound_again(self, ledger: Ledger) -> None:
        vault = Vault.parse(new_key("k1"))
        ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=vault)
        first, second = ledger.send(), None
        second = ledger.send(reply_to=str(first))
        ledger.set_job(first, state="sent", finished_at=ledger.clock(), message_id="id-of-the-first")
        ledger.absorb()
        lead(ledger)  # without the key
        assert (ledger.job(second).next_at, after_row(ledger, second).trouble) == (HELD, "not_encrypted") or after_row(
            ledger, second
        ).trouble == "encryption_key_missing"
        ledger.clock.advance(31)
        assert lead(ledger, vault=vault).released == 1
        assert b"id-of-the-first" not in self.body(ledger, second)
        ledger.absorb()
        from sendq.ledger.dispatching.loading import first_jobs

        with ledger.writing() as connection:
            lane = ledger.opened_in(connection)[0]
            jobs = first_jobs(connection, {lane.id: lane}, now=ledger.clock(), jobs_each=5)
            opened = open_at_once(connection, {lane.id: lane}, {lane.id: jobs}, vault)
        assert opened is not None
        assert json.loads(opened[lane.id][0].body)["reply_to_message_id"] == "id-of-the-first"

    def test_that_was_altered_is_given_up(self, ledger: Ledger) -> None:
        vault = Vault.parse(new_key("k1"))
        ledger.queue = SendQueue(ledger.engine, now=ledger.clock, vault=vault)
        first = ledger.send()
        second = ledger.send(reply_to=str(first))
        ledger.set_job(first, state="sent", finished_at=ledger.clock(), message_id="m1")
        with ledger.writing() as connection:
            theirs = select(schema.payload.c.body).where(schema.payload.c.job_id == first).scalar_subquery()
            connection.execute(update(schema.payload).where(schema.payload.c.job_id == second).values(body=theirs))
        lead(ledger, vault=vault)
        assert ledger.job(second).rule == "integrity_check_failed"


class TestIsRefused:
    def test_after_what_can_never_be_followed(self, ledger: Ledger) -> None:
        assert problems(ledger, after=str(new_id())) == {
            "after": "is no job in this ledger: it never was, or was deleted after its retention"
        }
        foreign = ledger.send(application="other")
        assert problems(ledger, after=str(foreign)) == {"after": "is a job of another application"}
        (change,) = ledger.modify("g1", ["m1"])
        assert problems(ledger, after=str(change)) == {"after": "is not a send"}
        first = ledger.send()
        assert problems(ledger, reply_to=str(ledger.send("g2"))) == {"reply_to": "is a job of another grant"}
        ledger.queue.cancel(str(first))
        assert problems(ledger, after=str(first)) == {"after": "has ended without being sent: it is cancelled"}
        for never in (new_id(), foreign, change, first):
            assert set(problems(ledger, reply_to=str(never))) == {"reply_to"}

    def test_a_reply_to_a_message_whose_id_is_not_known(self, ledger: Ledger) -> None:
        first = ledger.send()
        ledger.set_job(first, state="sent", finished_at=ledger.clock())
        assert set(problems(ledger, reply_to=str(first))) == {"reply_to"}
        assert set(problems(ledger, after=str(first), unless="replied")) == {"after"}

    def test_a_chain_of_more_than_a_hundred(self, ledger: Ledger) -> None:
        sends = [Send("g1", MESSAGE)] + [Send("g1", MESSAGE, Options(after=at)) for at in range(100)]
        jobs = ledger.queue.send_many(sends)
        assert set(problems(ledger, after=jobs[-1])) == {"after"}
        assert set(problems(ledger, reply_to=jobs[-1])) == {"reply_to"}
        with pytest.raises(InvalidJob):
            ledger.queue.send_many([*sends, Send("g1", MESSAGE, Options(after=100))])

    def test_a_job_of_a_forgotten_grant(self, ledger: Ledger) -> None:
        first = sent(ledger)
        Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked to").finish()
        assert set(problems(ledger, after=str(first))) == {"after"}

    def test_another_job_under_the_same_key(self, ledger: Ledger) -> None:
        first, other = ledger.send(), ledger.send()
        job = ledger.queue.send("g1", MESSAGE, key="k", after=str(first))
        assert ledger.queue.send("g1", MESSAGE, key="k", after=str(first)).id == job.id
        with pytest.raises(KeyConflict):
            ledger.queue.send("g1", MESSAGE, key="k", after=str(other))


class TestRetention:
    def test_keeps_a_job_while_another_waits_for_it(self, ledger: Ledger) -> None:
        first = sent(ledger)
        second = ledger.send(after=str(first), delay=timedelta(days=60), unless="bounced")
        lead(ledger)
        ledger.clock.advance(59 * DAY)

        def prune() -> int:
            with ledger.writing() as connection:
                return retention.drop_jobs(
                    connection, State.SENT, before=ledger.clock() - DAY * SECOND, now=ledger.clock()
                )

        assert prune() == 0
        ledger.clock.advance(1 * DAY)
        lead(ledger)
        assert carry_out(ledger) == [second]
        ledger.clock.advance(60)
        lead(ledger)
        assert prune() == 1
        ledger.clock.advance(2 * DAY)
        lead(ledger)
        assert prune() == 1
        assert not ledger.rows(schema.after)
