"""Many notifications at once, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from sqlalchemy import text

from sendq import Delivery, State, Vault
from sendq.facts.notices import MailNotice
from sendq.ids import new_id
from sendq.ledger import mail_notices
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows
from sendq.ledger.mail_notices import APPLIED, REPEATED
from sendq.webhooks import asgi
from tests.integration.ledger.mail import (
    ask_all,
    counts,
    delivery,
    notification,
    parsed,
    sent,
)
from tests.integration.ledger.test_webhooks import SECRET
from tests.support.ledger import Ledger


class TestMany:
    def test_are_applied_together_each_once(self, ledger: Ledger) -> None:
        jobs = [sent(ledger, f"m{number}") for number in range(5)]
        numbers = [*range(10), *range(10)]
        bodies = [notification(ledger, "message.bounced", f"m{n % 5}", notice=f"n{n}") for n in numbers]
        assert set(ask_all(asgi(ledger.queue, secret=SECRET), bodies)) == {200}
        assert len(ledger.rows(schema.webhook)) == 10
        assert {delivery(ledger, job).delivery for job in jobs} == {Delivery.BOUNCED}
        found = counts(ledger)
        assert found == {("unknown", "message.bounced", APPLIED): 10, ("unknown", "message.bounced", REPEATED): 10}

    def test_that_are_not_committed_are_not_answered_200_and_come_again(self, ledger: Ledger) -> None:
        jobs = [sent(ledger, f"m{number}") for number in range(3)]
        bodies = [notification(ledger, "message.bounced", f"m{n}", notice=f"n{n}") for n in range(3)]
        application = asgi(ledger.queue, secret=SECRET)
        with ledger.writing() as connection:  # the last statement of a transaction fails
            connection.execute(text("ALTER TABLE sendq_notice_count RENAME TO sendq_away"))
        try:
            assert set(ask_all(application, bodies)) == {503}
        finally:
            with ledger.writing() as connection:
                connection.execute(text("ALTER TABLE sendq_away RENAME TO sendq_notice_count"))
        assert ledger.rows(schema.webhook) == ledger.rows(schema.delivery_status) == []
        assert set(ask_all(application, bodies)) == {200}
        assert {delivery(ledger, job).delivery for job in jobs} == {Delivery.BOUNCED}

    @pytest.mark.long
    def test_in_a_burst_with_half_of_them_repeats_are_applied_once_each(self, pg_ledger: Ledger) -> None:
        """Ten thousand: on two busy cores they take ten seconds."""
        ledger, number = pg_ledger, 5_000
        first = sent(ledger, "m0")
        with ledger.writing() as connection:
            row = dict(connection.execute(schema.job.select()).mappings().one())
            copies = [row | {"id": new_id(), "message_id": f"m{n}"} for n in range(1, number)]
            insert_rows(connection, schema.job, copies)
        jobs = [first, *(copy["id"] for copy in copies)]
        bodies = [
            notification(ledger, "message.delivered", f"m{n}", notice=f"n{n}", job=jobs[n] if n % 2 else None)
            for n in range(number)
        ] * 2
        Random(1).shuffle(bodies)
        assert set(ask_all(asgi(ledger.queue, secret=SECRET), bodies)) == {200}
        assert counts(ledger) == {
            ("unknown", "message.delivered", APPLIED): number, ("unknown", "message.delivered", REPEATED): number,
        }  # fmt: skip
        assert len(ledger.rows(schema.delivery_status)) == number
        assert len(ledger.rows(schema.recipient_status)) == 2 * number

    def test_at_once_by_several_receivers_end_without_a_deadlock(self, pg_ledger: Ledger) -> None:
        ledger = pg_ledger
        jobs = [sent(ledger, f"m{number}") for number in range(6)]
        kinds = ("message.delivered", "message.bounced", "message.complaint", "message.send_failed")
        groups = [
            [parsed(ledger, kind, f"m{(number * step) % 6}", f"n{number % 9}-{kind}") for number in range(12)]
            for step in (1, 5)
            for kind in kinds
        ]

        def one(notices: Sequence[MailNotice]) -> list[str]:
            with ledger.writing() as connection:
                return mail_notices.take_in(connection, notices, "default", vault=Vault(), now=ledger.clock())

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(one, groups))
        assert {answer for group in answers for answer in group} <= {APPLIED, REPEATED}
        assert {delivery(ledger, job).delivery for job in jobs} == {Delivery.COMPLAINED}
        assert {ledger.state(job) for job in jobs} == {State.SENT}

    def test_are_found_through_indexes(self, pg_ledger: Ledger) -> None:
        plans = ""
        with pg_ledger.writing() as connection:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            for column, values in ((schema.job.c.id, [new_id()]), (schema.job.c.message_id, ["m1", "m2"])):
                query = mail_notices.sends(connection, column, values).compile(dialect=connection.dialect)
                rows = connection.exec_driver_sql(f"EXPLAIN {query}", query.params)
                plans += "\n".join(row[0] for row in rows)
        assert "sendq_job_pkey" in plans
        assert "sendq_job_message_idx" in plans
        assert "Seq Scan" not in plans
