"""The fill of the benchmarks against real calls: the same rows, but for ids and what is a time's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, Table

from benchmarks import filling
from benchmarks.filling import HELD_PROVIDER, PROVIDER, Call
from sendq import clock
from sendq.clock import SECOND, Micros, moment
from sendq.ids import first_id, lane_id
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.ledger.operators import holds
from tests.support.ledger import Ledger

LATER = 3_600 * SECOND


def calls(at: Micros) -> list[Call]:
    """Two grants, three calls, one of them for later."""
    return [
        Call("a", PROVIDER, 3, at, at),
        Call("b", HELD_PROVIDER, 2, at + 5 * SECOND, at + LATER),
        Call("a", PROVIDER, 1, at + 9 * SECOND, at + 9 * SECOND),
    ]


def enqueue(ledger: Ledger, wanted: list[Call]) -> None:
    """The same by real calls."""
    for number, call in enumerate(wanted, start=1):
        ledger.clock.at = call.at
        names = [f"{number:x}-{place}" for place in range(call.jobs)]
        due_at = None if call.due_at == call.at else moment(call.due_at)
        ledger.queue.modify(call.grant_id, names, unread=False, provider=call.provider, due_at=due_at)


def without_ids(rows: list[Row[Any]], batches: list[Any]) -> list[dict[str, Any]]:
    """Rows with the places of ids in the place of ids."""
    found = []
    for row in rows:
        values = dict(row._mapping) | {"id": type(row.id).__name__}
        if values.get("batch_id") is not None:
            values["batch_id"] = batches.index(values["batch_id"])
        found.append(values)
    return found


class TestFill:
    def rows(self, ledger: Ledger, table: Table) -> list[dict[str, Any]]:
        batches = [row.id for row in sorted(ledger.rows(schema.batch), key=lambda row: row.id)]
        return without_ids(sorted(ledger.rows(table), key=lambda row: row.id), batches)

    def test_writes_what_calls_write(self, pg_ledger: Ledger) -> None:
        at = clock.now() - LATER
        tables = (schema.job, schema.batch, schema.wake)
        enqueue(pg_ledger, calls(at))
        called = [self.rows(pg_ledger, table) for table in tables]
        others = {table.name: pg_ledger.rows(table) for table in schema.metadata.sorted_tables if table not in tables}
        with pg_ledger.writing() as connection:
            for table in tables:
                connection.execute(table.delete())
        assert sum(filling.fill(pg_ledger.engine, calls(at))) == 6
        assert [self.rows(pg_ledger, table) for table in tables] == called
        assert {
            table.name: pg_ledger.rows(table) for table in schema.metadata.sorted_tables if table not in tables
        } == others

    def test_makes_ids_of_the_time_of_the_call(self, pg_ledger: Ledger) -> None:
        at = clock.now() - LATER
        list(filling.fill(pg_ledger.engine, calls(at)))
        for row in [*pg_ledger.rows(schema.job), *pg_ledger.rows(schema.batch)]:
            assert row.id.version == 7
            assert first_id(row.created_at - SECOND) <= row.id < first_id(row.created_at + SECOND)
        jobs = sorted(pg_ledger.rows(schema.job), key=lambda row: row.id)
        assert [row.object_id for row in jobs] == ["1-0", "1-1", "1-2", "2-0", "2-1", "3-0"]


class TestCallsOf:
    def test_spread_the_jobs_over_all_grants_and_the_hour_before(self) -> None:
        until = clock.now()
        found = filling.calls_of([f"g{n}" for n in range(7)], 1_000, provider=PROVIDER, until=until)
        assert sum(call.jobs for call in found) == 1_000
        assert max(call.jobs for call in found) <= filling.CALL
        by_grant = {grant: sum(c.jobs for c in found if c.grant_id == grant) for grant in {c.grant_id for c in found}}
        assert set(by_grant.values()) == {142, 143}
        assert until - filling.HOUR <= found[0].at <= found[-1].at < until


class TestLanes:
    """Held and closed in bulk, against one by one."""

    def lanes(self, ledger: Ledger, change: Callable[[Connection], object] | None = None) -> dict[str, dict[str, Any]]:
        filling.take_in(ledger.engine)
        if change is not None:
            with ledger.writing() as connection:
                change(connection)
        return {row.grant_id: dict(row._mapping) for row in ledger.rows(schema.lane)}

    def test_are_held_as_an_operator_holds_them(self, pg_ledger: Ledger) -> None:
        at = clock.now()
        list(filling.fill(pg_ledger.engine, [Call(grant, PROVIDER, 2, at - LATER, at - LATER) for grant in "ab"]))
        until = at + LATER
        found = self.lanes(
            pg_ledger,
            lambda c: holds.hold_grant(c, "default", "a", until=until, by=filling.BY, reason="test", now=clock.now()),
        )
        filling.hold(pg_ledger.engine, ["b"], until=until)
        found["b"] = self.lanes(pg_ledger)["b"]
        assert found["b"]["next_at"] == until
        assert alike(found["a"]) == alike(found["b"])

    def test_are_closed_as_a_webhook_closes_them(self, pg_ledger: Ledger) -> None:
        at = clock.now()
        list(filling.fill(pg_ledger.engine, [Call(grant, PROVIDER, 2, at - LATER, at - LATER) for grant in "ab"]))
        lane = lane_id("default", "a")
        found = self.lanes(
            pg_ledger, lambda c: grants.close(c, lane, rule="grant_expired", by="webhook", now=clock.now())
        )
        filling.close(pg_ledger.engine, ["b"])
        found["b"] = self.lanes(pg_ledger)["b"]
        assert found["b"]["next_at"] is None
        assert found["b"]["announced_at"] > at
        assert found["b"]["check_at"] > found["a"]["check_at"]
        assert alike(found["a"]) == alike(found["b"])


def alike(lane: dict[str, Any]) -> dict[str, Any]:
    """A lane without its name, and with times of this run as such."""
    own = ("id", "grant_id", "announced_at", "check_at")
    return {
        name: "now" if name.endswith(("_floor", "_since", "_at")) and value and value > clock.now() - SECOND * 60
        and value <= clock.now() else value
        for name, value in lane.items()
        if name not in own
    }  # fmt: skip
