"""Webhooks of Nylas about grants: who must sign in again, who has, and who is gone.

    Nylas ──▶ asgi, or your own view ──▶ receive ──┬─ read      bounded? signed? JSON? about a grant? (pure)
                                                   └─ take_in   one transaction: seen before? then the grant's lane

A notification is a hint. Nylas tries three times within 20 minutes, in no order, at least once, and never again
("Webhooks"); so a duplicate changes nothing, one that is late undoes nothing, and where its time leaves room for doubt
the API is asked. Without any webhook the same lanes are reopened by the worker's checks, only later.

`receive` and `receive_async` belong into a view of your own framework, `asgi` is a ready application to serve or to
mount. Nothing of a notification is kept but its id: not the address that it carries.
"""

from __future__ import annotations

from sendq.webhooks.endpoint import asgi
from sendq.webhooks.notice import BODY_MOST, Received, challenge
from sendq.webhooks.receiving import receive, receive_async

__all__ = ["BODY_MOST", "Received", "asgi", "challenge", "receive", "receive_async"]
