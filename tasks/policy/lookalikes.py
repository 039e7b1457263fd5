"""Texts that look like those of a row and mean something else: what several rows of the table are not about. Pure."""

from __future__ import annotations

from tasks.policy.row import Text

# fmt: off
# Some recipients were refused by a mail server: the others may have the message. (A validator that finds no recipient
# speaks of "at least one recipient" as well.)
RECIPIENTS_REFUSED: tuple[Text, ...] = (
    "sending to at least", "delivery to at least", "delivered to at least", "for at least one", "by at least one",
    "recipient failed", "recipent failed", "recipient was", "recipient has been", "recipient could",
    "recipient refused", "recipient rejected", ("to at least one reci", "refused"),
    ("to at least one reci", "rejected"), ("to at least one reci", "failed"), "subset of", "some recipients",
    "some of the reci",
)
# A recipient's mailbox is full, or gets too much mail: that is about this message, not about the sender's quota.
RECIPIENT_FULL: tuple[Text, ...] = (
    "tried to reach", "trying to contact", "5.2.2", "4.2.2", "mailbox full", "mailbox is full", "mailbox size",
    "inbox is full", "mailbox quota", "over quota", "overquota", "recipient's", "recipient has exceeded",
    "recipientperhour", "5.2.121", ("mailbox", "full"), ("recipient", "mailbox"), ("recipient", "storage"),
)
# The receiving server does not believe who the sender is (SPF, DKIM, DMARC, a closed list): no password is wrong.
SENDER_NOT_BELIEVED: tuple[Text, ...] = (
    "dmarc", "dkim", " spf", "(spf", "sender policy framework", "is unauthenticated", "unauthenticated email",
    "authentication level", "resolver.rst", "delivery restriction", "notauthenticatedforgroup", "5.7.133", "5.7.26",
    "message authentication", "sender authentication", "email authentication", "reverse dns",
)
# The mail server cannot check the password for now.
SIGN_IN_LATER: tuple[Text, ...] = (
    ("temporar", "authentication"), ("authentication", "try again later"), ("authentication", "connection lost"),
    ("login", "try again later"), "4.7.0", "internal authentication",
)
# fmt: on
