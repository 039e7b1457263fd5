"""Where what became of mail is seen: lists, counts and outcomes, on both databases."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from sendq import Delivery, Operators
from sendq.ledger.db import schema
from sendq.ledger.mail_notices import APPLIED, REPEATED, UNMATCHED
from sendq.ledger.reading.gauges import levels
from sendq.webhooks import receive
from tests.integration.ledger.mail import (
    TO,
    delivery,
    notification,
    report,
    retry,
    sent,
)
from tests.integration.ledger.test_webhooks import SECRET, signed
from tests.support.ledger import Ledger


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
