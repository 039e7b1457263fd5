"""Texts that look like those of a row and mean something else: what several rows of the table are not about. Pure."""

from __future__ import annotations

from tasks.policy.row import Text

# fmt: off
# Some recipients were refused by a mail server: the others may have the message. (A validator that finds no recipient
# speaks of "at least one recipient" as well.)
RECIPIENTS_REFUSED: tuple[Text, ...] = (
    "sending to at least", "delivery to at least", "delivered to at least", "for at least one", "by at least one",
    "recipient failed", "recipent failed", "recipient was", "recipient has been", "recipient could",
    "recipient refused", "recipient rejected", "recipient is rejected", "recipient is refused", "address is rejected",
    "address is refused", "address was", "does not exist", "sent to at least", "deliver",
    "unable to send to at least", "not send to at least", "failed to send to at least",
    ("to at least one reci", "refused"), ("to at least one reci", "rejected"), ("to at least one reci", "failed"),
    "subset of", "some recipients", "some of the reci",
)
# A validator's words for a message without recipients. "At least one recipient" is also how a mail server's refusal is
# reported, so the words must stand next to each other.
NO_RECIPIENTS: tuple[Text, ...] = (
    "at least one recipient is requir", "at least one recipient is missing", "at least one recipient is need",
    "at least one recipient must", "at least one recipient needs", "at least one recipient should be provided",
    "at least one recipient address is requir", "at least one recipient address must", "must have at least one reci",
    "must send to at least one reci", "must contain at least one reci", "must include at least one reci",
    "must specify at least one reci", "need at least one reci", "needs at least one reci", "require at least one reci",
    "requires at least one reci", "specify at least one reci", "provide at least one reci", "missing at least one reci",
    ("least one", "to, cc"), "contains no recipients", "has no recipients", "no recipients specified",
    "no recipients were", "no recipients found", "without recipients", "recipient address required",
    "recipient is required", "recipients are required", "recipients cannot be empty",
)
# A mail server has spoken: some of the recipients may have the message.
SMTP_REPLIES: tuple[Text, ...] = (
    "smtp", "550", "551", "552", "553", "554", "5.1.", "5.2.", "5.4.", "5.5.", "5.6.", "5.7.", "450", "451", "452",
)
# About one message, its content or its size: no account is at fault.
ONE_MESSAGE: tuple[Text, ...] = (
    " size", " mb", "0mb", "5mb", "megabyte", "virus", "malware", "content", "attachment", "to this", "from sending to",
    "'s mailbox", "in mailbox", "in the mailbox", ("domain", "suspend"), "one request", "this message",
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
    "message authentication", "sender authentication", "email authentication", "reverse dns", "relaying denied",
    "relay denied", "relay access denied", "unable to relay", "relaying not", "post to", "this group", "phishing",
)
# The mail server cannot check the password for now.
SIGN_IN_LATER: tuple[Text, ...] = (
    ("temporar", "authentication"), ("authentication", "try again later"), ("authentication", "connection lost"),
    ("login", "try again later"), "4.7.0", "internal authentication",
)
# fmt: on
