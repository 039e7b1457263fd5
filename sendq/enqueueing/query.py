"""`Query`: the messages that a bulk call changes, by the filters that Nylas documents for "Return all Messages".

It is stored as the query string of the listing's first page, without the page token. Which filters exclude each other
depends on the provider. If the provider is known, an impossible query is refused at enqueue, before the API can do so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sendq.enqueueing.page_query import page_query
from sendq.enqueueing.shared import Shared, check_shared
from sendq.errors import Problem
from sendq.messages.addresses import fault, trimmed, wire_form
from sendq.messages.characters import text_fault

MAX_ANY_EMAIL = 25
MAX_TEXT = 2_000  # characters of one filter; a query string much longer is refused by servers on its way

_METADATA_PAIR = re.compile(r"key[1-5]:(?s:.{1,500})").fullmatch
_ADDRESSES = ("to", "from_", "cc", "bcc")
_FLAGS = ("unread", "starred", "has_attachment")
_TIMES = ("received_before", "received_after")
_SHARED = ("shared_from", "shared_folder_id", "query_imap")

# Filters that Microsoft cannot combine: one kind of request there filters by flags and threads, another searches.
_MICROSOFT_ONE = ("thread_id", "unread", "starred")
_MICROSOFT_OTHER = ("subject", "to", "cc", "bcc", "any_email")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The messages that match every filter that is set; at least one must be.

    For IMAP, Yahoo and iCloud accounts Nylas finds only messages of the last 90 days, unless ``query_imap`` is set.

    Attributes:
        in_: a folder's id (not its name).
        any_email: up to 25 addresses, one of which is in To, From, Cc or Bcc.
        subject: a part of the subject.
        received_before: an aware datetime; seconds count, fractions do not.
        received_after: likewise.
        search_query_native: in the provider's own search language. For Google and Microsoft it can be combined with
            ``in_`` only.
        metadata_pair: ``key1:value`` (Nylas can search ``key1`` … ``key5``). Cannot be combined with other filters.
        shared_from: Microsoft: the messages of a mailbox that is shared with the account, by its address or grant id;
            needs ``shared_folder_id``.
        shared_folder_id: Microsoft: the folder there.
        query_imap: IMAP, Yahoo and iCloud: ask the IMAP server itself, in the folder ``in_``. Slow.
    """

    in_: str | None = None
    unread: bool | None = None
    starred: bool | None = None
    has_attachment: bool | None = None
    from_: str | None = None
    to: str | None = None
    cc: str | None = None
    bcc: str | None = None
    any_email: Sequence[str] | None = None
    subject: str | None = None
    thread_id: str | None = None
    received_before: datetime | None = None
    received_after: datetime | None = None
    search_query_native: str | None = None
    metadata_pair: str | None = None
    shared_from: str | None = None
    shared_folder_id: str | None = None
    query_imap: bool | None = None

    @property
    def shared(self) -> Shared:
        """Where the messages are, for the requests that change them."""
        return Shared(self.shared_from, self.shared_folder_id, self.query_imap)

    def __repr__(self) -> str:
        """Only the names of the filters: their values may be addresses and subjects."""
        return f"Query({', '.join(f'{name}=…' for name in given(self))})"


def given(query: Query) -> dict[str, Any]:
    """The filters that are not None."""
    return {one.name: value for one in fields(query) if (value := getattr(query, one.name)) is not None}


def freeze_query(query: Query, *, select: str = "id") -> bytes:
    """The query string of a listing's first page; ``select``: the fields of messages that it asks for."""
    values = {name.rstrip("_"): _on_the_wire(name, value) for name, value in given(query).items()}
    return page_query(values | query.shared.parameters(*_SHARED), select=select)


def _on_the_wire(name: str, value: Any) -> str:
    if name in _ADDRESSES:
        return wire_form(trimmed(value)) or value
    if name == "any_email":
        return ",".join(wire_form(trimmed(one)) or one for one in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return str(int(value.timestamp()))
    return str(value)


def check_query(query: object, *, provider: str | None) -> list[Problem]:
    """What is wrong with ``query``. ``provider`` is the grant's, or None if it is not known."""
    if not isinstance(query, Query):
        return [Problem("query", "is not a sendq.Query", "create one: Query(in_=…, unread=True)")]
    if not given(query):
        return [Problem("query", "has no filter, so it would match every message", "set at least one")]
    filters = {name: value for name, value in given(query).items() if name not in _SHARED}
    problems = [problem for name, value in filters.items() for problem in _value_problems(name, value)]
    problems += check_shared(query.shared, provider=provider, needs_folder=True)
    if query.query_imap is True and query.in_ is None:
        problems.append(Problem("in_", "is missing, and query_imap needs it", "set the folder to look in"))
    return [problem.under("query") for problem in problems + _conflicts(set(given(query)), provider)]


def _value_problems(name: str, value: Any) -> list[Problem]:
    if name in _FLAGS:
        return [] if isinstance(value, bool) else [Problem(name, "is not True or False", "pass a bool")]
    if name in _TIMES:
        aware = isinstance(value, datetime) and value.utcoffset() is not None
        return [] if aware else [Problem(name, "is not a datetime with a time zone", "pass one")]
    if name == "any_email":
        if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_ANY_EMAIL:
            return [Problem(name, f"is not a list of 1 to {MAX_ANY_EMAIL} addresses", "pass such a list")]
        return [problem for index, one in enumerate(value) for problem in _address(f"{name}[{index}]", one)]
    if name in _ADDRESSES:
        return _address(name, value)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        return [Problem(name, f"is not a string of 1 to {MAX_TEXT:,} characters", "correct it")]
    if (wrong := text_fault(value)) is not None:
        return [Problem(name, wrong, "remove it")]
    if name == "metadata_pair" and not _METADATA_PAIR(value):
        return [Problem(name, "is not a pair that Nylas can search for", "write it like key1:value (key1 to key5)")]
    return []


def _address(field: str, value: object) -> list[Problem]:
    if not isinstance(value, str):
        return [Problem(field, "is not a string", "pass an address")]
    value = trimmed(value)
    return [] if wire_form(value) is not None else [Problem(field, fault(value), "correct it")]


def _conflicts(names: set[str], provider: str | None) -> list[Problem]:
    problems = []
    if "metadata_pair" in names and len(names) > 1:
        problems.append(Problem("metadata_pair", "cannot be combined with other filters", "remove the others"))
    if "search_query_native" in names:
        if provider in ("google", "microsoft") and names - {"search_query_native", "in_", *_SHARED}:
            reason = f"can be combined with in_ only for {provider}"
            problems.append(Problem("search_query_native", reason, "put the other conditions into the search itself"))
        if provider == "ews" and "thread_id" in names:
            problems.append(Problem("search_query_native", "cannot be combined with thread_id for ews", "remove one"))
    one, other = names.intersection(_MICROSOFT_ONE), names.intersection(_MICROSOFT_OTHER)
    if provider == "microsoft" and one and other:
        reason = f"cannot be combined for Microsoft with {', '.join(sorted(one))}"
        problems.append(Problem(", ".join(sorted(other)), reason, "remove one kind"))
    return problems
