"""What one method of one address is: the table of all of them is `sendq.api.routes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from sendq.api.forms import Form
from sendq.api.tokens import Access, Token
from sendq.errors import NotFound
from sendq.queue import SendQueue
from sendq.views.owner import Owner
from sendq.views.page import plain

NO_HINTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, read and allowed. ``given``: its JSON; ``key``: its header ``Idempotency-Key``."""

    queue: SendQueue
    token: Token
    values: Mapping[str, str]
    query: tuple[tuple[str, str], ...]
    given: Any
    form: Form | None
    key: str | None
    traceparent: str | None

    @property
    def author(self) -> str:
        """Recorded with a change."""
        return f"api:{self.token.name}"

    @property
    def grants(self) -> tuple[str, ...] | None:
        """Patterns of the only grants that the token covers; None: it covers all. A batch may get other grants at any
        time, so that whatever changes one checks them under its lock, after `require_visible`.
        """
        return None if self.token.covers_all else self.token.grants


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a request. ``location``: the path of what it made."""

    content: Mapping[str, Any]
    status: int = 200
    location: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one address.

    Attributes:
        path: below the mount point; ``{job_id}`` and the like are parameters.
        access: what the token needs.
        run: answers; it runs in a thread, and is called again if the database aborts its transaction.
        summary: for the OpenAPI document.
        results: the name of the answer's schema by status.
        body: the name of the body's schema; None: there is none.
        optional: the body may be left out.
        form: the body may also be a form with files.
        keyed: the header ``Idempotency-Key`` is the key of what it enqueues.
        query: the parameters of the address, with their types.
    """

    name: str
    method: str
    path: str
    access: Access
    run: Callable[[Asked], Result]
    summary: str
    results: Mapping[int, str]
    body: str | None = None
    optional: bool = False
    form: bool = False
    keyed: bool = False
    query: Mapping[str, Any] = field(default_factory=lambda: NO_HINTS)

    @property
    def enqueues(self) -> bool:
        """Whether it makes jobs or batches."""
        return 201 in self.results


def shown(view: Any) -> dict[str, Any]:
    """A view of the Python API as JSON."""
    if hasattr(view, "as_json"):
        values: dict[str, Any] = view.as_json()
        return values
    return plain(asdict(view))


def require_visible(asked: Asked, *, job_id: str | None = None, batch_id: str | None = None) -> None:
    """Raise `NotFound` unless the token covers the job or batch: it does not learn whether there is one."""
    if not may_see(asked.token, asked.queue.owner(job_id, batch_id=batch_id)):
        raise NotFound("outside of the token's scope")


def may_see(token: Token, owner: Owner) -> bool:
    """Whether the token covers all grants of a job or batch. A batch without any belongs to no limited token."""
    if owner.application != token.application:
        return False
    return token.covers_all or (bool(owner.grant_ids) and all(map(token.covers, owner.grant_ids)))
