"""For the tests of an application: what did it enqueue?

    from sendq.testing import assert_enqueued, assert_not_enqueued, enqueued

    job = assert_enqueued(queue, key="invoice-42", to="leyah@example.com", session=session)
    assert job.body["body"] == "<p>42</p>"

They read the ledger, so no worker has to run. With ``session`` they see what the caller's open transaction has
enqueued, which a test may roll back afterwards. With an `AsyncSendQueue` each of them is awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar, Unpack, overload

from sqlalchemy import Connection

from sendq.enqueueing.arguments import check_grant
from sendq.filter_checks import choices_of, name_of, refuse
from sendq.ledger.reading.enqueued import enqueued as read_enqueued
from sendq.queue import SendQueue
from sendq.views import EnqueuedJob

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue

__all__ = ["EnqueuedJob", "Filters", "assert_enqueued", "assert_not_enqueued", "enqueued"]

T = TypeVar("T")

OPERATIONS = ("send", "modify", "delete")

# Jobs that a failed assertion lists: more than a test usually enqueues.
LISTED_MOST = 20


class Filters(TypedDict, total=False):
    """Which jobs: those that match every given filter, whatever their state.

    application, grant_id, key    those that they were enqueued with
    operation                     ``send``, ``modify`` or ``delete``
    to                            one of the addresses in the message's ``to``, in upper or lower case
    subject                       the whole subject of the message
    """

    application: str
    grant_id: str
    key: str
    operation: str
    to: str
    subject: str


@overload
def enqueued(queue: SendQueue, *, session: Any = None, **filters: Unpack[Filters]) -> list[EnqueuedJob]: ...
@overload
def enqueued(
    queue: AsyncSendQueue, *, session: Any = None, **filters: Unpack[Filters]
) -> Awaitable[list[EnqueuedJob]]: ...
def enqueued(queue: Any, *, session: Any = None, **filters: Unpack[Filters]) -> Any:
    """The jobs that match the filters, in the order of enqueue.

    Raises `InvalidArgument` for a filter that nothing can match, and `Unreadable` if the queue's vault cannot open a
    message.
    """
    return _run(queue, session, filters, lambda found, others: found)


@overload
def assert_enqueued(queue: SendQueue, *, session: Any = None, **filters: Unpack[Filters]) -> EnqueuedJob: ...
@overload
def assert_enqueued(
    queue: AsyncSendQueue, *, session: Any = None, **filters: Unpack[Filters]
) -> Awaitable[EnqueuedJob]: ...
def assert_enqueued(queue: Any, *, session: Any = None, **filters: Unpack[Filters]) -> Any:
    """Assert that exactly one job matches the filters, and return it.

    Raises ``AssertionError``, which lists what was enqueued instead; otherwise what `enqueued` raises.
    """
    __tracebackhide__ = True

    def check(found: Sequence[EnqueuedJob], others: Callable[[], Sequence[EnqueuedJob]]) -> EnqueuedJob:
        __tracebackhide__ = True
        if len(found) == 1:
            return found[0]
        if found:
            _fail(f"{len(found)} jobs were enqueued{_shown(filters)}; expected one:", found)
        _fail(f"no job was enqueued{_shown(filters)}{_elsewhere(session)};", others())

    return _run(queue, session, filters, check)


@overload
def assert_not_enqueued(queue: SendQueue, *, session: Any = None, **filters: Unpack[Filters]) -> None: ...
@overload
def assert_not_enqueued(
    queue: AsyncSendQueue, *, session: Any = None, **filters: Unpack[Filters]
) -> Awaitable[None]: ...
def assert_not_enqueued(queue: Any, *, session: Any = None, **filters: Unpack[Filters]) -> Any:
    """Assert that no job matches the filters; without a filter, that nothing was enqueued at all.

    Raises ``AssertionError``, which lists those that do; otherwise what `enqueued` raises.
    """
    __tracebackhide__ = True

    def check(found: Sequence[EnqueuedJob], others: Callable[[], Sequence[EnqueuedJob]]) -> None:
        __tracebackhide__ = True
        if found:
            _fail(f"{_count(found)} enqueued{_shown(filters)}; expected none:", found)

    return _run(queue, session, filters, check)


def _run(
    queue: Any,
    session: Any,
    filters: Filters,
    check: Callable[[Sequence[EnqueuedJob], Callable[[], Sequence[EnqueuedJob]]], T],
) -> T | Awaitable[T]:
    """Pass the matching jobs, and a function that reads all jobs, to ``check``, within one transaction."""
    __tracebackhide__ = True
    operations = _checked(filters)
    key, vault = filters.get("key"), queue._vault

    def query(connection: Connection) -> T:
        __tracebackhide__ = True
        found = read_enqueued(connection, key=key, operations=operations, vault=vault)
        return check([job for job in found if _matches(job, filters)], lambda: read_enqueued(connection, vault=vault))

    result: T | Awaitable[T] = queue._ledger.read(query, session)
    return result


def _checked(filters: Filters) -> list[str]:
    """Check the filters, since a mistaken one would match nothing; returns the operations."""
    unknown = filters.keys() - Filters.__annotations__.keys()
    if unknown:
        raise TypeError(f"there is no filter {min(unknown)!r}; there are {', '.join(Filters.__annotations__)}")
    if "grant_id" in filters:
        for problem in check_grant(filters["grant_id"]):
            refuse("grant_id", problem.reason, problem.remedy)
    for field in ("application", "key", "to", "subject"):
        if field in filters and name_of(field, filters[field]) is None:
            refuse(field, "is None", "give a string, or leave the filter out")
    return choices_of("operation", filters.get("operation"), OPERATIONS)


def _matches(job: EnqueuedJob, filters: Filters) -> bool:
    """Whether it has the application, the grant, the recipient and the subject; the rest is part of the query."""
    to = filters.get("to")
    return (
        filters.get("application") in (None, job.application)
        and filters.get("grant_id") in (None, job.grant_id)
        and filters.get("subject") in (None, job.subject)
        and (to is None or to.casefold() in (address.casefold() for address in job.to))
    )


def _fail(reason: str, jobs: Sequence[EnqueuedJob]) -> NoReturn:
    __tracebackhide__ = True
    if reason.endswith(";"):
        reason += f" {_count(jobs)} enqueued:" if jobs else " nothing was enqueued"
    lines = [f"  {_line(job)}" for job in jobs[:LISTED_MOST]]
    if len(jobs) > LISTED_MOST:
        lines.append(f"  and {len(jobs) - LISTED_MOST} more")
    raise AssertionError("\n".join([reason, *lines]))


def _count(jobs: Sequence[EnqueuedJob]) -> str:
    return "1 job was" if len(jobs) == 1 else f"{len(jobs)} jobs were"


def _shown(filters: Filters) -> str:
    return f" with {', '.join(f'{name}={value!r}' for name, value in filters.items())}" if filters else ""


def _elsewhere(session: Any) -> str:
    return " (and committed: pass session= to see an open transaction)" if session is None else ""


def _line(job: EnqueuedJob) -> str:
    """One job in a list: what it does, and everything that the filters are about."""
    parts = [job.operation]
    if job.operation == "send":
        parts.append("(message deleted)" if job.body is None else f"to {', '.join(job.to) or 'nobody'}")
        parts.append(f"subject={job.subject!r}")
    elif job.object_id is not None:
        parts.append(job.object_id)
    parts += [f"grant_id={job.grant_id!r}", f"application={job.application!r}"]
    return " ".join([*parts, f"key={job.key!r}", job.state])
