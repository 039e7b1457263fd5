"""`receive`: one delivery, from its bytes to the answer, for whichever framework took it in."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sendq.clock import Micros
from sendq.enqueueing.planning import DEFAULT_APPLICATION
from sendq.errors import SendqError
from sendq.ledger.grant_notices import take_in
from sendq.queue import SendQueue
from sendq.webhooks.notice import Notice, Received, read

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue  # needs greenlet, which only those who use asyncio have


def receive(
    queue: SendQueue,
    *,
    secret: str,
    raw_body: bytes,
    signature: str | None,
    application: str = DEFAULT_APPLICATION,
) -> Received:
    """Take in one ``POST`` of a Nylas webhook; answer with the status and, if you like, the sentence.

    ``raw_body`` holds the bytes exactly as they came: re-encoded JSON, or a body that a proxy decompressed, has another
    signature. ``signature`` is the header ``x-nylas-signature``, None if there is none. ``secret`` is the webhook's,
    ``application`` the name under which its grants are enqueued.

    200: taken in, or nothing to do (a duplicate, another type, a grant unknown here). 400: not a notification.
    401: not signed with this secret. 413: more than `BODY_MOST` bytes, packed or unpacked; it is best not to read more
    than these. 503: the ledger is away or busy, and Nylas tries again.

    Raises ``ValueError`` if ``secret`` is empty.
    """
    now = queue._now()
    notice = read(raw_body, signature=signature, secret=secret, now=now)
    if isinstance(notice, Received):
        return notice
    try:
        says = queue._ledger.write(None, _taking_in(notice, application, now))
    except SendqError as error:
        return Received(503, str(error))
    return Received(200, says)


async def receive_async(
    queue: AsyncSendQueue,
    *,
    secret: str,
    raw_body: bytes,
    signature: str | None,
    application: str = DEFAULT_APPLICATION,
) -> Received:
    """`receive` for an `AsyncSendQueue`, to be awaited."""
    now = queue._now()
    notice = read(raw_body, signature=signature, secret=secret, now=now)
    if isinstance(notice, Received):
        return notice
    try:
        says = await queue._ledger.write(None, _taking_in(notice, application, now))
    except SendqError as error:
        return Received(503, str(error))
    return Received(200, says)


def _taking_in(notice: Notice, application: str, now: Micros) -> partial[str]:
    return partial(
        take_in,
        notice_id=notice.id,
        kind=notice.kind,
        at=notice.at,
        application=application,
        grant_id=notice.grant_id,
        now=now,
    )
