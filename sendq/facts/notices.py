"""What a notification of Nylas says about a mail that was sent: a value between its parser and the ledger. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sendq.clock import Micros
from sendq.rules.delivery import Delivery


class Recipient(NamedTuple):
    """A recipient that a notification names. ``address`` is never stored and never logged: only a keyed digest of it.

    ``position``: its place among the mail's recipients (to, then cc, then bcc), from 1; None: the notification does not
    say. ``hard``: of a bounce, whether it says that the address cannot be delivered to.
    """

    address: str
    position: int | None
    detail: str | None = None
    hard: bool = False


class OutcomeOptions(NamedTuple):
    """What outcomes about mail are created, and what they contain.

    ``delivered``: also of mails that were delivered. ``addresses``: the receivers (as `sendq.enqueueing.targets` names
    them) whose outcomes name recipients by address too.
    """

    delivered: bool = False
    addresses: frozenset[str] = frozenset()


USUAL = OutcomeOptions()


@dataclass(frozen=True, slots=True)
class MailNotice:
    """A notification about a mail.

    id           of the notification, which is delivered at least once
    kind         its type, such as ``message.bounced``
    delivery     what became of the mail; None: it says nothing of that (``thread.replied``)
    jobs         ids of jobs that the mail's metadata may name
    message_id   of the mail
    at           when it happened, by the clock of Nylas; None: it does not say
    detail       its words, cleaned, without addresses
    recipients   those that it is about; empty: the mail as a whole
    attempt      how often Nylas has tried to deliver the notification, from 1
    """

    id: str
    kind: str
    delivery: Delivery | None
    grant_id: str
    jobs: Sequence[UUID]
    message_id: str | None
    at: Micros | None
    detail: str | None = None
    recipients: Sequence[Recipient] = ()
    attempt: int = 1
