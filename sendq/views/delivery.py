"""What became of a sent mail, as Nylas reports it: beside the state of its job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sendq.rules.delivery import Delivery


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """What became of one recipient's copy.

    ``digest`` (32 hexadecimal digits) recognises the address without showing it. ``position`` is the recipient's place
    in the message: to, then cc, then bcc, from 1; None: not reported.
    """

    digest: str
    position: int | None
    delivery: Delivery
    at: datetime
    source: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """What became of a mail: the worst that was reported of any recipient.

    ``at`` is when it happened, ``source`` the type of the notification, ``detail`` its words, without addresses; all
    are None while nothing is reported. ``recipients``: those that reports name.
    """

    delivery: Delivery
    at: datetime | None = None
    source: str | None = None
    detail: str | None = None
    recipients: tuple[RecipientStatus, ...] = ()
