"""Retry dead letters, a few hundred in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sendq.clock import Micros
from sendq.errors import Problem
from sendq.filters import DeadLetterFilter
from sendq.ids import parse_id
from sendq.ledger.operators import retry as dead_letters
from sendq.ledger.operators.retry import DeadLetterSelection
from sendq.operators.acts.checks import instant, job_ids, lane_of, refuse
from sendq.operators.base import Ledger
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.states import State


@dataclass(frozen=True, slots=True)
class RetryProgress:
    """The progress of a retry, or (``dry_run``) what it would do.

    ``retried``: jobs so far; ``refused``: dead letters that stay dead, by reason. If jobs were named, ``jobs`` are
    those retried, and ``not_dead`` (known at the end) has the others with their state, None for no such job.
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
        return DeadLetterSelection(jobs=job_ids(which), even_partly=even_partly, even_overtaken=even_overtaken)
    if which.rule is None and which.grant_id is None and which.batch_id is None and which.since is None:
        refuse([Problem("which", "has no filter", "give at least one of rule, grant_id, batch_id and since")])
    return DeadLetterSelection(
        rule=which.rule,
        lane_id=lane_of(which.grant_id, which.application),
        batch_id=None if which.batch_id is None else parse_id(which.batch_id, what="batch"),
        since=None if which.since is None else instant("since", which.since),
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
                    by=by, reason=reason, now=now, limit=part,
                )  # fmt: skip
        next_at = first_at + apart * len(found.ready)
        number += len(found.ready)
        refused.update(found.refused.values())
        if which.jobs is not None:
            done += [str(row.id) for row in found.ready]
        after = found.after
        if after is None or number == limit:
            break
        yield RetryProgress(dry_run, number, dict(refused), tuple(done))
    not_dead = others(ledger, which.jobs, done, but=State.DEAD)
    yield RetryProgress(dry_run, number, dict(refused), tuple(done), not_dead)


def others(ledger: Ledger, named: Sequence[UUID] | None, done: Sequence[str], *, but: State) -> dict[str, State | None]:
    """The named jobs that are neither done nor in the state ``but``, with their states; None: no such job."""
    rest = [job for job in named or () if str(job) not in set(done)]
    if not rest:
        return {}
    with ledger.reading() as connection:
        there = dead_letters.states_of(connection, rest)
    return {str(job): there.get(job) for job in rest if there.get(job) is not but}
