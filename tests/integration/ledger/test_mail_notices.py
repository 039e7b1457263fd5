"""Notifications about mail and the ledger, on both databases: what became of a job's mail, and what that does to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Uuid, bindparam, func, select, text

from sendq import Delivery, DeliveryStatus, Message, Operators, State, Vault
from sendq.clock import SECOND
from sendq.facts.notices import MailNotice
from sendq.facts.turns import Claimed
from sendq.ids import new_id
from sendq.ledger import delivery_status, mail_notices, retention
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.dispatching import rescue
from sendq.ledger.doubt import Ending
from sendq.ledger.doubt import settle as settle_doubts
from sendq.ledger.mail_notices import AGAIN, APPLIED, EARLIER, REPEATED, UNMATCHED, UNUSED
from sendq.ledger.operators import retry as retrying
from sendq.ledger.operators.resolve import DoubtSelection, resolve
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.ledger.reading.gauges import levels
from sendq.ledger.secrets import digest_key
from sendq.messages.digests import DIGEST_BYTES, digest_of
from sendq.rules.by_hand import Answer, ResendRefusal, RetryRefusal
from sendq.rules.delivery import NEVER_WENT_OUT
from sendq.rules.states import Event
from sendq.vault import KEY_BYTES
from sendq.webhooks import Received, asgi, receive
from sendq.webhooks.endpoint import Application
from sendq.webhooks.notice import read
from tests.integration.ledger.test_webhooks import SECRET, signed
from tests.support.ledger import Ledger, between_statements, end, outcome

TO = ["leyah@example.com", "noor@example.com"]
MAIL = Message(to=TO[:1], cc=TO[1:], subject="Invoice 42", body="…")


def sent(ledger: Ledger, message_id: str | None = "m1", **options: Any) -> UUID:
    """A mail that the API has taken into its own queue (202)."""
    job = UUID(ledger.queue.send("g1", MAIL, **options).id)
    accept(ledger, message_id)
    return job


def accept(ledger: Ledger, message_id: str | None) -> None:
    ledger.clock.advance(1)
    claimed = ledger.serve()
    ledger.clock.advance(1)
    (job,) = (one for one in claimed.jobs if one.id in claimed.begun)
    accepted = outcome(claimed, job, Event.ACCEPT, sent="yes", rule="queued", message_id=message_id)
    ledger.record(accepted, ends=[end(claimed)])


def notification(ledger: Ledger, kind: str, message: str | None, *, job: UUID | None = None, notice: str = "n1",
                 ago: float = 0, bounced: Sequence[str] = (), grant: str = "g1", attempt: int = 1,
                 reason: str = "550 no such user") -> bytes:  # fmt: skip
    """A notification of Nylas, in the form of each kind."""
    at = (ledger.clock() - round(ago * SECOND)) // SECOND
    mail: dict[str, Any] = {"to": TO[:1], "cc": TO[1:]} | ({} if message is None else {"id": message})
    if job is not None:
        mail["metadata"] = {"key1": str(job)}
    beside: dict[str, Any] = {}
    facts: dict[str, Any] = {"message": mail}
    if kind == "message.bounced":
        facts["bounce"] = {"bounced_at": at, "type": "General", "recipients": [
            {"email": one, "diagnostic_code": reason} for one in bounced or TO[:1]]}  # fmt: skip
    elif kind == "message.bounce_detected":
        facts = {"origin": mail, "bounced_addresses": TO[0], "code": "550", "bounce_reason": reason}
    elif kind == "message.complaint":
        facts["complaint"] = {"reported_at": at, "type": "abuse", "complained_recipients": TO[:1]}
    elif kind == "message.delivered":
        facts["delivered"] = {"delivered_at": at, "recipients": list(bounced or TO)}
    elif kind == "message.rejected":
        facts["rejected_at"] = at
    elif kind == "thread.replied":
        facts = {"root_message_id": message, "message_id": "m9"}
    else:
        facts = {**mail, "object": "message"}
        beside = {"reason": reason, "error": {"type": "api.provider_error", "message": reason}}
    data = {"application_id": "a1", "grant_id": grant, "object": facts} | beside
    body = {"specversion": "1.0", "type": kind, "id": notice, "time": at, "webhook_delivery_attempt": attempt}
    return json.dumps(body | {"data": data}).encode()


def report(ledger: Ledger, kind: str, message: str | None = "m1", **more: Any) -> Received:
    application = more.pop("application", "default")
    body = notification(ledger, kind, message, **more)
    return receive(ledger.queue, secret=SECRET, raw_body=body, signature=signed(body), application=application)


def delivery(ledger: Ledger, job: UUID) -> DeliveryStatus:
    status = ledger.queue.job(str(job)).delivery
    assert status is not None
    return status


def result(answer: Received) -> str:
    (name,) = (name for name, says in mail_notices.SAYS.items() if says == answer.says)
    return name


def counts(ledger: Ledger) -> dict[tuple[str, str, str], int]:
    table = schema.notice_count.c
    with ledger.engine.connect() as connection:
        rows = connection.execute(
            select(table.provider, table.kind, table.result, func.sum(table.number)).group_by(
                table.provider, table.kind, table.result
            )
        )
        return {(provider, kind, outcome): int(number) for provider, kind, outcome, number in rows}


class TestAReport:
    @pytest.mark.parametrize(
        ("kind", "became"),
        [
            ("message.send_success", Delivery.CONFIRMED),
            ("message.delivered", Delivery.DELIVERED),
            ("message.bounced", Delivery.BOUNCED),
            ("message.bounce_detected", Delivery.BOUNCED),
            ("message.complaint", Delivery.COMPLAINED),
            ("message.rejected", Delivery.REJECTED),
        ],
    )
    @pytest.mark.parametrize("by", ["metadata", "message id"])
    def test_is_kept_beside_the_state_of_its_job(self, ledger: Ledger, kind: str, became: Delivery, by: str) -> None:
        job = sent(ledger)
        assert delivery(ledger, job) == DeliveryStatus(Delivery.UNKNOWN)
        marks: dict[str, Any] = {"job": job, "message": None} if by == "metadata" else {}
        assert result(report(ledger, kind, **marks)) == APPLIED
        status = delivery(ledger, job)
        assert (status.delivery, status.source) == (became, kind)
        assert ledger.state(job) == (State.DEAD if became in NEVER_WENT_OUT else State.SENT)
        assert counts(ledger) == {("unknown", kind, APPLIED): 1}

    def test_names_each_recipient_by_place_and_digest_and_keeps_no_address(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.delivered", notice="n1")
        report(ledger, "message.bounced", notice="n2", bounced=TO[1:], reason=f"550 {TO[1]} unknown")
        first, second = delivery(ledger, job).recipients
        with ledger.writing() as connection:
            key = digest_key(connection, Vault())
        assert (first.position, first.delivery, first.digest) == (
            1, Delivery.DELIVERED, digest_of(key, "default", TO[0].upper()).hex(),
        )  # fmt: skip
        assert (second.position, second.delivery, second.detail) == (2, Delivery.BOUNCED, "550 …@example.com unknown")
        assert len(bytes.fromhex(second.digest)) == DIGEST_BYTES
        assert delivery(ledger, job).delivery is Delivery.BOUNCED
        kept = [ledger.rows(table) for table in schema.metadata.sorted_tables if table is not schema.payload]
        assert not any(address.partition("@")[0] in str(kept) for address in TO)

    def test_that_comes_twice_or_late_changes_nothing_more(self, ledger: Ledger) -> None:
        job = sent(ledger)
        assert result(report(ledger, "message.bounced", notice="n1")) == APPLIED
        known = delivery(ledger, job)
        assert result(report(ledger, "message.bounced", notice="n1")) == REPEATED
        assert result(report(ledger, "message.delivered", notice="n2", ago=30)) == APPLIED
        assert delivery(ledger, job).delivery is known.delivery
        assert delivery(ledger, job).at == known.at

    @pytest.mark.parametrize("other", ["grant", "application", "job", "message"])
    def test_about_a_mail_that_is_not_ours_is_counted_and_not_kept(self, ledger: Ledger, other: str) -> None:
        job = sent(ledger)
        strange: dict[str, dict[str, Any]] = {
            "grant": {"grant": "g2", "job": job}, "application": {"application": "eu", "job": job},
            "job": {"job": new_id(), "message": None}, "message": {"message": "m2"},
        }  # fmt: skip
        assert result(report(ledger, "message.bounced", **strange[other])) == UNMATCHED
        assert delivery(ledger, job).delivery is Delivery.UNKNOWN
        assert counts(ledger) == {("", "message.bounced", UNMATCHED): 1}
        assert ledger.rows(schema.webhook) == ledger.rows(schema.delivery_status) == []

    def test_of_a_reply_is_only_counted(self, ledger: Ledger) -> None:
        sent(ledger)
        assert result(report(ledger, "thread.replied")) == UNUSED
        assert counts(ledger) == {("", "thread.replied", UNUSED): 1}

    def test_that_is_forged_or_a_day_old_changes_nothing(self, ledger: Ledger) -> None:
        job = sent(ledger)
        body = notification(ledger, "message.bounced", "m1")
        forged = receive(ledger.queue, secret=SECRET, raw_body=body, signature=signed(body, "other"))
        assert forged.status == 401
        assert report(ledger, "message.bounced", ago=25 * 3600).says == "ignored: it is more than a day old"
        assert delivery(ledger, job).delivery is Delivery.UNKNOWN
        assert counts(ledger) == {}

    def test_about_a_job_that_was_pruned_is_counted(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.bounced", notice="n1")
        ledger.clock.advance(3600)
        with ledger.writing() as connection:
            assert retention.drop_jobs(connection, State.SENT, before=ledger.clock(), now=ledger.clock()) == 1
        assert ledger.rows(schema.delivery_status) == ledger.rows(schema.recipient_status) == []
        assert result(report(ledger, "message.complaint", notice="n2", job=job)) == UNMATCHED

    def test_about_a_forgotten_grant_is_forgotten_with_it(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.bounced")
        list(Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked to"))
        status = delivery(ledger, job)
        assert (status.delivery, status.detail, status.recipients) == (Delivery.BOUNCED, None, ())

    @pytest.mark.parametrize("kind", ["message.bounced", "message.send_failed", "message.delivered"])
    def test_that_comes_after_its_grant_was_forgotten_keeps_no_words_and_no_recipients(
        self, ledger: Ledger, kind: str
    ) -> None:
        job = sent(ledger)
        list(Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked to"))
        ledger.clock.advance(60)
        assert result(report(ledger, kind)) == APPLIED
        assert (delivery(ledger, job).detail, delivery(ledger, job).recipients) == (None, ())
        assert ledger.rows(schema.recipient_status) == []
        assert not any("550" in str(row.error) for row in ledger.rows(schema.attempt))

    def test_about_a_mail_that_was_sent_after_its_grant_was_forgotten_is_kept(self, ledger: Ledger) -> None:
        sent(ledger)
        list(Operators(ledger.engine, now=ledger.clock).forget("g1", by="anna", reason="asked to"))
        ledger.clock.advance(60)
        job = sent(ledger, "m2")
        report(ledger, "message.bounced", "m2")
        assert len(delivery(ledger, job).recipients) == 1

    def test_needs_the_ledgers_encryption_key_and_comes_again_without_it(self, ledger: Ledger) -> None:
        sent(ledger)
        vault = Vault({"2026": b"k" * KEY_BYTES})
        with ledger.writing() as connection:
            digest_key(connection, vault)
        answer = report(ledger, "message.bounced")
        assert answer.status == 503
        assert "'2026'" in answer.says
        assert ledger.rows(schema.webhook) == []


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


def retry(ledger: Ledger, job: UUID) -> None:
    operators = Operators(ledger.engine, now=ledger.clock)
    last = list(operators.retry([str(job)], by="anna", reason="the quota is back"))[-1]
    assert not last.refused, last
    ledger.clock.advance(1)
    ledger.absorb()


def settle(ledger: Ledger) -> int:
    with ledger.writing() as connection:
        return len(delivery_status.apply_known(connection, delivery_status.find_pending(connection, limit=9),
                                               now=ledger.clock()))  # fmt: skip


class TestAReportOfAnUnknownMessage:
    """Its message's id is not in the ledger; a mail of its grant may be the one."""

    @pytest.mark.parametrize("attempt", [1, 2])
    @pytest.mark.parametrize("state", ["in_doubt", "queued"])
    def test_comes_again_while_a_mail_of_its_grant_may_have_gone_out(
        self, ledger: Ledger, state: str, attempt: int
    ) -> None:
        job = sent(ledger)
        ledger.set_job(job, state=state, doubt_at=ledger.clock(), finished_at=None, message_id=None)
        answer = report(ledger, "message.send_failed", attempt=attempt)
        assert (answer.status, result(answer)) == (503, AGAIN)
        assert result(report(ledger, "message.send_failed", grant="g2", notice="n2")) == UNMATCHED

    def test_is_not_of_a_mail_that_waits_for_its_first_request(self, ledger: Ledger) -> None:
        job = sent(ledger)
        ledger.set_job(job, state="queued", doubt_at=None, finished_at=None, message_id=None)
        assert result(report(ledger, "message.send_failed")) == UNMATCHED

    def test_comes_again_if_the_id_becomes_known_while_it_is_looked_up(self, pg_ledger: Ledger) -> None:
        claimed, job = begun(pg_ledger)
        notice = parsed(pg_ledger, "message.send_failed", "m1", "n1")
        accepted = outcome(claimed, job, Event.ACCEPT, sent="yes", rule="queued", message_id="m1")

        def record() -> None:
            pg_ledger.record(accepted, ends=[end(claimed)])

        with pg_ledger.writing() as connection, between_statements(connection, 1, record):
            taken = mail_notices.take_in(connection, [notice], "default", vault=Vault(), now=pg_ledger.clock())
        assert (taken, pg_ledger.state(job.id)) == ([AGAIN], State.SENT)

    def test_is_found_through_indexes(self, pg_ledger: Ledger) -> None:
        with pg_ledger.writing() as connection:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            explain = text(f"EXPLAIN {mail_notices.UNKNOWN_OUTCOMES.text}").bindparams(bindparam("lane", type_=Uuid()))
            plan = "\n".join(row[0] for row in connection.execute(explain, {"lane": new_id()}))
        assert "Seq Scan" not in plan


def begun(ledger: Ledger, **options: Any) -> tuple[Claimed, Any]:
    """A mail whose call is on the wire."""
    if not options.pop("queued", False):
        ledger.queue.send("g1", MAIL, **options)
    ledger.clock.advance(1)
    claimed = ledger.serve()
    (job,) = (one for one in claimed.jobs if one.id in claimed.begun)
    ledger.clock.advance(1)
    return claimed, job


def refuse(ledger: Ledger, claimed: Claimed, job: Any, **given: Any) -> None:
    """The API refuses the request for now: it was not sent, and goes again under a new key."""
    again = outcome(claimed, job, Event.RETURN, new_generation=True, next_at=ledger.clock(), **given)
    ledger.record(again, ends=[end(claimed)])


def doubt(ledger: Ledger, claimed: Claimed, job: Any) -> None:
    ledger.record(
        outcome(claimed, job, Event.DOUBT, sent="maybe", begun_at=ledger.clock(), rule="no_answer"), ends=[end(claimed)]
    )


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


class TestEvidenceThatComesBeforeTheOutcome:
    """A report shows that the mail went out while its call still hangs."""

    KINDS = ("message.send_success", "message.bounced")

    @pytest.mark.parametrize("kind", KINDS)
    def test_ends_the_doubt_that_its_timeout_would_be(self, ledger: Ledger, kind: str) -> None:
        claimed, job = begun(ledger)
        report(ledger, kind, job=job.id)
        assert ledger.state(job.id) == State.SENDING
        doubt(ledger, claimed, job)
        assert (ledger.state(job.id), ledger.job(job.id).rule) == (State.SENT, "delivery_report")
        assert not any(row.pending for row in ledger.rows(schema.delivery_status))

    @pytest.mark.parametrize("kind", KINDS)
    def test_keeps_a_refused_request_from_being_sent_again(self, ledger: Ledger, kind: str) -> None:
        claimed, job = begun(ledger)
        report(ledger, kind, job=job.id)
        refuse(ledger, claimed, job)
        assert ledger.state(job.id) == State.SENT
        assert delivery(ledger, job.id).delivery in (Delivery.CONFIRMED, Delivery.BOUNCED)

    def test_of_an_earlier_send_counts_too(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        refuse(ledger, claimed, job)
        ledger.clock.advance(600)
        claimed, again = begun(ledger, queued=True)
        report(ledger, "message.delivered", "m0", job=job.id, ago=500)
        refuse(ledger, claimed, again)
        assert ledger.state(job.id) == State.SENT

    def test_keeps_a_lost_workers_job_from_being_sent_again(self, ledger: Ledger) -> None:
        claimed, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        with ledger.writing() as connection:
            assert rescue.bury(connection, claimed.worker, now=ledger.clock()).begun == 1
        assert ledger.state(job.id) == State.SENT

    def test_is_settled_by_the_leader_where_nothing_else_does(self, ledger: Ledger) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        assert settle(ledger) == 1
        assert ledger.state(job.id) == State.SENT

    @pytest.mark.parametrize("answer", [Answer.RESEND, Answer.DEAD])
    def test_counts_more_than_an_operators_answer(self, ledger: Ledger, answer: Answer) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        with ledger.writing() as connection:
            part = resolve(connection, DoubtSelection(jobs=[job.id]), answer, by="anna", reason="r", now=ledger.clock())
        assert part.refused == ({job.id: ResendRefusal.WENT_OUT} if answer is Answer.RESEND else {})
        assert ledger.state(job.id) == (State.IN_DOUBT if answer is Answer.RESEND else State.SENT)

    def test_counts_more_than_a_search_that_did_not_find_it(self, ledger: Ledger) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        again = Ending(Event.RETURN, "not_in_mailbox")
        with ledger.writing() as connection:
            assert settle_doubts(connection, {job.id: again}, by="reconcile", now=ledger.clock()) == []
        assert ledger.state(job.id) == State.SENT

    def test_is_applied_by_a_repeat_if_its_job_is_still_in_doubt(self, ledger: Ledger) -> None:
        _, job = begun(ledger)
        report(ledger, "message.delivered", job=job.id)
        ledger.set_job(job.id, state="in_doubt", doubt_at=ledger.clock())
        report(ledger, "message.delivered", job=job.id, notice="n2")
        assert ledger.state(job.id) == State.SENT

    @pytest.mark.parametrize("later", [False, True])
    def test_refuses_a_retry_of_what_the_api_refused(self, ledger: Ledger, later: bool) -> None:
        claimed, job = begun(ledger)
        if not later:
            report(ledger, "message.delivered", job=job.id)
        ledger.record(outcome(claimed, job, Event.GIVE_UP, rule="bad_request"), ends=[end(claimed)])
        if later:
            report(ledger, "message.delivered", job=job.id)
        assert ledger.state(job.id) == State.DEAD
        operators = Operators(ledger.engine, now=ledger.clock)
        last = list(operators.retry([str(job.id)], by="anna", reason="again"))[-1]
        assert last.refused == {RetryRefusal.PARTLY: 1}

    def test_refuses_a_retry_that_began_before_it_came(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        claimed, job = begun(ledger)
        ledger.record(outcome(claimed, job, Event.GIVE_UP, rule="bad_request"), ends=[end(claimed)])
        with ledger.writing() as connection:
            seen = retrying.find(connection, DeadLetterSelection(), after=None)
        assert [row.id for row in seen.ready] == [job.id]
        report(ledger, "message.delivered", job=job.id)
        monkeypatch.setattr(retrying, "find", lambda *_, **__: seen)
        now = ledger.clock()
        with ledger.writing() as connection:
            done = retrying.retry(connection, DeadLetterSelection(), after=None, first_at=now, by="anna", now=now)
        assert (done.ready, ledger.state(job.id)) == ([], State.DEAD)


class TestPendingReports:
    def test_are_found_through_their_index(self, ledger: Ledger) -> None:
        """On SQLite a bound value in the condition would mean a scan of all reports, every other second."""
        with ledger.writing() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if not sqlite:
                connection.execute(text("SET LOCAL enable_seqscan = off"))
            options = {"render_postcompile": True, "literal_binds": True}
            query = delivery_status.pending_jobs(9).compile(dialect=connection.dialect, compile_kwargs=options)
            rows = connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' if sqlite else ''}{query}")
            plan = "\n".join(str(row) for row in rows)
        assert "sendq_delivery_status_pending_idx" in plan


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


class TestTheListOfJobs:
    def test_can_be_of_those_whose_mail_bounced(self, ledger: Ledger) -> None:
        bounced, delivered, failed, unknown = (str(sent(ledger, f"m{number}")) for number in range(4))
        report(ledger, "message.bounced", "m0", notice="n0")
        report(ledger, "message.delivered", "m1", notice="n1")
        report(ledger, "message.send_failed", "m2", notice="n2")

        def listed(**which: Any) -> set[str]:
            operators = Operators(ledger.engine, now=ledger.clock)
            return {line.id for line in operators.jobs(**which).items}

        assert listed(delivery="bounced") == {bounced}
        assert listed(delivery=["delivered", Delivery.BOUNCED]) == {bounced, delivered}
        assert listed(delivery="failed_later", state="dead") == {failed}
        assert listed(delivery="failed_later", state="sent") == set()
        assert listed() == {bounced, delivered, failed, unknown}
        retry(ledger, UUID(failed))
        assert listed(delivery="failed_later") == set()


class TestWhatIsCounted:
    def test_is_for_the_leaders_metrics_with_the_time_since_the_acceptance(self, ledger: Ledger) -> None:
        sent(ledger)
        ledger.clock.advance(30)
        report(ledger, "message.delivered", notice="n1")
        report(ledger, "message.delivered", notice="n1")
        report(ledger, "message.bounced", "m9", notice="n2")
        with ledger.engine.connect() as connection:
            notices = levels(connection, now=ledger.clock()).notices
        assert {name[1:]: number for name, (number, _) in notices.items()} == {
            ("unknown", "message.delivered", APPLIED): 1,
            ("unknown", "message.delivered", REPEATED): 1,
            ("", "message.bounced", UNMATCHED): 1,
        }
        assert notices["default", "unknown", "message.delivered", APPLIED][1] == pytest.approx(30, abs=1)


class TestItsOutcome:
    """What the receiver that the job names gets, beside "sent"."""

    def outcomes(self, ledger: Ledger) -> list[dict[str, Any]]:
        return [json.loads(row.facts) for row in ledger.rows(schema.delivery) if row.kind != "sent"]

    @pytest.mark.parametrize(
        ("trigger", "kind"),
        [("message.bounced", "bounced"), ("message.bounce_detected", "bounced"), ("message.complaint", "complained")],
    )
    def test_names_the_recipient_by_place_and_digest(self, ledger: Ledger, trigger: str, kind: str) -> None:
        job = sent(ledger, on_outcome="webhook:shop", key="invoice-42")
        report(ledger, trigger, notice="n1")
        report(ledger, trigger, notice="n2")  # the same once more
        (facts,) = self.outcomes(ledger)
        (known,) = delivery(ledger, job).recipients
        assert (facts["kind"], facts["source"], facts["key"], facts["state"]) == (kind, trigger, "invoice-42", "sent")
        assert facts["recipients"] == [{"position": 1, "digest": known.digest}]
        assert facts["happened_at"] == known.at.isoformat()
        assert "leyah" not in str(facts)

    def test_is_one_for_each_kind_and_later_ones_come_in_order(self, ledger: Ledger) -> None:
        sent(ledger, on_outcome="webhook:shop")
        report(ledger, "message.bounced", notice="n1", bounced=TO)
        report(ledger, "message.complaint", notice="n2")
        report(ledger, "message.delivered", notice="n3")
        first, second = self.outcomes(ledger)
        assert [len(one["recipients"]) for one in (first, second)] == [2, 1]
        assert first["sequence"] < second["sequence"]
        assert first["sequence"] > 2**31  # receivers need 64 bits

    def test_of_a_delivery_is_created_on_request(self, ledger: Ledger) -> None:
        sent(ledger, on_outcome="webhook:shop")
        body = notification(ledger, "message.delivered", "m1")
        receive(ledger.queue, secret=SECRET, raw_body=body, signature=signed(body), delivered_outcomes=True)
        (facts,) = self.outcomes(ledger)
        assert (facts["kind"], len(facts["recipients"])) == ("delivered", 2)

    def test_is_created_for_no_job_that_names_no_receiver(self, ledger: Ledger) -> None:
        sent(ledger)
        report(ledger, "message.bounced")
        assert ledger.rows(schema.delivery) == []


class TestADoubt:
    def test_ends_as_sent_with_the_first_evidence(self, ledger: Ledger) -> None:
        job = sent(ledger)
        at = ledger.clock()
        ledger.set_job(job, state="in_doubt", finished_at=None, doubt_at=at, look_at=at, message_id=None)
        report(ledger, "message.delivered", job=job)
        row = ledger.job(job)
        assert (row.state, row.rule, row.message_id, row.look_at) == ("sent", "delivery_report", "m1", None)


def ask_all(application: Application, bodies: Sequence[bytes]) -> list[int]:
    """The statuses of the answers to these notifications, a hundred at a time."""

    async def ask(body: bytes) -> int:
        said: list[Any] = []

        async def take() -> Any:
            return {"type": "http.request", "body": body}

        async def say(event: Any) -> None:
            said.append(event)

        headers = [(b"x-nylas-signature", signed(body).encode())]
        await application(
            {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}, take, say
        )
        return int(said[0]["status"])

    async def some(rest: Iterator[bytes]) -> list[int]:
        return [await ask(body) for body in rest]

    async def all_of_them() -> list[int]:
        rest = iter(bodies)
        return [status for part in await asyncio.gather(*(some(rest) for _ in range(100))) for status in part]

    return asyncio.run(all_of_them())


class TestMany:
    def test_are_applied_together_each_once(self, ledger: Ledger) -> None:
        jobs = [sent(ledger, f"m{number}") for number in range(5)]
        numbers = [*range(10), *range(10)]
        bodies = [notification(ledger, "message.bounced", f"m{n % 5}", notice=f"n{n}") for n in numbers]
        assert set(ask_all(asgi(ledger.queue, secret=SECRET), bodies)) == {200}
        assert len(ledger.rows(schema.webhook)) == 10
        assert {delivery(ledger, job).delivery for job in jobs} == {Delivery.BOUNCED}
        found = counts(ledger)
        assert found == {("unknown", "message.bounced", APPLIED): 10, ("unknown", "message.bounced", REPEATED): 10}

    def test_that_are_not_committed_are_not_answered_200_and_come_again(self, ledger: Ledger) -> None:
        jobs = [sent(ledger, f"m{number}") for number in range(3)]
        bodies = [notification(ledger, "message.bounced", f"m{n}", notice=f"n{n}") for n in range(3)]
        application = asgi(ledger.queue, secret=SECRET)
        with ledger.writing() as connection:  # the last statement of a transaction fails
            connection.execute(text("ALTER TABLE sendq_notice_count RENAME TO sendq_away"))
        try:
            assert set(ask_all(application, bodies)) == {503}
        finally:
            with ledger.writing() as connection:
                connection.execute(text("ALTER TABLE sendq_away RENAME TO sendq_notice_count"))
        assert ledger.rows(schema.webhook) == ledger.rows(schema.delivery_status) == []
        assert set(ask_all(application, bodies)) == {200}
        assert {delivery(ledger, job).delivery for job in jobs} == {Delivery.BOUNCED}

    @pytest.mark.long
    def test_in_a_burst_with_half_of_them_repeats_are_applied_once_each(self, pg_ledger: Ledger) -> None:
        """Ten thousand: on two busy cores they take ten seconds."""
        ledger, number = pg_ledger, 5_000
        first = sent(ledger, "m0")
        with ledger.writing() as connection:
            row = dict(connection.execute(schema.job.select()).mappings().one())
            copies = [row | {"id": new_id(), "message_id": f"m{n}"} for n in range(1, number)]
            insert_rows(connection, schema.job, copies)
        jobs = [first, *(copy["id"] for copy in copies)]
        bodies = [
            notification(ledger, "message.delivered", f"m{n}", notice=f"n{n}", job=jobs[n] if n % 2 else None)
            for n in range(number)
        ] * 2
        Random(1).shuffle(bodies)
        assert set(ask_all(asgi(ledger.queue, secret=SECRET), bodies)) == {200}
        assert counts(ledger) == {
            ("unknown", "message.delivered", APPLIED): number, ("unknown", "message.delivered", REPEATED): number,
        }  # fmt: skip
        assert len(ledger.rows(schema.delivery_status)) == number
        assert len(ledger.rows(schema.recipient_status)) == 2 * number

    def test_at_once_by_several_receivers_end_without_a_deadlock(self, pg_ledger: Ledger) -> None:
        ledger = pg_ledger
        jobs = [sent(ledger, f"m{number}") for number in range(6)]
        kinds = ("message.delivered", "message.bounced", "message.complaint", "message.send_failed")
        groups = [
            [parsed(ledger, kind, f"m{(number * step) % 6}", f"n{number % 9}-{kind}") for number in range(12)]
            for step in (1, 5)
            for kind in kinds
        ]

        def one(notices: Sequence[MailNotice]) -> list[str]:
            with ledger.writing() as connection:
                return mail_notices.take_in(connection, notices, "default", vault=Vault(), now=ledger.clock())

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, groups))
        assert {answer for group in answers for answer in group} <= {APPLIED, REPEATED}
        assert {delivery(ledger, job).delivery for job in jobs} == {Delivery.COMPLAINED}
        assert {ledger.state(job) for job in jobs} == {State.SENT}

    def test_are_found_through_indexes(self, pg_ledger: Ledger) -> None:
        plans = ""
        with pg_ledger.writing() as connection:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            for column, values in ((schema.job.c.id, [new_id()]), (schema.job.c.message_id, ["m1", "m2"])):
                query = mail_notices.sends(connection, column, values).compile(dialect=connection.dialect)
                rows = connection.exec_driver_sql(f"EXPLAIN {query}", query.params)
                plans += "\n".join(row[0] for row in rows)
        assert "sendq_job_pkey" in plans
        assert "sendq_job_message_idx" in plans
        assert "Seq Scan" not in plans


def parsed(ledger: Ledger, kind: str, message: str, notice: str) -> MailNotice:
    body = notification(ledger, kind, message, notice=notice)
    found = read(body, signature=signed(body), secret=SECRET, now=ledger.clock())
    assert isinstance(found, MailNotice)
    return found


class TestARetry:
    def test_is_refused_once_the_body_is_gone(self, ledger: Ledger) -> None:
        job = sent(ledger)
        report(ledger, "message.send_failed")
        with ledger.writing() as connection:
            retention.erase_bodies(connection, [job])
        operators = Operators(ledger.engine, now=ledger.clock)
        last = list(operators.retry([str(job)], by="anna", reason="again"))[-1]
        assert last.refused == {RetryRefusal.FORGOTTEN: 1}
