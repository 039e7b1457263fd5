"""Many rows in one statement: what they have in common is said once, and nobody can tell."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new, insert_rows, update_rows
from tests.support.ledger import Ledger

BATCH, OTHER = new_id(), new_id()


def change(**given: Any) -> dict[str, Any]:
    return {"batch_id": BATCH, "state": "sent", "count": 1, "at": 7} | given


def changes(ledger: Ledger) -> list[tuple[Any, ...]]:
    table = schema.batch_change.c
    with ledger.engine.connect() as connection:
        wanted = select(table.batch_id, table.state, table.count, table.at).order_by(table.id)
        return [tuple(row) for row in connection.execute(wanted)]


class TestRows:
    def test_that_are_all_the_same_are_as_many(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            insert_rows(connection, schema.batch_change, [change()] * 3)
        assert changes(ledger) == [(BATCH, "sent", 1, 7)] * 3

    def test_keep_what_each_has_of_its_own(self, ledger: Ledger) -> None:
        rows = [change(count=1), change(count=2, state="dead"), change(count=1, batch_id=OTHER)]
        with ledger.writing() as connection:
            insert_rows(connection, schema.batch_change, rows)
        assert changes(ledger) == [(BATCH, "sent", 1, 7), (BATCH, "dead", 2, 7), (OTHER, "sent", 1, 7)]

    def test_that_are_new_are_told_from_those_that_are_not(self, ledger: Ledger) -> None:
        def found(name: str) -> dict[str, Any]:
            return {"batch_id": BATCH, "object_id": name}

        with ledger.writing() as connection:
            assert insert_new(connection, schema.found, [found("m1")], returning="object_id") == {"m1"}
            more = [found("m1"), found("m2"), found("m3")]
            assert insert_new(connection, schema.found, more, returning="object_id") == {"m2", "m3"}

    def test_are_changed_each_in_its_own_way_and_to_nothing_alike(self, ledger: Ledger) -> None:
        jobs = [ledger.send() for _ in range(3)]
        ledger.send()  # nobody speaks of it
        with ledger.writing() as connection:
            pairs = zip(jobs, (4, 5, 4), strict=True)
            rows = [{"id": job, "rule": None, "attempts": attempts} for job, attempts in pairs]
            update_rows(connection, schema.job, rows)
            update_rows(connection, schema.job, [{"id": jobs[0], "rule": "accepted"}])
        found = {row.id: (row.attempts, row.rule) for row in ledger.rows(schema.job)}
        assert [found.pop(job) for job in jobs] == [(4, "accepted"), (5, None), (4, None)]
        assert list(found.values()) == [(0, None)]
