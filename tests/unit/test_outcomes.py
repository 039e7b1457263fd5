"""What a receiver of outcome webhooks can rely on: the signature, its window, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from typing import Any

import pytest

from sendq.outcomes import BODY_MOST, ID, SIGNATURE, TIMESTAMP, BadOutcome, secret_bytes, sign, verify

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OTHER = "whsec_" + base64.b64encode(KEY[::-1]).decode()
NOW = 1_780_000_000
EVENT = "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"


def request(body: dict[str, Any] | None = None, *, secret: str = SECRET, at: int = NOW) -> tuple[bytes, dict[str, str]]:
    raw = json.dumps({"id": EVENT, "timestamp": at, "kind": "sent"} if body is None else body).encode()
    return raw, {ID: EVENT, TIMESTAMP: str(at), SIGNATURE: sign(raw, event_id=EVENT, timestamp=at, secret=secret)}


class TestSigning:
    def test_is_what_standard_webhooks_says(self) -> None:
        body = b'{"a": 1}'
        digest = hmac.new(KEY, f"{EVENT}.{NOW}.".encode() + body, hashlib.sha256).digest()
        assert sign(body, event_id=EVENT, timestamp=NOW, secret=SECRET) == f"v1,{base64.b64encode(digest).decode()}"

    def test_agrees_with_the_example_of_the_specification(self) -> None:
        """The one in its reference libraries' tests."""
        signature = sign(
            b'{"test": 2432232314}',
            event_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
            timestamp=1614265330,
            secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        )
        assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    @pytest.mark.parametrize(
        "secret", ["", "whsec_", "whsec_short", SECRET.removeprefix("whsec_"), "whsec_!!!" + "A" * 40]
    )
    def test_wants_a_whole_secret(self, secret: str) -> None:
        with pytest.raises(ValueError, match="whsec_"):
            secret_bytes(secret)


class TestVerifying:
    def test_gives_what_was_told(self) -> None:
        raw, headers = request()
        assert verify(raw, headers, secret=SECRET, now=NOW) == {"id": EVENT, "timestamp": NOW, "kind": "sent"}

    def test_reads_headers_in_any_case(self) -> None:
        raw, headers = request()
        assert verify(raw, {name.title(): value for name, value in headers.items()}, secret=SECRET, now=NOW)

    def test_takes_several_secrets_while_one_replaces_the_other(self) -> None:
        raw, headers = request(secret=OTHER)
        assert verify(raw, headers, secret=[SECRET, OTHER], now=NOW)

    def test_takes_one_signature_of_several(self) -> None:
        raw, headers = request()
        headers[SIGNATURE] = f"v1,AAAA {headers[SIGNATURE]}"
        assert verify(raw, headers, secret=SECRET, now=NOW)

    @pytest.mark.parametrize("changed", ["body", ID, TIMESTAMP, SIGNATURE, "secret"])
    def test_refuses_what_was_tampered_with(self, changed: str) -> None:
        raw, headers = request()
        if changed == "body":
            raw = raw.replace(b"sent", b"dead")
        elif changed == TIMESTAMP:
            headers[changed] = str(NOW + 1)
        elif changed != "secret":
            headers[changed] = headers[changed][:-3] + "abc"
        with pytest.raises(BadOutcome, match="signature"):
            verify(raw, headers, secret=OTHER if changed == "secret" else SECRET, now=NOW)

    @pytest.mark.parametrize("now", [NOW + 301, NOW - 301])
    def test_refuses_what_is_played_again_outside_the_window(self, now: int) -> None:
        raw, headers = request()
        with pytest.raises(BadOutcome, match="too old"):
            verify(raw, headers, secret=SECRET, now=now)

    @pytest.mark.parametrize("now", [NOW + 300, NOW - 300])
    def test_takes_what_is_inside_of_it(self, now: int) -> None:
        raw, headers = request()
        assert verify(raw, headers, secret=SECRET, now=now)

    @pytest.mark.parametrize("missing", [ID, TIMESTAMP, SIGNATURE])
    def test_names_the_header_that_is_missing(self, missing: str) -> None:
        raw, headers = request()
        del headers[missing]
        with pytest.raises(BadOutcome, match=missing):
            verify(raw, headers, secret=SECRET, now=NOW)

    @pytest.mark.parametrize("stamp", ["", "now", "-1", "1e9", "١٧٨", "9" * 40])
    def test_refuses_a_time_that_is_none(self, stamp: str) -> None:
        raw, headers = request()
        with pytest.raises(BadOutcome):
            verify(raw, headers | {TIMESTAMP: stamp}, secret=SECRET, now=NOW)

    @pytest.mark.parametrize("body", [{"id": "another", "timestamp": NOW}, {"id": EVENT, "timestamp": NOW - 1}, {}])
    def test_refuses_a_body_of_another_id_or_time(self, body: dict[str, Any]) -> None:
        raw, headers = request(body)
        with pytest.raises(BadOutcome, match="differs from its headers"):
            verify(raw, headers, secret=SECRET, now=NOW)

    @pytest.mark.parametrize("raw", [b"", b"no json", b"[" * 60_000, b"7", b"\xff"])
    def test_refuses_a_signed_body_that_is_no_outcome(self, raw: bytes) -> None:
        _, headers = request()
        headers[SIGNATURE] = sign(raw, event_id=EVENT, timestamp=NOW, secret=SECRET)
        with pytest.raises(BadOutcome):
            verify(raw, headers, secret=SECRET, now=NOW)

    def test_does_not_even_hash_what_is_larger_than_any_outcome(self) -> None:
        _, headers = request()
        with pytest.raises(BadOutcome, match="larger"):
            verify(b"x" * (BODY_MOST + 1), headers, secret=SECRET, now=NOW)

    def test_needs_the_standard_library_alone(self) -> None:
        asked = (
            "import sys, sendq.outcomes; print([m for m in ('sqlalchemy', 'pydantic', 'aiohttp') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
