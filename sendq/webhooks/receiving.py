"""`receive`: handle one notification, for any web framework."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sendq.clock import Micros
from sendq.errors import SendqError
from sendq.ledger.grant_notices import take_in
from sendq.queue import SendQueue
from sendq.scope import DEFAULT_APPLICATION
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
    """Handle one ``POST`` of a Nylas webhook. Answer it with the returned status; the sentence is optional.

    The status is 200 if the notification was handled, or needs nothing (a duplicate, another type, an unknown grant);
    400 if it is not a notification; 401 if it is not signed with this secret; 413 if it has more than `BODY_MOST`
    bytes, compressed or not (read no more than these); 503 if the ledger is unavailable or busy, and Nylas tries
    again.

    Args:
        queue: a queue on the ledger.
        secret: the webhook's secret.
        raw_body: the bytes exactly as received. Re-encoded JSON, or a body that a proxy decompressed, has another
            signature.
        signature: the header ``x-nylas-signature``; None if it is missing.
        application: the name under which the webhook's grants are enqueued.

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
