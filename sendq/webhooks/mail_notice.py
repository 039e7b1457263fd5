"""From the payload of a notification to a notice about a mail. Pure.

Facts: the schemas of Nylas's "Notification reference" (September 2026). ``grant_id`` is beside ``object``, or in it.
Notifications of connected accounts name the mail by its id (``message.bounce_detected``: ``origin.id``), those of Agent
Accounts have its metadata too. ``message.send_failed`` has ``reason`` and ``error`` beside ``object``, which may be
null. Where the documents leave it open, anything is accepted: a text where a list is announced, an object with
``email`` where an address is; and the published examples contradict the schemas of both ``send_`` types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

from sendq.clock import SECOND, Micros, micros
from sendq.facts.notices import MailNotice, Recipient
from sendq.messages.mark import METADATA_KEYS
from sendq.redaction import redact_answer
from sendq.rules.delivery import Delivery
from sendq.rules.suppression import is_hard_bounce

# A time further ahead than this is not a difference between clocks, but an invalid time.
AHEAD_MOST: Micros = 3600 * SECOND

# Ids of messages are up to some hundred characters (RFC 5322 allows 998 in a line).
MESSAGE_ID_MOST = 998

DETAIL_MOST = 300  # characters

# More than a provider takes in one mail (Microsoft: 500, at most 1,000).
RECIPIENTS_MOST = 1_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\ud800-\udfff\ufeff]+")
_BETWEEN_ADDRESSES = re.compile(r"[\s<>,;\"']+")
ADDRESS_MOST = 320  # characters: 64 before the @ and 255 after it (RFC 5321)

Facts = Mapping[str, Any]

# What each type says of its mail; None: nothing that is used, so it is only counted.
KINDS: Mapping[str, Delivery | None] = {
    "message.send_success": Delivery.CONFIRMED,
    "message.send_failed": Delivery.FAILED_LATER,
    "message.bounce_detected": Delivery.BOUNCED,
    "message.bounced": Delivery.BOUNCED,
    "message.complaint": Delivery.COMPLAINED,
    "message.rejected": Delivery.REJECTED,
    "message.delivered": Delivery.DELIVERED,
    "thread.replied": None,
}

# Nylas sends these variants if it leaves something out, or if the application changes what it gets.
_VARIANT = re.compile(r"\.(?:truncated|transformed)$")


def kind_of(trigger: str) -> str | None:
    """The kind of a notification about a mail; None: it is about something else."""
    kind = _VARIANT.sub("", trigger)
    return kind if kind in KINDS else None


def mail_notice(
    envelope: Facts, kind: str, *, notice_id: str, grant_id: str, at: Micros | None, now: Micros
) -> MailNotice:
    """The notice in an envelope of that kind; ``at`` is the envelope's time."""
    data = _facts(envelope.get("data"))
    facts = _facts(data.get("object"))
    mail = _mail(kind, facts)
    own_at, detail = _details(kind, data, facts, now=now)
    attempt = envelope.get("webhook_delivery_attempt")
    return MailNotice(
        id=notice_id,
        kind=kind,
        delivery=KINDS[kind],
        grant_id=grant_id,
        jobs=jobs_of(mail),
        message_id=_message_id(kind, facts, mail),
        at=own_at if own_at is not None else at,
        detail=detail,
        recipients=_recipients(kind, facts, mail),
        attempt=attempt if isinstance(attempt, int) and not isinstance(attempt, bool) else 1,
    )


def _facts(value: object) -> Facts:
    return value if isinstance(value, dict) else {}


def _mail(kind: str, facts: Facts) -> Facts:
    """The part that describes the mail."""
    if kind == "message.bounce_detected":
        return _facts(facts.get("origin"))
    return _facts(facts.get("message")) or facts


def _message_id(kind: str, facts: Facts, mail: Facts) -> str | None:
    name = "root_message_id" if kind == "thread.replied" else "id"
    given = (mail.get(name), facts.get("message_id") if kind == "message.bounce_detected" else None)
    return next((one for one in map(message_id_of, given) if one is not None), None)


def message_id_of(value: object) -> str | None:
    """A message's id; None: it cannot be one."""
    fits = isinstance(value, str) and 0 < len(value) <= MESSAGE_ID_MOST and value.isprintable()
    return str(value) if fits else None


def jobs_of(mail: Facts) -> tuple[UUID, ...]:
    """The ids of jobs that a mail's metadata may name."""
    metadata = _facts(mail.get("metadata"))
    found = (_uuid(metadata.get(name)) for name in METADATA_KEYS)
    return tuple(one for one in found if one is not None)


def _uuid(value: object) -> UUID | None:
    if not isinstance(value, str) or len(value) != 36:
        return None
    try:
        return UUID(value)
    except ValueError:
        return None


def _details(kind: str, data: Facts, facts: Facts, *, now: Micros) -> tuple[Micros | None, str | None]:
    """When it happened, and the words for it."""
    match kind:
        case "message.send_failed":
            error = _facts(data.get("error"))
            return None, words_of(data.get("reason"), error.get("type"), error.get("message"), error.get("status_code"))
        case "message.bounce_detected":
            words = words_of(facts.get("type"), facts.get("code"), facts.get("bounce_reason"))
            return time_of(facts.get("bounce_date"), now=now), words
        case "message.bounced":
            bounce = _facts(facts.get("bounce"))
            codes = [one.get("diagnostic_code") for one in _list(bounce.get("recipients")) if isinstance(one, dict)]
            return time_of(bounce.get("bounced_at"), now=now), words_of(bounce.get("type"), *codes[:3])
        case "message.complaint":
            complaint = _facts(facts.get("complaint"))
            return time_of(complaint.get("reported_at"), now=now), words_of(complaint.get("type"))
        case "message.delivered":
            return time_of(_facts(facts.get("delivered")).get("delivered_at"), now=now), None
        case "message.rejected":
            return time_of(facts.get("rejected_at"), now=now), None
    return None, None


def _recipients(kind: str, facts: Facts, mail: Facts) -> tuple[Recipient, ...]:
    positions: dict[str, int] = {}
    for name in ("to", "cc", "bcc"):
        for value in _list(mail.get(name)):
            for address in addresses_of(value):
                positions.setdefault(address.casefold(), len(positions) + 1)
    found: dict[str, Recipient] = {}
    for value in _named(kind, facts):
        code = value.get("diagnostic_code") if isinstance(value, dict) else None
        hard = _is_hard(kind, facts, code)
        for address in addresses_of(value):
            if len(found) < RECIPIENTS_MOST:
                name = address.casefold()
                found.setdefault(name, Recipient(address, positions.get(name), words_of(code), hard))
    return tuple(found.values())


def _is_hard(kind: str, facts: Facts, code: object) -> bool:
    match kind:
        case "message.bounce_detected":
            return is_hard_bounce(kind, facts.get("type"), facts.get("bounce_reason"), facts.get("code"))
        case "message.bounced":
            return is_hard_bounce(kind, _facts(facts.get("bounce")).get("type"), code)
    return False


def _named(kind: str, facts: Facts) -> list[Any]:
    match kind:
        case "message.bounce_detected":
            return _list(facts.get("bounced_addresses"))
        case "message.bounced":
            return _list(_facts(facts.get("bounce")).get("recipients"))
        case "message.complaint":
            return _list(_facts(facts.get("complaint")).get("complained_recipients"))
        case "message.delivered":
            return _list(_facts(facts.get("delivered")).get("recipients"))
    return []


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value[: 2 * RECIPIENTS_MOST]
    return [value] if isinstance(value, str | dict) else []


def addresses_of(value: object) -> Iterator[str]:
    """The addresses in a text, or in an object with ``email``."""
    text = value.get("email") if isinstance(value, dict) else value
    if isinstance(text, str):
        parts = _BETWEEN_ADDRESSES.split(text[: 100 * ADDRESS_MOST])
        yield from (part for part in parts if "@" in part[1:-1] and len(part) <= ADDRESS_MOST)


def words_of(*parts: object) -> str | None:
    """Words of an outsider as the ledger may keep them; each only once."""
    texts = dict.fromkeys(str(part) for part in parts if isinstance(part, str | int) and not isinstance(part, bool))
    text = " | ".join(_CONTROL.sub(" ", one[: 4 * DETAIL_MOST]).strip() for one in texts)
    text = redact_answer(" ".join(text.split()))
    return text[: DETAIL_MOST - 1] + "…" if len(text) > DETAIL_MOST else text or None


def time_of(value: Any, *, now: Micros) -> Micros | None:
    """A time, from seconds since 1970, ISO 8601 or RFC 5322; None if it is none of them, or lies in the future."""
    try:
        if isinstance(value, str):
            given = datetime.fromisoformat(value) if value[:1].isdigit() else parsedate_to_datetime(value)
            at = micros(given if given.tzinfo is not None else given.replace(tzinfo=UTC))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            at = int(value * SECOND)
        else:
            return None
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return at if 0 < at <= now + AHEAD_MOST else None
