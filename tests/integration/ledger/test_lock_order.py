"""Transactions that change the same rows, on PostgreSQL: one waits for the other, and they never deadlock.

Each pair of transactions meets in every way: the second starts before each statement of the first, and runs until it
has committed or waits for a lock. PostgreSQL ends one of two transactions that wait for each other, after a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from sendq import Query
from sendq.changes import HOLD, RELEASE
from sendq.clock import SECOND
from sendq.facts.lanes import WHOLE_APPLICATION, Wake
from sendq.facts.outcomes import Hold, Page, Scope
from sendq.facts.turns import Claimed, Group, Turn
from sendq.ids import lane_id, new_id
from sendq.ledger import batches, deliveries, doubt, waiting_jobs
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.db.engine import writing
from sendq.ledger.deliveries import DeliveryAttempt
from sendq.ledger.dispatching import rescue, turns
from sendq.ledger.dispatching.lane_paces import pace_columns
from sendq.ledger.dispatching.record import record
from sendq.ledger.dispatching.waking import take_wakes, take_wakes_and_lock, wake_lanes
from sendq.ledger.operators import erasure
from sendq.ledger.operators.holds import hold_pair
from sendq.ledger.operators.retry import DeadLetterSelection, retry
from sendq.rules.budgets import Budget, Budgets
from sendq.rules.paces import Paces
from sendq.rules.reconcile import Seen
from sendq.rules.states import Event
from tests.support.ledger import Ledger, begin_of, between_statements, empty, end, outcome, until_it_waits
from tests.support.waiting import LIMIT_S

LOCK_NOT_AVAILABLE = "55P03"

Transaction = Callable[[Connection], Any]
Meeting = tuple[Transaction, Transaction]


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in another thread."""
    with ThreadPoolExecutor(2) as pool:
        yield pool.submit


def two_dispatchers(ledger: Ledger) -> Meeting:
    """The lease changes hands during a round. The old leader looked for two lanes before one of them existed."""
    return _two_dispatchers(ledger, take_wakes)


def two_dispatchers_of_few_jobs(ledger: Ledger) -> Meeting:
    """The same, where lanes are locked together with their wake rows."""
    return _two_dispatchers(ledger, lambda *given, **named: take_wakes_and_lock(*given, **named)[0])


def _two_dispatchers(ledger: Ledger, take: Callable[..., Sequence[Wake]]) -> Meeting:
    early, late = sorted(("g1", "g2"), key=lambda grant: lane_id("default", grant))
    for grant in (early, late, early, late):
        ledger.send(grant)

    def wake(connection: Connection) -> None:
        wakes = take(connection, limit=2)
        wake_lanes(connection, wakes, now=ledger.clock(), paces=Paces())

    def create() -> None:
        lane = {"id": lane_id("default", early), "application": "default", "grant_id": early, "provider": "unknown"}
        pace = pace_columns(Paces(), "default", "unknown", early)
        with ledger.writing() as connection:
            insert_new(connection, schema.lane, [lane | {"created_at": 0, "ramp": 1} | pace], returning="id")

    def old_leader(connection: Connection) -> None:
        wakes = take(connection, limit=2)
        create()
        wake_lanes(connection, wakes, now=ledger.clock(), paces=Paces())

    return old_leader, wake


def a_hold_by_an_answer_and_one_by_an_operator(ledger: Ledger) -> Meeting:
    """Both are the first of the whole application."""
    ledger.send()
    claimed = ledger.serve()
    until = ledger.clock() + 60 * SECOND
    hold = Hold(Scope.APPLICATION, "rate_limit", "policy", until)
    refused = outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold)

    def by_hand(connection: Connection) -> None:
        now = ledger.clock()
        hold_pair(connection, "default", WHOLE_APPLICATION, until=until, by="tests", reason="maintenance", now=now)

    return by_hand, _recorded(ledger, Group([refused], ends=[end(claimed)]))


def a_record_and_the_turns_of_workers_without_a_row(ledger: Ledger) -> Meeting:
    """A process was presumed dead twice, and still has turns under both ids."""
    early, late = sorted(("g1", "g2"), key=lambda grant: lane_id("default", grant))
    workers = sorted((new_id(), new_id()))
    claimed = []
    for grant, worker in ((late, workers[0]), (early, workers[1])):
        ledger.send(grant)
        claimed += ledger.claim(ledger.offer(), worker=worker)
    now = ledger.clock.advance(60)

    def take_back(connection: Connection) -> None:
        rescue.take_back_unclaimed(connection, offered_before=now, now=now)

    accepted = [outcome(one, one.jobs[0], Event.ACCEPT, sent="yes") for one in claimed]
    return take_back, _recorded(ledger, Group(accepted, ends=[end(one) for one in claimed]))


def a_record_and_the_cancel_of_its_batch(ledger: Ledger) -> Meeting:
    """The job that begins is an older one than that which has ended."""
    older, newer = ledger.modify("g1", ["a", "b"])
    batch_id = ledger.job(older).batch_id
    ledger.absorb()
    ledger.set_lane(width=1, ramp=1)
    ledger.set_job(older, next_at=ledger.clock() + SECOND)
    ledger.clock.advance(0.5)
    claimed = ledger.serve()
    assert claimed.begun == {newer}
    (job,) = (job for job in claimed.jobs if job.id == newer)
    accepted = outcome(claimed, job, Event.ACCEPT, sent="yes")
    group = Group([accepted], [begin_of(claimed, older)])
    return _recorded(ledger, group), _cancelled(ledger, batch_id)


def a_repeated_record_and_the_cancel_of_its_batch(ledger: Ledger) -> Meeting:
    """The answer to the commit of the newer outcome was lost, so it is in the next group again."""
    older, newer = ledger.modify("g1", ["a", "b"])
    ledger.widen("g1")
    ledger.clock.advance(1)
    claimed = ledger.serve()
    by_id = {job.id: job for job in claimed.jobs}
    first, second = (outcome(claimed, by_id[job], Event.ACCEPT, sent="yes") for job in (older, newer))
    ledger.record(first)
    return _recorded(ledger, Group([first, second])), _cancelled(ledger, ledger.job(older).batch_id)


def a_claim_and_an_erasure(ledger: Ledger) -> Meeting:
    """The claim ends a job that has expired, and begins an older one."""
    older, newer = ledger.send(), ledger.send()
    ledger.set_job(newer, expires_at=ledger.clock() + SECOND)
    ledger.clock.advance(1)
    return _claimed(ledger, ledger.offer()), _erased(ledger, [older, newer])


def a_claim_and_an_erasure_of_what_it_overtook(ledger: Ledger) -> Meeting:
    """The claim ends an expired change, and an older one of another message that a newer change has overtaken."""
    older, newer = ledger.modify("g1", ["a", "b"])
    (later,) = ledger.modify("g1", ["a"])
    ledger.set_job(later, state="sent", finished_at=ledger.clock())
    ledger.set_job(newer, expires_at=ledger.clock() + SECOND)
    ledger.clock.advance(1)
    return _claimed(ledger, ledger.offer()), _erased(ledger, [older, newer])


def a_round_that_claims_at_once_and_an_erasure(ledger: Ledger) -> Meeting:
    """Of the jobs of two lanes. The round waits for none of them, but leaves its turns unclaimed."""
    jobs = [ledger.send(grant) for grant in ("g1", "g2", "g1")]
    ledger.clock.advance(1)
    return _claimed_at_once(ledger), _erased(ledger, jobs)


def a_round_that_claims_at_once_and_a_record(ledger: Ledger) -> Meeting:
    """The turns of two lanes end, whose next jobs have just come, and those of two others are new."""
    first, second = (_served(ledger, grant) for grant in ("g1", "g2"))
    for grant in ("g2", "g3", "g1", "g4"):
        ledger.send(grant)
    ledger.clock.advance(1)
    outcomes = [outcome(one, one.jobs[0], Event.ACCEPT, sent="yes") for one in (second, first)]
    return _claimed_at_once(ledger), _recorded(ledger, Group(outcomes, [], [end(first), end(second)]))


def a_record_of_pages_and_the_sums_of_their_batches(ledger: Ledger) -> Meeting:
    """One group has pages of two walks."""
    options: dict[str, Any] = {"unread": False}
    first, second = (ledger.queue.modify_matching(grant, Query(unread=True), **options) for grant in ("g1", "g2"))
    ledger.clock.advance(1)
    claimed = ledger.claim(ledger.offer())
    later, earlier = sorted(claimed, key=lambda one: str(one.jobs[0].batch_id), reverse=True)
    assert {str(one.jobs[0].batch_id) for one in claimed} == {first.id, second.id}
    pages = [
        outcome(one, one.jobs[0], Event.ACCEPT, sent="yes", page=Page(("m1",), b"next", "text/plain"))
        for one in (later, earlier)
    ]
    with ledger.writing() as connection:
        rows = [{"batch_id": UUID(one.id), "state": "page", "count": 1, "at": 0} for one in (first, second)]
        connection.execute(schema.batch_change.insert(), rows)

    def add_up(connection: Connection) -> None:
        batches.finish_batches(connection, now=ledger.clock(), limit=100)

    return _recorded(ledger, Group(pages)), add_up


def a_record_of_a_page_and_a_hold_of_its_batch(ledger: Ledger) -> Meeting:
    """The hold is of the whole batch in one transaction, as in a caller's session; another listing begins."""
    batch_id = UUID(ledger.queue.modify("g1", thread_ids=["t1", "t2", "t3"], unread=False).id)
    ledger.absorb()
    ledger.set_lane("g1", width=1, ramp=1)
    ledger.clock.advance(1)
    claimed = ledger.serve()
    (first,) = (job for job in claimed.jobs if job.id in claimed.begun)
    other = next(job for job in claimed.jobs if job.id not in claimed.begun)
    read = outcome(claimed, first, Event.ACCEPT, sent="yes", page=Page(("m1",), b"next", "text/plain"))
    group = Group([read], [begin_of(claimed, other.id)])

    def hold(connection: Connection) -> None:
        author = waiting_jobs.Author("tests", None)
        waiting_jobs.all_at_once(connection, HOLD, author, job_id=None, batch_id=batch_id, now=ledger.clock())

    return _recorded(ledger, group), hold


def a_hold_of_a_batch_and_a_record_of_its_page(ledger: Ledger) -> Meeting:
    return a_record_of_a_page_and_a_hold_of_its_batch(ledger)[::-1]


def a_release_of_a_batch_and_a_retry_of_its_dead_letters(ledger: Ledger) -> Meeting:
    """The release is a part of many."""
    batch = ledger.queue.modify("g1", ["a", "b", "c"], unread=False)
    ledger.clock.advance(1)
    claimed = ledger.serve()
    dead = [outcome(claimed, job, Event.GIVE_UP) for job in claimed.jobs if job.id in claimed.begun]
    ledger.record(*dead, ends=[end(claimed)])
    ledger.queue.hold(batch_id=batch.id)
    now = ledger.clock()
    with ledger.writing() as connection:
        author = waiting_jobs.Author("tests", None)
        begun = waiting_jobs.start(connection, RELEASE, author, job_id=None, batch_id=UUID(batch.id), now=now)

    def retried(connection: Connection) -> None:
        retry(connection, DeadLetterSelection(), after=None, first_at=now, by="tests", now=now)

    return retried, lambda connection: waiting_jobs.go_on(connection, RELEASE, begun, now=now)


def a_search_that_was_refused_and_an_operators_answer(ledger: Ledger) -> Meeting:
    """The search was for the newer of two jobs in doubt of one lane."""
    jobs = []
    for _ in range(2):
        jobs.append(ledger.send())
        claimed = ledger.serve()
        unknown = outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe")
        ledger.record(unknown, ends=[end(claimed)])
        ledger.clock.advance(1)
    older, newer = jobs
    ledger.set_job(older, look_at=ledger.clock() + 1)
    ledger.set_job(newer, look_at=ledger.clock())
    with ledger.writing() as connection:
        (wanted,) = doubt.due(connection, now=ledger.clock(), limit=1)
    assert wanted.id == newer
    later = ledger.clock() + 60 * SECOND

    def refused(connection: Connection) -> None:
        doubt.note(connection, wanted, Seen.REFUSED, counts=False, next_at=later)
        doubt.rest(connection, wanted.job.lane_id, until=later)

    def answered(connection: Connection) -> None:
        ending = doubt.Ending(Event.GIVE_UP, "resolved_dead")
        doubt.settle(connection, {older: ending, newer: ending}, by="tests", now=ledger.clock())

    return refused, answered


def deliveries_and_their_retry(ledger: Ledger) -> Meeting:
    """The receiver fails, and a delivery to it has waited for too long."""
    for _ in range(2):
        ledger.send(on_outcome="webhook:billing")
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed)])
    with ledger.writing() as connection:
        connection.execute(schema.receiver.insert().values(name="webhook:billing", refusals=0, holds=1))
    first, _ = sorted(row.id for row in ledger.rows(schema.delivery))
    ledger.clock.advance(100 * 3_600)
    tried = DeliveryAttempt(first, error="no answer", unreachable=True)

    def attempted(connection: Connection) -> None:
        deliveries.record(connection, "webhook:billing", [tried], now=ledger.clock())

    def retried(connection: Connection) -> None:
        wanted = deliveries.Wanted(receiver="webhook:billing")
        deliveries.retry(connection, wanted, after=first, now=ledger.clock(), limit=10)

    return retried, attempted


def two_claims_within_the_same_budgets(ledger: Ledger) -> Meeting:
    """Neither of the two budgets has a row yet."""
    _with_budgets(ledger)
    for grant in ("g1", "g2"):
        ledger.send(grant, tags={"a": "b"})
    one, other = ledger.offer()
    return _claimed(ledger, [one]), _claimed(ledger, [other])


def a_claim_and_a_record_within_the_same_budgets(ledger: Ledger) -> Meeting:
    """The record begins the next jobs of its turn."""
    _with_budgets(ledger)
    for _ in range(3):
        ledger.send("g1", tags={"a": "b"})
    served = ledger.serve()
    waiting = [job.id for job in served.jobs if job.id not in served.begun]
    done = [outcome(served, job, Event.ACCEPT, sent="yes") for job in served.jobs if job.id in served.begun]
    begins = [begin_of(served, job) for job in waiting]
    for _ in range(3):
        ledger.send("g2", tags={"a": "b"})
    return _claimed(ledger, ledger.offer()), _recorded(ledger, Group(done, begins))


def _with_budgets(ledger: Ledger) -> None:
    hour = 3_600 * SECOND
    ledger.budgets = Budgets([Budget("default", "", 100, hour), Budget("default", "a=b", 2, hour)])


def _recorded(ledger: Ledger, group: Group) -> Transaction:
    return lambda connection: record(connection, group, now=ledger.clock())


def _cancelled(ledger: Ledger, batch_id: UUID) -> Transaction:
    first = UUID(int=0)
    with ledger.writing() as connection:
        batches.cancel_batch(connection, batch_id, now=ledger.clock())
    return lambda connection: batches.end_some(connection, batch_id, after=first, now=ledger.clock())


def _claimed(ledger: Ledger, offered: list[Turn]) -> Transaction:
    wanted = [(turn.lane_id, turn.fence) for turn in offered]

    def claim(connection: Connection) -> list[Claimed]:
        return turns.claim(
            connection, wanted, worker=ledger.worker, now=ledger.clock(), jobs_each=10, budgets=ledger.budgets
        )

    return claim


def _served(ledger: Ledger, grant: str) -> Claimed:
    ledger.send(grant)
    return ledger.serve()


def _claimed_at_once(ledger: Ledger) -> Transaction:
    """One round of a dispatcher that claims what it offers."""

    def dispatch(connection: Connection) -> None:
        wake_lanes(connection, take_wakes(connection, limit=10), now=ledger.clock(), paces=Paces())
        opened = ledger.opened_in(connection)
        try:
            with connection.begin_nested():
                turns.claim_at_once(connection, opened, worker=ledger.worker, now=ledger.clock(), jobs_each=10)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise

    return dispatch


def _erased(ledger: Ledger, jobs: list[UUID]) -> Transaction:
    return lambda connection: erasure.erase_jobs(connection, jobs, erasure.Tally(), now=ledger.clock())


MEETINGS = [
    two_dispatchers,
    two_dispatchers_of_few_jobs,
    a_hold_by_an_answer_and_one_by_an_operator,
    a_record_and_the_turns_of_workers_without_a_row,
    a_record_and_the_cancel_of_its_batch,
    a_repeated_record_and_the_cancel_of_its_batch,
    a_claim_and_an_erasure,
    a_claim_and_an_erasure_of_what_it_overtook,
    a_round_that_claims_at_once_and_an_erasure,
    a_round_that_claims_at_once_and_a_record,
    a_record_of_pages_and_the_sums_of_their_batches,
    a_record_of_a_page_and_a_hold_of_its_batch,
    a_hold_of_a_batch_and_a_record_of_its_page,
    a_release_of_a_batch_and_a_retry_of_its_dead_letters,
    a_search_that_was_refused_and_an_operators_answer,
    deliveries_and_their_retry,
    two_claims_within_the_same_budgets,
    a_claim_and_a_record_within_the_same_budgets,
]


class TestTwoTransactions:
    @pytest.mark.parametrize("meeting", MEETINGS)
    def test_never_deadlock(
        self, pg_ledger: Ledger, meeting: Callable[[Ledger], Meeting], run: Callable[..., Future[Any]]
    ) -> None:
        at, statements = 0, 1
        while at < statements:
            first, second = meeting(pg_ledger)
            others: list[Future[Any]] = []

            def meet(second: Transaction = second, others: list[Future[Any]] = others) -> None:
                others.append(run(_alone, pg_ledger, second))
                until_it_waits(pg_ledger, others[-1])

            # A deadlock raises `Retryable` in one of the two.
            with writing(pg_ledger.engine) as connection, between_statements(connection, at, meet) as seen:
                first(connection)
            for other in others:
                other.result(LIMIT_S)
            statements = len(seen)
            at += 1
            empty(pg_ledger)
        assert statements > 1


def _alone(ledger: Ledger, transaction: Transaction) -> None:
    with ledger.writing() as connection:
        transaction(connection)
