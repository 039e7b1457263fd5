"""Receiving outcome webhooks: verify the signature and the time, and parse the outcome.

    from sendq.outcomes import BadOutcome, verify

    outcome = verify(request_body, request_headers, secret="whsec_…")      # the unmodified bytes
    if outcome["kind"] == "dead": …

An outcome is delivered *at least once*: store its ``id`` and ignore repeats. Outcomes of one job are delivered in
order, and each has an increasing ``sequence``, so a receiver that handles several at once can recognise an older one.
Any status from 200 to 299 within ten seconds acknowledges it; anything else is retried, for up to 72 hours.

The format is Standard Webhooks (https://www.standardwebhooks.com), for which there are libraries in many languages: the
header ``webhook-signature`` is ``v1,`` and the base64 of the HMAC-SHA256 over
``<webhook-id>.<webhook-timestamp>.<body>`` with the secret's bytes. This module needs only the standard library.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from typing import Any

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"

# Allowed difference between signature and clock, as Standard Webhooks recommends. Each attempt has a new signature.
WINDOW_S = 300.0

# Shorter keys than this can be guessed; longer ones add nothing to SHA-256's block.
SECRET_PREFIX, SECRET_LEAST, SECRET_MOST = "whsec_", 24, 64

BODY_MOST = 64 * 1024  # bytes; an outcome has less than four thousand


class BadOutcome(ValueError):
    """The request is not an authentic, recent, complete outcome: answer 400. The message never quotes its content."""


def secret_bytes(secret: str) -> bytes:
    """The bytes of a secret: ``whsec_`` and the base64 of 24 to 64 bytes. Raises ``ValueError``."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (NotBase64, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not SECRET_LEAST <= len(key) <= SECRET_MOST:
        raise ValueError(
            f"the secret is not {SECRET_PREFIX} followed by the base64 of {SECRET_LEAST} to {SECRET_MOST} bytes"
        )
    return key


def sign(raw_body: bytes, *, event_id: str, timestamp: int, secret: str) -> str:
    """The header ``webhook-signature`` for these bytes. ``timestamp``: seconds since 1970."""
    signed = f"{event_id}.{timestamp}.".encode() + raw_body
    return "v1," + base64.b64encode(hmac.digest(secret_bytes(secret), signed, "sha256")).decode()


def verify(
    raw_body: bytes,
    headers: Mapping[str, str],
    *,
    secret: str | Iterable[str],
    now: float | None = None,
    window_s: float = WINDOW_S,
) -> dict[str, Any]:
    """Verify a request, and return its outcome.

    ``headers`` are case-insensitive. ``secret`` may be several, during a rotation. ``now`` is in seconds since 1970
    (default: the clock); ``window_s`` is how far the signature's time may be from it.

    Raises:
        BadOutcome: answer 400.
        ValueError: a secret is malformed.
    """
    named = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, stamp, given = named[ID], named[TIMESTAMP], named[SIGNATURE]
    except KeyError as missing:
        raise BadOutcome(f"the header {missing.args[0]} is missing") from None
    if len(raw_body) > BODY_MOST:
        raise BadOutcome("it is larger than any outcome")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise BadOutcome(f"the header {TIMESTAMP} is not a time in whole seconds")
    _check_signature(raw_body, event_id, int(stamp), given, [secret] if isinstance(secret, str) else list(secret))
    if abs((time.time() if now is None else now) - int(stamp)) > window_s:
        raise BadOutcome("its timestamp is too old, or in the future: a replay, or a wrong clock")
    try:
        outcome = json.loads(raw_body)
    except (ValueError, RecursionError):
        raise BadOutcome("its body is not JSON") from None
    if not isinstance(outcome, dict) or (outcome.get("id"), outcome.get("timestamp")) != (event_id, int(stamp)):
        raise BadOutcome("the id or time in its body differs from its headers")
    return outcome


def _check_signature(raw_body: bytes, event_id: str, timestamp: int, given: str, secrets: list[str]) -> None:
    right = [sign(raw_body, event_id=event_id, timestamp=timestamp, secret=one).encode() for one in secrets]
    offered = [one.encode(errors="replace") for one in given.split(" ")[:10]]
    if not any(hmac.compare_digest(one, other) for one in right for other in offered):
        raise BadOutcome("the signature does not match body and secret")
