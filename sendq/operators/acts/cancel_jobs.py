"""Cancel many jobs, a few hundred in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from sendq.clock import Micros
from sendq.ledger import events
from sendq.ledger.cancel import cancel_some
from sendq.ledger.db.bulk import chunks
from sendq.ledger.events import ActEvent
from sendq.ledger.operators import unfinished
from sendq.ledger.reading.filters import JobFilter
from sendq.operators.acts.checks import event_fields
from sendq.operators.base import Ledger
from sendq.rules.states import State


@dataclass(frozen=True, slots=True)
class CancelProgress:
    """The progress of a cancel of many jobs, or (``dry_run``) what it would do: ``states`` has the number of jobs by
    their state afterwards.

    ``cancelled``: they will not go out; ``sending``: their call is in flight, and they are cancelled if the answer is
    "not sent"; ``in_doubt``: they may have gone out, and are not tried again.
    """

    dry_run: bool
    states: Mapping[State, int] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """All of them."""
        return sum(self.states.values())


def cancel_jobs(
    ledger: Ledger, which: JobFilter, *, by: str, reason: str | None, dry_run: bool
) -> Iterator[CancelProgress]:
    """Cancel the unfinished jobs that match; each part is one transaction."""
    if dry_run:
        with ledger.reading() as connection:
            yield CancelProgress(dry_run, unfinished.after_cancel(connection, which))
        return
    event = ActEvent("cancel", by=by, reason=reason, **event_fields(which))
    states: Counter[State] = Counter()

    def cancel(connection: Connection, rows: Sequence[Any], now: Micros) -> None:
        done = cancel_some(connection, [row.id for row in rows], now=now)
        changed = [row for row in rows if done.get(row.id) in (State.CANCELLED, State.SENDING, State.IN_DOUBT)]
        states.update(done[row.id] for row in changed)
        event.add(connection, len(changed), now=now)
        parts = [_part(row, by=by, reason=reason, act=event.id, now=now) for row in changed]
        events.append_all(connection, parts)

    after = None
    while True:
        with ledger.writing() as connection:
            rows, after = unfinished.queued(connection, which, after=after)
            cancel(connection, rows, ledger.now())
        if after is None:
            break
        yield CancelProgress(dry_run, dict(states))
    with ledger.reading() as connection:
        on_the_wire = unfinished.sending(connection, which)
    for part in chunks(on_the_wire, unfinished.STEP):
        with ledger.writing() as connection:
            cancel(connection, part, ledger.now())
    yield CancelProgress(dry_run, dict(states))


def _part(row: Any, *, by: str, reason: str | None, act: UUID, now: Micros) -> dict[str, Any]:
    return events.event(
        "cancel", at=now, by=by, reason=reason, job_id=row.id, batch_id=row.batch_id,
        application=row.application, provider=row.provider, grant_id=row.grant_id, act=act,
    )  # fmt: skip
