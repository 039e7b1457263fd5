"""Many rows in one statement: what they have in common is said once, and nobody can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, create_engine, event, exc, select, text, update

from sendq import Message, Send, SendQueue
from sendq.ids import new_id
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import insert_new, insert_rows, update_rows
from sendq.ledger.db.migrate import upgrade
from tests.support.ledger import Ledger

BATCH, OTHER = new_id(), new_id()
MESSAGE = Message(to=["leyah@example.com"], subject="Invoice 42")


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

    def test_are_stored_by_an_engine_with_named_parameters(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path}/ledger.db", paramstyle="named")
        upgrade(engine)
        jobs = {SendQueue(engine).send("g1", MESSAGE, key="k").id for _ in range(2)}
        jobs |= {job.id for job in SendQueue(engine).send_many([Send("g1", MESSAGE)] * 60)}
        with engine.connect() as connection:
            assert {str(job) for job in connection.execute(select(schema.job.c.id)).scalars()} == jobs
        assert len(jobs) == 61
        engine.dispose()

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


class TestAConstantStatement:
    COUNTED = select(schema.batch_change.c.batch_id, schema.batch_change.c.count).where(
        schema.batch_change.c.state == "sent", schema.batch_change.c.count >= bindparam("least")
    )
    RAISED = update(schema.batch_change).values(count=bindparam("raised"))

    def test_returns_what_sqlalchemy_does(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            insert_rows(connection, schema.batch_change, [change(), change(count=2), change(count=3, state="dead")])
            found = constant.rows(connection, self.COUNTED, {"least": 2})
            assert [tuple(row) for row in found] == [(BATCH, 2)]
            assert found == connection.execute(self.COUNTED, {"least": 2}).all()
            assert constant.rows(connection, self.RAISED, {"raised": 9}) == []
            assert len(constant.rows(connection, self.COUNTED, {"least": 9})) == 2

    def test_belongs_to_the_transaction_that_it_begins(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            insert_rows(connection, schema.batch_change, [change()])
        with ledger.engine.connect() as connection:
            constant.rows(connection, self.RAISED, {"raised": 5})
            connection.rollback()
            constant.rows(connection, self.RAISED, {"raised": 6})
            connection.commit()
            constant.rows(connection, self.RAISED, {"raised": 7})
        assert changes(ledger) == [(BATCH, "sent", 6, 7)]

    def test_raises_the_exceptions_of_sqlalchemy(self, ledger: Ledger) -> None:
        with pytest.raises(exc.IntegrityError), ledger.engine.begin() as connection:
            insert_rows(connection, schema.batch_change, [change(state=None)])
        with pytest.raises(exc.DBAPIError), ledger.engine.begin() as connection:
            constant.rows(connection, text("SELECT no_such_column"), {})

    def test_needs_all_of_its_values(self, ledger: Ledger) -> None:
        with pytest.raises(exc.StatementError), ledger.engine.begin() as connection:
            constant.rows(connection, self.COUNTED, {})

    def test_is_seen_by_those_who_listen_to_statements(self, ledger: Ledger) -> None:
        seen: list[str] = []
        with ledger.writing() as connection:
            event.listen(connection, "before_cursor_execute", lambda *given: seen.append(given[2]))
            constant.rows(connection, self.RAISED, {"raised": 5})
        assert ["UPDATE" in statement for statement in seen] == [True]
