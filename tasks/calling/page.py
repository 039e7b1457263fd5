"""Parses and validates a page of a listing: ids that can be stored, and the token of the next page. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sendq.enqueueing.arguments import MAX_MESSAGE_ID
from sendq.messages.characters import text_fault
from tasks.policy.body import read_body

# More than the API ever returns per page: an answer with more is not from the API.
IDS_MOST = 200

# Microsoft's cursors have some hundreds of characters; servers reject URLs that are much longer than this.
CURSOR_MOST = 4_000


@dataclass(frozen=True, slots=True)
class Listed:
    """The ids on a page, and the token of the next one; None on the last page."""

    ids: tuple[str, ...]
    cursor: str | None


def read_page(body: bytes) -> Listed | None:
    """The page in the body of an answer; None if there is none or it is invalid.

    A page is not accepted in part: the messages left out would never be found.
    """
    document = read_body(body).document
    data = document.get("data") if document is not None else None
    if document is None or not isinstance(data, list) or len(data) > IDS_MOST:
        return None
    ids = [item.get("id") if isinstance(item, dict) else None for item in data]
    cursor = document.get("next_cursor") or None
    sound = [one for one in ids if isinstance(one, str) and _is_id(one)]
    if len(sound) < len(ids) or not (cursor is None or isinstance(cursor, str)):
        return None
    if cursor is not None and (len(cursor) > CURSOR_MOST or text_fault(cursor) is not None):
        return None
    return Listed(tuple(sound), cursor)


def _is_id(text: str) -> bool:
    """Whether it can be stored, and stands for itself in a path: "." and ".." would change it."""
    return 0 < len(text) <= MAX_MESSAGE_ID and text not in (".", "..") and text_fault(text) is None
