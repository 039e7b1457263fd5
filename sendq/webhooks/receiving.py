"""`receive`: handle one notification, for any web framework."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sendq.clock import Micros
from sendq.errors import SendqError
from sendq.facts.notices import USUAL, MailNotice, OutcomeOptions
from sendq.ledger import grant_notices, mail_notices
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
    delivered_outcomes: bool = False,
    outcome_addresses: Collection[str] = (),
) -> Received:
    """Handle one ``POST`` of a Nylas webhook. Answer it with the returned status; the sentence is optional.

    The status is 200 if the notification was handled, or needs nothing (a duplicate, another type, an unknown grant or
    mail); 400 if it is not a notification; 401 if it is not signed with this secret; 413 if it has more than
    `BODY_MOST` bytes, compressed or not (read no more than these); 503 if the ledger is unavailable or busy, or if the
    notification may be about a mail that is being sent: Nylas tries again.

    Args:
        queue: a queue on the ledger.
        secret: the webhook's secret.
        raw_body: the bytes exactly as received. Re-encoded JSON, or a body that a proxy decompressed, has another
            signature.
        signature: the header ``x-nylas-signature``; None if it is missing.
        application: the name under which the webhook's grants are enqueued.
        delivered_outcomes: also create an outcome ``delivered`` for each mail that was, if its job has ``on_outcome``.
        outcome_addresses: receivers (``webhook:NAME``, ``https://host``, ``celery``) whose outcomes name recipients by
            address too. The workers' SENDQ_OUTCOME_ADDRESSES must have them as well.

    Raises ``ValueError`` if ``secret`` is empty.
    """
    notice = read(raw_body, signature=signature, secret=secret, now=queue._now())
    outcomes = OutcomeOptions(delivered_outcomes, frozenset(outcome_addresses))
    return notice if isinstance(notice, Received) else apply(queue, notice, application, outcomes)


def apply(
    queue: SendQueue, notice: Notice | MailNotice, application: str, outcomes: OutcomeOptions = USUAL
) -> Received:
    """Apply what a notification says."""
    try:
        if isinstance(notice, MailNotice):
            (result,) = queue._ledger.write(None, taking_in(queue, [notice], application, outcomes))
            return answer_of(result)
        return Received(200, queue._ledger.write(None, _applying(notice, application, queue._now())))
    except SendqError as error:
        return Received(503, str(error))


async def receive_async(
    queue: AsyncSendQueue,
    *,
    secret: str,
    raw_body: bytes,
    signature: str | None,
    application: str = DEFAULT_APPLICATION,
    delivered_outcomes: bool = False,
    outcome_addresses: Collection[str] = (),
) -> Received:
    """`receive` for an `AsyncSendQueue`, to be awaited."""
    notice = read(raw_body, signature=signature, secret=secret, now=queue._now())
    outcomes = OutcomeOptions(delivered_outcomes, frozenset(outcome_addresses))
    return notice if isinstance(notice, Received) else await apply_async(queue, notice, application, outcomes)


async def apply_async(
    queue: AsyncSendQueue, notice: Notice | MailNotice, application: str, outcomes: OutcomeOptions = USUAL
) -> Received:
    """Apply what a notification says."""
    try:
        if isinstance(notice, MailNotice):
            (result,) = await queue._ledger.write(None, taking_in(queue, [notice], application, outcomes))
            return answer_of(result)
        return Received(200, await queue._ledger.write(None, _applying(notice, application, queue._now())))
    except SendqError as error:
        return Received(503, str(error))


def answer_of(result: str) -> Received:
    """The answer to a notification about mail."""
    return Received(503 if result == mail_notices.AGAIN else 200, mail_notices.SAYS[result])


def taking_in(
    queue: SendQueue | AsyncSendQueue,
    notices: Sequence[MailNotice],
    application: str,
    outcomes: OutcomeOptions,
) -> partial[list[str]]:
    """What applies notifications about mail, in a transaction."""
    return partial(
        mail_notices.take_in,
        notices=notices,
        application=application,
        vault=queue._vault,
        now=queue._now(),
        outcomes=outcomes,
    )


def _applying(notice: Notice, application: str, now: Micros) -> partial[str]:
    return partial(
        grant_notices.take_in,
        notice_id=notice.id,
        kind=notice.kind,
        at=notice.at,
        application=application,
        grant_id=notice.grant_id,
        now=now,
    )
