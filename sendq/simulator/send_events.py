"""``GET /v3/activity/send``: what became of Agent Accounts' mail, one event for each recipient, the newest first.

Facts: Nylas's reference of the send events (November 2026): the types of events, the filters, and that only Agent
Accounts have them. The official OpenAPI document does not know the endpoint yet. Not in the reference, and so assumed
here: ``timestamp`` as the name of an event's time, and ``limit``, ``page_token`` and ``next_cursor`` as in other lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sendq.simulator.answers import invalid

DEFAULT_LIMIT, MAX_LIMIT = 50, 200
_FILTERS = frozenset({"event_type", "grant_id", "message_id", "recipient"})


@dataclass(frozen=True, slots=True)
class SendEvent:
    """One event; ``shown_at`` (the simulator's clock): it is not listed before."""

    document: Mapping[str, Any]
    shown_at: float


def events_of(
    document: Mapping[str, Any], outcomes: Iterable[tuple[str, str]], *, at: int, first_id: int
) -> list[dict[str, Any]]:
    """The events of a message: for each ``(recipient, type)`` of ``outcomes``."""
    sender = next((str(one["email"]) for one in document.get("from") or ()), "")
    return [
        {
            "id": f"{first_id:012x}{place:04x}",
            "event_type": kind,
            "application_id": "simulator",
            "grant_id": document["grant_id"],
            "message_id": document["id"],
            "thread_id": document["thread_id"],
            "from": sender,
            "recipient": recipient,
            "timestamp": at,
            **({"bounce_class": "hard", "reason": "General (5.1.1)"} if kind == "bounced" else {}),
        }
        for place, (recipient, kind) in enumerate(outcomes)
    ]


def page(
    events: Sequence[SendEvent], query: Mapping[str, list[str]], *, now: float
) -> tuple[list[Mapping[str, Any]], str | None]:
    """One page, and the token of the next one (None: there is none). Raises `Refusal` for a query that is not valid."""
    if query.keys() - _FILTERS - {"limit", "page_token"}:
        raise invalid("unknown or unsupported query parameter", "invalid_query_params")
    limit, skipped = (_number(query, name, default) for name, default in (("limit", DEFAULT_LIMIT), ("page_token", 0)))
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid(f"limit: must be between 1 and {MAX_LIMIT}", "invalid_query_params")
    wanted = {name: values for name, values in query.items() if name in _FILTERS}
    shown = [
        one.document
        for one in reversed(events)
        if one.shown_at <= now and all(one.document.get(name) in values for name, values in wanted.items())
    ]
    rest = shown[skipped : skipped + limit]
    return rest, str(skipped + limit) if len(shown) > skipped + limit else None


def _number(query: Mapping[str, list[str]], name: str, default: int) -> int:
    value = query.get(name, [str(default)])[-1]
    if not value.isdecimal() or len(value) > 9:
        raise invalid(f"{name}: is not valid", "invalid_query_params")
    return int(value)
