"""What happened to lanes, grants and holds, and what operators did: appended, with author and time.

    hold, release       a grant, provider or application was held; a hold was ended before its time
    closed, reopened    the lane of a grant whose owner must sign in again, or is suspected to have to
    reauth_required     its owner was asked to sign in again
    grant_gone          the grant no longer exists
    escalated           many grants failed alike: their provider was held, and they were reopened
    narrowed            a lane makes fewer calls at once from now on
    clock_set_back      the clock had been ahead; times that lie too far ahead were brought back
    recipients_dropped  a job was enqueued without some of its recipients: they are suppressed
    cancel, retry, resolved, deliveries_retried, forget, recovered, rekey, suppressed, unsuppressed
                        what an operator did
    reschedule, priority, approve, reject, replace
                        a person or program changed jobs that wait, as do hold and release of a job or batch;
                        ``replace`` has the digests of both requests (`sendq.ledger.replacing`), and with ``approve``
                        and ``reject`` of a job whose message was replaced goes its content version
    window, warm_up     an operator set or removed the window of a grant; began or ended its warm-up
    undo                a person or program began to undo a batch
    refused             somebody tried an act in the console who is not an operator

An act on many things is one event (on a suppression list: one for each category) with their ``number``, in the
transaction that changed the first of them.
What it did to each is kept too, as an event with the id of that one (``act``): lists show these parts only for a job or
a grant.

An incident is recorded once: calls that were on the wire when a hold began add nothing. ``job_id`` is then the job
whose answer caused it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, update

from sendq.clock import Micros
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.rules.waiting_job import ChangeKind

# Authors of events that no person caused; operators may not use these names, or they could not be told apart.
AUTOMATIC = frozenset({"policy", "escalation", "check", "reconcile", "webhook", "suppression"})

KINDS = (
    *(kind.value for kind in ChangeKind),
    "closed", "reopened", "reauth_required", "grant_gone", "escalated", "narrowed", "clock_set_back",
    "recipients_dropped", "over_budget",
    "cancel", "retry", "resolved", "deliveries_retried", "forget", "recovered", "rekey", "suppressed", "unsuppressed",
    "replace", "window", "warm_up", "undo", "refused",
)  # fmt: skip


def append(connection: Connection, kind: str, **what: Any) -> None:
    """Write one event; for its fields see `event`."""
    append_all(connection, [event(kind, **what)])


def append_all(connection: Connection, happened: Sequence[Mapping[str, Any]]) -> None:
    """Write events, in their order."""
    insert_rows(connection, schema.event, happened)


def event(
    kind: str,
    *,
    at: Micros,
    by: str,
    application: str | None = None,
    provider: str | None = None,
    grant_id: str | None = None,
    job_id: UUID | None = None,
    batch_id: UUID | None = None,
    rule: str | None = None,
    reason: str | None = None,
    number: int | None = None,
    act: UUID | None = None,
    event_id: UUID | None = None,
    tag: str | None = None,
    category: str | None = None,
) -> dict[str, Any]:
    """An event as a row. ``by`` is an operator's name, or the automatic actor: ``policy``, ``escalation``, ``check``,
    ``reconcile``, ``webhook``, ``suppression``. ``act``: the event of the act that it is a part of; ``event_id``: None
    makes a new one.
    """
    return {
        "id": event_id or new_id(),
        "at": at,
        "kind": kind,
        "application": application,
        "provider": provider,
        "grant_id": grant_id,
        "job_id": job_id,
        "batch_id": batch_id,
        "rule": rule,
        "by": by,
        "reason": reason,
        "number": number,
        "act": act,
        "tag": tag,
        "category": category,
    }


class ActEvent:
    """The event of an act on many things: written with the first that are changed, then counted up.

    ``what``: the fields of `event`. An act that changes nothing has no event.
    """

    def __init__(self, kind: str, **what: Any) -> None:
        self.id = new_id()
        self._kind, self._what = kind, what
        self._written = False

    def add(self, connection: Connection, number: int, *, now: Micros) -> None:
        """This transaction changed ``number`` more things."""
        if not number:
            return
        if self._written:
            table = schema.event
            more = update(table).where(table.c.id == self.id).values(number=table.c.number + number)
            connection.execute(more)
        else:
            append(connection, self._kind, at=now, event_id=self.id, number=number, **self._what)
            self._written = True


class CategoryEvents:
    """The events of an act on a suppression list, one for each category. ``what``: the fields of all of them."""

    def __init__(self, kind: str, **what: Any) -> None:
        self._kind, self._what = kind, what
        self._of: dict[str, ActEvent] = {}

    def add(self, connection: Connection, category: str, number: int, *, now: Micros) -> None:
        """This transaction changed ``number`` more entries for a category ("": for all mail)."""
        if category not in self._of:
            self._of[category] = ActEvent(self._kind, category=category or None, **self._what)
        self._of[category].add(connection, number, now=now)
