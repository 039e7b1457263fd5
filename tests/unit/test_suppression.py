"""Which bounces put a recipient on the suppression list, which addresses are one, and unsubscribe tokens. Pure."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.messages import unsubscribe_token
from sendq.messages.digests import digest_of, same_form
from sendq.messages.unsubscribe_token import Token, category_of, read, sign, signing_key
from sendq.rules.delivery import Delivery
from sendq.rules.suppression import ALL_MAIL, Reason, blocking_reason, is_hard_bounce, reason_of

AGENTS, CONNECTED = "message.bounced", "message.bounce_detected"
KEY = signing_key(bytes(32))
TOKEN = Token("default", "newsletter", digest_of(bytes(32), "default", "leyah@example.com"))


class TestABounce:
    @pytest.mark.parametrize(
        ("kind", "type_", "texts", "hard"),
        [
            (AGENTS, "General", ["smtp; 550 5.1.1 user unknown"], True),
            (AGENTS, "NoEmail", [None], True),
            (AGENTS, None, ["smtp; 550 user unknown"], True),
            (AGENTS, "MailboxFull", ["smtp; 550 user unknown"], False),
            (AGENTS, "MailboxFull", [None], False),
            (AGENTS, "General", ["smtp; 552 5.2.2 over quota"], False),
            (AGENTS, "General", ["smtp; 552 too large"], False),
            (AGENTS, "General", ["smtp; 554 spam"], False),
            (AGENTS, "General", ["smtp; 550 5.7.1 blocked"], False),
            (AGENTS, "General", ["smtp; 450 4.2.1 busy"], False),
            (AGENTS, "General", ["smtp; 421 try again later"], False),
            (AGENTS, "General", ["smtp; 550 5.1.8 bad sender"], False),
            (AGENTS, "General", ["smtp; 550 5.2.1 disabled"], True),
            (AGENTS, "General", ["smtp; 550 5.4.310 DNS domain does not exist"], True),
            (AGENTS, "General", ["smtp; 550 5.4.1 access denied"], False),
            (AGENTS, "ContentRejected", ["smtp; 550 5.6.0"], False),
            (CONNECTED, "mailbox_unavailable", ["The address was not found.", "550"], True),
            (CONNECTED, "mailbox_unavailable", ["550 5.5.0 mailbox unavailable", "550"], True),
            (CONNECTED, "domain_not_found", [None, None], True),
            (CONNECTED, "mailbox_full", ["552 5.2.2 full", "552"], False),
            (CONNECTED, "other", ["550 5.1.1 user unknown", "550"], True),
            (CONNECTED, "other", ["it did not work", "550"], False),
            (CONNECTED, None, [], False),
            (CONNECTED, "mailbox_unavailable", ["450 greylisted by 10.5.1.1", 450], False),
            (CONNECTED, {"a": 1}, [["x"], True], False),
        ],
    )
    def test_is_hard_if_the_address_cannot_be_delivered_to(
        self, kind: str, type_: object, texts: list[object], *, hard: bool
    ) -> None:
        assert is_hard_bounce(kind, type_, *texts) is hard

    @given(st.sampled_from([AGENTS, CONNECTED]), st.text(), st.lists(st.text()))
    def test_of_any_words_is_one_or_the_other(self, kind: str, type_: str, texts: list[str]) -> None:
        assert is_hard_bounce(kind, type_, *texts) in (True, False)

    def test_counts_if_it_is_hard_and_a_complaint_always(self) -> None:
        found = {(one, hard): reason_of(one, hard=hard) for one in (*Delivery, None) for hard in (True, False)}
        assert {name: reason for name, reason in found.items() if reason is not None} == {
            (Delivery.BOUNCED, True): Reason.BOUNCED,
            (Delivery.COMPLAINED, True): Reason.COMPLAINED,
            (Delivery.COMPLAINED, False): Reason.COMPLAINED,
        }


class TestAnEntry:
    @pytest.mark.parametrize(
        ("entries", "category", "reason"),
        [
            ([(ALL_MAIL, "bounced")], None, "bounced"),
            ([(ALL_MAIL, "bounced")], "news", "bounced"),
            ([("news", "unsubscribed")], "news", "unsubscribed"),
            ([("news", "unsubscribed")], "offers", None),
            ([("news", "unsubscribed")], None, None),
            ([("offers", "unsubscribed"), (ALL_MAIL, "complained")], "news", "complained"),
            ([], "news", None),
        ],
    )
    def test_is_in_the_way_of_all_mail_or_of_its_category(
        self, entries: list[tuple[str, str]], category: str | None, reason: str | None
    ) -> None:
        assert blocking_reason(entries, category) == reason


class TestAnAddress:
    @pytest.mark.parametrize(
        "other",
        [
            "LEYAH@Example.COM", "Leyah <leyah@example.com>", ' "L, M" <leyah@example.com>', " leyah@example.com\t",
            "\u200bleyah@example.com\ufeff",
        ],
    )  # fmt: skip
    def test_is_the_same_however_it_is_written(self, other: str) -> None:
        assert same_form(other) == "leyah@example.com"

    def test_with_an_international_domain_is_the_same_in_ascii(self) -> None:
        assert same_form("Leyah@BÜCHER.example") == same_form("leyah@xn--bcher-kva.example")

    @pytest.mark.parametrize("other", ["leyah+news@example.com", "l.eyah@example.com", "leyah@mail.example.com"])
    def test_is_another_one_if_a_provider_may_tell_them_apart(self, other: str) -> None:
        assert digest_of(bytes(32), "default", other) != TOKEN.digest

    def test_has_another_digest_with_another_key_or_application(self) -> None:
        assert len({digest_of(key, app, "a@example.com") for key in (b"1" * 32, b"2" * 32) for app in "ab"}) == 4


class TestAToken:
    @given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=255), st.text(min_size=1, max_size=100))
    def test_says_what_was_signed(self, application: str, category: str) -> None:
        token = Token(application, category.encode(errors="ignore").decode() or "news", TOKEN.digest)
        text = sign(KEY, token)
        assert read(KEY, text) == token
        assert len(text) <= unsubscribe_token.TOKEN_MOST

    def test_shows_no_address(self) -> None:
        assert b"leyah" not in base64.urlsafe_b64decode(sign(KEY, TOKEN) + "==")

    def test_that_was_altered_in_any_character_says_nothing(self) -> None:
        text = sign(KEY, TOKEN)
        for place, old in enumerate(text):
            for new in "Aa0_":
                if new != old:
                    assert read(KEY, text[:place] + new + text[place + 1 :]) is None

    @pytest.mark.parametrize("text", ["", "A", "=", "é", "A" * 3_000, "../../x", "AQ==", "A" * 60])
    def test_that_is_none_says_nothing(self, text: str) -> None:
        assert read(KEY, text) is None

    @given(st.binary(max_size=200))
    def test_of_any_bytes_says_nothing(self, data: bytes) -> None:
        assert read(KEY, base64.urlsafe_b64encode(data).decode().rstrip("=")) is None

    def test_of_another_key_says_nothing(self) -> None:
        assert read(signing_key(b"1" * 32), sign(KEY, TOKEN)) is None

    def test_names_the_category_of_a_mail(self) -> None:
        text = sign(KEY, TOKEN)
        assert category_of(KEY, [f"<mailto:a@example.com>, <https://x.example/u/{text}>"], "default") == "newsletter"
        assert category_of(KEY, [f"<https://x.example/u/{text}>"], "other") is None
        assert category_of(KEY, [f"<https://x.example/u/{text}x>", "nonsense"], "default") is None
