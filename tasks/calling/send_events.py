"""Reads what became of Agent Accounts' mail from ``GET /v3/activity/send``, page by page, the newest events first.

The endpoint is young, and its answers are not all documented: what has an unknown shape is counted and left out, and a
page that is none ends the reading. Nylas asks not to poll it instead of using webhooks, so there are few calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sendq.clock import Micros
from sendq.facts.notices import MailNotice
from sendq.webhooks.send_event import notice_of_event
from tasks.calling.nylas import Application, NylasClient
from tasks.policy.failure import Answer

# "This application, or this plan of Nylas, does not have it."
ABSENT = frozenset({403, 404, 405, 410, 501})

LIMIT = 200  # events in a page


@dataclass(frozen=True, slots=True)
class ReadEvents:
    """What was read. ``unknown``: events of an unknown shape; ``absent``: there is no such endpoint for us."""

    notices: Sequence[MailNotice]
    unknown: int = 0
    absent: bool = False


async def read_events(
    client: NylasClient,
    application: Application,
    *,
    since: Micros,
    now: Micros,
    pages: int,
    grant_id: str | None = None,
) -> ReadEvents:
    """The events since a time, of all grants or of one, from at most ``pages`` pages. Errors are never raised."""
    notices: list[MailNotice] = []
    unknown = 0
    query = {"limit": str(LIMIT)} | ({} if grant_id is None else {"grant_id": grant_id})
    cursor: str | None = None
    for _ in range(pages):
        answer = await client.send_events(application, query if cursor is None else {**query, "page_token": cursor})
        if answer.status == 400 and query.pop("limit", None) is not None:  # its highest value is not documented
            answer = await client.send_events(application, query)
        page = _page(answer)
        if page is None:
            return ReadEvents(notices, unknown, absent=answer.status in ABSENT and answer.fault is None)
        events, cursor = page
        read = [notice_of_event(event, now=now) for event in events]
        unknown += read.count(None)
        known = [one for one in read if one is not None]
        notices += [one for one in known if one.at is None or one.at >= since]
        if cursor is None or any(one.at is not None and one.at < since for one in known):
            break
    return ReadEvents(notices, unknown)


def _page(answer: Answer) -> tuple[list[Any], str | None] | None:
    """The events of a page and the token of the next one; None if the answer is not a page."""
    if answer.status != 200 or answer.fault is not None:
        return None
    with suppress(ValueError, RecursionError):
        document = json.loads(answer.body)
        events = document.get("data") if isinstance(document, Mapping) else None
        if isinstance(events, list):
            cursor = document.get("next_cursor")
            return events, cursor if isinstance(cursor, str) and cursor else None
    return None
