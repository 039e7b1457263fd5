"""The plans that a worker's sessions keep, made while the tables are nearly empty: they must be right for millions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from sendq.ledger.dispatching.offers import slots_in_use
from sendq.rules.states import Event
from tests.integration.ledger.test_turns_at_once import at_once
from tests.support.ledger import Ledger, end, outcome

# The few rows of pairs, workers and the leader may be read in any way.
LARGE = {f"sendq_{name}" for name in ("job", "lane", "payload", "attempt", "wake", "batch", "batch_change", "key")}

# The jobs of one message are few, and are sorted.
OF_ONE_MESSAGE = {"sendq_job_object_idx", "sendq_job_message_idx"}


@pytest.fixture
def analyzed(pg_ledger: Ledger) -> Ledger:
    """A ledger of which the planner knows that it is nearly empty."""
    with pg_ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    return pg_ledger


def work(ledger: Ledger) -> None:
    """Lone sends, several at once, a batch; one send is put off."""
    for grants in (["g1"], ["g1", "g2"]):
        for grant in grants:
            ledger.send(grant)
        for claimed in at_once(ledger):
            ledger.finish(claimed)
        ledger.clock.advance(1)
    ledger.modify("g1", ["m1", "m2"])
    ledger.finish(ledger.serve())
    ledger.send()
    claimed = ledger.serve()
    later = outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=ledger.clock() + 1)
    ledger.record(later, ends=[end(claimed)])
    ledger.clock.advance(1)
    ledger.finish(ledger.serve())
    with ledger.writing() as connection:
        slots_in_use(connection, old_before=ledger.clock())
    ledger.clock.advance(1)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def test_find_rows_of_large_tables_through_an_index(analyzed: Ledger) -> None:
    for _ in range(3):
        work(analyzed)
    wrong, seen = [], 0
    with analyzed.engine.connect() as connection:
        kept = connection.execute(
            text("SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements")
        ).all()
        for name, statement, parameters in kept:
            nulls = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
            ((plan,),) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE {name}{nulls}")
            for node in nodes((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]):
                kind, table = node["Node Type"], node.get("Relation Name")
                below = [one for one in nodes(node) if kind == "Limit"]
                sorted_first = any(one["Node Type"].endswith("Sort") for one in below) and not any(
                    one.get("Index Name") in OF_ONE_MESSAGE for one in below
                )
                if kind in ("Hash Join", "Merge Join", "Bitmap Heap Scan") or sorted_first:
                    wrong.append((kind, statement))
                elif table in LARGE and kind.endswith("Scan"):
                    seen += 1
                    if not (kind.startswith("Index") and "Index Cond" in node):
                        wrong.append((f"{kind} {node.get('Index Name')} on {table}", statement))
    assert wrong == []
    assert len(kept) > 25
    assert seen > 30
