"""Retry dead letters, a few hundred in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sendq.clock import Micros
from sendq.errors import Problem
from sendq.filters import DeadLetterFilter
from sendq.ledger.events import ActEvent
from sendq.ledger.operators import retry as dead_letters
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.operators.acts.checks import event_fields, job_filter_of, job_ids, refuse, require_a_field
from sendq.operators.base import Ledger
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.states import State

# States from which a job can be retried.
RETRIED = (State.DEAD, State.EXPIRED)


@dataclass(frozen=True, slots=True)
class RetryProgress:
    """The progress of a retry, or (``dry_run``) what it would do.

    ``retried``: jobs so far; ``refused``: those that stay as they are, by reason. If jobs were named, ``jobs`` are
    those retried, and ``not_dead`` (known at the end) has those in another state with that state, None for no such job.
    """

    dry_run: bool
    retried: int = 0
    refused: Mapping[RetryRefusal, int] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    not_dead: Mapping[str, State | None] = field(default_factory=dict)


def selection_of(
    which: DeadLetterFilter | Sequence[str], *, even_partly: bool, even_overtaken: bool
) -> DeadLetterSelection:
    """The dead letters that a caller selected. Raises `InvalidArgument` or `NotFound`."""
    if not isinstance(which, DeadLetterFilter):
        return DeadLetterSelection(
            jobs=job_ids(which), states=RETRIED, even_partly=even_partly, even_overtaken=even_overtaken
        )
    require_a_field(which, DeadLetterFilter(state=which.state))
    if which.state not in RETRIED:
        refuse([Problem("state", "is not one of those that can be retried", f"give one of {', '.join(RETRIED)}")])
    return DeadLetterSelection(
        which=job_filter_of(which),
        states=(State(which.state),),
        even_partly=even_partly,
        even_overtaken=even_overtaken,
    )


def retry(
    ledger: Ledger,
    which: DeadLetterSelection,
    *,
    by: str,
    reason: str | None,
    limit: int | None,
    apart: Micros,
    dry_run: bool,
) -> Iterator[RetryProgress]:
    """Retry the selected jobs; each part is one transaction, or (``dry_run``) one query."""
    event = None if which.jobs is not None else ActEvent("retry", by=by, reason=reason, **event_fields(which.which))
    done: list[str] = []
    number, refused = 0, Counter[RetryRefusal]()
    next_at: Micros = 0
    after: UUID | None = None
    while True:
        now = ledger.now()
        part = min(dead_letters.CHUNK, limit - number) if limit is not None else dead_letters.CHUNK
        first_at = max(now, next_at)
        if dry_run:
            with ledger.reading() as connection:
                found = dead_letters.find(connection, which, after=after, limit=part)
        else:
            with ledger.writing() as connection:
                found = dead_letters.retry(
                    connection, which, after=after, first_at=first_at, apart=apart,
                    by=by, reason=reason, act=None if event is None else event.id, now=now, limit=part,
                )  # fmt: skip
                if event is not None:
                    event.add(connection, len(found.ready), now=now)
        next_at = first_at + apart * len(found.ready)
        number += len(found.ready)
        refused.update(found.refused.values())
        if which.jobs is not None:
            done += [str(row.id) for row in found.ready]
        after = found.after
        if after is None or number == limit:
            break
        yield RetryProgress(dry_run, number, dict(refused), tuple(done))
    not_dead = others(ledger, which.jobs, done, but=RETRIED)
    yield RetryProgress(dry_run, number, dict(refused), tuple(done), not_dead)


def others(
    ledger: Ledger, named: Sequence[UUID] | None, done: Sequence[str], *, but: Collection[State]
) -> dict[str, State | None]:
    """The named jobs that are neither done nor in one of the states ``but``, with their states; None: no such job."""
    rest = [job for job in named or () if str(job) not in set(done)]
    if not rest:
        return {}
    with ledger.reading() as connection:
        there = dead_letters.states_of(connection, rest)
    return {str(job): there.get(job) for job in rest if there.get(job) not in but}
