"""What becomes of accepted mail, and the notifications about it, signed and delivered as Nylas does.

A magic recipient in ``to``, ``cc`` or ``bcc`` decides (``bounce+7@example.com`` too):

    bounce@…        its copy bounces: ``message.bounced`` for Agent Accounts (provider ``nylas``), and
                    ``message.bounce_detected`` for Google, Microsoft, iCloud and Yahoo
    complaint@…     it is marked as spam: ``message.complaint``, for Agent Accounts
    late-failure@…  the send is answered 202 and never goes out: ``message.send_failed``. A later send of the same job
                    goes out

Other copies of an Agent Account's mail are delivered: ``message.delivered``. Facts: Nylas's "Notification reference"
and its changelog of 2026-10-09 (a queued send has the answer of a 200, with status 202). The published schema of
``message.send_failed`` has no metadata, and neither does this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import format_datetime
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from sendq.clock import SECOND, moment
from sendq.simulator.send_events import SendEvent, events_of
from sendq.simulator.store import Grant, Message, Notification

LATE_FAILURE = "late-failure"
BOUNCE, COMPLAINT = "bounce", "complaint"

# Connected accounts whose bounces Nylas detects.
DETECTED = frozenset({"google", "microsoft", "icloud", "yahoo"})

# Nylas delivers a notification again on these, and if it cannot connect; three times in all ("Webhooks").
AGAIN = frozenset({408, 429, 502, 503, 504, 507})
ATTEMPTS_MOST = 3
ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where notifications go. ``delay``: seconds until a notification is delivered; ``again_after``: until the next
    attempt (the real API: minutes).
    """

    url: str
    secret: str
    delay: float = 0.0
    again_after: float = 0.2


class Reports:
    """Creates notifications, and delivers them from the simulator's event loop."""

    def __init__(self, clock: Callable[[], float], next_id: Callable[[], int], changed: Callable[[], None]) -> None:
        self._clock, self._next_id, self._changed = clock, next_id, changed
        self.webhook: Webhook | None = None
        self.clear()
        self._tasks: set[asyncio.Task[None]] = set()

    def clear(self) -> None:
        """Forget everything but the webhook."""
        self.notifications: list[Notification] = []
        self.events: list[SendEvent] = []
        self._failed: set[tuple[str, str]] = set()

    def fails_later(self, grant: Grant, payload: Mapping[str, Any], job: str | None) -> bool:
        """Whether this send is queued and never goes out; the first one of its job."""
        if not any(_magic(address) == LATE_FAILURE for address in _addresses(payload)):
            return False
        if job is None:
            return True
        if (grant.id, job) in self._failed:
            return False
        self._failed.add((grant.id, job))
        return True

    def failed(self, grant: Grant, message: Message) -> None:
        """A queued send never went out."""
        document = message.document
        shown = {name: document[name] for name in ("id", "grant_id", "object", "subject", "from", "to", "cc", "bcc")}
        error = {"type": "api.provider_error", "message": "The message could not be sent.", "status_code": 550}
        self._note("message.send_failed", grant, shown, reason="The message could not be sent.", error=error)

    def accepted(self, grant: Grant, message: Message, *, shown_at: float = 0.0) -> None:
        """A mail went out: note what becomes of its copies. ``shown_at``: when its send events are first listed."""
        document, at = message.document, int(self._clock())
        addresses = list(_addresses(document))
        bounced = [one for one in addresses if _magic(one) == BOUNCE]
        complained = [one for one in addresses if _magic(one) == COMPLAINT]
        if grant.provider != "nylas":
            for address in bounced if grant.provider in DETECTED else ():
                self._note("message.bounce_detected", grant, _detected(grant, document, address, at))
            return
        outcomes = [(one, "accepted") for one in addresses]
        outcomes += [(one, "bounced" if one in bounced else "delivered") for one in addresses]
        outcomes += [(one, "complaint") for one in complained]
        events = events_of(document, outcomes, at=at, first_id=self._next_id())
        self.events += [SendEvent(one, shown_at) for one in events]
        about = {"message": _mail(document, at)}
        delivered = [one for one in addresses if one not in bounced]
        if delivered:
            self._note("message.delivered", grant, about | {"delivered": {"delivered_at": at, "recipients": delivered}})
        if bounced:
            codes = [{"email": one, "diagnostic_code": "smtp; 550 5.1.1 user unknown"} for one in bounced]
            bounce = {"bounced_at": at, "type": "General", "recipients": codes}
            self._note("message.bounced", grant, about | {"bounce": bounce})
        if complained:
            complaint = {"reported_at": at, "type": "abuse", "complained_recipients": complained}
            self._note("message.complaint", grant, about | {"complaint": complaint})

    def replied(self, grant: Grant, root: Message, answer: Message) -> None:
        """Somebody answered in a thread that is tracked."""
        facts = {
            "message_id": answer.document["id"], "root_message_id": root.document["id"],
            "thread_id": answer.document["thread_id"], "timestamp": int(self._clock()), "label": "",
            "reply_data": {"count": 1}, "sender_app_id": "simulator",
        }  # fmt: skip
        self._note("thread.replied", grant, facts)

    def _note(self, kind: str, grant: Grant, facts: Mapping[str, Any], **beside: Any) -> None:
        envelope = {
            "specversion": "1.0",
            "type": kind,
            "source": "/nylas/send",
            "id": f"notification-{self._next_id():012x}",
            "time": int(self._clock()),
            "webhook_delivery_attempt": 1,
            "data": {"application_id": "simulator", "grant_id": grant.id, "object": dict(facts), **beside},
        }
        notification = Notification(envelope, [])
        self.notifications.append(notification)
        if self.webhook is not None:
            self._start(notification, self.webhook)

    def deliver_again(self, notifications: Sequence[Notification]) -> None:
        """Deliver notifications once more, as Nylas may. Call it in the simulator's event loop."""
        for notification in notifications:
            if self.webhook is not None:
                self._start(notification, self.webhook)

    def _start(self, notification: Notification, webhook: Webhook) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(notification, webhook))
        self._tasks.add(task)  # the loop itself keeps weak references only
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, notification: Notification, webhook: Webhook) -> None:
        await asyncio.sleep(webhook.delay)
        async with ClientSession(timeout=ClientTimeout(total=ANSWER_S)) as session:
            for attempt in range(1, ATTEMPTS_MOST + 1):
                body = json.dumps(notification.envelope | {"webhook_delivery_attempt": attempt}).encode()
                status: int | None = None
                with contextlib.suppress(ClientError, TimeoutError, OSError):
                    headers = {"content-type": "application/json", "x-nylas-signature": signature(webhook.secret, body)}
                    async with session.post(webhook.url, data=body, headers=headers) as answer:
                        status = answer.status
                notification.statuses.append(status)
                self._changed()
                if status is not None and status not in AGAIN:
                    return
                await asyncio.sleep(webhook.again_after)

    @property
    def delivering(self) -> int:
        """How many notifications are on their way, or wait for the next attempt."""
        return len(self._tasks)

    async def stop(self) -> None:
        """Give up what is being delivered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def signature(secret: str, body: bytes) -> str:
    """The header ``x-nylas-signature`` for these bytes."""
    return hmac.new(secret.encode(), body, "sha256").hexdigest()


def _magic(address: str) -> str:
    return address.partition("@")[0].partition("+")[0].lower()


def _addresses(payload: Mapping[str, Any]) -> Iterator[str]:
    for name in ("to", "cc", "bcc"):
        for one in payload.get(name) or ():
            yield str(one["email"])


def _plain(document: Mapping[str, Any], name: str) -> list[str]:
    return [str(one["email"]) for one in document.get(name) or ()]


def _mail(document: Mapping[str, Any], at: int) -> dict[str, Any]:
    """The mail as notifications about Agent Accounts show it; what is empty is left out."""
    shown: dict[str, Any] = {"id": document["id"], "subject": document["subject"], "sent_at": at}
    shown["from"] = next(iter(_plain(document, "from")), "")
    shown |= {name: _plain(document, name) for name in ("to", "cc", "bcc") if document.get(name)}
    return shown | ({"metadata": document["metadata"]} if document.get("metadata") else {})


def _detected(grant: Grant, document: Mapping[str, Any], address: str, at: int) -> dict[str, Any]:
    """A bounce as Nylas detects it in the mailbox of a connected account."""
    date = format_datetime(moment(at * SECOND))
    origin = {name: _plain(document, name) for name in ("to", "cc", "bcc")}
    return {
        "bounce_reason": "550 5.1.1 The email account that you tried to reach does not exist.",
        "bounce_date": date,
        "bounced_addresses": address,
        "type": "mailbox_unavailable",
        "code": "550",
        "grant_id": grant.id,
        "origin": origin
        | {
            "from": next(iter(_plain(document, "from")), ""),
            "subject": document["subject"],
            "id": document["id"],
            "mime_id": f"{document['id']}@simulator.invalid",
            "original_send_at": date,
        },
    }
