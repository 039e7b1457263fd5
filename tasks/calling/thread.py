"""Reads the thread of a message that was sent, to find out whether somebody has answered.

The message tells its thread and its sender; the messages of the thread are listed, the newest first, with their senders
only. Every message of another sender counts as an answer, an automatic one too (how those are marked differs), except
the reports of mail servers and drafts. Facts: Nylas, "Return a message", "Return all messages" (``thread_id``).
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
    answer = await client.message(application, grant_id, message_id, {"select": "id,thread_id,from"})
    message = object_in(answer)
    thread_id = None if message is None else message.get("thread_id")
    if message is None or not isinstance(thread_id, str) or not thread_id:
        return ThreadRead(None, answer)
    own = set(_senders(message))
    cursor: str | None = None
    for _ in range(PAGES_MOST):
        query = {"thread_id": thread_id, "limit": str(PAGE), "select": "id,object,folders,from"}
        answer = await client.find(application, grant_id, query if cursor is None else {**query, "page_token": cursor})
        page = messages_in(answer)
        if page is None:
            return ThreadRead(None, answer)
        messages, cursor = page
        if any(is_answer(one, own) for one in messages):
            return ThreadRead(True)
        if cursor is None:
            break
    return ThreadRead(False)


def is_answer(message: Mapping[str, Any], own: Collection[str]) -> bool:
    """Whether a message of the thread is an answer to the account with these addresses."""
    senders = _senders(message)
    return not is_draft(message) and any(one not in own and one.partition("@")[0] not in _REPORTERS for one in senders)


def _senders(message: Mapping[str, Any]) -> list[str]:
    given = message.get("from")
    people = given if isinstance(given, list) else []
    emails = [one.get("email") for one in people if isinstance(one, dict)]
    return [email.strip().lower() for email in emails if isinstance(email, str)]
