"""Jobs that follow another, without a process: the leader's rounds, and a worker's turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from sendq.ledger.dispatching import followers
from sendq.ledger.dispatching.followers import Moved
from sendq.ledger.dispatching.threads import threads_to_read
from sendq.ledger.enqueue import NO_VAULT
from sendq.rules.states import Event
from sendq.vault import Vault
from tests.support.ledger import Ledger, end, outcome


def lead(
    ledger: Ledger,
    *,
    replied: Callable[[UUID], bool | None] = lambda job: False,
    rounds: int = 4,
    vault: Vault = NO_VAULT,
) -> Moved:
    """A few rounds of the leader; ``replied``: what reading the thread of a job's mail shows (None: it failed)."""
    total = Moved()
    for _ in range(rounds):
        with ledger.writing() as connection:
            ids, _ = followers.settled(connection, after=UUID(int=0))
            total.add(followers.settle(connection, ids, now=ledger.clock(), vault=vault))
        with ledger.writing() as connection:
            total.add(followers.move_on(connection, now=ledger.clock(), vault=vault)[0])
            threads, _ = threads_to_read(connection, now=ledger.clock(), limit=20, busy=())
        for thread in threads:
            with ledger.writing() as connection:
                shown = replied(thread.job_id)
                total.add(
                    followers.conclude(
                        connection, thread.job_id, replied=shown, now=ledger.clock(), rule="too_many", vault=vault
                    )
                )
    return total


def carry_out(ledger: Ledger, event: Event = Event.ACCEPT, **given: Any) -> list[UUID]:
    """A turn of each due lane; returns the jobs that were begun, in order. What is sent gets a message's id."""
    begun = []
    for claimed in ledger.claim(ledger.offer()):
        jobs = [job for job in claimed.jobs if job.id in claimed.begun]
        values = {"sent": "yes"} if event is Event.ACCEPT else {}
        told = [
            outcome(claimed, job, event, **(values | {"message_id": message_of(job.id)} | given))
            if event is Event.ACCEPT
            else outcome(claimed, job, event, **given)
            for job in jobs
        ]
        ledger.record(*told, ends=[end(claimed)])
        begun += [job.id for job in jobs]
    return begun


def message_of(job_id: UUID) -> str:
    """The id of the message that `carry_out` sends for a job."""
    return f"message-{job_id}"
