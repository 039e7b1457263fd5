"""No page reads a large table whole: every query of the console, as PostgreSQL plans it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event, text

from benchmarks.console import pages
from sendq import Operators, clock
from sendq.console import console
from tests.integration.console.conftest import RULES, Seat
from tests.support.asgi import Browser
from tests.support.ledger import Ledger
from tests.support.populated import populate

# Lanes may be read whole: there are as many as grants. So may the few rows of pairs, workers, receivers and the leader.
LARGE = (
    "job",
    "attempt",
    "event",
    "delivery",
    "batch",
    "batch_change",
    "key",
    "payload",
    "found",
    "report",
    "suppression",
)


@contextmanager
def noted(engine: Engine) -> Iterator[dict[str, Any]]:
    """Every statement that is executed, once, with its parameters."""
    seen: dict[str, Any] = {}

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            seen.setdefault(statement, parameters)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_the_first_page_asks_for_nothing_twice_and_for_nothing_that_it_does_not_show(kept: Ledger, seat: Seat) -> None:
    with kept.writing() as connection:
        populate(connection, grants=40, jobs=400, held=10, now=kept.clock())
    browser = Browser(console(Operators(kept.engine), who=seat, rules=RULES))
    browser.get("/")  # checks the schema
    asked: list[str] = []
    event.listen(kept.engine, "before_cursor_execute", lambda _conn, _cursor, statement, *_: asked.append(statement))
    browser.get("/")
    # A count of jobs is the same statement but for the state, which is spelled out.
    queries = [statement for statement in asked if statement.startswith("SELECT")]
    assert len(queries) == len(set(queries))
    assert [query for query in queries if "sendq_suppression" in query or "sendq_notice_count" in query] == []


def test_every_query_of_every_page_uses_an_index_of_each_large_table(pg_ledger: Ledger, seat: Seat) -> None:
    pg_ledger.clock.at = clock.now()
    with pg_ledger.writing() as connection:
        populate(connection, grants=400, jobs=4_000, held=100, now=pg_ledger.clock())
        connection.execute(text("ANALYZE"))
    engine = pg_ledger.engine
    browser = Browser(console(Operators(engine), who=seat, rules=RULES))
    paths = pages(engine)
    with noted(engine) as statements:
        for path in paths:
            answer = browser.get(path)
            assert answer.status in (200, 303), answer.words
    assert len(statements) > 40
    whole: dict[str, str] = {}
    with engine.connect() as connection:
        # On a small ledger reading it all is cheaper: with a high price on that, it is only done without an index.
        connection.execute(text("SET enable_seqscan = off"))
        for statement, parameters in statements.items():
            plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
            for table in re.findall(r"Seq Scan on sendq_(\w+)", plan):
                if table in LARGE:
                    whole[statement] = plan
        connection.rollback()
    assert whole == {}
