"""What a record locks, in which order and in how many statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Table, select
from sqlalchemy.exc import OperationalError

from sendq.clock import SECOND
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed, Group, Shrink
from sendq.ids import number
from sendq.ledger.attempts import append_attempts
from sendq.ledger.db import schema
from sendq.ledger.dispatching import lanes, rescue
from sendq.ledger.dispatching.record import record
from sendq.rules.refused_jobs import one_more
from sendq.rules.states import Event
from tests.integration.ledger.test_lock_order import LOCK_NOT_AVAILABLE
from tests.support.ledger import Ledger, begin_of, between_statements, end, outcome, until_it_waits
from tests.support.waiting import LIMIT_S


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in another thread."""
    with ThreadPoolExecutor(2) as pool:
        yield pool.submit


def sent(claimed: Claimed) -> Group:
    """The outcome that nearly all turns have."""
    accepted = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", message_id="m", counts=True)
    return Group([accepted], ends=[end(claimed)])


def served(ledger: Ledger, *grants: str) -> list[Claimed]:
    """A turn of each grant, with one job that is on the wire; in the order of their lanes."""
    for grant in grants:
        ledger.send(grant)
    return sorted(ledger.claim(ledger.offer()), key=lambda claimed: number(claimed.lane.id))


def statements(ledger: Ledger, group: Group) -> int:
    with ledger.writing() as connection, between_statements(connection, -1, lambda: None) as seen:
        record(connection, group, now=ledger.clock())
    return len(seen)


class TestTheStatementsOfALoneOutcome:
    def test_are_two_if_its_job_was_sent(self, pg_ledger: Ledger) -> None:
        """Lock and insert; write the job, look what else waits, and write the lane."""
        (claimed,) = served(pg_ledger, "g1")
        assert statements(pg_ledger, sent(claimed)) == 2
        assert pg_ledger.job(claimed.jobs[0].id).state == "sent"
        assert pg_ledger.lane().turn is None

    def test_are_five_if_its_job_waits_again(self, pg_ledger: Ledger) -> None:
        """The lane is written after the job; has a report said that it was sent? Wake the leader."""
        (claimed,) = served(pg_ledger, "g1")
        returned = outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=pg_ledger.clock())
        assert statements(pg_ledger, Group([returned], ends=[end(claimed)])) == 2 + 3

    def test_are_two_in_the_middle_of_a_turn(self, pg_ledger: Ledger) -> None:
        (claimed,) = served(pg_ledger, "g1")
        assert statements(pg_ledger, Group(sent(claimed).outcomes)) == 2


class TestTheLocksOfARecord:
    @pytest.mark.parametrize("held", [0, 1])
    def test_are_those_of_lanes_first_in_the_order_of_their_ids(
        self, pg_ledger: Ledger, held: int, run: Callable[..., Future[Any]]
    ) -> None:
        turns = served(pg_ledger, "g1", "g2")
        both = [sent(claimed) for claimed in reversed(turns)]
        group = Group([one.outcomes[0] for one in both], ends=[one.ends[0] for one in both])
        with pg_ledger.writing() as other:
            lanes.lock(other, [turns[held].lane.id])
            recorded = run(pg_ledger.record_group, group)
            until_it_waits(pg_ledger, recorded)
            assert not recorded.done()
            assert [is_free(pg_ledger, schema.lane, one.lane.id) for one in turns] == [False, held == 0]
            assert all(is_free(pg_ledger, schema.job, one.jobs[0].id) for one in turns)
            with pg_ledger.engine.connect() as third:  # an attempt that it had inserted would make this one wait
                third.exec_driver_sql("SET lock_timeout = '1s'")
                append_attempts(third, [one.attempt for one in group.outcomes if one.attempt is not None])
                third.rollback()
        recorded.result(LIMIT_S)
        assert {row.state for row in pg_ledger.rows(schema.job)} == {"sent"}
        assert {row.turn for row in pg_ledger.rows(schema.lane)} == {None}

    def test_show_what_the_transaction_wrote_that_it_waited_for(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]]
    ) -> None:
        """The connection of the first try broke, but its server process is still there, and commits."""
        (claimed,) = served(pg_ledger, "g1")
        group = sent(claimed)
        with pg_ledger.writing() as first:
            record(first, group, now=pg_ledger.clock())
            again = run(pg_ledger.record_group, group)
            until_it_waits(pg_ledger, again)
            assert not again.done()
        assert again.result(LIMIT_S).late == []
        assert pg_ledger.job(claimed.jobs[0].id).attempts == 1
        assert len(pg_ledger.rows(schema.attempt)) == 1

    def test_show_a_cancel_that_it_waited_for(self, pg_ledger: Ledger, run: Callable[..., Future[Any]]) -> None:
        (claimed,) = served(pg_ledger, "g1")
        job = claimed.jobs[0]
        returned = outcome(claimed, job, Event.RETURN, next_at=pg_ledger.clock())
        with pg_ledger.writing() as other:
            lanes.lock(other, [claimed.lane.id])
            recorded = run(pg_ledger.record, returned, ends=[end(claimed)])
            until_it_waits(pg_ledger, recorded)
            table = schema.job
            other.execute(table.update().where(table.c.id == job.id).values(cancel_at=pg_ledger.clock()))
        recorded.result(LIMIT_S)
        assert pg_ledger.job(job.id).state == "cancelled"

    def test_are_those_of_refused_jobs_too_if_the_lane_has_them_by_then(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]]
    ) -> None:
        """The success shows that the waiting job is at fault; it is locked together with the other."""
        waiting = pg_ledger.send()
        pg_ledger.absorb()
        pg_ledger.set_job(waiting, next_at=pg_ledger.clock() + 1_000 * SECOND)
        (claimed,) = served(pg_ledger, "g1")
        with pg_ledger.writing() as other:
            lanes.lock(other, [claimed.lane.id])
            recorded = run(pg_ledger.record_group, sent(claimed))
            until_it_waits(pg_ledger, recorded)
            refuse(other, claimed.lane.id, waiting)
        assert [one.job_id for one in recorded.result(LIMIT_S).given_up] == [waiting]
        assert pg_ledger.job(waiting).state == "dead"
        assert pg_ledger.job(claimed.jobs[0].id).state == "sent"


class TestWhatWaitsAfterwards:
    def test_is_no_job_that_has_left_the_queue(self, ledger: Ledger) -> None:
        """Its worker was taken for dead, so that it waits again."""
        (claimed,) = served(ledger, "g1")
        with ledger.writing() as connection:
            rescue.bury(connection, ledger.worker, now=ledger.clock())
        assert ledger.lane().next_at is not None
        late = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", spacing=SECOND)
        ledger.record(late)
        assert ledger.job(claimed.jobs[0].id).state == "sent"
        assert ledger.lane().next_at is None

    def test_is_no_job_that_begins_with_the_same_commit(self, ledger: Ledger) -> None:
        """Its turn has just given back the slots that it does not need."""
        (claimed,) = served(ledger, "g1")
        following = ledger.send()
        ledger.absorb()
        ledger.clock.advance(1)
        begins = [begin_of(claimed, following)]
        lane = claimed.lane
        ledger.record_group(
            Group(sent(claimed).outcomes, begins, shrinks=[Shrink(lane.id, lane.fence, claimed.worker, 1)])
        )
        assert ledger.job(following).state == "sending"
        assert ledger.lane().next_at is None

    def test_is_found_however_the_answer_held_the_lane(self, ledger: Ledger) -> None:
        (claimed,) = served(ledger, "g1")
        waiting = ledger.send()
        ledger.absorb()
        hold = Hold(Scope.GRANT, "throttled", "policy", ledger.clock() + 60 * SECOND)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.GIVE_UP, hold=hold), ends=[end(claimed)])
        assert ledger.lane().next_at == hold.until
        assert ledger.job(waiting).state == "queued"


def is_free(ledger: Ledger, table: Table, row: UUID) -> bool:
    """Whether no transaction has locked a row."""
    with ledger.engine.connect() as connection:
        try:
            connection.execute(select(table.c.id).where(table.c.id == row).with_for_update(nowait=True))
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            return False
    return True


def refuse(connection: Connection, lane: UUID, job: UUID) -> None:
    """Two calls for a job were refused, while the grant was valid."""
    table, twice = schema.lane, one_more(one_more(None, job), job)
    connection.execute(table.update().where(table.c.id == lane).values(refused_jobs=twice))
