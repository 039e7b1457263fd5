"""The addresses in a header, whatever the version of Python's own parser."""

from __future__ import annotations

import time
from contextlib import suppress
from email.utils import formataddr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.messages.address_list import UnreadableList, addresses_in

WORD = st.text('abc. ,;:<>@()[]"\\=?é\t', max_size=8)


class TestAHeader:
    @pytest.mark.parametrize(
        ("value", "addresses"),
        [
            ("", []),
            (" (nobody) ", []),
            ("a@example.com", ["a@example.com"]),
            ("Jane (a, b) <jane@example.com>", ["jane@example.com"]),
            ("jane@example.com (Jane (from a, b) \\) here)", ["jane@example.com"]),
            ("a@example.com <a@example.com>", ["a@example.com"]),
            ("x@x.example <b@example.com>, c@example.com", ["b@example.com", "c@example.com"]),
            (",a@example.com,, b@example.com ,", ["a@example.com", "b@example.com"]),
            ('"O\'Hara, Jane \\"J\\"" <jane@example.com>', ["jane@example.com"]),
            ("Jane\r\n <jane@example.com>,\r\n\tb@example.com", ["jane@example.com", "b@example.com"]),
            ("undisclosed-recipients:;", []),
            ("Team: a@x.example, B <b@x.example>,;, c@x.example", ["a@x.example", "b@x.example", "c@x.example"]),
            ("<@one.example,@two.example:jane@example.com>", ["jane@example.com"]),
            ("jane . doe @ example . com", ["jane.doe@example.com"]),
            ("Jane < jane@example.com >", ["jane@example.com"]),
            ('"jane."@docomo.ne.jp', ['"jane."@docomo.ne.jp']),
            ("=?utf-8?q?J=C3=A9?= <jane@example.com>", ["jane@example.com"]),
            ("josé@example.com", ["josé@example.com"]),
            # What is no address is returned, to be refused by its own rule.
            ("Jane jane@example.com", ["Jane jane@example.com"]),
            ("nobody, a@b@example.com, <>", ["nobody", "a@b@example.com", ""]),
        ],
    )
    def test_has_these_addresses(self, value: str, addresses: list[str]) -> None:
        assert addresses_in(value) == addresses

    @pytest.mark.parametrize(
        "value",
        [
            "Boss <boss@corp.example> (x",
            'Boss" <boss@corp.example>',
            "Boss <boss@corp.example",
            "boss@corp.example>",
            "<a@example.com> <b@example.com>",
            "<a@example.com> b@example.com",
            "a@example.com; b@example.com",
            "Team: a@example.com",
            "a@example.com: b@example.com;",
            "Team: Others: a@example.com;;",
            "a\\b@example.com",
            "a@example.com)",
            "a@[127.0.0.1",
        ],
    )
    def test_that_readers_could_read_differently_is_refused(self, value: str) -> None:
        with pytest.raises(UnreadableList):
            addresses_in(value)

    @given(st.lists(st.text("abc ,;:<>@()\"\\é'", max_size=8), max_size=5))
    def test_with_names_quoted_as_python_does_has_all_its_addresses(self, names: list[str]) -> None:
        value = ", ".join(formataddr((name, f"a{index}@example.com")) for index, name in enumerate(names))
        assert addresses_in(value) == [f"a{index}@example.com" for index in range(len(names))]

    @given(st.lists(WORD, max_size=12).map("".join))
    def test_of_any_text_is_read_or_refused(self, value: str) -> None:
        with suppress(UnreadableList):
            assert all(isinstance(one, str) for one in addresses_in(value))

    @pytest.mark.parametrize(
        "text", ["(" * 100_000, "<" * 100_000, '"' * 100_001, "a," * 100_000, "(\\" * 50_000, "a " * 90_000]
    )
    def test_that_is_hostile_costs_little(self, text: str) -> None:
        begun = time.process_time()
        with suppress(UnreadableList):
            addresses_in(text)
        assert time.process_time() - begun < 20  # a tenth of a second; what is quadratic takes minutes
