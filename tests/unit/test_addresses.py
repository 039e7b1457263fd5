"""Which texts are addresses that Nylas can deliver to, and how they go over the wire."""

from __future__ import annotations

import time

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st

from sendq.messages.addresses import MOST_CHARACTERS, fault, parse, trimmed, wire_form
from sendq.messages.fields import Recipient


def ascii_texts(*, most: int) -> st.SearchStrategy[str]:
    return st.text("ab-_.@+'\"x n9A \\[]()", max_size=most)


class TestWireForm:
    @pytest.mark.parametrize(
        "email",
        [
            "leyah@example.com",
            "leyah.nyah+tag@mail.example.co.uk",
            "o'hara@example.com",
            "POSTMASTER@Example.COM",
            "leyah@xn--bcher-kva.example",
            "leyah@corp.local",
            "leyah@example.test",
            '"leyah."@docomo.ne.jp',
            '".leyah..nyah"@example.com',
            '"leyah nyah"@example.com',
            "x" * 70 + "@example.com",
            "leyah@" + "x" * 63 + ".com",
        ],
    )
    def test_an_address_stays_as_it_was_written(self, email: str) -> None:
        assert wire_form(email) == email

    @pytest.mark.parametrize(
        ("email", "wire"),
        [
            ("leyah@bücher.example", "leyah@xn--bcher-kva.example"),
            ("POSTMASTER@bücher.example", "POSTMASTER@xn--bcher-kva.example"),
            ("leyah@straße.de", "leyah@xn--strae-oqa.de"),
            ("leyah@例え.jp", "leyah@xn--r8jz45g.jp"),
            ('"leyah."@例え.jp', '"leyah."@xn--r8jz45g.jp'),
        ],
    )
    def test_a_domain_outside_ascii_gets_its_ascii_form(self, email: str, wire: str) -> None:
        assert wire_form(email) == wire

    @pytest.mark.parametrize(
        "email",
        [
            "",
            "leyah",
            "@example.com",
            "leyah@",
            "leyah@example",
            "leyah@@example.com",
            "leyah@example..com",
            ".leyah@example.com",
            "leyah.@example.com",
            "leyah @example.com",
            " leyah@example.com",
            "leyah@example.com ",
            "leyah@example.com\n",
            "leyah@-example.com",
            "leyah@" + "x" * 64 + ".com",
            "leyah@example-.com",
            "leyah@192.0.2.1",
            "leyah@[192.0.2.1]",
            "leyah@exa_mple.com",
            "leyah@example.com, nyah@example.com",
            "leyah@example.com;nyah@example.com",
            "Leyah <leyah@example.com>",
            "leyah@xn--.example",
            '""@example.com',
            '"leyah@example.com',
            '"leyah,nyah@example.com"@example.com',
            '"leyah\\"nyah"@example.com',
            '"leyah<"@例え.jp',
            '"leyah\t"@example.com',
            "leyah@bücher .example",
            "leyah\0@example.com",
            "leyah@\ud800.example",
            "\ud800@example.com",
            "x" * MOST_CHARACTERS + "@example.com",
        ],
    )
    def test_what_is_no_address_has_none(self, email: str) -> None:
        assert wire_form(email) is None

    @pytest.mark.parametrize("email", ["jösé@example.com", "用户@例え.jp", "léyah@localhost"])
    def test_a_local_part_outside_ascii_has_none_and_the_reason_says_so(self, email: str) -> None:
        assert wire_form(email) is None
        assert "outside ASCII before the @" in fault(email)

    @pytest.mark.parametrize(
        ("email", "reason"),
        [
            ("leyah nyah@example.com", "contains white space"),
            ("leyah@exam\u200bple.com", "contains an invisible character (U+200B)"),
            ("leyah\u00a0@example.com", "outside ASCII before the @"),
            ("leyah@example\n.com", "contains a line break"),
            ("leyah@exa\u202emple.com", "overrides the direction of text"),
            ("leyah.@example.com", "valid only in quotes before the @"),
            (".leyah@example.com", "valid only in quotes before the @"),
            ("ley..ah@example.com", "valid only in quotes before the @"),
            ('"leyah,nyah"@example.com', "has quotes before the @"),
            ("leyah", "is not an email address"),
            ("leyah@example", "is not an email address"),
        ],
    )
    def test_of_what_has_none_the_reason_is_named(self, email: str, reason: str) -> None:
        assert wire_form(email) is None
        assert reason in fault(email)

    @given(ascii_texts(most=12), ascii_texts(most=12), st.sampled_from(["", ".com", ".c", ".9"]))
    def test_for_ascii_it_agrees_with_email_validator(self, local: str, domain: str, end: str) -> None:
        email = f"{local}@{domain}{end}"
        quotes = not set(local[1:-1]) & set('"\\@()[]')  # of what may be quoted, less is accepted here than there
        try:
            validate_email(email, check_deliverability=False, allow_quoted_local=quotes)
            expected: str | None = email
        except EmailNotValidError:
            expected = None
        assert wire_form(email) == expected

    @given(st.text(max_size=20), st.text(max_size=20))
    def test_whatever_comes_the_answer_is_ascii_or_none(self, local: str, domain: str) -> None:
        wire = wire_form(f"{local}@{domain}.com")
        assert wire is None or wire.isascii()

    @pytest.mark.parametrize("text", ["a" * 200_000, " " * 200_000 + ">", '"' * 200_000 + "<", "a@" + "a." * 100_000])
    def test_a_hostile_text_is_refused_quickly(self, text: str) -> None:
        begun = time.process_time()
        assert wire_form(parse(text)[0]) is None
        assert time.process_time() - begun < 20  # milliseconds; a pattern that backtracks takes minutes


class TestTrimming:
    @pytest.mark.parametrize(
        "around", [" ", "\n", "\r\n", "\t", "\u00a0", "\u200b", "\ufeff", "\u202a", "\u2069", "\u2028"]
    )
    def test_white_space_and_invisible_characters_around_an_address_go(self, around: str) -> None:
        for text in (f"{around}leyah@example.com", f"leyah@example.com{around}", f" {around}leyah@example.com{around}"):
            assert trimmed(text) == "leyah@example.com"
            assert Recipient(text).email == "leyah@example.com"
            assert parse(f"{around}Leyah{around}<{text}>{around}")[1] == "Leyah"

    @pytest.mark.parametrize("text", ["", "a", '"a."@b', "a b", "\0a\0"])
    def test_nothing_else_goes(self, text: str) -> None:
        assert trimmed(text) == text


class TestParse:
    @pytest.mark.parametrize(
        ("text", "email", "name"),
        [
            ("leyah@example.com", "leyah@example.com", None),
            ("<leyah@example.com>", "leyah@example.com", None),
            ("Leyah <leyah@example.com>", "leyah@example.com", "Leyah"),
            ("  Dr. Leyah O'Hara  <leyah@example.com> ", "leyah@example.com", "Dr. Leyah O'Hara"),
            ('"O\'Hara, Leyah" <leyah@example.com>', "leyah@example.com", "O'Hara, Leyah"),
            ('"Leyah \\"Ley\\" O" <leyah@example.com>', "leyah@example.com", 'Leyah "Ley" O'),
            ("Zoë <zoe@example.com>", "zoe@example.com", "Zoë"),
        ],
    )
    def test_a_name_and_an_address_come_apart(self, text: str, email: str, name: str | None) -> None:
        assert parse(text) == (email, name)

    @pytest.mark.parametrize(
        "text",
        [
            "leyah@example.com, Nyah <nyah@example.com>",
            "Leyah <leyah@example.com>, Nyah <nyah@example.com>",
            "O'Hara, Leyah <leyah@example.com>",
            "Leyah <leyah@example.com",
        ],
    )
    def test_a_whole_list_in_one_string_is_no_address(self, text: str) -> None:
        email, _ = parse(text)
        assert wire_form(email) is None
