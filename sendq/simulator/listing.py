"""``GET /v3/grants/{id}/messages``: filters, pages, and the five metadata keys that can be filtered by.

Query parameters follow the OpenAPI document (``get-messages``): ``limit`` is 50 by default and 200 at most,
``page_token`` comes from ``next_cursor``, one ``metadata_pair`` excludes other filters. ``shared_from`` (with
``shared_folder_id``) lists the messages of another grant of this simulator. Filters that only a provider can answer
(``search_query_native``) are rejected rather than answered wrongly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sendq.simulator.answers import invalid
from sendq.simulator.store import INDEXED_KEYS, Message, Store

DEFAULT_LIMIT, MAX_LIMIT = 50, 200
_BASIC_HEADERS = frozenset({"message-id", "in-reply-to", "references"})

Document = dict[str, Any]
Filter = Callable[[Document, str], bool]


def _names(field: str) -> Filter:
    return lambda document, wanted: any(one["email"].lower() == wanted.lower() for one in document[field])


def _any_email(document: Document, wanted: str) -> bool:
    return any(_names(field)(document, one) for one in wanted.split(",") for field in ("to", "from", "cc", "bcc"))


_FILTERS: Mapping[str, Filter] = {
    "to": _names("to"),
    "from": _names("from"),
    "cc": _names("cc"),
    "bcc": _names("bcc"),
    "any_email": _any_email,
    "in": lambda document, wanted: wanted in document["folders"],
    "subject": lambda document, wanted: wanted in document["subject"],
    "thread_id": lambda document, wanted: document["thread_id"] == wanted,
    "unread": lambda document, wanted: document["unread"] is (wanted == "true"),
    "starred": lambda document, wanted: document["starred"] is (wanted == "true"),
    "has_attachment": lambda document, wanted: bool(document["attachments"]) is (wanted == "true"),
    "received_after": lambda document, wanted: bool(document["date"] > _integer("received_after", wanted)),
    "received_before": lambda document, wanted: bool(document["date"] < _integer("received_before", wanted)),
    "shared_folder_id": lambda document, wanted: wanted in document["folders"],
}
_SHAPING = frozenset({"limit", "page_token", "select", "fields", "metadata_pair", "shared_from", "query_imap"})


def page(
    store: Store, grant_id: str, query: Mapping[str, list[str]], *, shifting: bool = False
) -> tuple[list[Document], str | None]:
    """One page of documents, newest first, and the token of the next page (None: there is none).

    A token identifies the last message listed; with ``shifting`` it is the number of messages listed, as for providers
    that page by offset: when messages leave the listing, the next page begins too late.
    ``query`` maps each parameter to all its values. Raises `Refusal` (400) for what the API rejects.
    """
    last = {name: values[-1] for name, values in query.items()}  # of a repeated parameter one is kept
    unknown = last.keys() - _FILTERS.keys() - _SHAPING
    if unknown:
        raise invalid("unknown or unsupported query parameter", "invalid_query_params")
    _check_mailbox(last)
    limit = _integer("limit", last.get("limit", str(DEFAULT_LIMIT)))
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid(f"limit: must be between 1 and {MAX_LIMIT}", "invalid_query_params")
    token = _integer("page_token", last["page_token"]) if "page_token" in last else None
    before, skipped = (None, token or 0) if shifting else (token, 0)
    filters = [(name, _FILTERS[name], value) for name, value in last.items() if name in _FILTERS]
    with store.changed:
        owner = _owner(store, last["shared_from"]) if "shared_from" in last else grant_id
        matching = _matching(_candidates(store, owner, query, filters), filters, before)
        found = list(itertools.islice(matching, skipped, skipped + limit + 1))
        documents = [
            shown(message, last.get("fields"), last.get("select"), indexed=message.indexed_at <= store.clock())
            for message in found[:limit]
        ]
    if len(found) <= limit:
        return documents, None
    return documents, str(skipped + limit if shifting else found[limit - 1].number)


def _check_mailbox(query: Mapping[str, str]) -> None:
    """Raise `Refusal` if parameters about which mailbox to list lack those that the document requires with them."""
    if "shared_from" in query and "shared_folder_id" not in query:
        raise invalid("shared_from: requires shared_folder_id", "invalid_query_params")
    if query.get("query_imap", "false") not in ("true", "false"):
        raise invalid("query_imap: must be true or false", "invalid_query_params")
    if query.get("query_imap") == "true" and "in" not in query:
        raise invalid("query_imap: requires in", "invalid_query_params")


def _owner(store: Store, name: str) -> str:
    """The grant with this id or address. Of one that the simulator does not know, nothing is shared."""
    return next((grant.id for grant in store.grants.values() if name in (grant.id, grant.email)), "")


def shown(message: Message, fields: str | None = None, select: str | None = None, *, indexed: bool = True) -> Document:
    """A message as the API shows it; ``fields`` adds headers, ``select`` keeps some top-level members.

    Metadata is stored by the API, not the provider; while it is not ``indexed``, it is not shown.
    """
    document = dict(message.document)
    if not indexed:
        document["metadata"] = {}
    headers = header_fields(message, fields)
    if headers is not None:
        document["headers"] = headers
    if select:
        wanted = {name.strip() for name in select.split(",")}
        document = {name: value for name, value in document.items() if name in wanted}
    return document


def header_fields(message: Message, fields: str | None) -> list[dict[str, str]] | None:
    """The headers that ``fields`` asks for, or None."""
    if fields == "include_headers":
        return message.headers
    if fields == "include_basic_headers":
        return [header for header in message.headers if header["name"].lower() in _BASIC_HEADERS]
    return None


def _candidates(
    store: Store, grant_id: str, query: Mapping[str, list[str]], filters: list[tuple[str, Filter, str]]
) -> Iterable[Message]:
    if "metadata_pair" not in query:
        return store.newest_first(grant_id)
    key, colon, value = query["metadata_pair"][0].partition(":")
    if len(query["metadata_pair"]) > 1 or not colon:
        raise invalid("metadata_pair: exactly one key:value pair", "invalid_query_params")
    if key not in INDEXED_KEYS:
        raise invalid("metadata_pair: only key1 to key5 can be filtered by", "invalid_query_params")
    if filters:
        raise invalid("metadata_pair: cannot be combined with provider filters", "invalid_query_params")
    return store.with_metadata(grant_id, key, value)


def _matching(
    messages: Iterable[Message], filters: list[tuple[str, Filter, str]], before: int | None
) -> Iterable[Message]:
    for message in messages:
        if (before is None or message.number < before) and all(
            fits(message.document, value) for _, fits, value in filters
        ):
            yield message


def _integer(name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 15:
        raise invalid(f"{name}: must be a whole number", "invalid_query_params")
    return int(value)
