"""The ledger at a glance, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, insert, text, update

from sendq.clock import SECOND
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from sendq.ledger.reading import status
from sendq.rules.states import Event, State
from sendq.views import HoldView, LaneCounts
from tests.support.ledger import Ledger, outcome

T = TypeVar("T")


def ask(ledger: Ledger, question: Callable[[Connection], T]) -> T:
    with reading(ledger.engine) as connection:
        return question(connection)


def held(ledger: Ledger, limit: int) -> Sequence[HoldView]:
    """The holds that the status shows, with at most so many of grants."""
    return ask(ledger, lambda connection: status.status(connection, now=ledger.clock(), holds=limit)).holds


class TestCountingJobs:
    def test_every_state_is_there_also_with_none(self, ledger: Ledger) -> None:
        assert ask(ledger, status.job_counts) == dict.fromkeys(State, 0)

    def test_each_job_is_counted_in_its_state(self, ledger: Ledger) -> None:
        ids = [ledger.send() for _ in range(6)]
        for job_id, state in zip(
            ids, (State.SENDING, State.SENT, State.SENT, State.DEAD, State.IN_DOUBT), strict=False
        ):
            ledger.set_job(job_id, state=state.value)
        found = ask(ledger, status.job_counts)
        assert found[State.SENT] == 2
        assert all(found[state] == 1 for state in (State.QUEUED, State.SENDING, State.DEAD, State.IN_DOUBT))

    def test_those_that_wait_are_counted_through_the_partial_index(self, ledger: Ledger) -> None:
        if ledger.engine.dialect.name != "sqlite":
            return  # PostgreSQL plans by statistics: an empty table proves nothing there
        statements: list[str] = []
        with reading(ledger.engine) as connection:
            connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
            status.job_counts(connection)
            (counted,) = [statement for statement in statements if "'queued'" in statement]
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN {counted}")).all()
        assert any("sendq_job_waiting_idx" in row.detail for row in plan)


class TestCountingLanes:
    def test_each_lane_is_counted_once(self, ledger: Ledger) -> None:
        for grant in ("held", "closed", "both", "served", "waiting", "idle"):
            ledger.send(grant)
        ledger.absorb()
        now = ledger.clock()
        ledger.set_lane("held", held_until=now + SECOND)
        ledger.set_lane("closed", closed_at=now)
        ledger.set_lane("both", closed_at=now, held_until=now + SECOND)
        ledger.set_lane("served", turn="claimed")
        ledger.set_lane("idle", next_at=None, held_until=now)
        found = ask(ledger, lambda connection: status.lane_counts(connection, now=now))
        assert found == LaneCounts(total=6, served=1, waiting=1, held=1, closed=2)

    def test_a_small_ledger_can_be_shown_lane_by_lane(self, ledger: Ledger) -> None:
        first, _ = ledger.send("a"), ledger.send("a")
        ledger.absorb()
        ledger.set_job(first, state="sent")
        (lane,) = ask(ledger, lambda connection: status.jobs_by_lane(connection, now=ledger.clock()))
        assert (lane.grant_id, lane.jobs) == ("a", {State.SENT: 1, State.QUEUED: 1})


class TestHolds:
    def test_those_that_are_over_are_left_out(self, ledger: Ledger) -> None:
        ledger.send("a")
        ledger.absorb()
        ledger.set_lane("a", held_until=ledger.clock(), held_rule="r")
        assert held(ledger, limit=5) == ()

    def test_applications_and_providers_come_before_lanes(self, ledger: Ledger) -> None:
        now = ledger.clock()
        for grant in ("a", "b"):
            ledger.send(grant, provider="google")
        ledger.absorb()
        ledger.set_lane("a", held_until=now + SECOND, held_since=now, held_rule="quota", held_by="policy")
        ledger.set_lane("b", closed_at=now + 1, closed_rule="expired_grant")
        with ledger.writing() as connection:
            pair = schema.pair
            connection.execute(
                insert(pair).values(application="other", provider="*", held_until=now + SECOND, held_rule="api_key")
            )
            connection.execute(
                update(pair).where(pair.c.provider == "google").values(held_until=now + SECOND, held_rule="gmail")
            )
        found = held(ledger, limit=5)
        assert [(hold.application, hold.provider, hold.grant_id, hold.rule) for hold in found] == [
            ("default", "google", None, "gmail"),
            ("other", None, None, "api_key"),
            ("default", "google", "b", "expired_grant"),
            ("default", "google", "a", "quota"),
        ]
        assert found[2].until is None
        assert len(held(ledger, limit=1)) == 3


class TestTheWhole:
    def test_it_becomes_plain_json(self, ledger: Ledger) -> None:
        ledger.send("a")
        claimed = ledger.serve()
        ledger.record(begins=[(claimed, claimed.jobs[0].id)])
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"))
        ledger.set_lane("a", closed_at=ledger.clock())
        seen = ask(ledger, lambda connection: status.status(connection, now=ledger.clock())).as_json()
        assert seen["jobs"]["sent"] == 1
        assert seen["holds"][0]["grant_id"] == "a"
        assert seen["workers"] == []
        assert isinstance(seen["at"], str)
