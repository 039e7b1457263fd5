"""Suppression: which reports put a recipient on the list, and which entries block a mail. Pure.

A recipient is put on the list if the address cannot be delivered to (a *hard* bounce), or if the person complained. A
full mailbox, a mail that is too large or was taken for spam, and a server that is down say nothing about the address.

Sources: Nylas, "message.bounced" (Agent Accounts; its types are those of Amazon SES, "Bounce types": ``General``,
``MailboxFull``, …) and "message.bounce_detected" (``mailbox_unavailable``, ``domain_not_found``); RFC 3463 (codes).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum
from typing import Final

from sendq.rules.delivery import Delivery

# The category of an entry that blocks all mail.
ALL_MAIL: Final = ""

CATEGORY_MOST = 100  # characters


class Reason(StrEnum):
    """Why a recipient is on the list."""

    BOUNCED = "bounced"  #            the address cannot be delivered to
    COMPLAINED = "complained"  #      the person marked a mail as spam
    UNSUBSCRIBED = "unsubscribed"  #  the person wants no more mail of a category
    ADDED = "added"  #                an operator or the application added it
    IMPORTED = "imported"  #          from a file that gave no reason


class Suppressed(StrEnum):
    """What a call of ``send`` does about suppressed recipients."""

    REFUSE = "refuse"  # raise `SuppressedRecipients`, and store nothing
    DROP = "drop"  #     send to the others


# Nylas documents ``message.bounced`` as a hard bounce, and names `MailboxFull` as an example of its types.
_SOFT_TYPES = frozenset(
    {
        "mailboxfull", "messagetoolarge", "contentrejected", "attachmentrejected", "undetermined", "transient",
        "temporary", "soft", "customtimeoutexceeded", "quotaexceeded", "spam", "policy", "blocked",
    }
)  # fmt: skip
_HARD_TYPES = frozenset(
    {
        "mailboxunavailable", "domainnotfound", "general", "noemail", "permanent", "hard", "suppressed",
        "onaccountsuppressionlist", "unsubscribedrecipient",
    }
)  # fmt: skip

_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")
_BASIC = re.compile(r"(?<![\d.])([45])(\d)(\d)(?![\d.])")

# RFC 3463: bad destination (1, without the two that are about the sender), mailbox disabled (2.1), no route to the host
# (4.4; with Microsoft also 4.310: the domain does not exist).
_HARD_SUBJECTS: Final = {1: None, 2: {1}, 4: {4, 310}}
_OF_THE_SENDER = frozenset({7, 8})


def is_hard_bounce(kind: str, type_: object, *texts: object) -> bool:
    """Whether a bounce says that the address itself cannot be delivered to.

    ``kind``: the notification's; ``type_``: its type of bounce; ``texts``: codes and words of the receiving server,
    the most specific first. An enhanced status code decides, else the type, else the code of SMTP.
    """
    given = [str(text) for text in texts if isinstance(text, str | int) and not isinstance(text, bool)]
    for text in given:
        if (found := _ENHANCED.search(text)) is not None:
            level, subject, detail = (int(part) for part in found.groups())
            if level != 5:
                return False
            if subject in _HARD_SUBJECTS:
                details = _HARD_SUBJECTS[subject]
                return detail in details if details is not None else detail not in _OF_THE_SENDER
            if (subject, detail) not in ((0, 0), (5, 0)):  # these two say no more than the type does
                return False
            break
    plain = re.sub(r"[^a-z]", "", type_.lower()) if isinstance(type_, str) else ""
    if plain in _SOFT_TYPES:
        return False
    codes = [found[0] for text in given if (found := _BASIC.search(text)) is not None]
    if any(code.startswith("4") or code in ("552", "554") for code in codes):
        return False
    return plain in _HARD_TYPES or kind == "message.bounced"


def reason_of(delivery: Delivery | None, *, hard: bool) -> Reason | None:
    """Why a recipient of whom this is reported is put on the list; None: it is not. ``hard``: of a bounce."""
    if delivery is Delivery.COMPLAINED:
        return Reason.COMPLAINED
    return Reason.BOUNCED if delivery is Delivery.BOUNCED and hard else None


def blocking_reason(entries: Collection[tuple[str, str]], category: str | None) -> str | None:
    """The reason of the entry that keeps a mail of ``category`` (None: it has none) from a recipient; None: none does.

    ``entries``: the recipient's, as (category, reason).
    """
    for of, reason in sorted(entries):
        if of in (ALL_MAIL, category):
            return reason
    return None
