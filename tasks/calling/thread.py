"""Reads the thread of a message that was sent, to find out whether somebody has answered.

The message tells its thread, its sender and its date; the messages of the thread are listed, the newest first, with
their senders and dates only. Every message of another sender that is not older counts as an answer, an automatic one
too (how those are marked differs), except the reports of mail servers and drafts. Older ones do not: they may be what
the message answers itself. Dates are in whole seconds, so one of the same second counts, and one without a date: a mail
too few is better than one that ignores an answer. Facts: Nylas, "Return a message", "Return all messages"
(``thread_id``; ``date``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.calling.mailbox import is_draft, messages_in, object_in
from tasks.calling.nylas import Application, NylasClient
from tasks.policy.failure import Answer

# The most that a listing takes; a longer thread is read on, up to so many pages.
PAGE = 50
PAGES_MOST = 4

# Who reports that a mail could not be delivered (RFC 5321, RFC 3464): not an answer.
_REPORTERS = frozenset({"mailer-daemon", "postmaster"})


@dataclass(frozen=True, slots=True)
class ThreadRead:
    """``replied`` None: the thread could not be read, because of this answer."""

    replied: bool | None
    refusal: Answer | None = None


async def read_thread(client: NylasClient, application: Application, grant_id: str, message_id: str) -> ThreadRead:
    """Whether the thread of this message has an answer. Errors of the network or the API are never raised."""
    answer = await client.message(application, grant_id, message_id, {"select": "id,thread_id,from,date"})
    message = object_in(answer)
    if message is None:
        return ThreadRead(None, answer)
    thread_id, own, sent_at = message.get("thread_id"), set(_senders(message)), _date(message)
    if not isinstance(thread_id, str) or not thread_id or not own or sent_at is None:
        return ThreadRead(None, answer)
    cursor: str | None = None
    for _ in range(PAGES_MOST):
        query = {"thread_id": thread_id, "limit": str(PAGE), "select": "id,object,folders,from,date"}
        answer = await client.find(application, grant_id, query if cursor is None else {**query, "page_token": cursor})
        page = messages_in(answer)
        if page is None:
            return ThreadRead(None, answer)
        messages, cursor = page
        if any(is_answer(one, own, since=sent_at) for one in messages):
            return ThreadRead(True)
        if cursor is None:
            break
    return ThreadRead(False)


def is_answer(message: Mapping[str, Any], own: Collection[str], *, since: int) -> bool:
    """Whether a message of the thread is an answer to one that the account with these addresses sent at ``since``
    (seconds).
    """
    date = _date(message)
    if is_draft(message) or (date is not None and date < since):
        return False
    return any(one not in own and one.partition("@")[0] not in _REPORTERS for one in _senders(message))


def _date(message: Mapping[str, Any]) -> int | None:
    given = message.get("date")
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _senders(message: Mapping[str, Any]) -> list[str]:
    given = message.get("from")
    people = given if isinstance(given, list) else []
    emails = [one.get("email") for one in people if isinstance(one, dict)]
    return [email.strip().lower() for email in emails if isinstance(email, str)]
