"""Which texts are addresses that Nylas can deliver to, and how they go over the wire."""

from __future__ import annotations

import time

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st

from sendq.messages.addresses import MOST_CHARACTERS, fault, parse, wire_form


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

    @given(ascii_texts(most=12), ascii_texts(most=12), st.sampled_from(["", ".com", ".c", ".9"]))
    def test_for_ascii_it_agrees_with_email_validator(self, local: str, domain: str, end: str) -> None:
        email = f"{local}@{domain}{end}"
        try:
            validate_email(email, check_deliverability=False)
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
