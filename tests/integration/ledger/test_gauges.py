"""How full everything is, on both databases: each number where it comes from, and what each question may cost."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, text

from sendq.clock import SECOND, moment, now
from sendq.ids import new_id
from sendq.ledger import deliveries
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from sendq.ledger.dispatching import workers
from sendq.ledger.reading import gauges
from sendq.rules.states import Event, State
from sendq.views import Backlog
from tests.support.ledger import Ledger, end, outcome


def seen(ledger: Ledger) -> gauges.Levels:
    with reading(ledger.engine) as connection:
        return gauges.levels(connection, now=ledger.clock())


class TestAnEmptyLedger:
    def test_has_nothing_of_anything(self, ledger: Ledger) -> None:
        found = seen(ledger)
        assert (found.jobs, found.in_doubt, found.dead) == ({"queued": 0, "sending": 0}, {}, {})
        assert (found.lanes, found.holds, found.turns) == ({}, {}, {"offered": 0, "claimed": 0})
        assert (found.turn_wait_s, found.oldest_s) == (0.0, {"high": 0.0, "normal": 0.0, "low": 0.0})
        assert (found.workers, found.capacity, found.silence_s) == (0, 0, 0.0)
        assert found.deliveries == Backlog(waiting=0, oldest_s=0.0, given_up=0, failing=())


class TestJobs:
    def test_are_counted_by_state_and_those_that_want_a_person_by_rule(self, ledger: Ledger) -> None:
        ids = [ledger.send() for _ in range(6)]
        ledger.set_job(ids[1], state=State.SENDING.value)
        ledger.set_job(ids[2], state=State.DEAD.value, rule="bad_request")
        ledger.set_job(ids[3], state=State.DEAD.value, rule="bad_request")
        ledger.set_job(ids[4], state=State.IN_DOUBT.value, rule="no_answer")
        ledger.set_job(ids[5], state=State.SENT.value, rule="accepted")
        found = seen(ledger)
        assert found.jobs == {"queued": 1, "sending": 1}
        assert (found.dead, found.in_doubt) == ({"bad_request": 2}, {"no_answer": 1})

    def test_beyond_the_limit_are_estimated_or_at_least_so_many(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for _ in range(8):
            ledger.send()
        monkeypatch.setattr(gauges, "COUNT_MOST", 5)
        on_postgres = ledger.engine.dialect.name == "postgresql"
        if on_postgres:
            with ledger.writing() as connection:
                connection.execute(text("ANALYZE sendq_job"))
        assert seen(ledger).jobs["queued"] == (8 if on_postgres else 5)

    def test_are_counted_through_partial_indexes(self, ledger: Ledger) -> None:
        if ledger.engine.dialect.name != "sqlite":
            return  # PostgreSQL plans by statistics: an empty table proves nothing there
        statements: list[str] = []
        with reading(ledger.engine) as connection:
            connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
            gauges.levels(connection, now=ledger.clock())
            asked = [one for one in statements if "FROM sendq_job" in one]
            plans = [str(connection.execute(text(f"EXPLAIN QUERY PLAN {one}")).all()) for one in asked]
        assert len(plans) == 7
        # Of doubts there are two, by lane and by when they are looked into: either holds doubts alone.
        names = (("waiting",), ("begun",), ("doubt", "look"), ("dead",), ("expiry",), ("finished",), ("approval",))
        used = [{name for name in alike if any(f"sendq_job_{name}_idx" in plan for plan in plans)} for alike in names]
        assert all(used)


class TestCalls:
    def test_since_a_time_are_counted_by_what_they_led_to(self, ledger: Ledger) -> None:
        ledger.send("a")
        ledger.send("b")
        for claimed, event in zip(ledger.claim(ledger.offer()), (Event.ACCEPT, Event.RETURN), strict=True):
            ledger.record(outcome(claimed, claimed.jobs[0], event), ends=[end(claimed)])
        with reading(ledger.engine) as connection:
            assert gauges.calls_since(connection, now() - 60 * SECOND) == {"done": 1, "retry": 1}
            assert gauges.calls_since(connection, now() + 60 * SECOND) == {}


class TestLanesAndHolds:
    def test_are_counted_by_state_and_rule(self, ledger: Ledger) -> None:
        for grant in ("held", "closed", "served", "waiting", "idle"):
            ledger.send(grant)
        ledger.absorb()
        at = ledger.clock()
        ledger.set_lane("held", held_until=at + SECOND, held_rule="throttled")
        ledger.set_lane("closed", closed_at=at, closed_rule="grant_unauthorized", held_until=at + SECOND)
        ledger.set_lane("served", turn="claimed", turn_at=at)
        ledger.set_lane("idle", next_at=None, held_until=at, held_rule="over")
        with ledger.writing() as connection:
            for provider, rule in (("*", "bad_key"), ("google", "api_disabled")):
                row = {"application": "default", "provider": provider, "held_until": at + SECOND, "held_rule": rule}
                connection.execute(insert(schema.pair).values(row))
        found = seen(ledger)
        assert found.lanes == {
            ("held", "throttled"): 1,
            ("closed", "grant_unauthorized"): 1,
            ("served", ""): 1,
            ("waiting", ""): 1,
            ("idle", ""): 1,
        }
        assert found.holds == {("application", "bad_key"): 1, ("provider", "api_disabled"): 1}
        assert found.turns == {"offered": 0, "claimed": 1}


class TestHowLongThingsHaveWaited:
    def test_is_said_of_the_oldest_job_of_each_priority(self, ledger: Ledger) -> None:
        ledger.send("a", priority="low")
        ledger.clock.advance(60)
        ledger.send("b")
        ledger.clock.advance(10)
        ledger.absorb()
        found = seen(ledger)
        assert found.oldest_s == {"high": 0.0, "normal": 10.0, "low": 70.0}

    def test_is_said_of_the_lane_that_has_been_due_longest(self, ledger: Ledger) -> None:
        ledger.send("a")
        ledger.absorb()
        ledger.clock.advance(5)
        assert seen(ledger).turn_wait_s == 5.0

    def test_counts_jobs_behind_a_turn_that_is_open(self, ledger: Ledger) -> None:
        for _ in range(3):
            ledger.send("a")
        ledger.serve()
        ledger.clock.advance(30)
        assert seen(ledger).oldest_s["normal"] == 30.0

    @pytest.mark.parametrize(
        "left_alone", [{"held_until": 2**61}, {"closed_at": 1, "next_at": None}, {"next_at": 2**61}]
    )
    def test_leaves_out_lanes_that_may_not_be_served(self, ledger: Ledger, left_alone: dict[str, int]) -> None:
        ledger.send("a")
        ledger.absorb()
        ledger.set_lane("a", **({"next_at": 2**61} | left_alone))
        ledger.clock.advance(30)
        assert seen(ledger).oldest_s["normal"] == 0.0

    def test_leaves_out_what_a_hold_above_the_grant_keeps_back(self, ledger: Ledger) -> None:
        ledger.send("a")
        ledger.absorb()
        ledger.clock.advance(30)
        with ledger.writing() as connection:
            connection.execute(text("UPDATE sendq_pair SET held_until = 4000000000000000"))
        found = seen(ledger)
        assert (found.oldest_s["normal"], found.turn_wait_s) == (0.0, 0.0)


class TestOutcomesToTell:
    def test_are_counted_with_the_age_of_the_oldest_and_who_does_not_answer(self, ledger: Ledger) -> None:
        for target in ("webhook:good", "webhook:down", "webhook:down", "webhook:idle"):
            ledger.queue.cancel(str(ledger.send(on_outcome=target)))
            ledger.clock.advance(60)
        good, down, _, idle = sorted(ledger.rows(schema.delivery), key=lambda row: row.created_at)
        with ledger.writing() as connection:
            for row, error in ((good, None), (down, "no connection"), (idle, "no connection")):
                tried = deliveries.DeliveryAttempt(row.id, error, unreachable=error is not None)
                deliveries.record(connection, row.receiver, [tried], now=ledger.clock())
            given_up = schema.delivery.update().where(schema.delivery.c.id == idle.id).values(state="given_up")
            connection.execute(given_up)
        found = seen(ledger).deliveries
        # Nothing waits for the idle one any more, so that it fails concerns nobody.
        assert found == Backlog(waiting=2, oldest_s=180.0, given_up=1, failing=("webhook:down",))

    def test_are_counted_through_their_partial_indexes(self, ledger: Ledger) -> None:
        if ledger.engine.dialect.name != "sqlite":
            return  # PostgreSQL plans by statistics: an empty table proves nothing there
        statements: list[str] = []
        with reading(ledger.engine) as connection:
            connection.connection.driver_connection.set_trace_callback(statements.append)  # type: ignore[union-attr]
            deliveries.backlog(connection, now=ledger.clock())
            asked = [one for one in statements if "FROM sendq_" in one]
            plans = [str(connection.execute(text(f"EXPLAIN QUERY PLAN {one}")).all()) for one in asked]
        used = ("sendq_delivery_waiting_idx", "sendq_delivery_given_up_idx", "sendq_delivery_waiting_idx")
        assert [name in plan for name, plan in zip(used, plans, strict=True)] == [True] * 3


class TestWorkers:
    def test_are_counted_with_their_capacity_and_the_longest_silence(self, ledger: Ledger) -> None:
        load = workers.Load(capacity=100)
        with ledger.writing() as connection:
            workers.register(connection, new_id(), name="w", pid=1, version="0", load=load, now=ledger.clock())
        ledger.clock.advance(7)
        found = seen(ledger)
        assert (found.workers, found.capacity, found.silence_s) == (1, 100, 7.0)


class TestMailThatMayNotGo:
    def test_is_counted_by_what_holds_it(self, ledger: Ledger) -> None:
        hour = 3_600 * SECOND
        at = ledger.clock()
        for grant, provider in (("held", "ews"), ("closed", "google"), ("free", "google"), ("wide", "imap")):
            ledger.send(grant, provider=provider, expires_at=moment(at + 5 * hour))
            ledger.send(grant, expires_at=moment(at + 7 * hour))
        ledger.absorb()
        ledger.set_lane("held", held_until=at + hour, held_since=at, held_rule="exchange_throttled")
        ledger.set_lane("closed", closed_at=at, closed_rule="grant_expired")
        with ledger.writing() as connection:
            pair = schema.pair
            connection.execute(
                pair.update().where(pair.c.provider == "imap").values(held_until=at + hour, held_rule="outage")
            )
        found = seen(ledger)
        assert found.expiring == {
            ("default", "ews", "exchange_throttled"): 1,
            ("default", "google", "grant_expired"): 1,
            ("default", "google", ""): 1,
            ("default", "imap", "outage"): 1,
        }
        assert {(one.rule, one.provider, one.waiting) for one in found.held} == {
            ("exchange_throttled", "ews", 2), ("grant_expired", "google", 2), ("outage", "imap", 2),
        }  # fmt: skip
        assert {one.oldest for one in found.held} == {moment(at)}

    def test_that_expired_lately_is_counted_by_provider(self, ledger: Ledger) -> None:
        jobs = [ledger.send("a", provider="ews") for _ in range(3)]
        ledger.absorb()
        for job, ago_s in zip(jobs, (0, 3_000, 4_000), strict=True):
            ledger.set_job(job, state="expired", finished_at=ledger.clock() - ago_s * SECOND)
        assert seen(ledger).expired == {("default", "ews"): 2}
