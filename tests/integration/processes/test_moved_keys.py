"""A ledger that has lost something, and a worker that remembers which jobs had been given a new idempotency key."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select, update

from sendq import clock
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import lineage
from sendq.ledger.dispatching.lineage import Incomplete
from sendq.simulator import Fault
from tests.support.system import System, mail, system  # noqa: F401  # a fixture
from tests.support.waiting import eventually

# A definite "not sent" that is tried again under a new key, after half a minute or more.
REFUSED = Fault.status(403, message="x", provider_error={"error": {"code": "ErrorSendAsDenied", "message": "denied"}})


def test_are_reported_by_the_beat_of_a_worker_when_the_ledger_is_shut(system: System) -> None:  # noqa: F811
    system.api.will(REFUSED, grant="g1", operation="send")
    system.start_worker()
    job = system.queue.send("g1", mail(), provider="google").id

    def generation() -> int:
        with reading(system.engine) as connection:
            wanted = select(schema.job.c.generation).where(schema.job.c.id == UUID(job))
            return int(connection.execute(wanted).scalar_one())

    eventually(lambda: generation() == 1, "the new key")
    with writing(system.engine) as connection:  # the ledger forgets it, and is found to have lost something
        connection.execute(update(schema.job).where(schema.job.c.id == UUID(job)).values(generation=0))
        lineage.shut(connection, because=Incomplete.LOST, lost_since=clock.now(), now=clock.now())
    eventually(lambda: generation() == 1, "the worker's report")
    assert len(system.queue.job(job).trail) == 1  # it has not been sent again meanwhile
