"""``sendq health``: is new work processed? Proved by a canary turn that takes the path of a job.

    ledger ─▶ leader ─▶ broker ─▶ worker ─▶ event loop ─▶ ledger
                                                            └─ read here

The link that the canary does not pass within the limit is the one that failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from redis import RedisError
from sqlalchemy import Engine

from sendq import clock
from sendq.errors import SendqError
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, reading, writing
from sendq.ledger.dispatching import canary, lineage, workers
from sendq.ledger.dispatching.canary import Stage
from sendq.rules.why import SHUT
from settings import Settings
from worker.doctor.ledger_address import ledger_address
from worker.redis.embedded import redis_client

LOOK_S = 0.05

# A turn that was returned unused is requested again after this: the dispatcher's own wait for an unreachable broker.
AGAIN_S = 2.0


NO_WORKER = "no worker is running; start one with: sendq worker"


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the canary succeeded, and how long it took; otherwise the link that failed, and an explanation."""

    healthy: bool
    seconds: float
    link: str | None = None  # ledger | worker | shut | leader | dispatcher | broker | consumer | loop
    says: str = "a turn went through leader, broker, worker and ledger"


def check_health(settings: Settings, *, limit_s: float) -> Health:
    """The same over the configured ledger and broker. Raises `LedgerUnavailable` for a ledger that does not exist."""
    engine = open_engine(ledger_address(settings))
    try:
        return prove(engine, limit_s=limit_s, broker_answers=lambda: _answers(settings))
    finally:
        engine.dispose()


def _answers(settings: Settings) -> bool:
    """Whether the broker answers."""
    try:
        with redis_client(settings.broker_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def prove(ledger: Engine, *, limit_s: float, broker_answers: Callable[[], bool]) -> Health:
    """Send a canary and wait for it."""
    began = time.monotonic()

    def failed(link: str, says: str) -> Health:
        return Health(False, time.monotonic() - began, link, says)

    try:
        migrate.require(ledger)
        with reading(ledger) as connection:
            before = workers.beats(connection)
        if not before:
            return failed("worker", NO_WORKER)
        stage = _send(ledger, began + limit_s)
        if stage is Stage.SERVED:
            return Health(True, time.monotonic() - began)
        return failed(*_link(ledger, stage, before, broker_answers=broker_answers))
    except SendqError as error:
        return failed("ledger", str(error))


def _send(ledger: Engine, until: float) -> Stage:
    """Send a canary and wait for it until then; return how far it got."""
    name = canary.name()
    with writing(ledger) as connection:
        canary.put(connection, name, now=clock.now())
    asked_at, furthest = time.monotonic(), Stage.WAITS
    try:
        while time.monotonic() < until:
            with reading(ledger) as connection:
                stage = canary.look(connection, name)
            if stage is Stage.SERVED:
                return stage
            furthest = stage if stage is not Stage.WAITS else furthest
            if stage is Stage.RETURNED and time.monotonic() - asked_at > AGAIN_S:
                with writing(ledger) as connection:
                    canary.put(connection, name, now=clock.now())
                asked_at = time.monotonic()
            time.sleep(LOOK_S)
        return furthest
    finally:
        with writing(ledger) as connection:
            canary.clear(connection, name, now=clock.now())


def _link(
    ledger: Engine, stage: Stage, before: Mapping[UUID, workers.Beats], *, broker_answers: Callable[[], bool]
) -> tuple[str, str]:
    """The link that stopped the canary, and an explanation."""
    with reading(ledger) as connection:
        beats, lease = workers.beats(connection), workers.lease(connection)
        standing = lineage.read(connection)
    if not beats:
        return "worker", NO_WORKER
    if all(worker in before and before[worker].count == now.count for worker, now in beats.items()):
        return "worker", f"{len(beats)} registered, but none sends heartbeats: they are dead, or their event loops hang"
    if standing.shut_at is not None:
        return "shut", SHUT[standing.shut_because or lineage.Incomplete.LOST]
    if stage is Stage.CLAIMED:
        return "loop", "a worker claimed the turn but did not finish it: its event loop or its recorder hangs"
    if not broker_answers():
        return "broker", "turns are dispatched, but the broker (REDIS_URL) does not answer"
    if stage in (Stage.OFFERED, Stage.RETURNED):
        return "consumer", "turns are in the broker, but no worker receives them: do all use the same REDIS_URL?"
    if lease.holder is None or lease.expires_at <= clock.now():
        return "leader", "no worker is the leader, so nothing is dispatched"
    return (
        "dispatcher",
        "there is a leader, but it dispatches nothing: all call slots are in use, or its dispatcher hangs",
    )
