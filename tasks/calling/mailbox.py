"""Searches the mailbox that a job's message was sent from for that message, with two queries.

By metadata: ``metadata_pair``, which cannot be combined with other filters. By header: a listing of the time around the
attempts, with the headers of each message, in pages of five (a page of fifty costs a Gmail account as much as three
sends). Neither reads a subject, a recipient or a body; in Google mailboxes only sent messages are listed. Microsoft's
folder ids do not say which one holds the drafts, so the folder of a message that is found is looked up.

As long as the listing shows no later message of ours, it is extended, because on a quiet account the next message may
be days later. After a refusal the account asked for quiet: there is one listing, which shows both marks, and no query
by metadata. Facts: Nylas, "Return all messages"; "Metadata" (only key1 to key5 are indexed).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

from sendq.clock import SECOND, Micros, micros
from sendq.messages.mark import JOB_HEADER
from sendq.rules.reconcile import Look
from sendq.webhooks.send_event import ACCEPTED, PREFIX
from tasks.calling.nylas import Application, NylasClient
from tasks.calling.send_events import read_events
from tasks.policy.failure import Answer

PAGE = 5

# 500 units of Gmail's quota (6,000 per minute), and a few seconds.
PAGES_MOST = 15

# After a refusal, in one listing: the API's default, and one request to the providers that throttle by requests.
QUIET_PAGE = 50

# The most by which our clock and the provider's may differ; a message may be dated by either.
SLACK_S = 300

# How far the first listing extends beyond the last request, and the factor by which each further one is longer.
REACH_S, FURTHER = 900, 4

# Names of drafts folders, for providers whose folder ids are names.
_DRAFTS = frozenset({"draft", "drafts"})

# Providers that create a draft for each send, and name folders by ids that say nothing.
_OPAQUE = frozenset({"microsoft", "ews", "unknown"})
FOLDERS_MOST = 3  # of one message; Microsoft's are in one

# Reading the events and the messages that they name; the search itself must not wait longer for that.
EVENTS_LIMIT_S = 30.0

# Messages that events name, and that are read one by one.
NAMED_MOST = 5

SELECT = "id,object,date,folders,metadata,headers"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The message to search for, and when it can have been accepted: from its first request to the end of the last.

    ``quiet``: with a single listing. ``events``: Nylas's send events are read first, which name accepted messages.
    """

    grant_id: str
    provider: str
    mark: str
    metadata_key: str
    first_at: Micros
    over_at: Micros
    now: Micros
    quiet: bool = False
    events: bool = False


@dataclass(frozen=True, slots=True)
class Brought:
    """The result of a search, the API's own time if stated, and the answer that ended the search early, if any.

    ``no_events``: the application does not have send events.
    """

    look: Look
    api_time: Micros | None
    refusal: Answer | None = None
    no_events: bool = False


async def look(client: NylasClient, application: Application, wanted: Wanted) -> Brought:
    """Make both queries. Errors of the network or the API are never raised.

    Before that, the send events are read if they are wanted. What they name is found if the message itself shows the
    mark; what they do not name proves nothing, because it is not known how soon they are listed.
    """
    box = _Mailbox(client, application, wanted)
    found = None
    if wanted.events and not wanted.quiet:
        with suppress(TimeoutError):
            found = await asyncio.wait_for(box.find_by_events(), EVENTS_LIMIT_S)
    brought = await box.look() if found is None else Brought(Look(True, found=found), None)
    return replace(brought, no_events=box.no_events)


class _Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class _Mailbox:
    def __init__(self, client: NylasClient, application: Application, wanted: Wanted) -> None:
        self._client, self._application, self._wanted = client, application, wanted
        self._api_time: Micros | None = None
        self._pages = 0
        self._draft = False
        self._later: set[str] = set()
        self.no_events = False

    async def find_by_events(self) -> str | None:
        """The id of a message of the time in question that the send events name, and that shows a mark."""
        wanted = self._wanted
        since = wanted.first_at - SLACK_S * SECOND
        read = await read_events(
            self._client, self._application, since=since, now=wanted.now, pages=1, grant_id=wanted.grant_id
        )
        self.no_events = read.absent
        until = wanted.over_at + SLACK_S * SECOND
        named = dict.fromkeys(
            one.message_id
            for one in read.notices
            if one.kind == PREFIX + ACCEPTED and one.grant_id == wanted.grant_id and (one.at or until) <= until
        )
        for message_id in list(named)[:NAMED_MOST]:
            query = {"fields": "include_headers", "select": SELECT}
            message = object_in(await self._client.message(self._application, wanted.grant_id, str(message_id), query))
            with suppress(_Refused):
                if message is not None and (found := await self._id_if_sent(message)) is not None:
                    return found
        return None

    async def look(self) -> Brought:
        wanted = self._wanted
        try:
            if wanted.quiet:
                found, whole = await self._list(self._last_s + REACH_S)
                return Brought(self._seen(found, whole=whole), self._api_time)
            found = await self._find({"metadata_pair": f"{wanted.metadata_key}:{wanted.mark}"})
            whole = False
            reach = REACH_S
            while found is None:
                until = self._last_s + reach
                found, whole = await self._list(until)
                if found or not whole or self._later or until > wanted.now // SECOND + SLACK_S:
                    break
                reach *= FURTHER
            return Brought(self._seen(found, whole=whole), self._api_time)
        except _Refused as refused:
            return Brought(Look(answered=False), self._api_time, refused.answer)

    def _seen(self, found: str | None, *, whole: bool) -> Look:
        return Look(True, whole=whole, found=found, draft=self._draft, later=tuple(self._later))

    @property
    def _last_s(self) -> int:
        """When the last request was certainly over, in Unix seconds."""
        return self._wanted.over_at // SECOND

    async def _find(self, filters: Mapping[str, str]) -> str | None:
        messages, _ = await self._page(filters)
        for message in messages:
            if (found := await self._id_if_sent(message)) is not None:
                return found
        return None

    async def _list(self, until_s: int) -> tuple[str | None, bool]:
        """The id of the message with our mark, and whether the listing was read to its end."""
        wanted = self._wanted
        filters = {
            "received_after": str(wanted.first_at // SECOND - SLACK_S),
            "received_before": str(until_s + SLACK_S),
        }
        if wanted.provider == "google":
            filters["in"] = "SENT"
        cursor: str | None = None
        while True:
            if self._pages >= PAGES_MOST:
                return None, False
            self._pages += 1
            messages, cursor = await self._page(filters if cursor is None else {**filters, "page_token": cursor})
            for message in messages:
                if (found := await self._id_if_sent(message)) is not None:
                    return found, False
                self._note_others(message)
            if cursor is None:
                return None, True

    async def _page(self, filters: Mapping[str, str]) -> tuple[list[dict[str, Any]], str | None]:
        limit = QUIET_PAGE if self._wanted.quiet else PAGE
        query = {**filters, "limit": str(limit), "fields": "include_headers", "select": SELECT}
        answer = await self._client.find(self._application, self._wanted.grant_id, query)
        page = messages_in(answer)
        if page is None:
            raise _Refused(answer)
        self._api_time = _earliest(self._api_time, date_of(answer.headers))
        return page

    async def _id_if_sent(self, message: Mapping[str, Any]) -> str | None:
        """The id of the message if it shows a mark and is no draft."""
        wanted = self._wanted
        metadata = message.get("metadata")
        by_pair = isinstance(metadata, dict) and metadata.get(wanted.metadata_key) == wanted.mark
        if not by_pair and mark_of(message) != wanted.mark:
            return None
        if is_draft(message) or await self._lies_among_drafts(message):
            self._draft = True
            return None
        found = message.get("id")
        return found if isinstance(found, str) and found else None

    async def _lies_among_drafts(self, message: Mapping[str, Any]) -> bool:
        """Whether one of its folders is the drafts folder, where only the folder itself can tell."""
        wanted, folders = self._wanted, message.get("folders")
        if wanted.provider not in _OPAQUE or not isinstance(folders, list):
            return False
        for folder in folders[:FOLDERS_MOST]:
            answer = await self._client.folder(self._application, wanted.grant_id, str(folder))
            found = object_in(answer)
            if found is None:  # it may be the drafts folder: whatever else is said proves nothing
                raise _Refused(answer)
            if is_drafts_folder(found):
                return True
        return False

    def _note_others(self, message: Mapping[str, Any]) -> None:
        mark, date = mark_of(message), message.get("date")
        if mark is None or mark == self._wanted.mark or is_draft(message):
            return
        if isinstance(date, int) and date >= self._last_s:
            self._later.add(mark)


def messages_in(answer: Answer) -> tuple[list[dict[str, Any]], str | None] | None:
    """The messages of a page and the token of the next one; None if the answer is not a page."""
    if answer.status != 200 or answer.fault is not None:
        return None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        document = json.loads(answer.body)
        messages = document["data"]
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            cursor = document.get("next_cursor")
            return messages, cursor if isinstance(cursor, str) and cursor else None
    return None


def mark_of(message: Mapping[str, Any]) -> str | None:
    """The job id in a message's header, if the message is ours."""
    headers = message.get("headers")
    for header in headers if isinstance(headers, list) else ():
        if not isinstance(header, dict):
            continue
        name, value = header.get("name"), header.get("value")
        if isinstance(name, str) and name.lower() == JOB_HEADER.lower() and isinstance(value, str):
            with suppress(ValueError):
                return str(UUID(value.strip()))
    return None


def is_draft(message: Mapping[str, Any]) -> bool:
    """Whether a message is a draft: Graph first creates one for each send, and leaves it there if the send fails."""
    folders = message.get("folders")
    names = {name.lower() for name in folders if isinstance(name, str)} if isinstance(folders, list) else set()
    return message.get("object") == "draft" or bool(names & _DRAFTS)


def object_in(answer: Answer) -> dict[str, Any] | None:
    """The folder or message in an answer; None if it has none."""
    if answer.status != 200 or answer.fault is not None:
        return None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(answer.body)["data"]
        return found if isinstance(found, dict) else None
    return None


def is_drafts_folder(folder: Mapping[str, Any]) -> bool:
    """Whether a folder has the attribute of the drafts folder ("Common folder attributes"), or else its name."""
    attributes, name = folder.get("attributes"), folder.get("name")
    names = attributes if isinstance(attributes, list) and attributes else [name]
    return any(isinstance(one, str) and one.strip("\\").lower() in _DRAFTS for one in names)


def date_of(headers: Mapping[str, str]) -> Micros | None:
    """The time in an answer's ``Date`` header."""
    with suppress(ValueError, TypeError, OverflowError):
        return micros(parsedate_to_datetime(headers["date"])) if "date" in headers else None
    return None


def _earliest(known: Micros | None, stated: Micros | None) -> Micros | None:
    return stated if known is None else known if stated is None else min(known, stated)
