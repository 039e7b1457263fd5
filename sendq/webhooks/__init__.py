"""Webhooks of Nylas: grants that expired, were deleted or signed in again; mails that were delivered or not.

    Nylas ──▶ asgi, or your own view ──▶ receive ──┬─ read      bounded? signed? JSON? about a grant or mail? (pure)
                                                   └─ take_in   one transaction: seen before? then lane or job

A notification is only a hint. Nylas tries three times within 20 minutes, at least once and in no order, and never again
("Webhooks"). So a duplicate changes nothing, a late one undoes nothing, and if its time is ambiguous the API is asked.
Without webhooks the workers' own checks reopen the same lanes, only later.

Use `receive` or `receive_async` in a view of your framework, or serve or mount the ready application `asgi`. Only the
id of a notification is stored, not the address in it; a mail's recipients as keyed digests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sendq.webhooks.endpoint import asgi, unsubscribe_asgi
    from sendq.webhooks.notice import BODY_MOST, Received, challenge
    from sendq.webhooks.receiving import receive, receive_async

# Where each name lives. It is imported when it is first asked for: workers read events, and receive no notifications.
_HOMES = {
    "BODY_MOST": "notice",
    "Received": "notice",
    "asgi": "endpoint",
    "challenge": "notice",
    "receive": "receiving",
    "receive_async": "receiving",
    "unsubscribe_asgi": "endpoint",
}

__all__ = ["BODY_MOST", "Received", "asgi", "challenge", "receive", "receive_async", "unsubscribe_asgi"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
