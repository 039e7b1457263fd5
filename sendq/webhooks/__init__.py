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

from sendq.webhooks.endpoint import asgi, unsubscribe_asgi
from sendq.webhooks.notice import BODY_MOST, Received, challenge
from sendq.webhooks.receiving import receive, receive_async

__all__ = ["BODY_MOST", "Received", "asgi", "challenge", "receive", "receive_async", "unsubscribe_asgi"]
