"""Notifications about mail and the ledger, on both databases: what is kept of each, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Uuid, bindparam, text

from sendq import Delivery, DeliveryStatus, Operators, State, Vault
from sendq.ids import new_id
from sendq.ledger import mail_notices, retention
from sendq.ledger.db import schema
from sendq.ledger.mail_notices import AGAIN, APPLIED, REPEATED, UNMATCHED, UNUSED
from sendq.ledger.secrets import digest_key
from sendq.messages.digests import DIGEST_BYTES, digest_of
from sendq.rules.delivery import NEVER_WENT_OUT
from sendq.rules.states import Event
from sendq.vault import KEY_BYTES
from sendq.webhooks import receive
from tests.integration.ledger.mail import (
    TO,
    begun,
    counts,
    delivery,
    notification,
    parsed,
    report,
    result,
    sent,
)
from tests.integration.ledger.test_webhooks import SECRET, signed
from tests.support.ledger import Ledger, between_statements, end, outcome


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
