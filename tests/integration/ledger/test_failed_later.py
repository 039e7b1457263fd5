"""Mail that the API accepted and that never went out, and retries of it, on both databases."""

from __future__ import annotations

import pytest

from sendq import Delivery, Operators, State
from sendq.ledger import retention
from sendq.ledger.db import schema
from sendq.ledger.mail_notices import AGAIN, APPLIED, EARLIER, UNMATCHED
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.states import Event
from tests.integration.ledger.mail import (
    MAIL,
    accept,
    begun,
    delivery,
    refuse,
    report,
    result,
    retry,
    sent,
    settle,
)
from tests.support.ledger import Ledger, end, outcome


class TestAFailureAfterTheAcceptance:
    def test_makes_the_job_a_dead_letter_that_says_so(self, ledger: Ledger) -> None:
        job = sent(ledger, on_outcome="webhook:shop")
        assert "has not confirmed yet" in ledger.queue.why(str(job)).says
        report(ledger, "message.send_failed")
        row = ledger.job(job)
        assert (row.state, row.rule, row.finished_at) == ("dead", "failed_later", ledger.clock())
        assert "reported later that it never went out" in ledger.queue.why(str(job)).says
        *_, last = ledger.queue.job(str(job)).trail
        assert (last.rule, last.sent, last.route, last.status) == ("failed_later", "no", "dead_letter", None)
        assert last.error is not None
        assert "550 no such user" in last.error
        kinds = [row.kind for row in ledger.rows(schema.delivery)]
        assert kinds == ["sent", "failed_later"]

    def test_can_be_retried_and_late_news_of_the_first_send_does_not_touch_the_second(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.send_failed", notice="n1")
        retry(ledger, job)
        assert ledger.state(job) == State.QUEUED
        assert ledger.queue.job(str(job)).delivery is None
        for notice, marks in (("n2", {}), ("n3", {"job": job}), ("n4", {"job": job, "message": None})):
            assert result(report(ledger, "message.send_failed", notice=notice, ago=1, **marks)) == EARLIER
        ledger.clock.advance(60)
        accept(ledger, "m2")
        assert delivery(ledger, job).delivery is Delivery.UNKNOWN
        assert result(report(ledger, "message.send_failed", notice="n5", job=job)) == EARLIER
        assert ledger.state(job) == State.SENT
        report(ledger, "message.delivered", "m2", notice="n6", job=job)
        assert (ledger.state(job), delivery(ledger, job).delivery) == (State.SENT, Delivery.DELIVERED)
        assert {one.digest for one in delivery(ledger, job).recipients} != set()

    def test_can_happen_to_the_second_send_too(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.send_failed", notice="n1")
        retry(ledger, job)
        accept(ledger, "m2")
        report(ledger, "message.send_failed", "m2", notice="n2")
        assert ledger.state(job) == State.DEAD

    def test_is_refuted_by_evidence_that_it_went_out(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.send_failed", notice="n1")
        report(ledger, "message.delivered", notice="n2")
        assert (ledger.state(job), ledger.job(job).rule) == (State.SENT, "delivery_report")
        assert delivery(ledger, job).delivery is Delivery.DELIVERED

    def test_is_not_believed_after_evidence_that_it_went_out(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.send_success", notice="n1")
        report(ledger, "message.send_failed", notice="n2")
        assert ledger.state(job) == State.SENT

    def test_keeps_a_retried_job_from_being_sent_again_if_it_went_out_after_all(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.send_failed", notice="n1")
        retry(ledger, job)
        report(ledger, "message.delivered", notice="n2")
        assert ledger.state(job) == State.SENT
        ledger.clock.advance(60)
        assert all(not claimed.begun for claimed in ledger.claim(ledger.offer()))

    def test_ends_a_doubt(self, ledger: Ledger) -> None:
        job = sent(ledger)
        at = ledger.clock()
        ledger.set_job(job, state="in_doubt", finished_at=None, doubt_at=at, look_at=at, message_id=None)
        report(ledger, "message.send_failed", job=job)
        assert (ledger.state(job), ledger.job(job).look_at) == (State.DEAD, None)

    def test_that_overtakes_the_record_of_the_acceptance_waits_for_it(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", MAIL)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        (job,) = claimed.jobs
        assert result(report(ledger, "message.send_failed", job=job.id)) == APPLIED
        assert ledger.state(job.id) == State.SENDING
        assert settle(ledger) == 0
        ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes", rule="queued", message_id="m1"))
        assert ledger.state(job.id) == State.SENT
        assert settle(ledger) == 1
        assert ledger.state(job.id) == State.DEAD
        assert not any(row.pending for row in ledger.rows(schema.delivery_status))

    def test_that_overtakes_a_refusal_changes_nothing(self, ledger: Ledger) -> None:
        ledger.queue.send("g1", MAIL)
        ledger.clock.advance(1)
        claimed = ledger.serve()
        (job,) = claimed.jobs
        report(ledger, "message.send_failed", job=job.id)
        ledger.record(outcome(claimed, job, Event.GIVE_UP, rule="bad_request"))
        assert settle(ledger) == 0
        assert ledger.job(job.id).rule == "bad_request"
        assert not any(row.pending for row in ledger.rows(schema.delivery_status))

    def test_known_by_its_message_alone_comes_again_while_a_mail_of_its_grant_is_on_the_wire(
        self, ledger: Ledger
    ) -> None:
        ledger.queue.send("g1", MAIL)
        ledger.clock.advance(1)
        ledger.serve()
        answer = report(ledger, "message.send_failed")
        assert (answer.status, result(answer)) == (503, AGAIN)
        assert result(report(ledger, "message.send_failed", attempt=2)) == UNMATCHED
        assert result(report(ledger, "message.send_failed", grant="g2")) == UNMATCHED


class TestALateFailureOfAnEarlierSend:
    """The first request was refused, so that the job got a new key; the failure of the first is reported later."""

    @pytest.mark.parametrize("kind", ["message.send_failed", "message.rejected"])
    @pytest.mark.parametrize(("message", "ago"), [(None, 500), ("m0", 500), ("m0", 0)])
    def test_does_not_kill_the_send_that_went_out(
        self, ledger: Ledger, kind: str, message: str | None, ago: int
    ) -> None:
        claimed, job = begun(ledger)
        refuse(ledger, claimed, job)
        ledger.clock.advance(600)
        accept(ledger, "m2")
        assert ledger.job(job.id).generation == 1
        assert result(report(ledger, kind, message, job=job.id, ago=ago)) == EARLIER
        assert (ledger.state(job.id), ledger.job(job.id).message_id) == (State.SENT, "m2")

    @pytest.mark.parametrize("ago", [500, 0])
    def test_does_not_kill_it_while_it_is_on_the_wire_either(self, ledger: Ledger, ago: int) -> None:
        claimed, job = begun(ledger)
        refuse(ledger, claimed, job)
        ledger.clock.advance(600)
        claimed, again = begun(ledger, queued=True)
        report(ledger, "message.send_failed", "m0", job=job.id, ago=ago)
        accepted = outcome(claimed, again, Event.ACCEPT, sent="yes", message_id="m2")
        ledger.record(accepted, ends=[end(claimed)])
        settle(ledger)
        assert (ledger.state(job.id), ledger.job(job.id).message_id) == (State.SENT, "m2")

    def test_of_the_present_send_still_makes_it_a_dead_letter_with_its_own_id(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        refuse(ledger, claimed, job)
        ledger.clock.advance(600)
        accept(ledger, "m2")
        report(ledger, "message.send_failed", None, job=job.id)
        assert (ledger.state(job.id), ledger.job(job.id).message_id) == (State.DEAD, "m2")


class TestALateAcceptance:
    """A worker that was presumed dead reports that a mail was accepted, which is known to have failed since."""

    def test_does_not_make_it_sent_again(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        at = ledger.clock()
        ledger.set_job(job.id, state="in_doubt", turn=None, doubt_at=at, look_at=at)
        report(ledger, "message.send_failed", job=job.id)
        assert ledger.state(job.id) == State.DEAD
        ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes", message_id="m1"), ends=[end(claimed)])
        assert (ledger.state(job.id), ledger.job(job.id).rule) == (State.DEAD, "failed_later")
        assert [attempt.sent for attempt in ledger.rows(schema.attempt)].count("yes") == 1

    def test_does_not_end_the_retry(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        at = ledger.clock()
        ledger.set_job(job.id, state="in_doubt", turn=None, doubt_at=at, look_at=at)
        report(ledger, "message.send_failed", job=job.id)
        retry(ledger, job.id)
        ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes", message_id="m1"), ends=[end(claimed)])
        assert ledger.state(job.id) == State.QUEUED

    def test_counts_if_the_failure_was_another_sends(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        at = ledger.clock()
        ledger.set_job(job.id, state="in_doubt", turn=None, doubt_at=at, look_at=at)
        report(ledger, "message.send_failed", job=job.id)
        late = outcome(claimed, job, Event.ACCEPT, sent="yes", message_id="m1", generation=3)
        ledger.record(late, ends=[end(claimed)])
        assert ledger.state(job.id) == State.SENT


class TestARetry:
    def test_is_refused_once_the_body_is_gone(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.send_failed")
        with ledger.writing() as connection:
            retention.erase_bodies(connection, [job])
        operators = Operators(ledger.engine, now=ledger.clock)
        last = list(operators.retry([str(job)], by="anna", reason="again"))[-1]
        assert last.refused == {RetryRefusal.FORGOTTEN: 1}
