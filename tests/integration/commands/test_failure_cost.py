"""What routing costs: any body, of any size and nesting, within 50 ms of CPU, since the calls share an event loop."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from functools import partial

import pytest

from tasks.policy.body import JSON_BYTES, cut
from tasks.policy.decide import JobFacts, decide
from tasks.policy.failure import Answer, Failure, parse

BUDGET_S = 0.050
# What `yardstick` takes on the machine for which the budget is meant. Where it takes longer, so may routing.
YARDSTICK_S = 0.010
NOW = 1_767_863_513_000_000


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU that the work takes when nothing disturbs it: the least of three."""
    return min(_once(work) for _ in range(3))


def _once(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def yardstick() -> int:
    """Work whose cost is known."""
    total = 0
    for number in range(300_000):
        total += number
    return total


def message(text: str) -> bytes:
    return json.dumps({"error": {"type": "api.provider_error", "message": text}}).encode()


def filled(opening: bytes, piece: bytes, closing: bytes) -> bytes:
    """Pieces up to the largest body that is read."""
    room = JSON_BYTES - len(opening) - len(closing) - 16
    return opening + piece * (room // len(piece)) + closing


BODIES = {
    "256 KiB of @": message("@" * 262_144),
    "4 MiB of @": filled(b'{"error":{"message":"', b"@", b'"}}'),
    "4 MiB of %40": filled(b'{"error":{"message":"', b"%40", b'"}}'),
    "4 MiB of quoted @": filled(b'{"error":{"message":"', b'\\"@', b'"}}'),
    "4 MiB of escapes": filled(b'{"data":{"body":"', b"\\u0040", b'"}}'),
    "4 MiB of digits": filled(b'{"error":"', b"1", b'"}'),
    "4 MiB of numbers": filled(b'{"error":[', b"1,", b"1]}"),
    "4 MiB of lists": filled(b'{"error":[', b"[],", b"[]]}"),
    "4 MiB of objects": filled(b'{"error":[', b"{},", b"{}]}"),
    "4 MiB of texts": filled(b'{"error":[', b'"@",', b'""]}'),
    "4 MiB of members": filled(b"{", b'"a":1,', b'"b":1}'),
    "4 MiB of broken UTF-8": b"\xff" * JSON_BYTES,
    "4 MiB of nesting": b"[" * JSON_BYTES,
    "nested objects": b'{"error":' * 100_000,
    "100 MB of @": b'{"error":"' + b"@" * 100_000_000,
    "a compressed bomb": gzip.compress(b'{"error":"' + b"@" * 50_000_000, 1),
    "a type of @": json.dumps({"error": {"type": "@" * 1_000_000, "message": "x"}}).encode(),
    "many texts of @": json.dumps({"error": {"a": ["@" * 4_000] * 900}}).encode(),
    "many refused": json.dumps({"failures": {f"{n}@x": [550, "no"] for n in range(90_000)}}).encode(),
    "tags": b"<" * 65_536,
    "titles": b"<title" * 20_000,
    "reset": message("reset" * 40_000),
    "retry after": message("retry after " * 20_000),
    "try again in 1": message("try again in 1 m " * 20_000),
    "reply codes": message("550 " * 20_000),
    "enhanced codes": message("4.1.1." * 20_000),
    "control characters": message("\x00\u200b" * 100_000),
}


class TestRouting:
    @pytest.mark.parametrize("name", BODIES)
    def test_takes_no_more_than_50_ms_of_cpu(self, name: str) -> None:
        body = BODIES[name]

        def route(status: int) -> None:
            outcome = parse(Answer(status, {}, body), provider="imap", operation="send", now=NOW)
            decide(outcome, JobFacts("send"), now=NOW, chance=lambda: 0.5)

        budget = BUDGET_S * max(1.0, cpu(yardstick) / YARDSTICK_S)
        for status in (200, 422, 503):
            assert cpu(partial(route, status)) < budget

    def test_of_long_headers_takes_no_more_either(self) -> None:
        headers = dict.fromkeys(("retry-after", "content-type", "x-request-id"), "9" * 1_000_000)

        def route() -> None:
            parse(Answer(429, headers, b"{}"), provider="imap", operation="send", now=NOW)

        assert cpu(route) < BUDGET_S * max(1.0, cpu(yardstick) / YARDSTICK_S)


class TestWhatIsCut:
    def test_leaves_no_first_part_of_an_address_behind(self) -> None:
        for length in range(3_950, 4_010):
            text = "x " * (length // 2) + "leyah.smith@example.com and more" + " y" * 5_000
            outcome = parse(Answer(422, {}, message(text)), provider="imap", operation="send", now=NOW)
            assert isinstance(outcome, Failure)
            assert "leyah" not in outcome.text + outcome.message

    @pytest.mark.parametrize(
        ("text", "chars", "kept"),
        [
            ("short", 10, "short"),
            ("two words", 6, "two "),
            ('said "leyah smith"@example.com', 12, "said "),
            ("<a@b.c>, <leyah@b.c>", 13, "<a@b.c>, <"),
            ("@@@@@@", 4, "@@@@"),
            ("unbroken", 4, ""),
        ],
    )
    def test_ends_after_a_whole_word(self, text: str, chars: int, kept: str) -> None:
        assert cut(text, chars) == kept
