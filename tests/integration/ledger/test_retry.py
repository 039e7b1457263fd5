"""Dead letters that go round again, and those that must not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from sendq.clock import SECOND, moment
from sendq.enqueueing.expiry import NEVER
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.operators import retry
from sendq.ledger.operators.retry import DeadLetterPart, DeadLetterSelection
from sendq.ledger.reading.filters import JobFilter, LaneFilter, Period
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.expiry import EXPIRY
from sendq.rules.states import Event, State
from tests.integration.ledger.test_races import wait_until_somebody_waits_for_a_lock
from tests.support.ledger import Ledger, end, outcome
from tests.support.waiting import LIMIT_S


def die(ledger: Ledger, job: UUID, **given: Any) -> None:
    """The one job that is due is called for, and given up."""
    claimed = ledger.serve()
    values: dict[str, Any] = {"rule": "bad_request", "counts": True} | given
    dead = next(one for one in claimed.jobs if one.id == job)
    ledger.record(begins=[(claimed, job)])
    ledger.record(
        *(outcome(claimed, one, Event.RETURN, called=False) for one in claimed.jobs if one.id != job),
        outcome(claimed, dead, Event.GIVE_UP, **values),
        ends=[end(claimed)],
    )
    assert ledger.state(job) is State.DEAD


def dead_send(ledger: Ledger, grant: str = "g1", **given: Any) -> UUID:
    options = {name: given.pop(name) for name in ("expires_at", "priority", "provider") if name in given}
    job = ledger.send(grant, **options)
    die(ledger, job, **given)
    return job


def retry_all(ledger: Ledger, wanted: DeadLetterSelection | None = None, **given: Any) -> DeadLetterPart:
    now = ledger.clock()
    options: dict[str, Any] = {"after": None, "first_at": now, "by": "anna", "now": now} | given
    with ledger.writing() as connection:
        return retry.retry(connection, wanted or DeadLetterSelection(), **options)


def retried(found: DeadLetterPart) -> set[UUID]:
    return {row.id for row in found.ready}


class TestRetrying:
    def test_sends_it_again_under_a_new_key_as_if_it_were_the_first_time(self, ledger: Ledger) -> None:
        job = dead_send(ledger, died=True)
        ledger.clock.advance(60)
        assert retried(retry_all(ledger)) == {job}
        row = ledger.job(job)
        assert (row.state, row.attempts, row.generation, row.key_at, row.finished_at) == ("queued", 0, 1, None, None)
        assert row.deaths == 0
        claimed = ledger.serve()
        assert [(one.id, one.generation, bool(one.body)) for one in claimed.jobs] == [(job, 1, True)]
        ledger.finish(claimed)
        assert ledger.state(job) is State.SENT

    def test_keeps_the_trail_and_says_who(self, ledger: Ledger) -> None:
        job = dead_send(ledger)
        retry_all(ledger, reason="mended")
        assert len(ledger.queue.job(str(job)).trail) == 1
        (event,) = ledger.rows(schema.event)
        assert (event.kind, event.job_id, event.by, event.rule, event.reason, event.grant_id) == (
            "retry", job, "anna", "bad_request", "mended", "g1",
        )  # fmt: skip

    def test_wakes_a_lane_whose_marks_went_past_it(self, ledger: Ledger) -> None:
        job = dead_send(ledger, priority="high")
        ledger.clock.advance(3600)
        ledger.send()
        ledger.finish(ledger.serve())
        assert ledger.lane().next_at is None
        retry_all(ledger)
        assert [one.id for one in ledger.serve().jobs] == [job]

    def test_spreads_them_by_the_rate(self, ledger: Ledger) -> None:
        jobs = [dead_send(ledger, f"g{number}") for number in range(3)]
        retry_all(ledger, apart=10 * SECOND)
        now = ledger.clock()
        assert [ledger.job(job).next_at - now for job in jobs] == [0, 10 * SECOND, 20 * SECOND]

    def test_gives_time_to_those_whose_time_was_over(self, ledger: Ledger) -> None:
        soon = moment(ledger.clock() + 60 * SECOND)
        short, long = dead_send(ledger, "a", expires_at=soon), dead_send(ledger, "b")
        endless = dead_send(ledger, "c", expires_at=NEVER)
        before = ledger.job(long).expires_at
        ledger.clock.advance(60)
        retry_all(ledger)
        assert ledger.job(short).expires_at == ledger.job(short).next_at + EXPIRY
        assert (ledger.job(long).expires_at, ledger.job(endless).expires_at) == (before, None)
        assert EXPIRY == 72 * 3600 * SECOND

    def test_takes_it_off_the_dead_of_its_batch(self, ledger: Ledger) -> None:
        first, second = ledger.modify("g1", ["m1", "m2"])
        die(ledger, first)
        batch = str(ledger.job(first).batch_id)
        assert ledger.queue.batch(batch).counts == {State.DEAD: 1}
        retry_all(ledger)
        assert ledger.queue.batch(batch).counts == {}
        assert ledger.state(second) is State.QUEUED

    def test_of_a_deletion_has_something_to_retry(self, ledger: Ledger) -> None:
        ledger.queue.delete("g1", ["m1"])
        (job,) = (row.id for row in ledger.rows(schema.job))
        die(ledger, job)
        assert retried(retry_all(ledger)) == {job}

    def test_touches_the_dead_alone(self, ledger: Ledger) -> None:
        states = ("queued", "sending", "in_doubt", "sent", "cancelled", "expired")
        jobs = {state: ledger.send(f"g-{state}") for state in states}
        ledger.absorb()
        for state, job in jobs.items():
            ledger.set_job(job, state=state)
        assert retry_all(ledger, DeadLetterSelection(jobs=list(jobs.values()))) == DeadLetterPart([], {}, None)
        assert {state: ledger.state(job).value for state, job in jobs.items()} == {state: state for state in states}
        with ledger.writing() as connection:
            assert retry.states_of(connection, [jobs["sent"], new_id()]) == {jobs["sent"]: State.SENT}

    def test_of_what_somebody_else_has_retried_meanwhile_does_nothing(self, ledger: Ledger) -> None:
        job = dead_send(ledger)
        retry_all(ledger)
        assert retried(retry_all(ledger)) == set()
        assert ledger.job(job).generation == 1
        assert len(ledger.rows(schema.event)) == 1

    def test_of_what_somebody_else_retries_just_now_does_nothing(self, pg_ledger: Ledger) -> None:
        job, now = dead_send(pg_ledger), pg_ledger.clock()
        with ThreadPoolExecutor(1) as pool:
            with pg_ledger.writing() as connection:
                retry.retry(connection, DeadLetterSelection(), after=None, first_at=now, by="anna", now=now)
                other = pool.submit(retry_all, pg_ledger)
                wait_until_somebody_waits_for_a_lock(pg_ledger.engine)
            assert retried(other.result(LIMIT_S)) == set()
        assert pg_ledger.job(job).generation == 1


class TestChoosing:
    def test_by_id_rule_grant_time_and_batch(self, ledger: Ledger) -> None:
        early = dead_send(ledger, "a")
        ledger.clock.advance(60)
        late = dead_send(ledger, "b", rule="no_such_thing")
        changed = ledger.modify("c", ["m1"])[0]
        die(ledger, changed)

        def chosen(**given: Any) -> set[UUID]:
            with ledger.writing() as connection:
                return retried(retry.find(connection, DeadLetterSelection(**given), after=None))

        assert chosen() == {early, late, changed}
        assert chosen(jobs=[early, new_id()]) == {early}
        assert chosen(which=JobFilter(rule="no_such_thing")) == {late}
        assert chosen(which=JobFilter(LaneFilter("default", None, "a"))) == {early}
        assert chosen(which=JobFilter(period=Period(since=ledger.clock()))) == {late, changed}
        assert chosen(which=JobFilter(batch_id=ledger.job(changed).batch_id)) == {changed}
        assert chosen(which=JobFilter(rule="bad_request", period=Period(since=ledger.clock()))) == {changed}

    def test_goes_on_where_a_part_ended(self, ledger: Ledger) -> None:
        jobs = [dead_send(ledger, f"g{number}") for number in range(3)]
        with ledger.writing() as connection:
            first = retry.find(connection, DeadLetterSelection(), after=None, limit=2)
            rest = retry.find(connection, DeadLetterSelection(), after=first.after, limit=2)
        assert (retried(first), retried(rest), rest.after) == (set(jobs[:2]), {jobs[2]}, None)
        done = retry_all(ledger, limit=2)
        assert (retried(done), done.after) == (set(jobs[:2]), first.after)
        assert retried(retry_all(ledger, limit=2, after=done.after)) == {jobs[2]}


class TestRefusing:
    def refusal(self, ledger: Ledger, job: UUID, **even: Any) -> RetryRefusal | None:
        with ledger.writing() as connection:
            return retry.find(connection, DeadLetterSelection(**even), after=None).refused.get(job)

    @pytest.mark.parametrize(
        ("sent", "refusal"), [("partly", RetryRefusal.PARTLY), ("maybe", RetryRefusal.MAYBE), ("no", None)]
    )
    def test_mail_that_somebody_has_or_may_have(self, ledger: Ledger, sent: str, refusal: RetryRefusal | None) -> None:
        job = dead_send(ledger, sent=sent)
        found = retry_all(ledger)
        assert found.refused == ({job: refusal} if refusal else {})
        assert ledger.state(job) is (State.DEAD if refusal else State.QUEUED)
        if refusal:
            assert retried(retry_all(ledger, DeadLetterSelection(even_partly=True))) == {job}

    def test_does_not_forget_the_partly_delivered_one_when_it_dies_again(self, ledger: Ledger) -> None:
        job = dead_send(ledger, sent="partly")
        retry_all(ledger, DeadLetterSelection(even_partly=True))
        die(ledger, job, sent="no")
        assert self.refusal(ledger, job) is RetryRefusal.PARTLY

    @pytest.mark.parametrize(("before", "refusal"), [(0, None), (-1, RetryRefusal.MAYBE)])
    def test_the_last_word_on_a_key_counts_for_that_key_alone(
        self, ledger: Ledger, before: int, refusal: RetryRefusal | None
    ) -> None:
        job = dead_send(ledger, sent="no")
        (attempt,) = ledger.rows(schema.attempt)
        earlier = dict(attempt._mapping) | {
            "id": new_id(), "sent": "maybe", "begun_at": attempt.begun_at - 1, "generation": before,
        }  # fmt: skip
        with ledger.writing() as connection:
            insert_rows(connection, schema.attempt, [earlier])
        assert self.refusal(ledger, job) is refusal

    def test_a_change_that_may_have_been_made_is_simply_made_again(self, ledger: Ledger) -> None:
        (job,) = ledger.modify("g1", ["m1"])
        die(ledger, job, sent="maybe")
        assert self.refusal(ledger, job) is None

    @pytest.mark.parametrize(("state", "overtaken"), [("sent", True), ("sending", True), ("queued", False)])
    def test_a_change_that_a_newer_one_has_overtaken(self, ledger: Ledger, state: str, overtaken: bool) -> None:
        (job,) = ledger.modify("g1", ["m1"])
        die(ledger, job)
        (newer,) = ledger.modify("g1", ["m1"], unread=True)
        ledger.set_job(newer, state=state)
        assert self.refusal(ledger, job) is (RetryRefusal.OVERTAKEN if overtaken else None)
        assert self.refusal(ledger, job, even_overtaken=True) is None

    def test_not_for_an_older_change_or_one_of_another_message(self, ledger: Ledger) -> None:
        older, other = ledger.modify("g1", ["m1", "m2"])
        ledger.set_job(older, state="sent")
        ledger.clock.advance(1)
        (job,) = ledger.modify("g1", ["m1"], unread=True)
        die(ledger, job)
        ledger.set_job(other, state="sent", due_at=ledger.clock() + SECOND)
        assert self.refusal(ledger, job) is None

    def test_what_was_cancelled_on_the_wire(self, ledger: Ledger) -> None:
        job = dead_send(ledger)
        ledger.set_job(job, cancel_at=ledger.clock())
        assert self.refusal(ledger, job, even_partly=True) is RetryRefusal.CANCELLED

    def test_what_belongs_to_a_grant_that_is_gone(self, ledger: Ledger) -> None:
        job = dead_send(ledger)
        ledger.set_lane(closed_at=ledger.clock(), gone=True)
        assert self.refusal(ledger, job, even_partly=True) is RetryRefusal.GONE
