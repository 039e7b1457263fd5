"""Notifications about mail, as Nylas's "Notification reference" has them, and as they may be garbled."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND
from sendq.facts.notices import MailNotice, Recipient
from sendq.rules.delivery import Delivery
from sendq.webhooks.mail_notice import DETAIL_MOST, KINDS, RECIPIENTS_MOST
from tests.unit.test_webhooks import GRANT, NOW, found, status

JOB = "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"
EARLIER = NOW // SECOND - 60

# The examples of the reference, with a job's mark in the metadata, and times of this test.
MESSAGE = {
    "id": "m1", "subject": "Your order has shipped", "from": "notifications@example.com",
    "to": ["jordan.taylor@example.com"], "cc": ["sam.lee@example.com"], "bcc": ["alex.johnson@example.com"],
    "sent_at": EARLIER, "metadata": {"key1": JOB, "campaign": "welcome-email"},
}  # fmt: skip
ORIGIN = {
    "to": ["jdoe@example.com"], "from": "sender@example.com", "cc": ["sam.lee@example.com"],
    "bcc": ["alex.johnson@example.com"], "subject": "example-subject", "mime_id": "SJ0@namprd16.prod.outlook.com",
    "id": "m1", "original_send_at": "Thu, 28 May 2026 20:20:00 +0000",
}  # fmt: skip
BOUNCED = {"bounced_at": EARLIER, "type": "MailboxFull", "recipients": [
    {"email": "sam.lee@example.com"}, {"email": "jane@example.com", "diagnostic_code": "smtp; 550 user unknown"},
]}  # fmt: skip
DETECTED = {
    "bounce_reason": "The address sam.lee@example.com was not found.", "bounce_date": "Thu, 28 May 2026 13:25:40 -0700",
    "bounced_addresses": "sam.lee@example.com", "type": "mailbox_unavailable", "code": "550", "grant_id": GRANT,
    "origin": ORIGIN,
}  # fmt: skip
FAILED = {
    "reason": "The provider refused the message.",
    "error": {"type": "api.provider_error", "message": "Quota exceeded for leyah@example.com", "status_code": 429},
}


def mail(kind: str, facts: Any, **beside: Any) -> MailNotice:
    data = {"application_id": "a1", "grant_id": GRANT, "object": facts} | beside
    body = {"specversion": "1.0", "type": kind, "id": "n1", "time": NOW // SECOND, "data": data}
    notice = found(body)
    assert isinstance(notice, MailNotice), notice
    return notice


class TestEachType:
    @pytest.mark.parametrize(
        ("kind", "facts", "beside", "delivery", "at_s"),
        [
            ("message.send_success", {"object": "message", "grant_id": GRANT, "id": "m1"}, {}, Delivery.CONFIRMED, 0),
            ("message.send_failed", {"object": "message", "id": "m1"}, FAILED, Delivery.FAILED_LATER, 0),
            ("message.bounce_detected", DETECTED, {}, Delivery.BOUNCED, -60),
            ("message.bounced", {"message": MESSAGE, "bounce": BOUNCED}, {}, Delivery.BOUNCED, -60),
            ("message.complaint", {"message": MESSAGE, "complaint": {
                "reported_at": EARLIER, "type": "abuse", "complained_recipients": ["jordan.taylor@example.com"]}},
             {}, Delivery.COMPLAINED, -60),
            ("message.rejected", {"message": MESSAGE, "rejected_at": EARLIER}, {}, Delivery.REJECTED, -60),
            ("message.delivered", {"message": MESSAGE, "delivered": {
                "delivered_at": EARLIER, "recipients": ["jordan.taylor@example.com"]}}, {}, Delivery.DELIVERED, -60),
        ],
    )  # fmt: skip
    def test_says_what_became_of_which_mail_and_when(
        self, kind: str, facts: Any, beside: Any, delivery: Delivery, at_s: int
    ) -> None:
        notice = mail(kind, facts, **beside)
        assert (notice.kind, notice.delivery, notice.grant_id, notice.message_id) == (kind, delivery, GRANT, "m1")
        assert notice.at == NOW + at_s * SECOND
        assert [str(job) for job in notice.jobs] == ([JOB] if "message" in facts else [])

    def test_names_the_recipients_it_is_about_by_their_place_in_the_mail(self) -> None:
        assert mail("message.bounced", {"message": MESSAGE, "bounce": BOUNCED}).recipients == (
            Recipient("sam.lee@example.com", 2, None),
            Recipient("jane@example.com", None, "smtp; 550 user unknown"),
        )
        assert mail("message.bounce_detected", DETECTED).recipients == (
            Recipient("sam.lee@example.com", 2, None, hard=True),
        )

    def test_gives_words_without_an_address(self) -> None:
        assert mail("message.bounce_detected", DETECTED).detail == (
            "mailbox_unavailable | 550 | The address …@example.com was not found."
        )
        failed = mail("message.send_failed", None, **FAILED)
        assert failed.detail == (
            "The provider refused the message. | api.provider_error | Quota exceeded for …@example.com | 429"
        )
        assert (failed.message_id, failed.recipients) == (None, ())

    def test_is_the_same_if_something_was_left_out_of_it(self) -> None:
        assert mail("message.bounced.truncated", {"message": MESSAGE}).kind == "message.bounced"

    def test_of_a_reply_is_only_counted(self) -> None:
        notice = mail("thread.replied", {"grant_id": GRANT, "message_id": "m2", "root_message_id": "m1"})
        assert (notice.delivery, notice.message_id) == (None, "m1")


class TestGarbledOnes:
    @pytest.mark.parametrize("kind", sorted(KINDS))
    @pytest.mark.parametrize("data", [None, [], 7, {}, {"object": None}, {"object": []}, {"object": {"id": "m1"}}])
    def test_without_a_grant_change_nothing(self, kind: str, data: Any) -> None:
        assert status({"type": kind, "id": "n1", "data": data}) == 200

    @pytest.mark.parametrize("kind", sorted(KINDS))
    @given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                              lambda one: st.lists(one) | st.dictionaries(st.text(), one), max_leaves=6))  # fmt: skip
    def test_may_hold_anything_anywhere(self, kind: str, value: Any) -> None:
        whole = {"message": MESSAGE, "bounce": BOUNCED, "complaint": {}, "delivered": {}, **DETECTED}
        for name in whole:
            mail(kind, whole | {name: value}, error=value, reason=value)
        for name in MESSAGE:
            mail(kind, {"message": MESSAGE | {name: value}, "origin": ORIGIN | {name: value}})
        for name in BOUNCED:
            mail(kind, {"message": MESSAGE, "bounce": BOUNCED | {name: value}})

    @pytest.mark.parametrize("bad", ["", "a\0b", "x" * 999, 7, None, "\ud800", ["m1"]])
    def test_with_an_id_that_can_be_none_name_no_mail(self, bad: Any) -> None:
        assert mail("message.send_success", {"id": bad}).message_id is None

    @pytest.mark.parametrize("bad", ["yesterday", "", -1, 1e308, True, [], "Thu, 99 May 2026", NOW])
    def test_with_no_valid_time_happened_when_they_were_sent(self, bad: Any) -> None:
        assert mail("message.bounce_detected", DETECTED | {"bounce_date": bad}).at == NOW

    def test_have_no_more_words_and_recipients_than_the_ledger_keeps(self) -> None:
        many = {
            "bounced_at": 1,
            "type": "x\n" * 9_999 + "\0",
            "recipients": [f"a{n}@example.com" for n in range(9_999)],
        }
        notice = mail("message.bounced", {"message": MESSAGE, "bounce": many})
        assert len(notice.recipients) == RECIPIENTS_MOST
        assert notice.detail is not None
        assert len(notice.detail) <= DETAIL_MOST
        assert notice.detail.isprintable()

    def test_cost_no_more_than_their_length(self) -> None:
        facts = DETECTED | {"bounced_addresses": "a" * 500_000 + "@", "bounce_reason": "@" * 500_000}
        begun = time.process_time()
        mail("message.bounce_detected", facts)
        assert time.process_time() - begun < 2

    def test_never_give_away_an_address_in_their_words(self) -> None:
        for kind, facts in (("message.bounce_detected", DETECTED), ("message.send_failed", None)):
            notice = mail(kind, facts, **FAILED)
            assert "leyah" not in json.dumps(notice.detail)
            assert "sam" not in json.dumps(notice.detail)
