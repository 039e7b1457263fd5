"""Resolve jobs in doubt, a few hundred in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sendq.clock import Micros
from sendq.errors import Problem
from sendq.filters import DoubtFilter
from sendq.ledger.events import ActEvent
from sendq.ledger.operators import resolve as doubts
from sendq.ledger.operators.resolve import DoubtSelection
from sendq.ledger.operators.retry import CHUNK
from sendq.operators.acts.checks import event_fields, job_filter_of, job_ids, refuse
from sendq.operators.acts.retry import others
from sendq.operators.base import Ledger
from sendq.rules.by_hand import Answer, ResendRefusal
from sendq.rules.states import State

MESSAGE_ID_MOST = 512  # characters, as for other external ids in the ledger


@dataclass(frozen=True, slots=True)
class ResolveProgress:
    """The progress of a resolve, or (``dry_run``) what it would do.

    ``resolved``: jobs so far; ``refused``: jobs that stay in doubt, by reason. If jobs were named, ``jobs`` are those
    resolved, and ``not_in_doubt`` (known at the end) has the others with their state, None for no such job.
    """

    dry_run: bool
    answer: Answer
    resolved: int = 0
    refused: Mapping[ResendRefusal, int] = field(default_factory=dict)
    jobs: tuple[str, ...] = ()
    not_in_doubt: Mapping[str, State | None] = field(default_factory=dict)


def answer_of(answer: Answer | str) -> Answer:
    """The answer as an `Answer`. Raises `InvalidArgument`."""
    if answer not in tuple(Answer):
        refuse([Problem("answer", "is not an answer", f"give one of {', '.join(Answer)}")])
    return Answer(answer)


def check_message_id(message_id: str | None, which: DoubtFilter | Sequence[str], answer: Answer) -> None:
    """Raise `InvalidArgument` if the message id does not fit the selected jobs or the answer."""
    if message_id is None:
        return
    if answer is not Answer.SENT or isinstance(which, DoubtFilter) or len(which) != 1:
        refuse([Problem("message_id", "goes with one job that was sent", "leave it out")])
    if not (0 < len(message_id) <= MESSAGE_ID_MOST and message_id.isprintable()):
        remedy = f"give 1 to {MESSAGE_ID_MOST} printable characters"
        refuse([Problem("message_id", "is not the id of a message", remedy)])


def selection_of(which: DoubtFilter | Sequence[str]) -> DoubtSelection:
    """The jobs in doubt that a caller selected. Raises `InvalidArgument` or `NotFound`."""
    if not isinstance(which, DoubtFilter):
        return DoubtSelection(jobs=job_ids(which))
    return DoubtSelection(which=job_filter_of(which))


def resolve(
    ledger: Ledger,
    which: DoubtSelection,
    answer: Answer,
    *,
    by: str,
    reason: str,
    message_id: str | None,
    apart: Micros,
    dry_run: bool,
) -> Iterator[ResolveProgress]:
    """Resolve the selected jobs; each part is one transaction, or (``dry_run``) one query."""
    by_filter = which.jobs is None
    event = ActEvent("resolved", by=by, reason=reason, **event_fields(which.which)) if by_filter else None
    done: list[str] = []
    number, refused = 0, Counter[ResendRefusal]()
    next_at: Micros = 0
    after: UUID | None = None
    while True:
        if dry_run:
            with ledger.reading() as connection:
                found = doubts.find(connection, which, answer, after=after, limit=CHUNK)
        else:
            with ledger.writing() as connection:
                now = ledger.now()
                first_at = max(now, next_at)
                found = doubts.resolve(
                    connection, which, answer, by=by, reason=reason, message_id=message_id, now=now,
                    first_at=first_at, apart=apart, act=None if event is None else event.id, after=after, limit=CHUNK,
                )  # fmt: skip
                next_at = first_at + apart * len(found.ready)
                if event is not None:
                    event.add(connection, len(found.ready), now=now)
        number += len(found.ready)
        refused.update(found.refused.values())
        if which.jobs is not None:
            done += [str(row.id) for row in found.ready]
        after = found.after
        if after is None:
            break
        yield ResolveProgress(dry_run, answer, number, dict(refused), tuple(done))
    not_in_doubt = others(ledger, which.jobs, done, but=[State.IN_DOUBT])
    yield ResolveProgress(dry_run, answer, number, dict(refused), tuple(done), not_in_doubt)
