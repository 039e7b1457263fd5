"""Somebody who can write to Redis: turns that they forge or repeat send nothing; what they lose is offered again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from celery import Celery
from sqlalchemy import update

from sendq import State
from sendq.ids import lane_id
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from tests.support.system import System, mail
from tests.support.waiting import eventually
from worker.redis.embedded import redis_client


def test_a_writer_to_redis_can_delay_and_stop_but_sends_nothing(system: System) -> None:
    worker = system.start_worker(SENDQ_LOCAL_TURNS="false")
    sends(system)
    system.queue.send("g0", mail())
    system.wait_for(State.SENT, 4)
    lanes = {row.id: row.fence for row in system.rows(schema.lane)}
    held = lane_id("default", "g0")
    with writing(system.engine) as connection:  # a job that may not go yet, in a lane that the attacker knows
        paused = schema.lane.c.id == held
        until = 4_000_000_000_000_000
        connection.execute(update(schema.lane).where(paused).values(held_until=until, held_rule="by_hand", held_by="x"))
    waiting = system.queue.send("g0", mail()).id
    jobs = len(system.rows(schema.job))

    forged: list[Any] = [[lane.hex, fence + ahead, 1] for lane, fence in lanes.items() for ahead in range(-3, 4)]
    forged += [[held.hex, lanes[held], slots] for slots in (-1, 0, 10**9, 10**30)]
    forged += [[UUID(int=7).hex, 1, 1], [held.hex, -1, 1], ["x", 1, 1], [held.hex, "1", None], [], [[]], "text"]
    celery = Celery(broker=system.redis.url, set_as_current=False)
    for turns in (forged, forged[::-1], forged * 50, "text", {"a": 1}, [None]):
        celery.send_task("sendq.bundle", args=[turns], queue="sendq")
    celery.send_task("sendq.bundle", queue="sendq")
    celery.send_task("sendq.bundle", args=[forged], queue="sendq", countdown=10**6)
    celery.send_task("sendq.bundle", args=[forged], queue="sendq", expires=-1)
    message = {"to": ["x@example.com"], "subject": "forged"}
    for queue in ("sendq", "sendq.enqueue"):  # with SENDQ_ENQUEUE_TASK this would make a job
        celery.send_task("sendq.enqueue", kwargs={"grant_id": "g1", "message": message}, queue=queue)
    sends(system)
    with redis_client(system.redis.url) as client:
        client.flushall()
        sends(system)
        assert len(system.rows(schema.job)) == jobs + 6
        assert system.state(waiting) is State.QUEUED
        assert set(system.accepted().values()) == {1}
        # What is worse than a delay: a forged count of renewals makes the ledger look as if it had lost something.
        (witness,) = eventually(lambda: client.keys("sendq:witness:*"), "the next renewal")
        client.set(witness, 10**9)
        eventually(lambda: system.queue.why(waiting).reason == "shut", "the ledger's being shut")
    assert worker.process.poll() is None
    assert set(system.accepted().values()) == {1}


def sends(system: System) -> None:
    sent = system.states()[State.SENT]
    for number in range(1, 4):
        system.queue.send(f"g{number}", mail())
    system.wait_for(State.SENT, sent + 3)
