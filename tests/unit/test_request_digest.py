"""The digest of a request: equal for equal requests only."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from sendq.messages.digests import request_digest

KEY = b"k" * 32
REQUESTS: list[tuple[str, str, bytes, list[tuple[bytes, bytes]]]] = [
    ("json", "application/json", b"ab", []),
    ("mime", "application/json", b"ab", []),
    ("json", "text/plain", b"ab", []),
    ("json", "application/json", b"a", [(b"b", b"")]),
    ("json", "application/json", b"a", [(b"", b"b")]),
    ("json", "application/json", b"", [(b"a", b"b")]),
    ("json", "application/json", b"", [(b"a", b""), (b"b", b"")]),
]


def test_tells_requests_apart_that_have_the_same_bytes_in_other_parts() -> None:
    def digest(request: Any) -> bytes:
        return request_digest(KEY, *request)

    assert all(digest(one) != digest(other) for one, other in combinations(REQUESTS, 2))
    assert digest(REQUESTS[0]) == digest(REQUESTS[0])
