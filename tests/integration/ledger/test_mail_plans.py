"""How PostgreSQL finds what notifications about mail are about, by its own choice, on a ledger with many rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from sendq import Vault
from sendq.facts.notices import MailNotice
from sendq.ids import lane_id
from sendq.ledger import bounce_holds, delivery_status, mail_notices, pending_work
from tests.integration.ledger.mail import MAIL, parsed, sent
from tests.support.ledger import Ledger

MANY = 20_000

# Lanes are as many as grants, the rest of these grows with the mail.
LARGE = ("job", "delivery_status", "recipient_status", "webhook", "event", "attempt", "delivery", "lane")


@pytest.fixture
def filled(pg_ledger: Ledger) -> Ledger:
    """A ledger of `MANY` mails in a thousand lanes, of each tenth of which something was reported."""
    at = pg_ledger.clock() - 10_000_000_000
    lane = "md5('lane' || n % 1000)::uuid"
    rows = {
        "sendq_lane (id, application, grant_id, provider, created_at, width, ramp)":
            f"SELECT {lane}, 'default', 'grant-' || n, 'google', {at}, 4, 1 FROM generate_series(1, 1000) AS n",
        "sendq_job (id, lane_id, operation, priority, state, due_at, next_at, created_at, finished_at, message_id)":
            f"SELECT md5('job' || n)::uuid, {lane}, 'send', 1, 'sent', {at}, {at}, {at}, {at} + n * 1000, 'id-' || n"
            f" FROM generate_series(1, {MANY}) AS n",
        "sendq_delivery_status (job_id, delivery, at, source, noted_at, generation)":
            f"SELECT md5('job' || n)::uuid, 'delivered', {at}, 'message.delivered', {at}, 0"
            f" FROM generate_series(1, {MANY}, 10) AS n",
        "sendq_recipient_status (job_id, digest, position, delivery, at, source)":
            f"SELECT md5('job' || n)::uuid, 'digest', 1, 'delivered', {at}, 'message.delivered'"
            f" FROM generate_series(1, {MANY}, 10) AS n",
        "sendq_webhook (id, at)": f"SELECT 'default/' || n, {at} FROM generate_series(1, {MANY}) AS n",
        "sendq_event (id, at, kind, application, grant_id, by)":
            f"SELECT md5('event' || n)::uuid, {at}, 'hold', 'default', 'grant-' || n % 1000, 'policy'"
            f" FROM generate_series(1, {MANY}) AS n",
    }  # fmt: skip
    with pg_ledger.writing() as connection:
        for into, of in rows.items():
            connection.execute(text(f"INSERT INTO {into} {of}"))
        connection.execute(text("ANALYZE"))
    return pg_ledger


@contextmanager
def plans(ledger: Ledger, explain: str = "EXPLAIN") -> Iterator[list[str]]:
    """The plan of every query that is made, as the planner chooses it."""
    found: list[str] = []

    def before(_conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")):
            cursor.execute(f"{explain} {statement}", parameters)
            found.append("\n".join(str(row[-1]) for row in cursor.fetchall()))

    event.listen(ledger.engine, "before_cursor_execute", before)
    try:
        yield found
    finally:
        event.remove(ledger.engine, "before_cursor_execute", before)


def read_whole(found: list[str]) -> list[str]:
    tables = "|".join(LARGE)
    return [plan for plan in found if re.search(rf"Seq Scan on sendq_({tables})\b", plan)]


class TestEveryQuery:
    def test_of_the_intake_uses_an_index_of_each_large_table(self, filled: Ledger) -> None:
        jobs = [sent(filled, f"m{number}") for number in range(3)]
        filled.queue.send("g1", MAIL)
        filled.clock.advance(1)
        filled.serve()  # one is on the wire
        kinds = ("message.bounced", "message.complaint", "message.send_failed")
        known = [parsed(filled, kind, f"m{number}", f"n{number}") for number, kind in enumerate(kinds)]
        notices: list[MailNotice] = [*known, parsed(filled, "message.bounced", "unknown", "n9")]
        with plans(filled) as found, filled.writing() as connection:
            results = mail_notices.take_in(connection, notices, "default", vault=Vault(), now=filled.clock())
        assert (results.count("applied"), len(jobs)) == (3, 3)
        assert len(found) > 10
        assert read_whole(found) == []

    def test_of_pending_reports_and_bounce_holds_does_too(self, filled: Ledger) -> None:
        with plans(filled) as found, filled.writing() as connection:
            pending_work.find(connection, now=filled.clock())
            delivery_status.find_pending(connection, limit=500)
            delivery_status.known_as_sent(connection, [lane_id("default", "g1")])
            bounce_holds.find_bounced(connection, rate=0.05, least=50, now=filled.clock())
        assert len(found) >= 4
        assert read_whole(found) == []
