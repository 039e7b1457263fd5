"""From the bytes of a notification to a notice about a grant or a mail, or to an immediate answer. Pure.

The signature covers the bytes as received, so it is checked before they are decompressed or parsed: without the secret
no input reaches a parser.
"""

from __future__ import annotations

import hmac
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import parse_qs

from sendq.clock import SECOND, Micros
from sendq.facts.notices import MailNotice
from sendq.rules.grant_notices import Kind
from sendq.webhooks.mail_notice import kind_of, mail_notice, time_of

# Nylas leaves the content out of notifications above 1 MiB (`.truncated`); the rest is for the envelope around it.
BODY_MOST = 1024 * 1024 + 64 * 1024

# Nylas's last attempt comes within 20 minutes of the first. A notification that is a day old on arrival is a replay.
# Must be less than the time for which ids are kept (SENDQ_KEEP_WEBHOOKS_DAYS).
STALE: Micros = 24 * 3600 * SECOND

# Ids of notifications and grants are UUIDs; this is far more than any known id needs.
ID_MOST = 255

# What `GET` may ask us to echo; theirs are a few dozen characters.
CHALLENGE_MOST = 1000

# "Notification schemas", grant.updated: 25014 is an ordinary update, 25027 one by a new sign-in.
REAUTHENTICATED = 25027

_GZIP = b"\x1f\x8b"  # no JSON begins like this
_GZIP_WINDOW = 31  # zlib's word for "gzip, with its header"


@dataclass(frozen=True, slots=True)
class Received:
    """The answer: the HTTP status, and a sentence for the body or a log, without personal data."""

    status: int
    says: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A signed notification about a grant. ``at`` is its time by the clock of Nylas; None: it has none."""

    id: str
    kind: Kind
    grant_id: str
    at: Micros | None


class _Answered(Exception):
    """The notification needs nothing but an answer."""

    def __init__(self, status: int, says: str) -> None:
        self.answer = Received(status, says)


TOO_LARGE = Received(413, "the notification is larger than any of Nylas's")


def challenge(query: str) -> str | None:
    """The value to return to the ``GET`` with which Nylas activates a webhook; None if the query string has none.

    Answer 200 with this value alone as ``text/plain``, within 10 seconds and not chunked ("Webhooks").
    """
    values = parse_qs(query).get("challenge", [])
    return values[0] if values and len(values[0]) <= CHALLENGE_MOST else None


def read(raw_body: bytes, *, signature: str | None, secret: str, now: Micros) -> Notice | MailNotice | Received:
    """The notice in a notification, or the answer if there is nothing to do.

    ``raw_body`` is the bytes exactly as received, even if compressed. ``signature`` is the header
    ``x-nylas-signature``: the hexadecimal HMAC-SHA256 of these bytes with ``secret``.

    Raises ``ValueError`` if ``secret`` is empty.
    """
    if not secret:
        raise ValueError("secret: is empty, so anyone could sign; pass the webhook's secret")
    if len(raw_body) > BODY_MOST:
        return TOO_LARGE
    if signature is None:
        return Received(401, "the header x-nylas-signature is missing")
    if not is_signed(raw_body, signature=signature, secret=secret):
        return Received(401, "the signature is not that of these bytes under this webhook's secret")
    try:
        return _notice(_envelope(_unpacked(raw_body)), now=now)
    except _Answered as answered:
        return answered.answer


def is_signed(raw_body: bytes, *, signature: str, secret: str) -> bool:
    """Whether it is the signature of these bytes, compared in constant time."""
    right = hmac.new(secret.encode(), raw_body, "sha256").hexdigest()
    return hmac.compare_digest(right.encode(), signature.strip().lower().encode(errors="replace"))


def _unpacked(raw_body: bytes) -> bytes:
    """The body, decompressed if it is gzip (``compressed_delivery``), whatever the headers say."""
    if not raw_body.startswith(_GZIP):
        return raw_body
    unpacking = zlib.decompressobj(_GZIP_WINDOW)
    try:
        body = unpacking.decompress(raw_body, BODY_MOST + 1)
    except zlib.error:
        raise _Answered(400, "the notification is not the gzip that it begins as") from None
    if len(body) > BODY_MOST:
        raise _Answered(TOO_LARGE.status, TOO_LARGE.says)
    if not unpacking.eof or unpacking.unused_data:
        raise _Answered(400, "the notification is not one whole gzip")
    return body


def _envelope(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _Answered(400, "the notification is not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise _Answered(400, "the notification is no CloudEvents envelope: it has no type")
    return found


def _notice(envelope: Mapping[str, Any], *, now: Micros) -> Notice | MailNotice:
    """The envelope's notice. Anything else is answered 200: another status only disables the webhook."""
    data = envelope.get("data")
    data = data if isinstance(data, dict) else {}
    facts = data.get("object")
    if not isinstance(facts, dict):
        facts = {}
    kind, about_mail = _kind(envelope["type"], facts), kind_of(envelope["type"])
    if kind is None and about_mail is None:
        raise _Answered(200, "ignored: notifications of this type change nothing here")
    notice_id = envelope.get("id")
    if not _is_id(notice_id):
        raise _Answered(400, "the notification is no CloudEvents envelope: it has no id")
    grant_id = next((one for one in (facts.get("grant_id"), data.get("grant_id")) if _is_id(one)), None)
    if grant_id is None:
        raise _Answered(200, "ignored: it names no grant")
    at = time_of(envelope.get("time"), now=now)
    if at is not None and at < now - STALE:
        raise _Answered(200, "ignored: it is more than a day old")
    if kind is not None:
        return Notice(notice_id, kind, grant_id, at)
    assert about_mail is not None
    return mail_notice(envelope, about_mail, notice_id=notice_id, grant_id=grant_id, at=at, now=now)


def _kind(trigger: str, facts: Mapping[str, Any]) -> Kind | None:
    if trigger == "grant.updated":
        signed_in = facts.get("reauthentication_flag") is True or facts.get("code") == REAUTHENTICATED
        return Kind.SIGNED_IN if signed_in or facts.get("grant_status") == "valid" else Kind.CHANGED
    return {"grant.expired": Kind.EXPIRED, "grant.created": Kind.SIGNED_IN, "grant.deleted": Kind.DELETED}.get(trigger)


def _is_id(value: object) -> TypeGuard[str]:
    """Printable ASCII: what neither database refuses, and no log line breaks on."""
    return isinstance(value, str) and 0 < len(value) <= ID_MOST and value.isascii() and value.isprintable()
