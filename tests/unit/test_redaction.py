"""Addresses, keys and passwords are taken out of text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sendq.redaction import redact, redact_all, redact_answer


class TestOurOwnText:
    @pytest.mark.parametrize(
        ("text", "left"),
        [
            ("to leyah@example.com, failed", "to [address], failed"),
            ('{"email": "le.yah+x@mail.example.co.uk"}', '{"email": "[address]"}'),
            ("Leyah <leyah@bücher.example>", "Leyah <[address]>"),
            ("redis://:p@ss@h.example:1/0", "redis://:[password]@h.example:1/0"),
            ("postgresql://u:p@127.0.0.1/d", "postgresql://u:[password]@127.0.0.1/d"),
            ("Authorization: Bearer abcdefgh12345", "Authorization: [key]"),
            ("key nyk_v0_abc-d is wrong", "key [key] is wrong"),
            ("leyah%40example.com and \uff20, leyah\uff20example.com", "[address] and \uff20, [address]"),
            ("a@b.c,d@e.f", "[address],[address]"),
            ("2 @ 3, celery@host and job_01", "2 @ 3, celery@host and job_01"),
        ],
    )
    def test_takes_out_people_and_secrets_and_nothing_else(self, text: str, left: str) -> None:
        assert redact(text) == left

    def test_goes_to_the_bottom_of_a_structure(self) -> None:
        assert redact_all({"a": [{"b": ("x@y.example", 1)}], "c": None}) == {"a": [{"b": ["[address]", 1]}], "c": None}


class TestAnAnswer:
    @pytest.mark.parametrize(
        ("text", "safe"),
        [
            ("no such user leyah@example.com here", "no such user …@example.com here"),
            ("<leyah.smith+x@example.com>: refused", "<…@example.com>: refused"),
            ('"leyah smith"@example.com', "…@example.com"),
            ("leyah%40example.com", "…@example.com"),
            ("a@b.c,d@e.f", "…@b.c,…@e.f"),
            ("leyah@mailhost", "…@mailhost"),
            ("https://leyah:secret@example.com/?token=nyk_v0_abc", "https://leyah:…@example.com/?token=…"),
            ("basic authentication is disabled", "basic authentication is disabled"),
            ("nothing here", "nothing here"),
        ],
    )
    def test_loses_what_stands_before_an_at_sign(self, text: str, safe: str) -> None:
        assert redact_answer(text) == safe

    @pytest.mark.parametrize("redacted", [redact, redact_answer])
    def test_costs_no_more_than_its_length(self, redacted: Callable[[str], str]) -> None:
        assert redacted("a" * 200_000 + "@" * 1000).endswith("@")
