"""The ledger equation: what must hold between the callers, the ledger and the API when everything is idle again.

Every accepted job is in exactly one state, a final one; the API accepted a message at most once, and exactly once if
the ledger says "sent"; what the ledger says was sent was sent, and what it says was not sent was not. Nothing is left
open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, select

from sendq import State
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from sendq.rules.states import FINAL
from sendq.simulator.store import Accepted, Modified
from tests.chaos.load import Load
from tests.support.system import System

_NOT_SENT = frozenset({State.DEAD, State.CANCELLED, State.EXPIRED})


@dataclass(frozen=True, slots=True)
class Sum:
    """The result. ``wrong`` has a sentence for every job or lane that breaks the equation."""

    jobs: int
    states: Mapping[State, int]
    lost: Sequence[str]  # accepted from the caller, but neither sent nor in a visible final state
    twice: Sequence[str]  # in the mailbox more than once
    wrong: Sequence[str] = field(default_factory=list)

    @property
    def in_doubt(self) -> int:
        """The number of jobs in doubt."""
        return self.states.get(State.IN_DOUBT, 0)

    @property
    def holds(self) -> bool:
        """Whether nothing is lost, nothing was sent twice, and nothing in the ledger is untrue."""
        return not (self.lost or self.twice or self.wrong)


@dataclass(frozen=True, slots=True)
class Books:
    """The content of the ledger, read in one transaction."""

    jobs: Sequence[Row[Any]]
    lanes: Sequence[Row[Any]]
    changes: Mapping[tuple[Any, str], int]  # of a batch's progress, by (batch, state)
    wakes: int


def add_up(system: System, load: Load) -> Sum:
    """Compare the callers, the ledger and the API."""
    books = read_books(system)
    return equation(books, load, mailbox=system.api.mailbox, modified=system.api.modified)


def read_books(system: System) -> Books:
    """Read all rows that the equation needs."""
    with reading(system.engine) as connection:
        columns = schema.job.c
        jobs: Sequence[Any] = connection.execute(
            select(columns.id, columns.operation, columns.state, columns.object_id, columns.batch_id, columns.lane_id,
                   columns.due_at, columns.doubt_at, columns.message_id)
        ).all()  # fmt: skip
        lanes = connection.execute(select(schema.lane)).all()
        changes: Counter[tuple[Any, str]] = Counter()
        for row in connection.execute(select(schema.batch_change)):
            changes[row.batch_id, row.state] += row._mapping["count"]
        wakes = len(connection.execute(select(schema.wake.c.id)).all())
    return Books(jobs, lanes, changes, wakes)


def equation(books: Books, load: Load, *, mailbox: Sequence[Accepted], modified: Sequence[Modified]) -> Sum:
    """Compare what was accepted, what the ledger says and what the API has."""
    by_id = {str(job.id): job for job in books.jobs}
    out = Counter(one.job for one in mailbox if one.job is not None)
    expected = [*load.sends, *(str(job.id) for job in books.jobs if job.batch_id is not None)]
    lost = [name for name in load.sends if name not in by_id]
    lost += [name for name, job in by_id.items() if job.state not in FINAL and job.state != State.IN_DOUBT]
    wrong = [f"job {name} was enqueued by nobody" for name in by_id.keys() - set(expected)]
    wrong += _batches_missing(books, load)
    wrong += _untrue(by_id, out, {one.job: one.id for one in mailbox})
    wrong += _wrong_last_changes(books, load, modified)
    wrong += _left_open(books)
    wrong += _progress(books)
    return Sum(
        jobs=load.jobs,
        states=Counter(State(job.state) for job in books.jobs),
        lost=lost,
        twice=[name for name, count in out.items() if count > 1],
        wrong=wrong,
    )


def _batches_missing(books: Books, load: Load) -> Iterable[str]:
    known = {str(job.batch_id) for job in books.jobs}
    return [f"batch {name} has no jobs" for name in load.batches.keys() - known]


def _untrue(jobs: Mapping[str, Row[Any]], out: Mapping[str, int], ids: Mapping[str | None, str]) -> Iterable[str]:
    for name, job in jobs.items():
        if job.operation != "send":
            continue
        if job.state == State.SENT and not out.get(name):
            yield f"job {name} is sent, and the API knows nothing of it"
        if job.state in _NOT_SENT and out.get(name):
            yield f"job {name} is {job.state}, and the API accepted it"
        if job.state == State.SENT and out.get(name) == 1 and job.message_id != ids[name]:
            yield f"job {name} names another message than the one that went out"


def _wrong_last_changes(books: Books, load: Load, modified: Sequence[Modified]) -> Iterable[str]:
    """Of all modifications of one message, the one requested last must win."""
    grants = {lane.id: lane.grant_id for lane in books.lanes}
    current = {(one.grant, one.id): one.changes.get("unread") for one in modified}
    last = {
        (job.lane_id, job.object_id): job
        for job in sorted(books.jobs, key=lambda job: (job.due_at, job.id))
        if job.operation == "modify"
    }
    for (lane, name), job in last.items():
        if job.state == State.SENT and current.get((grants[lane], name)) != load.batches[str(job.batch_id)]:
            yield f"message {name}: an older modification stands than job {job.id}"


def _left_open(books: Books) -> Iterable[str]:
    waiting = {job.lane_id for job in books.jobs if job.state == State.QUEUED}
    for lane in books.lanes:
        if lane.turn is not None:
            yield f"lane {lane.id} has an open turn ({lane.turn})"
        elif lane.id in waiting and lane.next_at is None and lane.closed_at is None:
            yield f"lane {lane.id} sleeps over waiting jobs"
    if books.wakes:
        yield f"{books.wakes} wake rows were never taken in"


def _progress(books: Books) -> Iterable[str]:
    ended = Counter(
        (job.batch_id, job.state)
        for job in books.jobs
        if job.batch_id is not None and job.state not in (State.QUEUED, State.SENDING)
    )
    summed = {name: count for name, count in books.changes.items() if count}
    for name in ended.keys() | summed.keys():
        if ended.get(name, 0) != summed.get(name, 0):
            yield f"batch {name[0]} counts {summed.get(name, 0)} jobs {name[1]}, and has {ended.get(name, 0)}"
