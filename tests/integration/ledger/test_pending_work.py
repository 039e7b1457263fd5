"""What the ledger says there is to do for the leader's loops."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from sendq.ids import lane_id, new_id
from sendq.ledger import grants, pending_work
from sendq.ledger.db import schema
from sendq.ledger.pending_work import PendingWork
from tests.integration.ledger.test_mail_plans import plans
from tests.support.ledger import Ledger

NONE = PendingWork(*(False for _ in PendingWork._fields))


def found(ledger: Ledger) -> PendingWork:
    with ledger.writing() as connection:
        return pending_work.find(connection, now=ledger.clock())


def cancelled_batch(ledger: Ledger) -> None:
    batch = ledger.queue.modify("g1", ["m1"], unread=False, provider="imap")
    ledger.queue.cancel_batch(batch.id)


def follower(ledger: Ledger) -> None:
    first = ledger.send("g1", provider="imap")
    ledger.send("g1", provider="imap", after=str(first), unless="bounced")


def doubt(ledger: Ledger) -> None:
    job = ledger.send("g1", provider="imap")
    ledger.set_job(job, state="in_doubt", doubt_at=ledger.clock(), key_at=ledger.clock())


def closed_lane(ledger: Ledger) -> None:
    ledger.send("g1", provider="imap")
    ledger.absorb()
    with ledger.writing() as connection:
        grants.close(connection, lane_id("default", "g1"), rule="grant_expired", by="webhook", now=ledger.clock())


def unknown_provider(ledger: Ledger) -> None:
    ledger.send("g1")
    ledger.absorb()


def report(ledger: Ledger) -> None:
    job, now = ledger.send("g1", provider="imap"), ledger.clock()
    row = {"job_id": job, "delivery": "bounced", "at": now, "source": "message.bounced", "noted_at": now}
    with ledger.writing() as connection:
        connection.execute(schema.delivery_status.insert().values(**row, generation=0, pending=True))


def delivery(ledger: Ledger) -> None:
    job, now = ledger.send("g1", provider="imap"), ledger.clock()
    with ledger.writing() as connection:
        connection.execute(
            schema.delivery.insert().values(
                id=new_id(), target="t", receiver="r", kind="sent", subject=job, lane_id=lane_id("default", "g1"),
                sequence=1, facts="{}", state="waiting", created_at=now, next_at=now, until=now,
            )
        )  # fmt: skip


class TestPendingWork:
    def test_is_none_for_a_deleted_grant_of_an_unknown_provider(self, ledger: Ledger) -> None:
        unknown_provider(ledger)
        assert found(ledger).unknown_providers
        with ledger.writing() as connection:
            connection.execute(schema.lane.update().values(gone=True))
        assert not found(ledger).unknown_providers

    def test_is_found_through_indexes(self, sqlite_ledger_url: str, engines: Any) -> None:
        """On SQLite; the plans that PostgreSQL keeps are checked together (`test_kept_plans`)."""
        with engines.of(sqlite_ledger_url) as engine:
            ledger = Ledger(engine)
            with plans(ledger, "EXPLAIN QUERY PLAN") as seen:
                found(ledger)
        (plan,) = seen
        assert plan.count("USING") > 8
        assert re.findall(r"SCAN (sendq_\w+)(?! USING)\b(?!.* USING)", plan) == ["sendq_tag_hold"]

    def test_is_none_for_jobs_that_take_their_ordinary_way(self, ledger: Ledger) -> None:
        ledger.send("g1", provider="imap")
        ledger.absorb()
        assert found(ledger) == NONE

    @pytest.mark.parametrize(
        ("make", "part"),
        [
            (cancelled_batch, "batches"),
            (follower, "followers"),
            (doubt, "doubts"),
            (closed_lane, "closed_lanes"),
            (unknown_provider, "unknown_providers"),
            (report, "reports"),
            (delivery, "deliveries"),
        ],
    )
    def test_is_found_for_its_loop_alone(self, ledger: Ledger, make: Callable[[Ledger], None], part: str) -> None:
        make(ledger)
        assert found(ledger) == NONE._replace(**{part: True})
