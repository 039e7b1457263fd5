"""From an event of ``GET /v3/activity/send`` to a notice about a mail. Pure.

Facts: Nylas's reference of the send events (November 2026), which cover Agent Accounts. Each event is about one
recipient. ``accepted`` says no more than the answer to the send did: a mail that Nylas has queued may still fail, so it
is no evidence that the mail went out. The name of an event's time is not known from the reference; several are tried.
What has another shape is no notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sendq.clock import Micros
from sendq.facts.notices import MailNotice, Recipient
from sendq.rules.delivery import Delivery
from sendq.webhooks.mail_notice import addresses_of, jobs_of, message_id_of, time_of, words_of

ACCEPTED = "accepted"

KINDS: Mapping[str, Delivery | None] = {
    ACCEPTED: None,
    "delivered": Delivery.DELIVERED,
    "bounced": Delivery.BOUNCED,
    "complaint": Delivery.COMPLAINED,
    "rejected": Delivery.REJECTED,
}

# What `source` and the counts call these events, as the notifications are called "message.bounced".
PREFIX = "send_event."

_TIMES = ("timestamp", "event_time", "occurred_at", "created_at", "time", "date")
ID_MOST = 255  # characters; theirs are 64 hexadecimal digits


def notice_of_event(event: object, *, now: Micros) -> MailNotice | None:
    """The notice in an event; None: it is none that is known. Its `delivery` is None if it was only accepted."""
    if not isinstance(event, dict):
        return None
    kind, grant_id, event_id = event.get("event_type"), event.get("grant_id"), event.get("id")
    message_id = message_id_of(event.get("message_id"))
    if not isinstance(kind, str) or kind not in KINDS or message_id is None:
        return None
    if not _is_id(grant_id) or not _is_id(event_id):
        return None
    detail = words_of(event.get("bounce_class"), event.get("reason"))
    hard = kind == "bounced" and event.get("bounce_class") == "hard"
    addresses = list(addresses_of(event.get("recipient")))[:1]
    return MailNotice(
        id=f"{PREFIX}{event_id}",
        kind=f"{PREFIX}{kind}",
        delivery=KINDS[kind],
        grant_id=str(grant_id),
        jobs=jobs_of(event),
        message_id=message_id,
        at=_time_of(event, now=now),
        detail=detail,
        recipients=tuple(Recipient(one, None, detail, hard) for one in addresses),
    )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= ID_MOST and value.isprintable()


def _time_of(event: Mapping[str, Any], *, now: Micros) -> Micros | None:
    times = (time_of(event.get(name), now=now) for name in _TIMES)
    return next((at for at in times if at is not None), None)
