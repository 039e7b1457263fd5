"""What an operator may answer about a job in doubt, and why an operator's act is refused for a job. Pure."""

from __future__ import annotations

from enum import StrEnum


class Answer(StrEnum):
    """An operator's answer about a job in doubt."""

    SENT = "sent"  #      it went out
    RESEND = "resend"  #  send it again, even if it was sent
    DEAD = "dead"  #      give it up


class ResendRefusal(StrEnum):
    """Why a job in doubt is not sent again."""

    CANCELLED = "cancelled"  #  it was cancelled
    GONE = "gone"  #            its grant no longer exists
    WENT_OUT = "went_out"  #    a report says that it went out


class RetryRefusal(StrEnum):
    """Why a dead letter is not retried."""

    PARTLY = "partly"  #        some of its recipients have it and would get it twice
    MAYBE = "maybe"  #          it is unknown whether it was sent
    OVERTAKEN = "overtaken"  #  a newer change of the same message was made since; the retry could undo it
    CANCELLED = "cancelled"  #  it was cancelled while its call was in flight
    GONE = "gone"  #            its grant no longer exists: it would die again
    FORGOTTEN = "forgotten"  #  its body was erased
