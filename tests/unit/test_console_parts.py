"""Parts of the console by themselves: words for times, limits of attempts, shared renderings, and its files."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode

import pytest

from sendq.console import files, passwords
from sendq.console.forms import SLICE, fields_of
from sendq.console.live import FORGOTTEN_S, Fragments, Rendered
from sendq.console.texts import TONES, absolute, relative, span, tone, words
from sendq.rules.states import State
from sendq.web.login_attempts import MOST, REMEMBERED, WINDOW_S, LoginAttempts

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


class TestTimes:
    @pytest.mark.parametrize(
        ("seconds", "says"),
        [(-5, "0 s"), (0.25, "0.2 s"), (9, "9 s"), (61, "61 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"),
         (8000, "2 h 13 min"), (36_000, "10 h"), (172_800, "2 days"), (176_400, "2 d 1 h"), (864_000, "10 days")],
    )  # fmt: skip
    def test_are_spans_in_their_largest_units(self, seconds: float, says: str) -> None:
        assert span(seconds) == says

    def test_are_relative_and_absolute(self) -> None:
        assert relative(NOW, NOW) == "now"
        assert relative(NOW - timedelta(minutes=3), NOW) == "3 min ago"
        assert relative(NOW + timedelta(hours=5), NOW) == "in 5 h"
        assert absolute(NOW.astimezone()) == "2026-07-01 12:00:00Z"


class TestStates:
    def test_are_words_and_each_that_needs_attention_has_a_tone(self) -> None:
        assert words("in_doubt") == "in doubt"
        assert {state.value for state in State if tone(state.value) == "plain"} == {"queued", "cancelled"}
        assert set(TONES.values()) == {"good", "bad", "warn", "busy"}


class TestAttempts:
    def attempts(self) -> LoginAttempts:
        self.now = 0.0
        return LoginAttempts(now=lambda: self.now)

    def test_are_limited_by_name_and_address_together(self) -> None:
        attempts = self.attempts()
        for _ in range(MOST["both"]):
            assert attempts.begin("anna", "10.0.0.1") == 0
        assert attempts.begin("anna", "10.0.0.1") == WINDOW_S
        assert attempts.begin("anna", "10.0.0.2") == 0
        assert attempts.begin("vera", "10.0.0.1") == 0

    def test_are_limited_by_address_whatever_the_names(self) -> None:
        attempts = self.attempts()
        waits = [attempts.begin(f"name-{number}", "10.0.0.1") for number in range(MOST["address"] + 1)]
        assert [wait > 0 for wait in waits] == [False] * MOST["address"] + [True]

    def test_from_a_network_of_ipv6_are_those_of_one_address(self) -> None:
        attempts = self.attempts()
        waits = [attempts.begin(f"n{number}", f"2001:db8:1:2::{number:x}") for number in range(MOST["address"] + 1)]
        assert [wait > 0 for wait in waits] == [False] * MOST["address"] + [True]
        assert attempts.begin("anna", "2001:db8:1:3::1") == 0
        assert [attempts.begin(f"m{number}", f"::ffff:10.0.0.{number}") for number in range(MOST["address"] + 1)] == [
            0
        ] * (MOST["address"] + 1)

    def test_are_limited_by_name_whatever_the_addresses(self) -> None:
        attempts = self.attempts()
        waits = [attempts.begin("anna", f"10.0.0.{number}") for number in range(MOST["name"] + 1)]
        assert [wait > 0 for wait in waits] == [False] * MOST["name"] + [True]

    def test_are_forgotten_after_the_window_or_a_success(self) -> None:
        attempts = self.attempts()
        for _ in range(MOST["both"]):
            attempts.begin("anna", "a")
        self.now = WINDOW_S - 1
        assert attempts.begin("anna", "a") == 1
        self.now = WINDOW_S
        assert attempts.begin("anna", "a") == 0
        attempts.succeeded("anna", "a")
        assert [attempts.begin("anna", "a") for _ in range(MOST["both"])] == [0] * MOST["both"]

    def test_of_very_many_take_no_more_memory(self) -> None:
        attempts = self.attempts()
        for number in range(REMEMBERED):
            attempts.begin(f"name-{number}", f"address-{number}")
        assert len(attempts._failures) == REMEMBERED


class TestSharedRenderings:
    def test_are_made_once_for_all_who_ask_within_an_interval(self) -> None:
        now = 0.0
        fragments = Fragments(every_s=5.0, clock=lambda: now)
        made: list[str] = []

        async def get(key: str) -> Rendered:
            async def render() -> Rendered:
                made.append(key)
                await asyncio.sleep(0)
                return Rendered("page", f"{key} {len(made)}")

            return await fragments.get((key,), render)

        async def all_of_them() -> None:
            nonlocal now
            first = await asyncio.gather(*(get("a") for _ in range(50)))
            assert {one.text for one in first} == {"a 1"}
            await get("b")
            now = 4.0
            assert (await get("a")).text == "a 1"
            now = 5.0
            assert (await get("a")).text == "a 3"
            now += FORGOTTEN_S + 1
            await get("c")
            assert set(fragments._shared) == {("c",)}

        asyncio.run(all_of_them())
        assert made == ["a", "b", "a", "c"]

    def test_are_events_without_line_breaks(self) -> None:
        assert Rendered("page", "<p>\n</p>").event() == 'event: page\ndata: "<p>\\n</p>"\n\n'


class TestForms:
    @pytest.mark.parametrize(
        "fields",
        [
            {"a": "", "b": "x=y&z", "ü": "é + ü"},
            {"message": "<" * SLICE, "reason": "ü%41"},
            {"message": "x" + "ü" * SLICE},
            {"message": "xy" + "%" * SLICE},
            {str(number): "" for number in range(100)},
        ],
    )
    def test_are_read_as_browsers_write_them(self, fields: dict[str, str]) -> None:
        body = urlencode(fields)
        assert fields_of(body.encode()) == fields == dict(parse_qsl(body, keep_blank_values=True))

    @pytest.mark.parametrize("body", [b"\xff\xfe=1", b"a=%ff", b"&".join([b"a=1"] * 101), b"&" * 1000])
    def test_that_are_none_are_refused(self, body: bytes) -> None:
        with pytest.raises(ValueError, match=r"fields|utf-8"):
            fields_of(body)

    def test_take_little_memory(self) -> None:
        body = b"message=" + b"%3C" * 500_000
        tracemalloc.start()
        try:
            fields_of(body)
            assert tracemalloc.get_traced_memory()[1] < 5 * len(body)  # all escapes at once: 80 times as much
        finally:
            tracemalloc.stop()


class TestFiles:
    def test_include_htmx_as_it_was_published_with_its_licence(self) -> None:
        """htmx.org 2.0.11 from npm: `npm view htmx.org@2.0.11`, dist/htmx.min.js."""
        found = hashlib.sha256(files.content("htmx.min.js")).hexdigest()
        assert found == "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
        assert "Zero-Clause BSD" in (files.STATIC / "htmx-LICENSE").read_text(encoding="utf-8")

    def test_are_all_served_but_the_licence(self) -> None:
        assert {path.name for path in files.STATIC.iterdir()} - {"htmx-LICENSE"} == set(files.TYPES)

    def test_name_no_other_host(self) -> None:
        for name in ("console.css", "console.js"):
            assert b"//" not in files.content(name).replace(b"// ", b"")


def test_a_hash_of_a_password_costs_what_it_should() -> None:
    """RFC 7914 and OWASP: scrypt with 32 MiB or more."""
    assert 128 * passwords.COST * passwords.BLOCK >= 32 * 1024 * 1024
