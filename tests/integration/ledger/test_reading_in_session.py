"""What an application asks in its own transaction: it sees what that transaction has enqueued, and nobody else does."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sendq import AsyncSendQueue, InvalidArgument, NotFound, State
from tests.support.ledger import MESSAGE, Ledger


class TestReadingInTheCallersTransaction:
    def test_sees_what_was_enqueued_in_it(self, ledger: Ledger) -> None:
        queue = ledger.queue
        with ledger.engine.connect() as connection, connection.begin() as transaction:
            job = queue.send("g1", MESSAGE, key="invoice-1", session=connection)
            batch = queue.modify("g1", ["m1"], unread=False, session=connection)
            assert queue.job(job.id, session=connection).key == "invoice-1"
            assert queue.job(key="invoice-1", session=connection).state is State.QUEUED
            assert queue.why(job.id, session=connection).job_id == job.id
            assert queue.batch(batch.id, session=connection).total == 1
            assert queue.grant("g1", session=connection).waiting == 2
            assert queue.eta("g1", session=connection).ahead == 2
            assert [one.id for one in queue.jobs(key="invoice-1", session=connection).items] == [job.id]
            assert len(queue.jobs("g1", session=connection).items) == 2
            transaction.rollback()
        with pytest.raises(NotFound):
            queue.job(job.id)
        assert queue.jobs("g1").items == ()

    def test_of_asyncio_as_well(self, pg_ledger_url: str) -> None:
        async def both() -> None:
            engine = create_async_engine(pg_ledger_url)
            queue = AsyncSendQueue(engine)
            async with engine.connect() as connection, connection.begin() as transaction:
                job = await queue.send("g1", MESSAGE, session=connection)
                assert [one.id for one in (await queue.jobs("g1", session=connection)).items] == [job.id]
                assert (await queue.grant("g1", session=connection)).waiting == 1
                await transaction.rollback()
            assert (await queue.jobs("g1")).items == ()
            await engine.dispose()

        asyncio.run(both())


class TestJobsOfAnApplication:
    def test_are_filtered_and_come_page_by_page(self, ledger: Ledger) -> None:
        jobs = [str(ledger.send("g1", key=f"k{number}")) for number in range(3)]
        batch = ledger.queue.modify("g2", ["m1", "m2"], unread=False, key="sweep")
        ledger.queue.cancel(jobs[0])
        first = ledger.queue.jobs("g1", limit=2)
        assert [one.id for one in first.items] == [jobs[2], jobs[1]]
        assert [one.id for one in ledger.queue.jobs("g1", limit=2, cursor=first.next).items] == [jobs[0]]
        assert [one.key for one in ledger.queue.jobs("g1", state=State.CANCELLED).items] == ["k0"]
        assert len(ledger.queue.jobs(batch_id=batch.id).items) == len(ledger.queue.jobs(key="sweep").items) == 2

    def test_are_refused_for_what_cannot_be_meant(self, ledger: Ledger) -> None:
        with pytest.raises(InvalidArgument, match="grant_id: "):
            ledger.queue.jobs("leyah@example.com")
        with pytest.raises(NotFound):
            ledger.queue.jobs(key="unknown")
