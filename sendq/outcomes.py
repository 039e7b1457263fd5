"""Outcome webhooks, for those who receive them: is it ours, is it fresh, what does it say?

    from sendq.outcomes import BadOutcome, verify

    outcome = verify(request_body, request_headers, secret="whsec_…")      # the bytes exactly as they came
    if outcome["kind"] == "dead": …

An outcome comes *at least once*: keep its ``id`` and do nothing the second time. Outcomes of one job come in their
order, and each carries a ``sequence`` that grows, so a receiver that takes in several at once can tell an older one
too. Any status from 200 to 299 within ten seconds means "taken in"; anything else is tried again, for up to 72 hours.

The form is that of Standard Webhooks (https://www.standardwebhooks.com), for which there are libraries in many
languages: the header ``webhook-signature`` holds ``v1,`` and the base64 of the HMAC-SHA256 over
``<webhook-id>.<webhook-timestamp>.<body>`` under the secret's bytes. Nothing here needs more than the standard library.
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

# How old a signature may be, and how far ahead: what Standard Webhooks recommends. Each try is signed anew.
WINDOW_S = 300.0

# Shorter keys than this can be guessed; longer ones add nothing to SHA-256's block.
SECRET_PREFIX, SECRET_LEAST, SECRET_MOST = "whsec_", 24, 64

BODY_MOST = 64 * 1024  # bytes; an outcome has less than four thousand


class BadOutcome(ValueError):
    """It is not from us, not fresh, or not whole: answer 400 and do nothing. Says why, and nothing of what it holds."""


def secret_bytes(secret: str) -> bytes:
    """The key that a secret stands for: ``whsec_`` and the base64 of 24 to 64 bytes. Raises ``ValueError``."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (NotBase64, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not SECRET_LEAST <= len(key) <= SECRET_MOST:
        raise ValueError(f"the secret is not {SECRET_PREFIX} and the base64 of {SECRET_LEAST} to {SECRET_MOST} bytes")
    return key


def sign(raw_body: bytes, *, event_id: str, timestamp: int, secret: str) -> str:
    """The value of ``webhook-signature`` for these bytes. ``timestamp`` in seconds since 1970."""
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
    """The outcome in a request, once it is sure that it is whole, fresh, and from somebody who knows the secret.

    ``headers`` may be spelled in any case. ``secret`` may be several, while one is being exchanged for another. ``now``
    is in seconds since 1970 (default: the clock); ``window_s`` bounds how far the signature's time may be from it.

    Raises:
        BadOutcome: answer 400.
        ValueError: a secret is none.
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
        raise BadOutcome("it was signed too long ago, or in the future: played again, or a clock is wrong")
    try:
        outcome = json.loads(raw_body)
    except (ValueError, RecursionError):
        raise BadOutcome("its body is not JSON") from None
    if not isinstance(outcome, dict) or (outcome.get("id"), outcome.get("timestamp")) != (event_id, int(stamp)):
        raise BadOutcome("its body has another id or time than its headers")
    return outcome


def _check_signature(raw_body: bytes, event_id: str, timestamp: int, given: str, secrets: list[str]) -> None:
    right = [sign(raw_body, event_id=event_id, timestamp=timestamp, secret=one).encode() for one in secrets]
    offered = [one.encode(errors="replace") for one in given.split(" ")[:10]]
    if not any(hmac.compare_digest(one, other) for one in right for other in offered):
        raise BadOutcome("the signature is not that of these bytes under this secret")
