"""Jobs that follow another, without a process: the leader's rounds, and a worker's turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sendq.ledger.db import schema
from sendq.ledger.dispatching import followers
from sendq.ledger.dispatching.followers import Ended
from sendq.ledger.dispatching.threads import threads_to_read
from sendq.ledger.enqueue import NO_VAULT
from sendq.rules.states import Event
from sendq.rules.waiting_job import is_parked
from sendq.vault import Vault
from tests.support.ledger import Ledger, end, outcome


@dataclass(frozen=True)
class Rounds:
    """What some rounds of the leader did. ``released``: how many jobs wait no longer for another one."""

    ended: list[Ended]
    released: int


def lead(
    ledger: Ledger,
    *,
    replied: Callable[[UUID], bool | None] = lambda job: False,
    rounds: int = 4,
    vault: Vault = NO_VAULT,
) -> Rounds:
    """A few rounds of the leader; ``replied``: what reading the thread of a job's mail shows (None: it failed)."""
    ended: list[Ended] = []
    waited = following(ledger)
    for _ in range(rounds):
        with ledger.writing() as connection:
            ids, _ = followers.settled(connection, after=UUID(int=0))
            ended += followers.settle(connection, ids, now=ledger.clock(), vault=vault)
        with ledger.writing() as connection:
            ended += followers.move_on(connection, now=ledger.clock(), vault=vault)[0]
            threads, _ = threads_to_read(connection, now=ledger.clock(), limit=20, busy=())
        for thread in threads:
            with ledger.writing() as connection:
                shown = replied(thread.job_id)
                ended += followers.conclude(
                    connection, [thread.job_id], replied=shown, now=ledger.clock(), rule="too_many", vault=vault
                )
    still = following(ledger)
    free = {row.id for row in ledger.rows(schema.job) if row.state == "queued"} - still
    return Rounds(ended, len(waited & free))


def following(ledger: Ledger) -> set[UUID]:
    """The jobs that wait for another one, whatever else they wait for."""
    return {row.id for row in ledger.rows(schema.job) if row.state == "queued" and is_parked(row)}


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
