"""The query string of one page of a listing of messages, for the bulk calls that walk through a mailbox. Pure."""

from __future__ import annotations

from urllib.parse import quote, urlencode

# Messages per page. Nylas's page on quota errors advises no more, because larger listings use up the quota.
PAGE = 20


def page_query(filters: dict[str, str], *, limit: int = PAGE, select: str = "id") -> bytes:
    """The query string of a page, with sorted filters. ``select``: the fields of messages; by default ids only."""
    shape = {"limit": str(limit), "select": select}
    return urlencode([*sorted((filters | shape).items())], quote_via=quote).encode()
