"""What is asked of a page: who asks, which filters, and the addresses of other pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlencode

from sendq.console.identity import Person


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``base``: the path at which the console is mounted; ``path``: within it; ``update``: only the live
    part of a page is rendered.
    """

    person: Person
    base: str
    path: str
    query: Mapping[str, str]
    values: Mapping[str, str]
    now: datetime
    csrf: str
    update: bool = False

    def get(self, name: str) -> str | None:
        """A value of the query; None: it is missing or empty."""
        return self.query.get(name, "").strip() or None

    def url(self, *path: str, **query: object) -> str:
        """The address of a page; each part of ``path`` is quoted. Empty values are left out."""
        given = {name: str(value) for name, value in query.items() if value not in (None, "")}
        where = "/".join(quote(part, safe="") for part in path)
        return f"{self.base}/{where}" + (f"?{urlencode(given)}" if given else "")

    def here(self, **changes: str | None) -> str:
        """This page's address with other filters. A change of filters begins at the first page."""
        query = {name: value for name, value in self.query.items() if name != "after" and value}
        given = {name: value for name, value in (query | changes).items() if value}
        return f"{self.base}{self.path}" + (f"?{urlencode(given)}" if given else "")


@dataclass(frozen=True, slots=True)
class View:
    """The answer of a page: a template and its values."""

    template: str
    values: Mapping[str, object]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Redirect:
    """Another page answers."""

    url: str
